# After the files of an old version have gone. What runs is restarted on an upgrade: the state of the machines is on the
# disk before anything is answered, and machines ask again.
if [ -d /run/systemd/system ] && command -v systemctl >/dev/null 2>&1; then
    systemctl daemon-reload >/dev/null 2>&1 || :
    if [ "${1:-0}" -ge 1 ]; then
        systemctl try-restart tectonic-installer.service tectonic-installer-netboot.service >/dev/null 2>&1 || :
    fi
fi
exit 0
