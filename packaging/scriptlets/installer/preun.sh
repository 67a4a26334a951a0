# Before the files of an old version go. On an erase ($1 is 0) the units are disabled and stopped; a matchbox.service is
# somebody else's. "disable --now" is not known to systemd 219.
if [ "$1" = 0 ] && command -v systemctl >/dev/null 2>&1; then
    for unit in tectonic-installer.service tectonic-installer-netboot.service; do
        systemctl --no-reload disable "$unit" >/dev/null 2>&1 || :
    done
    if [ -d /run/systemd/system ]; then
        systemctl stop tectonic-installer-netboot.service tectonic-installer.service >/dev/null 2>&1 || :
    fi
fi
exit 0
