package agent

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
	"github.com/tectonic-worker/tectonic-worker/agent/systemd"
	"github.com/tectonic-worker/tectonic-worker/sysconfig"
)

func TestStatusNotJoined(t *testing.T) {
	d := newDoubles(t)
	before := snapshot(t, d.root)
	s := Status(t.Context(), d.system(), nil)
	if s.Health != NotJoined || len(s.Problems) != 0 || s.Firewall.Zone != "public" || s.SELinux.Runtime != "disabled" {
		t.Errorf("%+v", s)
	}
	if after := snapshot(t, d.root); len(after) != len(before) {
		t.Errorf("status wrote something: %v", after)
	}
}

// Without a bus, without firewalld, with a ledger and settings that can't be
// read: each is a problem, and the rest is shown.
func TestStatusOnBrokenHost(t *testing.T) {
	d := newDoubles(t)
	write(t, d.root, kubelet.KubeconfigPath, kubeconfigText("https://127.0.0.1:6443", plainToken), 0o600)
	write(t, d.root, LedgerPath, "no JSON\nat all\n", 0o600)
	d.cluster.node = &node.NodeState{Name: "w1", Registered: true, Ready: true, KubeletVersion: "v1.34.1"}
	sys := d.system()
	sys.Units = func(context.Context) (Units, error) { return nil, errors.New("no systemd") }
	sys.Firewall = func(context.Context) (Firewall, error) { return nil, errors.New("no bus") }
	s := Status(t.Context(), sys, nil)
	all := strings.Join(s.Problems, "\n")
	if s.Health != Degraded || !s.Node.Ready || s.Credential.Kind != "token" {
		t.Errorf("%+v", s)
	}
	for _, want := range []string{"cannot read the ledger", "no systemd", "no bus"} {
		if strings.Count(all, want) != 1 {
			t.Errorf("%q is not there once:\n%s", want, all)
		}
	}
}

// What the API server or a proxy says reaches the screen without secrets.
func TestStatusRedacts(t *testing.T) {
	d := newDoubles(t)
	write(t, d.root, kubelet.KubeconfigPath, kubeconfigText("https://127.0.0.1:6443", plainToken), 0o600)
	d.cluster.nodeErr = errors.New("proxy http://user:planted@proxy:3128 says no")
	s := Status(t.Context(), d.system(), []string{"HTTPS_PROXY=http://user:planted@proxy:3128"})
	if text := strings.Join(append(s.Problems, s.Node.Why), "\n"); strings.Contains(text, "planted") || !strings.Contains(text, "proxy:3128 says no") {
		t.Errorf("%s", text)
	}
}

// A kubelet that is older than what it is made from.
func TestRestartPending(t *testing.T) {
	d := newDoubles(t)
	write(t, d.root, sysconfig.Path, "", 0o644)
	write(t, d.root, "/u/kubelet.service", "", 0o644)
	write(t, d.root, kubelet.DropInDir+"/10-a.yaml", "", 0o644)
	// A package's files have the times of its build.
	old := time.Now().Add(-1000 * time.Hour)
	for _, p := range []string{sysconfig.Path, "/u/kubelet.service"} {
		if err := os.Chtimes(d.root.Path(p), old, old); err != nil {
			t.Fatal(err)
		}
	}
	look := func(started time.Time, stale bool) RestartStatus {
		s := &statusLook{handles: handles{sys: d.system()}, out: &WorkerStatus{}}
		s.restart(systemd.State{Fragment: "/u/kubelet.service", Started: started, Stale: stale})
		return s.out.Restart
	}
	if r := look(time.Now().Add(time.Minute), false); r.Pending {
		t.Errorf("%+v", r)
	}
	r := look(time.Now().Add(-time.Minute), true)
	all := strings.Join(r.Reasons, "\n")
	for _, want := range []string{sysconfig.Path + " changed", "/u/kubelet.service changed", "10-a.yaml changed", "daemon-reload"} {
		if !r.Pending || !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
}

// A drift is told in one line that shows no content.
func TestDriftText(t *testing.T) {
	d := newDoubles(t)
	f := &file{root: d.root, path: "/etc/kubernetes/kubelet.yaml", content: []byte("wanted"), mode: 0o600, force: true}
	for _, tt := range []struct{ name, content, want string }{
		{"missing", "", "is missing"}, {"changed", "planted", "was changed"}, {"mode", "wanted", "has mode 0644"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.content != "" {
				write(t, d.root, f.path, tt.content, 0o644)
			}
			found, err := f.Check(t.Context())
			if err != nil || found.OK {
				t.Fatal(found, err)
			}
			if got := driftText(f, found); !strings.Contains(got, f.path+" "+tt.want) || strings.Contains(got, "planted") {
				t.Errorf("%q", got)
			}
		})
	}
}
