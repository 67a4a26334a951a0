# After an install ($1 is 1) and an upgrade ($1 is 2 or more). Nothing is enabled and nothing started, and the firewall
# is not touched: that is the administrator's.
if [ -d /run/systemd/system ] && command -v systemctl >/dev/null 2>&1; then
    systemctl daemon-reload >/dev/null 2>&1 || :
fi
exit 0
