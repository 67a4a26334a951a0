package faults

import (
	"strings"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

// TestBusDiesUnderJob kills D-Bus while systemd starts the kubelet for join: the signal that the job ended never comes. join
// says so at once, and puts back by a new connection.
func TestBusDiesUnderJob(t *testing.T) {
	tg := target(t)
	h := &labHost{tg.Host, t}
	h.sh(`mkdir -p /etc/systemd/system/kubelet.service.d
printf '[Service]\nExecStartPre=/bin/sleep 20\n' >/etc/systemd/system/kubelet.service.d/slow.conf; systemctl daemon-reload`)
	p := must[*lab.Process](t)(tg.Host.Start(t.Context(), lab.Command{Args: JoinArgs}))
	h.sh(`for i in $(seq 300); do [ "$(systemctl is-active kubelet)" = activating ] && exit 0; sleep 0.05; done; exit 1`)
	h.sh("systemctl kill --signal=KILL --kill-who=main dbus")
	r := must[lab.Result](t)(p.Wait())
	if r.Code != 69 || !strings.Contains(r.Stderr, "lost") || r.Took > 15*time.Second {
		t.Errorf("%s", r)
	}
	if !strings.Contains(r.Stderr, "unit-enabled kubelet.service: disabled") {
		t.Errorf("the unit was not put back by a new connection: %s", r)
	}
	if strings.Contains(r.Stderr, "could not put back") == strings.Contains(r.Stderr, "What was changed has been put back") {
		t.Errorf("join does not say how far it has put back: %s", r)
	}
	h.sh("rm -r /etc/systemd/system/kubelet.service.d; systemctl daemon-reload; systemctl restart dbus.socket dbus; systemctl restart polkit firewalld")
	for _, b := range must[[]string](t)(tg.NotConverged(t.Context())) {
		t.Error(b)
	}
}

// TestJoinMendsWhatItMay joins a worker again whose firewalld lost our ports: that is what the second join is for.
func TestJoinMendsWhatItMay(t *testing.T) {
	tg := target(t)
	h := &labHost{tg.Host, t}
	for _, b := range must[[]string](t)(tg.NotConverged(t.Context())) {
		t.Error(b)
	}
	h.sh(`systemctl stop tectonic-worker.service
for layer in "" --permanent; do firewall-cmd -q $layer --zone=public --remove-port=10250/tcp --remove-port=4789/udp; done`)
	if r := h.try("tectonic-worker", "doctor", "--only", "firewalld"); r.Code == 0 || !strings.Contains(r.Output(), "shut in zone public") {
		t.Errorf("doctor does not see the shut ports: %s", r)
	}
	for _, b := range must[[]string](t)(tg.NotConverged(t.Context())) {
		t.Error(b)
	}
}
