package agent

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tectonic-worker/tectonic-worker/agent/host"
	"github.com/tectonic-worker/tectonic-worker/agent/selinux"
	"github.com/tectonic-worker/tectonic-worker/agent/systemd"
	"github.com/tectonic-worker/tectonic-worker/firewall"
)

var errKilled = errors.New("killed here")

// killed is a resource whose run ends before or after its change.
type killed struct {
	Resource
	after bool
}

func (k killed) Apply(ctx context.Context) (Applied, error) {
	if k.after {
		if _, err := k.Resource.Apply(ctx); err != nil {
			return Applied{}, err
		}
	}
	return Applied{}, errKilled
}

// A run that is killed at any point leaves a ledger from which the next run
// goes on, and leave can put back what stood first (faults 2 and 3).
func TestEnsureAfterACrash(t *testing.T) {
	for _, c := range []struct {
		name  string
		crash func(ctx context.Context, l *Ledger, f *file) error
		want  bool // the next run has to change the file
	}{
		{"before the change", func(ctx context.Context, l *Ledger, f *file) error {
			_, err := ensure(ctx, l, &undoList{}, killed{f, false})
			return err
		}, true},
		{"after the change", func(ctx context.Context, l *Ledger, f *file) error {
			_, err := ensure(ctx, l, &undoList{}, killed{f, true})
			return err
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, r := t.Context(), testRoot(t)
			write(t, r, "/etc/f", "old", 0o640)
			f := &file{root: r, path: "/etc/f", content: []byte("new"), mode: 0o600, force: os.Geteuid() == 0}
			if err := c.crash(ctx, openLedger(t, r), f); !errors.Is(err, errKilled) {
				t.Fatal(err)
			}
			l := openLedger(t, r)
			if e, known := l.Find(f.Key()); !known || e.Done {
				t.Fatalf("after the crash the ledger says %+v, %v", e, known)
			}
			out, err := ensure(ctx, l, &undoList{}, f)
			if err != nil || out.Changed != c.want {
				t.Fatalf("the next run: changed %v, %v", out.Changed, err)
			}
			e, _ := openLedger(t, r).Find(f.Key())
			if !e.Done {
				t.Error("the ledger does not say that it is done")
			}
			again, err := ensure(ctx, l, &undoList{}, f)
			if err != nil || again.Changed || again.Diff != "" {
				t.Errorf("a third run: %+v, %v", again, err)
			}
			if _, err := restoreFile(r, e); err != nil {
				t.Fatal(err)
			}
			if st, _ := r.Stat("/etc/f"); read(t, r, "/etc/f") != "old" || st.Mode.Perm() != 0o640 {
				t.Errorf("put back as %q, %04o", read(t, r, "/etc/f"), st.Mode.Perm())
			}
		})
	}
}

// A port that somebody opens between our look and our change is not ours.
func TestEnsureSomebodyWasFirst(t *testing.T) {
	ctx, r, fw := t.Context(), testRoot(t), newFirewall()
	p := &port{fw: fw, layer: firewall.Runtime, zone: "public", port: firewall.Port{Port: "10250", Protocol: "tcp"}}
	fw.before = func(string) { fw.open["runtime/public/10250/tcp"] = true }
	l, u := openLedger(t, r), &undoList{}
	out, err := ensure(ctx, l, u, p)
	if err != nil || out.Changed {
		t.Fatalf("%+v, %v", out, err)
	}
	if len(l.Entries()) != 0 || len(openLedger(t, r).Entries()) != 0 || len(u.entries) != 0 {
		t.Error("somebody else's port is in the ledger")
	}
}

// Of a range that was open in part, the rest is ours.
type partly struct{ *firewallDouble }

func (d partly) Add(context.Context, firewall.Layer, string, firewall.Port) (firewall.Change, error) {
	return firewall.Change{Zone: "public", Ports: []firewall.Port{{Port: "30001-32767", Protocol: "tcp"}}}, nil
}

func TestEnsurePartOfARange(t *testing.T) {
	r := testRoot(t)
	u := &undoList{}
	p := &port{fw: partly{newFirewall()}, layer: firewall.Permanent, zone: "public", port: firewall.Port{Port: "30000-32767", Protocol: "tcp"}}
	if _, err := ensure(t.Context(), openLedger(t, r), u, p); err != nil {
		t.Fatal(err)
	}
	e, ok := openLedger(t, r).Find(p.Key())
	want := `{"layer":"permanent","zone":"public","ports":[{"port":"30001-32767","protocol":"tcp"}]}`
	if !ok || !e.Done || string(e.After) != want || string(u.entries[0].After) != want {
		t.Errorf("the ledger holds %+v, the undo list %s", e, u.entries[0].After)
	}
}

// A key that is ours and was put back by hand is changed again, and what stood
// there first is kept.
func TestEnsureRestoredByHand(t *testing.T) {
	ctx, r := t.Context(), testRoot(t)
	write(t, r, "/etc/f", "first", 0o644)
	f := &file{root: r, path: "/etc/f", content: []byte("ours"), mode: 0o644}
	if _, err := ensure(ctx, openLedger(t, r), &undoList{}, f); err != nil {
		t.Fatal(err)
	}
	write(t, r, "/etc/f", "by hand", 0o644)
	u := &undoList{}
	out, err := ensure(ctx, openLedger(t, r), u, f)
	if err != nil || !out.Changed {
		t.Fatalf("%+v, %v", out, err)
	}
	e, _ := openLedger(t, r).Find(f.Key())
	var before fileState
	if err := json.Unmarshal(e.Before, &before); err != nil || string(before.Content) != "first" {
		t.Errorf("what stood first is %q, %v", before.Content, err)
	}
	if !u.entries[0].known || !strings.Contains(string(u.entries[0].Before), digest([]byte("by hand"))) {
		t.Errorf("this run's own undo is %+v", u.entries[0])
	}
}

// Nothing is changed where the ledger can't be written.
func TestEnsureNeedsTheLedger(t *testing.T) {
	r := testRoot(t)
	write(t, r, StateDir, "a file where the directory should be", 0o600)
	f := &file{root: r, path: "/etc/f", content: []byte("new"), mode: 0o644}
	if _, err := ensure(t.Context(), &Ledger{root: r}, &undoList{}, f); err == nil || r.Exists("/etc/f") {
		t.Errorf("error %v, and the file is there: %v", err, r.Exists("/etc/f"))
	}
}

func TestFileCheckAndDiff(t *testing.T) {
	const secret = "token: hunter2"
	for _, c := range []struct {
		name      string
		now       string
		mode      os.FileMode
		secret    bool
		ok        bool
		contains  string
		isCreated bool
	}{
		{"missing", "", 0, false, false, "--- /dev/null\n+++ /etc/f\n@@ -0,0 +1 @@\n+" + secret, true},
		{"other content", "a\n", 0o600, false, false, "--- /etc/f\n+++ /etc/f\n@@ -1 +1 @@\n-a\n+" + secret, false},
		{"other mode", secret, 0o644, false, false, "set mode 0600 and owner root on /etc/f\n", false},
		{"secret, missing", "", 0, true, false, "create /etc/f, mode 0600, 14 bytes (content not shown: it is a credential)\n", true},
		{"secret, other content", "password: old", 0o600, true, false, "replace /etc/f, mode 0600, 14 bytes (content not shown: it is a credential)\n", false},
		{"secret, other mode", secret, 0o644, true, false, "set mode 0600 and owner root on /etc/f\n", false},
		{"as wanted", secret, 0o600, true, true, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			needRoot(t)
			r := testRoot(t)
			if c.mode != 0 {
				write(t, r, "/etc/f", c.now, c.mode)
			}
			f := &file{root: r, path: "/etc/f", content: []byte(secret), mode: 0o600, force: true, secret: c.secret}
			got, err := f.Check(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got.OK != c.ok || !strings.HasPrefix(got.Diff, c.contains) {
				t.Errorf("OK %v, diff %q; want %v, %q", got.OK, got.Diff, c.ok, c.contains)
			}
			if c.secret && (strings.Contains(got.Diff, "hunter2") || strings.Contains(got.Diff, "password") || strings.Contains(got.Evidence, "hunter2")) {
				t.Errorf("a secret is shown: %q", got.Diff)
			}
		})
	}
}

// Without force, the mode and the owner of a file that is there stay.
func TestFileKeepsModeAndOwner(t *testing.T) {
	needRoot(t)
	r := testRoot(t)
	write(t, r, "/etc/f", "old", 0o604)
	if err := os.Chown(r.Path("/etc/f"), 12, 34); err != nil {
		t.Fatal(err)
	}
	f := &file{root: r, path: "/etc/f", content: []byte("new"), mode: 0o644}
	if _, err := f.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, _ := r.Stat("/etc/f"); got != (host.File{Mode: 0o604, UID: 12, GID: 34}) {
		t.Errorf("it is %+v", got)
	}
	f.force = true
	if got := must[Finding](t)(f.Check(t.Context())); got.OK {
		t.Error("another mode and owner is as wanted")
	}
	if _, err := f.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, _ := r.Stat("/etc/f"); got != (host.File{Mode: 0o644}) {
		t.Errorf("it is %+v", got)
	}
}

func TestFileRefusesOddOnes(t *testing.T) {
	r := testRoot(t)
	if err := unix.Mkfifo(r.Path("/fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", r.Path("/link")); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"/fifo", "/link"} {
		for _, res := range []Resource{&file{root: r, path: p}, &absent{r, p}} {
			if _, err := res.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "move it away, then try again") {
				t.Errorf("%s: error %v", p, err)
			}
		}
	}
}

// restoreFile against everything that can have happened since.
func TestRestoreFile(t *testing.T) {
	needRoot(t)
	old := func(t *testing.T, r host.Root) {
		write(t, r, "/etc/k/f", "old", 0o640)
		if err := os.Chown(r.Path("/etc/k/f"), 12, 34); err != nil {
			t.Fatal(err)
		}
	}
	none := func(t *testing.T, r host.Root) {}
	for _, c := range []struct {
		name     string
		before   func(*testing.T, host.Root)
		since    func(*testing.T, host.Root)
		evidence string
		want     string // content; "" for none
		dir      bool   // /etc/k is there
	}{
		{"put back", old, none, "put back", "old", true},
		{"ours alone", none, none, "removed", "", false},
		{"ours, with a neighbour", none, func(t *testing.T, r host.Root) { write(t, r, "/etc/k/other", "", 0o644) }, "removed", "", true},
		{"changed since", old, func(t *testing.T, r host.Root) { write(t, r, "/etc/k/f", "theirs", 0o600) }, "kept: somebody changed it after us", "theirs", true},
		{"ours, changed since", none, func(t *testing.T, r host.Root) { write(t, r, "/etc/k/f", "theirs", 0o600) }, "kept: somebody changed it after us", "theirs", true},
		{"put back by hand", old, func(t *testing.T, r host.Root) { old(t, r) }, "was not changed", "old", true},
		{"removed by hand", old, func(t *testing.T, r host.Root) { must[int](t)(0, r.Remove("/etc/k/f")) }, "is gone already", "", true},
		{"ours, removed by hand", none, func(t *testing.T, r host.Root) { must[int](t)(0, r.Remove("/etc/k/f")) }, "was not changed", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := testRoot(t)
			write(t, r, "/etc/x", "", 0o644)
			c.before(t, r)
			f := &file{root: r, path: "/etc/k/f", content: []byte("new"), mode: 0o600, force: true}
			l := openLedger(t, r)
			if _, err := ensure(t.Context(), l, &undoList{}, f); err != nil {
				t.Fatal(err)
			}
			c.since(t, r)
			e, _ := openLedger(t, r).Find(f.Key())
			evidence, err := restoreFile(r, e)
			if err != nil || evidence != c.evidence {
				t.Errorf("%q, %v; want %q", evidence, err, c.evidence)
			}
			if c.want == "" {
				if r.Exists("/etc/k/f") {
					t.Error("it is still there")
				}
			} else if got := read(t, r, "/etc/k/f"); got != c.want {
				t.Errorf("it holds %q, want %q", got, c.want)
			}
			if r.Exists("/etc/k") != c.dir {
				t.Errorf("the directory is there: %v", !c.dir)
			}
			if c.want == "old" {
				if st, _ := r.Stat("/etc/k/f"); st != (host.File{Mode: 0o640, UID: 12, GID: 34}) {
					t.Errorf("mode and owner came back as %+v", st)
				}
			}
		})
	}
}

// A file that we removed comes back, with its directory's own content spared.
func TestAbsent(t *testing.T) {
	r := testRoot(t)
	write(t, r, "/var/k", "identity", 0o600)
	a := &absent{r, "/var/k"}
	out, err := ensure(t.Context(), openLedger(t, r), &undoList{}, a)
	if err != nil || !out.Changed || r.Exists("/var/k") || strings.Contains(out.Diff, "identity") {
		t.Fatalf("%+v, %v", out, err)
	}
	if got := must[Finding](t)(a.Check(t.Context())); !got.OK {
		t.Error("it is gone, and not as wanted")
	}
	e, _ := openLedger(t, r).Find(a.Key())
	if evidence, err := restoreFile(r, e); err != nil || evidence != "put back" || read(t, r, "/var/k") != "identity" {
		t.Errorf("%q, %v", evidence, err)
	}
}

func TestDirectory(t *testing.T) {
	r := testRoot(t)
	write(t, r, "/var/lib/x", "", 0o644)
	d := &directory{r, "/var/lib/a/b"}
	ctx := t.Context()
	if out, err := ensure(ctx, openLedger(t, r), &undoList{}, d); err != nil || !out.Changed || !r.Exists("/var/lib/a/b") {
		t.Fatalf("%+v, %v", out, err)
	}
	e, _ := openLedger(t, r).Find(d.Key())
	write(t, r, "/var/lib/a/b/theirs", "", 0o644)
	if evidence, err := restoreDir(r, e); err != nil || evidence != "kept: it is not empty" || !r.Exists("/var/lib/a/b/theirs") {
		t.Errorf("%q, %v", evidence, err)
	}
	must[int](t)(0, r.Remove("/var/lib/a/b/theirs"))
	write(t, r, "/var/lib/a/theirs", "", 0o644)
	if evidence, err := restoreDir(r, e); err != nil || evidence != "removed" || !r.Exists("/var/lib/a/theirs") {
		t.Errorf("%q, %v", evidence, err)
	}
	must[int](t)(0, r.Remove("/var/lib/a/theirs"))
	if evidence, err := restoreDir(r, e); err != nil || evidence != "removed" || r.Exists("/var/lib/a") || !r.Exists("/var/lib/x") {
		t.Errorf("%q, %v", evidence, err)
	}
}

func TestRestorePort(t *testing.T) {
	p := firewall.Port{Port: "10250", Protocol: "tcp"}
	const key = "permanent/public/10250/tcp"
	for _, c := range []struct {
		name     string
		since    func(*firewallDouble)
		evidence string
		err      bool
	}{
		{"open", func(*firewallDouble) {}, "shut", false},
		{"shut by hand", func(d *firewallDouble) { delete(d.open, key) }, "was shut already", false},
		{"zone gone", func(d *firewallDouble) { d.errs["shut "+key] = &firewall.Error{Code: firewall.CodeInvalidZone} }, "the zone is gone", false},
		{"panic", func(d *firewallDouble) { d.errs["shut "+key] = &firewall.Error{Code: firewall.CodePanic} }, "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			fw, r := newFirewall(), testRoot(t)
			res := &port{fw: fw, layer: firewall.Permanent, zone: "public", port: p}
			if _, err := ensure(t.Context(), openLedger(t, r), &undoList{}, res); err != nil {
				t.Fatal(err)
			}
			c.since(fw)
			e, _ := openLedger(t, r).Find(res.Key())
			evidence, err := restorePort(t.Context(), fw, e)
			if evidence != c.evidence || (err != nil) != c.err {
				t.Errorf("%q, %v; want %q", evidence, err, c.evidence)
			}
		})
	}
}

func TestSELinuxMode(t *testing.T) {
	d, r := &selinuxDouble{mode: selinux.Enforcing}, testRoot(t)
	m := &selinuxMode{d.seam(), selinux.Permissive}
	if out, err := ensure(t.Context(), openLedger(t, r), &undoList{}, m); err != nil || !out.Changed || d.mode != selinux.Permissive {
		t.Fatalf("%+v, %v", out, err)
	}
	e, _ := openLedger(t, r).Find(m.Key())
	if evidence, err := restoreSELinux(d.seam(), e); err != nil || d.mode != selinux.Enforcing || evidence != "enforcing again" {
		t.Errorf("%q, %v", evidence, err)
	}
	if evidence, err := restoreSELinux(d.seam(), e); err != nil || d.mode != selinux.Enforcing || !strings.HasPrefix(evidence, "kept enforcing") {
		t.Errorf("a second time: %q, %v", evidence, err)
	}
}

func TestUnitStates(t *testing.T) {
	yes := true
	for _, c := range []struct {
		name   string
		change func(*systemd.State)
		res    func(Units) Resource
		ok     bool
		calls  []string
		before string
		err    string
	}{
		{"enable", func(*systemd.State) {}, func(u Units) Resource { return &enabled{u, "kubelet.service"} }, false, []string{"enable kubelet.service"}, `{"on":false}`, ""},
		{"enabled", func(s *systemd.State) { s.File = "enabled" }, func(u Units) Resource { return &enabled{u, "kubelet.service"} }, true, nil, "", ""},
		{"start", func(*systemd.State) {}, func(u Units) Resource { return &started{u, "kubelet.service", nil} }, false, []string{"start kubelet.service"}, `{"on":false}`, ""},
		{"running", func(s *systemd.State) { s.Active = "active" }, func(u Units) Resource { return &started{u, "kubelet.service", new(bool)} }, true, nil, "", ""},
		{"restart", func(s *systemd.State) { s.Active = "active" }, func(u Units) Resource { return &started{u, "kubelet.service", &yes} }, false, []string{"restart kubelet.service"}, `{"on":true}`, ""},
		// It ran before us, if badly: a roll back must not stop it.
		{"between two starts", func(s *systemd.State) { s.Active, s.Sub = "activating", "auto-restart" }, func(u Units) Resource { return &started{u, "kubelet.service", &yes} }, false, []string{"start kubelet.service"}, `{"on":true}`, ""},
		{"failed", func(s *systemd.State) { s.Active = "failed" }, func(u Units) Resource { return &started{u, "kubelet.service", &yes} }, false, []string{"start kubelet.service"}, `{"on":false}`, ""},
		{"masked", func(s *systemd.State) { s.Load = "masked" }, func(u Units) Resource { return &started{u, "kubelet.service", nil} }, false, nil, "", `it is masked; run "systemctl unmask kubelet.service", then try again`},
		{"bad", func(s *systemd.State) { s.Load = "bad-setting" }, func(u Units) Resource { return &enabled{u, "kubelet.service"} }, false, nil, "", `systemd says its file is "bad-setting"`},
		{"missing", func(*systemd.State) {}, func(u Units) Resource { return &enabled{u, "none.service"} }, false, nil, "", "systemd knows no such unit; install the tectonic-worker package again"},
	} {
		t.Run(c.name, func(t *testing.T) {
			us, r := newUnits("kubelet.service"), testRoot(t)
			c.change(us.states["kubelet.service"])
			res := c.res(us)
			out, err := ensure(t.Context(), openLedger(t, r), &undoList{}, res)
			if (err != nil) != (c.err != "") || !strings.Contains(message(err), c.err) {
				t.Fatalf("error %v, want %q", err, c.err)
			}
			if err == nil && out.Changed == c.ok {
				t.Errorf("changed: %v", out.Changed)
			}
			if diff := cmp.Diff(c.calls, us.calls); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if e, _ := openLedger(t, r).Find(res.Key()); string(e.Before) != c.before {
				t.Errorf("the ledger says %s of before, want %s", e.Before, c.before)
			}
		})
	}
}

func TestRestoreUnit(t *testing.T) {
	entry := func(k Kind, name string, on bool) Entry {
		return Entry{Key: Key{k, name}, Before: must[[]byte](t)(json.Marshal(unitState{on})), After: raw(`{"on":true}`)}
	}
	for _, c := range []struct {
		name     string
		e        Entry
		active   string
		evidence string
		calls    []string
	}{
		{"on before us", entry(KindStarted, "kubelet.service", true), "active", "was on before us", nil},
		{"started by us", entry(KindStarted, "kubelet.service", false), "active", "stopped", []string{"stop kubelet.service"}},
		{"failed", entry(KindStarted, "kubelet.service", false), "failed", "stopped", []string{"stop kubelet.service"}},
		{"stopped by hand", entry(KindStarted, "kubelet.service", false), "inactive", "was stopped already", nil},
		{"enabled by us", entry(KindEnabled, "kubelet.service", false), "inactive", "disabled", []string{"disable kubelet.service"}},
		{"package erased", entry(KindEnabled, "none.service", false), "inactive", "is gone already", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			us := newUnits("kubelet.service")
			us.states["kubelet.service"].Active = c.active
			evidence, err := restoreUnit(t.Context(), us, c.e)
			if err != nil || evidence != c.evidence {
				t.Errorf("%q, %v; want %q", evidence, err, c.evidence)
			}
			if diff := cmp.Diff(c.calls, us.calls); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// inspect sees what ensure would do, and does nothing.
func TestInspect(t *testing.T) {
	r := testRoot(t)
	out, err := inspect(t.Context(), &file{root: r, path: "/etc/k/f", content: []byte("x"), mode: 0o644})
	if err != nil || !out.Changed || out.Diff == "" {
		t.Errorf("%+v, %v", out, err)
	}
	if got := snapshot(t, r); len(got) != 1 {
		t.Errorf("it made %q", sortedKeys(got))
	}
}
