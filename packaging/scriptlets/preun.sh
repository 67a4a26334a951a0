# Before the files of an old version go. On an upgrade ($1 is 1) the kubelet runs on untouched; on an
# erase ($1 is 0) the host leaves its cluster, without talking to it, while the program that can do so
# is still there. What it cannot do in a minute must not keep the package: its record stays, and the
# units are disabled and stopped in any case. "disable --now" is not known to systemd 219.
if [ "$1" = 0 ]; then
    if [ -x /usr/bin/tectonic-worker ] && command -v timeout >/dev/null 2>&1; then
        timeout -k 5 60 /usr/bin/tectonic-worker leave --local --timeout 50s >/dev/null || :
    fi
    if command -v systemctl >/dev/null 2>&1; then
        for unit in tectonic-worker.service kubelet.path kubelet.service; do
            systemctl --no-reload disable "$unit" >/dev/null 2>&1 || :
        done
        if [ -d /run/systemd/system ]; then
            systemctl stop tectonic-worker.service kubelet.path kubelet-kubeconfig.service kubelet.service wait-for-dns.service >/dev/null 2>&1 || :
        fi
    fi
fi
exit 0
