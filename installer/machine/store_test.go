package machine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	macA = "52:54:00:a1:9c:ae"
	macB = "52:54:00:b2:2f:86"
)

// world is a store with a clock that the test moves.
type world struct {
	*Store
	t   *testing.T
	dir string
	at  time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	w.open()
	return w
}

func (w *world) open() {
	w.t.Helper()
	s, err := Open(w.dir, Options{Now: func() time.Time { return w.at }})
	if err != nil {
		w.t.Fatal(err)
	}
	w.Store = s
	w.t.Cleanup(func() { _ = s.Close() })
}

func (w *world) reopen() {
	w.t.Helper()
	w.ok(w.Store.Close())
	w.open()
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) state(name string, want State) Status {
	w.t.Helper()
	s, err := w.Status(name)
	w.ok(err)
	if s.State != want {
		w.t.Fatalf("%s is %s (%s), want %s", name, s.State, s.Reason, want)
	}
	return s
}

func (w *world) refused(err, kind error) {
	w.t.Helper()
	if !errors.Is(err, kind) {
		w.t.Fatalf("refused with %v, want kind %q", err, kind)
	}
}

func definition(name string, macs ...string) Definition {
	return Definition{
		Name: name, Cluster: "lab", MACs: macs, Role: "worker", Minimum: Minimum{Memory: 8 << 30, Cores: 2, Disk: 30 << 30},
		Image:  Image{OS: "flatcar", Channel: "stable", Version: "1.2.3", Arch: "x86_64", BaseURL: "http://192.0.2.1/assets/flatcar/1.2.3"},
		Config: []byte(`{"ignition":{"version":"3.3.0"},"storage":{"files":[{"path":"/etc/hostname"}]}}`),
		Files:  []File{{Path: "/etc/kubernetes/kubeconfig", Mode: 0o600, Content: []byte("very-secret-kubeconfig")}},
	}
}

func inventory() Inventory {
	return Inventory{Memory: 16 << 30, Cores: 8, Firmware: "uefi", Arch: "x86_64", Disks: []InventoryDisk{{Name: "nvme0n1", Size: 1 << 40, Serial: "S1"}}, NICs: map[string]string{"eth0": macA}}
}

func fit() Checks {
	return Checks{[]Check{{Name: "memory", OK: true, Wanted: "8 GiB", Found: "16 GiB"}, {Name: "disk", OK: true}}}
}

// armed declares and arms a machine.
func (w *world) armed(name string, action Action, macs ...string) {
	w.t.Helper()
	_, err := w.Put(w.t.Context(), definition(name, macs...), "test")
	w.ok(err)
	_, err = w.Arm(w.t.Context(), name, ArmRequest{Action: action, Force: true, By: "alice"})
	w.ok(err)
}

// boots asks for the boot script and must get the installer.
func (w *world) boots(mac string) string {
	w.t.Helper()
	d, err := w.Boot(w.t.Context(), mac)
	w.ok(err)
	if !d.Install || d.Token == "" {
		w.t.Fatalf("%s is told to boot from disk: %s", mac, d.Reason)
	}
	return d.Token
}

// disk asks for the boot script and must be told to boot from disk.
func (w *world) disk(mac string) Decision {
	w.t.Helper()
	d, err := w.Boot(w.t.Context(), mac)
	w.ok(err)
	if d.Install || d.Token != "" {
		w.t.Fatalf("%s is given an installer", mac)
	}
	return d
}

func (w *world) greets(token, mac string) {
	w.t.Helper()
	_, err := w.Hello(w.t.Context(), token, Hello{MAC: mac, Inventory: inventory()})
	w.ok(err)
	w.ok(w.Checks(w.t.Context(), token, fit()))
}

func (w *world) claims(token string) Claimed {
	w.t.Helper()
	c, err := w.Claim(w.t.Context(), token, Claim{Disk: inventory().Disks[0]})
	w.ok(err)
	return c
}

// The whole way, with the store opened anew after each step; and a machine that is ready boots from disk, however
// often its firmware asks the network.
func TestWholeWay(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.armed("n1", ActionInstall, macA, macB)
	w.reopen()
	token := w.boots(strings.ToUpper(strings.ReplaceAll(macB, ":", "-")))
	w.reopen()
	w.state("n1", Booting)
	in, err := w.Hello(ctx, token, Hello{MAC: macB, Inventory: inventory()})
	w.ok(err)
	if in.Machine != "n1" || in.Action != ActionInstall || in.Image.Version != "1.2.3" {
		t.Fatalf("instruction %+v", in)
	}
	w.reopen()
	_, err = w.Claim(ctx, token, Claim{})
	w.refused(err, ErrConflict) // before its checks
	w.ok(w.Checks(ctx, token, fit()))
	w.reopen()
	c := w.claims(token)
	if string(c.Config) != string(definition("n1").Config) || len(c.Files) != 1 || string(c.Files[0].Content) != "very-secret-kubeconfig" {
		t.Fatalf("claimed %+v", c)
	}
	w.state("n1", Installing)
	w.reopen()
	_, err = w.Claim(ctx, token, Claim{})
	w.refused(err, ErrSpent)
	w.ok(w.Progress(ctx, c.Session, Progress{Stage: "write", Percent: 40}))
	if s := w.state("n1", Installing); s.Stage != "write" || s.Percent != 40 {
		t.Fatalf("progress is not shown: %+v", s)
	}
	w.reopen()
	w.ok(w.Installed(ctx, c.Session))
	w.ok(w.Installed(ctx, c.Session)) // its answer was lost
	w.state("n1", Installed)
	w.disk(macB)
	w.reopen()
	w.refused(w.Ready(ctx, c.Session), ErrNoToken)
	w.ok(w.Ready(ctx, c.Ready))
	w.ok(w.Ready(ctx, c.Ready))
	w.reopen()
	w.state("n1", Ready)
	for range 3 {
		w.disk(macA)
		w.disk(macB)
	}
	s := w.state("n1", Ready)
	if s.Inventory == nil || s.Inventory.Cores != 8 {
		t.Fatalf("its inventory is lost: %+v", s)
	}

	events, err := w.Timeline(ctx, "n1")
	w.ok(err)
	var kinds []string
	for i, e := range events {
		kinds = append(kinds, e.Kind)
		if i > 0 && e.Seq <= events[i-1].Seq {
			t.Errorf("events are not in order: %d after %d", e.Seq, events[i-1].Seq)
		}
	}
	want := "define arm boot hello check claim progress installed boot ready boot boot boot boot boot boot"
	if got := strings.Join(kinds, " "); got != want {
		t.Errorf("timeline is\n%s, want\n%s", got, want)
	}
	// No token is in any file, and nothing is readable for others.
	w.ok(w.Store.Close())
	err = filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if path != w.dir && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		if d.IsDir() {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, secret := range []string{token, c.Session, c.Ready, strings.TrimPrefix(token, "tectonic-once-")} {
			if strings.Contains(string(text), secret) {
				t.Errorf("%s holds a token", path)
			}
		}
		return nil
	})
	w.ok(err)
}
