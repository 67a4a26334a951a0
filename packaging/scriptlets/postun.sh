# After the files of an old version have gone. The kubelet is not restarted on an upgrade:
# administrators schedule their own downtime. The agent is, where it runs: nothing depends on it.
if [ -d /run/systemd/system ] && command -v systemctl >/dev/null 2>&1; then
    systemctl daemon-reload >/dev/null 2>&1 || :
    if [ "${1:-0}" -ge 1 ]; then
        systemctl try-restart tectonic-worker.service >/dev/null 2>&1 || :
    fi
fi
exit 0
