package agent

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/host"
	"github.com/tectonic-worker/tectonic-worker/agent/selinux"
	"github.com/tectonic-worker/tectonic-worker/firewall"
)

// unheard is a Reporter that nobody listens to.
type unheard struct{}

func (unheard) Begin(string, string) {}
func (unheard) Progress(string)      {}
func (unheard) End(StepResult)       {}

func contentOf(t *testing.T, r host.Root, path string) string {
	t.Helper()
	data, err := os.ReadFile(r.Path(path))
	if os.IsNotExist(err) {
		return "(none)"
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// made makes a file as join does, and gives the ledger's entry of it.
func made(t *testing.T, r host.Root, path, content string) Entry {
	t.Helper()
	l := &Ledger{root: r}
	if _, err := ensure(t.Context(), l, &undoList{}, &file{root: r, path: path, content: []byte(content), mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	e, ok := l.Find(Key{KindFile, path})
	if !ok {
		t.Fatal("not in the ledger")
	}
	return e
}

func TestGiveBackFile(t *testing.T) {
	const path, saved = "/etc/x/file", "/etc/x/file" + savedSuffix
	for _, c := range []struct {
		name          string
		before, after string // "(none)": no such file
		since         func(t *testing.T, r host.Root)
		want          map[string]string
		says          string
	}{
		{"unchanged, there before", "old", "ours", nil, map[string]string{path: "old", saved: "(none)"}, "put back"},
		{"unchanged, not there before", "(none)", "ours", nil, map[string]string{path: "(none)", "/etc/x": "(none)"}, "removed"},
		{"changed, there before", "old", "ours", func(t *testing.T, r host.Root) { write(t, r, path, "theirs", 0o600) },
			map[string]string{path: "old", saved: "theirs"}, "kept as " + saved},
		{"changed, not there before", "(none)", "ours", func(t *testing.T, r host.Root) { write(t, r, path, "theirs", 0o600) },
			map[string]string{path: "(none)", saved: "theirs"}, "kept as " + saved},
		{"changed back", "old", "ours", func(t *testing.T, r host.Root) { write(t, r, path, "old", 0o644) },
			map[string]string{path: "old", saved: "(none)"}, "was not changed"},
		{"gone", "old", "ours", func(t *testing.T, r host.Root) { _ = os.Remove(r.Path(path)) },
			map[string]string{path: "(none)", saved: "(none)"}, "gone already"},
		{"another is saved already", "old", "ours", func(t *testing.T, r host.Root) {
			write(t, r, path, "theirs", 0o600)
			write(t, r, saved, "earlier", 0o600)
		}, map[string]string{path: "old", saved: "earlier", saved + ".2": "theirs"}, saved + ".2"},
		{"killed right after it was saved", "old", "ours", func(t *testing.T, r host.Root) {
			write(t, r, path, "theirs", 0o600)
			write(t, r, saved, "theirs", 0o600)
		}, map[string]string{path: "old", saved: "theirs", saved + ".2": "(none)"}, "kept as " + saved},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := testRoot(t)
			write(t, r, "/etc/other", "", 0o644)
			if c.before != "(none)" {
				write(t, r, path, c.before, 0o644)
			}
			e := made(t, r, path, c.after)
			if c.since != nil {
				c.since(t, r)
			}
			now := contentOf(t, r, path)
			if _, err := giveBackFile(r, e, false); err != nil || contentOf(t, r, path) != now {
				t.Errorf("a dry run: %v, and the file is %q", err, contentOf(t, r, path))
			}
			// Twice: as after a power cut before the ledger's record.
			for n := 0; n < 2; n++ {
				evidence, err := giveBackFile(r, e, true)
				if err != nil || n == 0 && !strings.Contains(evidence, c.says) {
					t.Errorf("says %q, %v; want %q", evidence, err, c.says)
				}
				for p, want := range c.want {
					if p == "/etc/x" {
						if r.Exists(p) {
							t.Error("the directory that we made is still there")
						}
					} else if got := contentOf(t, r, p); got != want {
						t.Errorf("%s is %q, want %q", p, got, want)
					}
				}
			}
			if st, err := r.Stat(saved); err == nil && st.Mode.Perm() != 0o600 {
				t.Errorf("the saved file has mode %v: what was secret is not any more", st.Mode)
			}
		})
	}
}

// The mode at boot goes back where it is still ours, whatever else was edited.
func TestGiveBackSELinuxConfig(t *testing.T) {
	const old, ours = "# policy\nSELINUX=enforcing\nSELINUXTYPE=targeted\n", "# policy\nSELINUX=permissive\nSELINUXTYPE=targeted\n"
	for name, c := range map[string]struct{ now, want string }{
		"untouched":        {ours, old},
		"another comment":  {"# mine\n" + ours, "# mine\n" + old},
		"another mode":     {"# mine\nSELINUX=disabled\n", "# mine\nSELINUX=disabled\n"},
		"the former mode":  {"# mine\n" + old, "# mine\n" + old},
		"not to be parsed": {"SELINUX=maybe\n", "SELINUX=maybe\n"},
	} {
		t.Run(name, func(t *testing.T) {
			r := testRoot(t)
			write(t, r, selinux.ConfigPath, old, 0o644)
			e := made(t, r, selinux.ConfigPath, ours)
			write(t, r, selinux.ConfigPath, c.now, 0o644)
			evidence, err := giveBackFile(r, e, true)
			if got := contentOf(t, r, selinux.ConfigPath); err != nil || got != c.want {
				t.Errorf("%q, %v: the file is %q, want %q", evidence, err, got, c.want)
			}
			if r.Exists(selinux.ConfigPath + savedSuffix) {
				t.Error("it was replaced")
			}
		})
	}
}

func leaveAll(t *testing.T, d *doubles, o LeaveOptions) (*LeaveResult, error) {
	t.Helper()
	o.Timeout = 20 * time.Second
	return Leave(t.Context(), d.system(), o, unheard{})
}

// What can't be put back stays in the ledger, the rest goes, and the next run
// does what is left.
func TestLeaveGoesOn(t *testing.T) {
	needRoot(t)
	d := newDoubles(t)
	l := &Ledger{root: d.root}
	p := firewall.Port{Port: "10250", Protocol: "tcp"}
	for _, r := range []Resource{
		&file{root: d.root, path: "/etc/kubernetes/ca.crt", content: []byte("ca"), mode: 0o644},
		&port{fw: d.fw, layer: firewall.Permanent, zone: "public", port: p},
		&port{fw: d.fw, layer: firewall.Runtime, zone: "public", port: p},
		&directory{d.root, "/var/lib/kubelet"},
	} {
		if _, err := ensure(t.Context(), l, &undoList{}, r); err != nil {
			t.Fatal(err)
		}
	}
	write(t, d.root, "/var/lib/kubelet/pods/uid/data", "x", 0o644)
	d.fw.state = firewall.State{Presence: firewall.Stopped}
	res, err := leaveAll(t, d, LeaveOptions{Local: true})
	var left *PutBackError
	if !errors.As(err, &left) || !strings.Contains(err.Error(), "port permanent/public/10250/tcp") || strings.Contains(err.Error(), "runtime/") || res.Left {
		t.Errorf("with firewalld stopped: %v", err)
	}
	if d.root.Exists("/etc/kubernetes/ca.crt") || d.root.Exists("/var/lib/kubelet") {
		t.Error("what could be put back was not")
	}
	l, err = OpenLedger(d.root)
	if err != nil || len(l.Entries()) != 1 {
		t.Fatalf("the ledger has %v, %v", l.Entries(), err)
	}
	write(t, d.root, StateDir+"/kubeconfig", "a credential", 0o600)
	d.fw.state = firewall.State{Presence: firewall.Running, Version: "1"}
	res, err = leaveAll(t, d, LeaveOptions{Local: true})
	if err != nil || !res.Left || d.fw.open["permanent/public/10250/tcp"] || d.root.Exists(LedgerPath) || d.root.Exists(StateDir+"/kubeconfig") {
		t.Errorf("with firewalld running: %v, %+v, open: %v", err, res, d.fw.open)
	}
	res, err = leaveAll(t, d, LeaveOptions{Local: true})
	if err != nil || !res.Left || res.Changed || len(res.Steps) != 0 {
		t.Errorf("the third time: %v, %+v", err, res)
	}
	data, err := json.Marshal(res)
	if err != nil || !strings.Contains(string(data), `"steps":[]`) {
		t.Errorf("%s %v", data, err)
	}
}

// A second run has to wait for the first, and says for whom.
func TestLeaveIsBusy(t *testing.T) {
	needRoot(t)
	d := newDoubles(t)
	if _, err := d.root.MkdirAll(RunDir, 0o700); err != nil {
		t.Fatal(err)
	}
	lock, err := d.root.Acquire(context.Background(), lockPath, "join")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock()
	_, err = Leave(t.Context(), d.system(), LeaveOptions{Local: true, Timeout: 300 * time.Millisecond}, unheard{})
	if ExitCode(err) != 75 || !strings.Contains(err.Error(), "join") {
		t.Errorf("exit code %d: %v", ExitCode(err), err)
	}
}

func TestDrainErrorCode(t *testing.T) {
	for code, want := range map[int]int{1: 1, 2: 1, 69: 69, 77: 1, 78: 78, -1: 1} {
		if got := ExitCode(&DrainError{code, errors.New("x")}); got != want {
			t.Errorf("drain exits with %d: %d, want %d", code, got, want)
		}
	}
}
