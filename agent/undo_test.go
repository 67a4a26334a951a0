package agent

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tectonic-worker/tectonic-worker/agent/selinux"
	"github.com/tectonic-worker/tectonic-worker/firewall"
	"github.com/tectonic-worker/tectonic-worker/units"
)

// everyKind is one resource of each kind, in the order of a plan.
func everyKind(d *doubles, content string) []Resource {
	return []Resource{
		&file{root: d.root, path: "/etc/kubernetes/new", content: []byte(content), mode: 0o644},
		&file{root: d.root, path: "/etc/there", content: []byte(content), mode: 0o644},
		&absent{d.root, "/var/lib/kubelet/kubeconfig"},
		&selinuxMode{d.se.seam(), selinux.Permissive},
		&port{fw: d.fw, layer: firewall.Runtime, zone: "public", port: firewall.Port{Port: "10250", Protocol: "tcp"}},
		&directory{d.root, "/var/lib/made/deep"},
		&enabled{d.units, units.Kubelet},
		&started{d.units, units.Kubelet, nil},
	}
}

func freshHost(t *testing.T) *doubles {
	d := newDoubles(t)
	d.se.mode = selinux.Enforcing
	write(t, d.root, "/etc/there", "theirs", 0o644)
	write(t, d.root, "/var/lib/kubelet/kubeconfig", "identity", 0o600)
	return d
}

func runAll(t *testing.T, d *doubles, l *Ledger, u *undoList, rs []Resource) {
	t.Helper()
	for _, r := range rs {
		if _, err := ensure(t.Context(), l, u, r); err != nil {
			t.Fatalf("%s: %v", r.Key(), err)
		}
	}
}

func TestRollBackFreshHost(t *testing.T) {
	d := freshHost(t)
	before := snapshot(t, d.root)
	l, u := openLedger(t, d.root), &undoList{}
	rs := everyKind(d, "ours")
	runAll(t, d, l, u, rs)

	h := &handles{sys: d.system()}
	var got []string
	for _, un := range h.rollBack(t.Context(), l, u) {
		if un.Error != "" {
			t.Errorf("%s: %s", un.Key, un.Error)
		}
		got = append(got, un.Key.String())
	}
	var want []string
	for _, r := range rs {
		want = append(want, r.Key().String())
	}
	slices.Reverse(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the order (-want +got)\n%s", diff)
	}
	after := snapshot(t, d.root)
	delete(after, StateDir)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("the files (-before +after)\n%s", diff)
	}
	if d.se.mode != selinux.Enforcing || len(d.fw.open) != 0 {
		t.Errorf("SELinux %s, open %v", d.se.mode, d.fw.open)
	}
	if st := d.units.states[units.Kubelet]; st.Active != "inactive" || st.File != "disabled" {
		t.Errorf("the unit is %+v", st)
	}
	if len(l.Entries()) != 0 || d.root.Exists(LedgerPath) {
		t.Error("the ledger stays")
	}
}

// On a host that was a worker before, only this run's changes go, the ledger
// still knows what stood before the first of all, and the kubelet is restarted
// with its former settings.
func TestRollBackWorker(t *testing.T) {
	d := freshHost(t)
	fresh := snapshot(t, d.root)
	runAll(t, d, openLedger(t, d.root), &undoList{}, everyKind(d, "first join"))
	d.units.calls = nil
	joined := snapshot(t, d.root)
	delete(joined, LedgerPath)

	l, u := openLedger(t, d.root), &undoList{restart: true}
	runAll(t, d, l, u, everyKind(d, "second join"))
	extra := &file{root: d.root, path: "/etc/kubernetes/extra", content: []byte("x"), mode: 0o644}
	runAll(t, d, l, u, []Resource{extra})
	h := &handles{sys: d.system(), kubeletRan: true}
	undone := h.rollBack(t.Context(), l, u)
	for _, un := range undone {
		if un.Error != "" {
			t.Errorf("%s: %s", un.Key, un.Error)
		}
	}
	after := snapshot(t, d.root)
	delete(after, LedgerPath)
	if diff := cmp.Diff(joined, after); diff != "" {
		t.Errorf("the files (-joined +after)\n%s", diff)
	}
	if diff := cmp.Diff([]string{"restart kubelet.service"}, d.units.calls); diff != "" {
		t.Errorf("calls (-want +got)\n%s", diff)
	}
	if d.se.mode != selinux.Permissive || !d.fw.open["runtime/public/10250/tcp"] {
		t.Error("what made the host a worker was put back")
	}
	l = openLedger(t, d.root)
	if _, known := l.Find(extra.Key()); known {
		t.Error("a file that is gone is in the ledger")
	}
	// The ledger still leads back to the fresh host.
	entries := l.Entries()
	for i := len(entries) - 1; i >= 0; i-- {
		if _, err := h.restore(t.Context(), entries[i]); err != nil {
			t.Errorf("%s: %v", entries[i].Key, err)
		}
	}
	left := snapshot(t, d.root)
	delete(left, LedgerPath)
	delete(left, StateDir)
	if diff := cmp.Diff(fresh, left); diff != "" {
		t.Errorf("the files (-fresh +left)\n%s", diff)
	}
}

// What can't be put back is said, stays in the ledger, and keeps nothing else
// from being put back.
func TestRollBackGoesOn(t *testing.T) {
	d := freshHost(t)
	l, u := openLedger(t, d.root), &undoList{}
	runAll(t, d, l, u, everyKind(d, "ours"))
	d.fw.errs["shut runtime/public/10250/tcp"] = errors.New("firewalld went away")
	h := &handles{sys: d.system()}
	var failed []string
	for _, un := range h.rollBack(t.Context(), l, u) {
		if un.Error != "" {
			failed = append(failed, un.Key.String()+": "+un.Error)
		}
	}
	if diff := cmp.Diff([]string{"port runtime/public/10250/tcp: firewalld went away"}, failed); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]string{"port runtime/public/10250/tcp"}, keys(openLedger(t, d.root).Entries())); diff != "" {
		t.Errorf("the ledger (-want +got)\n%s", diff)
	}
	if read(t, d.root, "/etc/there") != "theirs" {
		t.Error("what came before it was not put back")
	}
}

// A kind of a newer version is named, not guessed at.
func TestRestoreUnknownKind(t *testing.T) {
	h := &handles{sys: newDoubles(t).system()}
	_, err := h.restore(t.Context(), Entry{Key: Key{"sysctl", "net.ipv4.ip_forward"}})
	if err == nil || !strings.Contains(err.Error(), "this version knows no such kind") {
		t.Errorf("error %v", err)
	}
	for _, k := range []Kind{KindFile, KindDir, KindSELinux, KindPort, KindEnabled, KindStarted} {
		_, err := h.restore(t.Context(), Entry{Key: Key{k, "/x"}, Before: json.RawMessage(`[`)})
		if err == nil || !strings.Contains(err.Error(), "cannot understand the ledger's record of "+string(k)) {
			t.Errorf("%s: error %v", k, err)
		}
	}
}

// Where the change itself fails, what it left half done is put back too.
func TestRollBackFailedChange(t *testing.T) {
	d := newDoubles(t)
	d.units.errs["start kubelet.service"] = errors.New("the job failed")
	d.units.states[units.Kubelet].Active = "failed"
	l, u := openLedger(t, d.root), &undoList{}
	if _, err := ensure(t.Context(), l, u, &started{d.units, units.Kubelet, nil}); err == nil {
		t.Fatal("no error")
	}
	h := &handles{sys: d.system()}
	h.rollBack(t.Context(), l, u)
	if diff := cmp.Diff([]string{"start kubelet.service", "stop kubelet.service"}, d.units.calls); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if d.root.Exists(LedgerPath) {
		t.Error("the ledger stays")
	}
}
