# Runs on a booted host, with the packages in /lab; prints one line for each thing seen.
state() { systemctl is-active "$1" || :; }
pid() { systemctl show --property=MainPID kubelet.service; }
links() { find /etc/systemd/system -name 'kubelet*' -printf '%f\n' | sort | tr '\n' ' '; }
until_state() { # UNIT STATE: polls for at most 10 s
    tries=100
    while [ "$(state "$1")" != "$2" ] && [ "$tries" -gt 0 ]; do
        sleep 0.1
        tries=$((tries - 1))
    done
    echo "$1 $(state "$1")"
}
until_checked() { # polls for at most 10 s
    tries=100
    while [ "$(systemctl show --property=ExecMainExitTimestampMonotonic --value kubelet-kubeconfig.service)" = 0 ] && [ "$tries" -gt 0 ]; do
        sleep 0.1
        tries=$((tries - 1))
    done
}

rpm --install --nodeps /lab/old/*.rpm
echo "after install: $(state kubelet.service) $(state kubelet.path) $(systemctl is-enabled kubelet.service) $(systemctl is-enabled kubelet.path)"

systemctl start kubelet.service
echo "without a kubeconfig: $(state kubelet.service) failed=$(systemctl is-failed kubelet.service)"

systemctl enable kubelet.service kubelet.path
echo "enabled: $(links)"
systemctl start kubelet.path
: >/etc/kubernetes/kubeconfig
until_checked
until_state kubelet-kubeconfig.service inactive
echo "after an empty kubeconfig: $(state kubelet.service) $(state kubelet.path) $(systemctl show --property=Result kubelet-kubeconfig.service)"
echo good >/etc/kubernetes/kubeconfig
until_state kubelet.service active

before=$(pid)
rpm --upgrade --nodeps /lab/new/*.rpm
[ "$before" = "$(pid)" ] && echo "the upgrade left the kubelet alone: $(state kubelet.service)"
rpm --query --queryformat '%{VERSION}\n' tectonic-worker

helpers() { grep -lx sleep /proc/[0-9]*/comm 2>/dev/null | wc -l; }
helpers=$(helpers)
systemctl restart kubelet.service
[ "$before" != "$(pid)" ] && echo "a restart restarts: $(state kubelet.service) helpers before=$helpers after=$(helpers)"

echo bad settings >/etc/kubernetes/kubeconfig
systemctl restart kubelet.service
until_state kubelet.service failed
echo "after exit 78: $(systemctl show --property=NRestarts --property=ExecMainStatus kubelet.service | sort | tr '\n' ' ')"
echo good >/etc/kubernetes/kubeconfig
until_state kubelet.service active

echo "wait-for-dns: $(systemctl show --property=Result --property=ExecMainStatus wait-for-dns.service | tr '\n' ' ')"

rpm --erase tectonic-worker
echo "after erase: $(state kubelet.service) $(state kubelet.path) links=$(links) $(systemctl show --property=LoadState kubelet.service)"
echo "kubeconfig: $(cat /etc/kubernetes/kubeconfig)"
sort /var/tmp/calls | uniq -c | awk '{ $1 = ""; print "called:" $0 }'
journalctl --no-pager --quiet --unit=kubelet-kubeconfig.service --unit=wait-for-dns.service --unit=kubelet.service >&2
