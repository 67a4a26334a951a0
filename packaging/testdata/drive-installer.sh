# Runs on a booted host, with the packages and credentials in /lab; prints one line for each thing seen.
state() { systemctl is-active "$1" || :; }
pid() { systemctl show --property=MainPID --value tectonic-installer.service; }
get() { # PATH: the first line of the answer
    bash -c 'exec 3<>/dev/tcp/127.0.0.1/8080; printf "GET %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" "$1" >&3; IFS= read -r line <&3; printf "%s\n" "${line%?}"' get "$1"
}
listening() { awk '$4 == "0A" { print $2 }' /proc/net/tcp /proc/net/tcp6 | sed 's/.*://' | sort -u | tr '\n' ' '; }
until_state() { # UNIT STATE: polls for at most 20 s
    tries=200
    while [ "$(state "$1")" != "$2" ] && [ "$tries" -gt 0 ]; do
        sleep 0.1
        tries=$((tries - 1))
    done
}

# Somebody's matchbox, of old.
printf '[Service]\nExecStart=/bin/sleep 1000\n[Install]\nWantedBy=multi-user.target\n' >/etc/systemd/system/matchbox.service
systemctl daemon-reload
systemctl enable --now matchbox.service

rpm --install --nodeps /lab/old/*.rpm
installer=tectonic-installer.service netboot=tectonic-installer-netboot.service
echo "after install: $(state $installer) $(state $netboot) $(systemctl is-enabled $installer) $(systemctl is-enabled $netboot)"
echo "matchbox.service $(state matchbox.service) $(systemctl is-enabled matchbox.service)"

systemctl start $installer
until_state $installer failed
echo "without credentials: $(systemctl show --property=NRestarts --property=ExecMainStatus $installer | sort | tr '\n' ' ')"

cp /lab/certs/ca.crt /lab/certs/server.crt /lab/certs/server.key /etc/matchbox/
chown root:matchbox /etc/matchbox/server.key
chmod 0640 /etc/matchbox/server.key
systemctl reset-failed $installer
systemctl start $installer
echo "with them: $(state $installer) as $(stat -c %U "/proc/$(pid)"), /var/lib/matchbox/machines $(stat -c '%a %U' /var/lib/matchbox/machines)"
echo "GET /: $(get /)"
echo "GET /ipxe of an unknown machine: $(get '/ipxe?mac=52:54:00:00:00:01')"
echo "GET /assets/tectonic-machine/x86_64/tectonic-machine: $(get /assets/tectonic-machine/x86_64/tectonic-machine)"
for port in 8080 8081 8443; do
    case " $(listening)" in *" $(printf %04X $port) "*) ports="${ports-} $port" ;; esac
done
echo "listens on${ports-}"
# In the service's own view of the files.
nsenter --target "$(pid)" --mount touch /etc/matchbox/x 2>&1 | sed 's/.*: /cannot write beside its data: /'

systemctl start $netboot
echo "without a cluster file: $(systemctl show --property=ConditionResult $netboot) $(state $netboot)"

ip link add metal0 type veth peer name metal1
ip link set metal1 up
ip address add 10.77.0.1/24 dev metal0
ip link set metal0 up
cp -r /lab/cluster/. /etc/tectonic-installer/
systemctl start $netboot
bound() { grep -q " [0-9A-F]*:$1 [0-9A-F]*:0000 07 " /proc/net/udp; }
tries=100
until bound 0043 && bound 0045 && bound 0035 || [ "$tries" = 0 ]; do
    sleep 0.1
    tries=$((tries - 1))
done
serves=
bound 0043 && serves="$serves DHCP"
bound 0045 && serves="$serves TFTP"
bound 0035 && serves="$serves DNS"
dnsmasq=$(grep -lx dnsmasq /proc/[0-9]*/comm | head -n 1)
echo "with one: $(state $netboot), dnsmasq as $(stat -c %U "${dnsmasq%/comm}"), serves$serves, boot files $(cd /var/lib/tectonic-installer/tftpboot && ls undionly.kpxe)"
systemctl stop $netboot

before=$(pid)
rpm --upgrade --nodeps /lab/new/*.rpm
until_state $installer active
process="another process"
[ "$before" = "$(pid)" ] && process="the same process"
echo "after the upgrade: $(state $installer), $process, discovered $(grep -rl 52:54:00:00:00:01 /var/lib/matchbox/machines/timelines 2>/dev/null | wc -l)"

systemctl enable $installer
rpm --erase tectonic-installer
data=lost
[ -d /var/lib/matchbox/machines ] && [ -f /etc/matchbox/server.key ] && data=kept
echo "after erase: $(state $installer) $(systemctl show --property=LoadState $installer), matchbox.service $(state matchbox.service), user $(id -un matchbox), data $data"
journalctl --no-pager --quiet --unit=$installer --unit=$netboot >&2
