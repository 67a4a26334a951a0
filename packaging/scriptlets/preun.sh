# Before the files of an old version go. On an upgrade ($1 is 1) the kubelet runs on untouched; on an
# erase ($1 is 0) the units are disabled and stopped while they still exist. "disable --now" is not
# known to systemd 219.
if [ "$1" = 0 ] && command -v systemctl >/dev/null 2>&1; then
    systemctl --no-reload disable kubelet.path kubelet.service >/dev/null 2>&1 || :
    if [ -d /run/systemd/system ]; then
        systemctl stop kubelet.path kubelet-kubeconfig.service kubelet.service wait-for-dns.service >/dev/null 2>&1 || :
    fi
fi
exit 0
