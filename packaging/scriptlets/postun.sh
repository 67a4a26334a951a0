# After the files of an old version have gone. The kubelet is not restarted on an upgrade:
# administrators schedule their own downtime.
if [ -d /run/systemd/system ] && command -v systemctl >/dev/null 2>&1; then
    systemctl daemon-reload >/dev/null 2>&1 || :
fi
exit 0
