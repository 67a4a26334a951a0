package machine

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// slowFile is a segment whose sync waits for the test, or fails.
type slowFile struct {
	file
	syncing chan struct{} // one for each sync that began
	release chan error
}

func (f *slowFile) Sync() error {
	f.syncing <- struct{}{}
	if err := <-f.release; err != nil {
		return err
	}
	return f.file.Sync()
}

// openSlow opens a store on such a disk.
func (w *world) openSlow() (syncing <-chan struct{}, release chan<- error) {
	w.t.Helper()
	a, b := make(chan struct{}, 1), make(chan error)
	s, err := open(w.dir, Options{Now: func() time.Time { return w.at }}, func(path string) (file, error) {
		f, err := openSegment(path)
		return &slowFile{f, a, b}, err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.Store = s
	return a, b
}

func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "machines")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

func lastSegment(t *testing.T, dir string) string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, segmentPrefix+"*"))
	if err != nil || len(all) == 0 {
		t.Fatal("no segment", err)
	}
	return all[len(all)-1]
}

// Nothing is answered before it is on the disk. When the power fails in between, whatever part of the write the disk
// has, the store opens, and the machine is as before or as after.
func TestPowerCut(t *testing.T) {
	for _, step := range []State{Armed, Booting, Installing, Installed} {
		t.Run(string(step), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			name, tok := w.into(step, ActionInstall, false)
			before := w.state(name, step)
			w.ok(w.Store.Close())
			settled, err := os.ReadFile(lastSegment(t, w.dir))
			w.ok(err)

			syncing, release := w.openSlow()
			v, after := map[State]verb{Armed: verbBoot, Booting: verbClaim, Installing: verbInstalled, Installed: verbReady}[step],
				map[State]State{Armed: Booting, Booting: Installing, Installing: Installed, Installed: Ready}[step]
			answered := make(chan error, 1)
			go func() { answered <- w.do(v, name, tok) }()
			<-syncing
			select {
			case err := <-answered:
				t.Fatalf("answered before the sync: %v", err)
			case <-time.After(20 * time.Millisecond):
			}
			written, err := os.ReadFile(lastSegment(t, w.dir))
			w.ok(err)
			if len(written) <= len(settled) || !bytes.Equal(written[:len(settled)], settled) {
				t.Fatalf("%d bytes are written after %d", len(written), len(settled))
			}
			cut := copyDir(t, w.dir)
			release <- nil
			w.ok(<-answered)
			w.ok(w.Store.Close())

			frame := written[len(settled):]
			seen := map[State]int{}
			try := func(what string, tail []byte) {
				t.Helper()
				w.ok(os.WriteFile(lastSegment(t, cut), append(bytes.Clone(settled), tail...), 0o600))
				s, err := Open(cut, Options{Now: func() time.Time { return w.at }})
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				st, err := s.Status(name)
				w.ok(err)
				if st.State != before.State && st.State != after {
					t.Fatalf("%s: it is %s", what, st.State)
				}
				seen[st.State]++
				w.ok(s.Close())
				// And it goes on from there.
				s, err = Open(cut, Options{Now: func() time.Time { return w.at }})
				w.ok(err)
				again, err := s.Status(name)
				w.ok(err)
				if again.State != st.State {
					t.Fatalf("%s: it was %s and is %s", what, st.State, again.State)
				}
				w.ok(s.Close())
			}
			for n := 0; n <= len(frame); n += 7 {
				try(fmt.Sprintf("%d of %d bytes", n, len(frame)), frame[:n])
			}
			try("all of it", frame)
			zeros := make([]byte, len(frame))
			try("zeros", zeros)
			try("its end without its start", append(bytes.Clone(zeros[:len(frame)/2]), frame[len(frame)/2:]...))
			try("its start without its end", append(bytes.Clone(frame[:len(frame)/2]), zeros[len(frame)/2:]...))
			try("another file's old block", []byte("deadbeef [1,2,3]\nold\n\n"))
			if seen[before.State] == 0 || seen[after] == 0 {
				t.Errorf("seen: %v", seen)
			}
		})
	}
}

// One sync serves everybody who waited for it.
func TestGroupCommit(t *testing.T) {
	w := newWorld(t)
	const machines = 200
	for i := range machines {
		w.armed(fmt.Sprintf("n%d", i), ActionInstall, fmt.Sprintf("0200000000%02x", i))
	}
	w.ok(w.Store.Close())
	syncing, release := w.openSlow()
	var wg sync.WaitGroup
	var granted atomic.Int32
	var syncs int
	done := make(chan struct{})
	for i := range machines {
		wg.Go(func() {
			if d, err := w.Boot(t.Context(), fmt.Sprintf("0200000000%02x", i)); err == nil && d.Install {
				granted.Add(1)
			}
		})
	}
	go func() { wg.Wait(); close(done) }()
	for waiting := true; waiting; {
		select {
		case <-syncing:
			syncs++
			if syncs == 1 {
				// While the first is under way all others arrive.
				for w.booting() < machines {
					time.Sleep(time.Millisecond)
				}
			}
			release <- nil
		case <-done:
			waiting = false
		}
	}
	if granted.Load() != machines || syncs > 3 {
		t.Errorf("%d machines were served with %d syncs", granted.Load(), syncs)
	}
	w.ok(w.Store.Close())
}

func (w *world) booting() (n int) {
	all, _ := w.List()
	for _, s := range all {
		if s.State == Booting {
			n++
		}
	}
	return n
}

// When the disk fails nothing more is taken, nobody is served an installer, and a start with a good disk goes on.
func TestBrokenDisk(t *testing.T) {
	w := newWorld(t)
	w.armed("n1", ActionInstall, macA)
	w.armed("n2", ActionInstall, macB)
	w.ok(w.Store.Close())
	syncing, release := w.openSlow()
	go func() { <-syncing; release <- errors.New("input/output error") }()
	d, err := w.Boot(t.Context(), macA)
	w.refused(err, ErrBroken)
	if d.Install || d.Token != "" || d.Exit != ExitAuto {
		t.Fatalf("decided %+v on a broken disk", d)
	}
	if !strings.Contains(err.Error(), "input/output error") || !strings.Contains(err.Error(), w.dir) {
		t.Errorf("the error does not say what failed: %v", err)
	}
	d, err = w.Boot(t.Context(), macB)
	w.refused(err, ErrBroken)
	if d.Install {
		t.Fatal("a machine is served an installer that is not on record")
	}
	_, err = w.Arm(t.Context(), "n2", ArmRequest{Action: ActionInstall})
	w.refused(err, ErrBroken)
	_, err = w.Timeline(t.Context(), "n2")
	w.refused(err, ErrBroken)
	w.ok(w.Store.Close())
	w.open()
	w.state("n2", Armed)
	if s, err := w.Status("n1"); err != nil || s.State != Armed && s.State != Booting {
		t.Errorf("n1 is %s, %v", s.State, err)
	}
}

// What was once on the disk and is not any more is never guessed.
func TestDamage(t *testing.T) {
	w := newWorld(t)
	name, _ := w.into(Installing, ActionInstall, false)
	w.ok(w.Store.Close())
	path := lastSegment(t, w.dir)
	text, err := os.ReadFile(path)
	w.ok(err)
	lines := bytes.SplitAfter(text, []byte("\n"))
	for i := range lines[:len(lines)-2] { // the last one is torn, not damaged
		for _, how := range []func([]byte) []byte{
			func(l []byte) []byte { l[len(l)/2] ^= 1; return l },
			func(l []byte) []byte { clear(l[len(l)/2 : len(l)-1]); return l },
			func(l []byte) []byte { return append(l[:len(l)-1], "0\n"...) },
		} {
			var bad []byte
			for j, l := range lines {
				if l = bytes.Clone(l); j == i {
					l = how(l)
				}
				bad = append(bad, l...)
			}
			w.ok(os.WriteFile(path, bad, 0o600))
			s, err := Open(w.dir, Options{})
			if err == nil {
				_ = s.Close()
				t.Fatalf("line %d is damaged, and the store opens", i+1)
			}
			if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "backup") {
				t.Errorf("error: %v", err)
			}
		}
	}
	w.ok(os.WriteFile(path, text, 0o600))
	w.open()
	w.state(name, Installing)
}

// Snapshots take over from journals, at any time.
func TestSnapshot(t *testing.T) {
	w := newWorld(t)
	w.ok(w.Store.Close())
	reopen := func() {
		w.open()
		w.Store.snapshotAfter = 8 << 10
	}
	reopen()
	ctx := t.Context()
	for round := range 60 {
		name, mac := fmt.Sprintf("n%d", round%7), fmt.Sprintf("0200000000%02x", round%7)
		w.armed(name, ActionInstall, mac)
		token := w.boots(mac)
		m, err := ParseMAC(mac)
		w.ok(err)
		w.greets(token, m)
		c := w.claims(token)
		w.ok(w.Installed(ctx, c.Session))
		if round%7 == 3 {
			w.ok(w.Delete(ctx, name, false, ""))
		} else {
			w.ok(w.Ready(ctx, c.Ready))
		}
		if round%10 == 9 {
			w.ok(w.Store.Close())
			reopen()
		}
	}
	w.ok(w.Store.Close())
	if n, err := numbered(w.dir, snapshotPrefix); err != nil || len(n) != 1 || n[0] < 5 {
		t.Errorf("snapshots %v, %v", n, err)
	}
	if n, err := numbered(w.dir, segmentPrefix); err != nil || len(n) != 1 {
		t.Errorf("segments %v, %v", n, err)
	}
	w.open()
	for i := range 7 {
		name := fmt.Sprintf("n%d", i)
		if i == 3 {
			_, err := w.Status(name)
			w.refused(err, ErrUnknown)
			continue
		}
		if s := w.state(name, Ready); s.Inventory == nil || s.Last == nil || s.Last.Kind != "ready" {
			t.Errorf("after snapshots: %+v", s)
		}
		events, err := w.Timeline(ctx, name)
		w.ok(err)
		kinds := ""
		for _, e := range events {
			kinds += " " + e.Kind
		}
		rounds := 60 / 7
		if i < 60%7 {
			rounds++
		}
		if got := strings.Count(kinds, " arm boot hello check claim installed ready"); got != rounds {
			t.Errorf("%s has %d rounds in its timeline: %s", name, got, kinds)
		}
	}
}

// What the journal has and the files do not is written at the next start.
func TestCatchUp(t *testing.T) {
	w := newWorld(t)
	w.into(Ready, ActionInstall, false)
	events, err := w.Timeline(t.Context(), "n1")
	w.ok(err)
	w.ok(w.Store.Close())
	timeline := timelinePath(w.dir, "n1")
	text, err := os.ReadFile(timeline)
	w.ok(err)
	for _, damage := range [][]byte{nil, text[:len(text)/2], text[:len(text)-1], append(bytes.Clone(text[:len(text)/2]), make([]byte, 100)...)} {
		w.ok(os.WriteFile(timeline, damage, 0o600))
		w.ok(os.Truncate(definitionPath(w.dir, "n1"), 0))
		w.open()
		got, err := w.Timeline(t.Context(), "n1")
		w.ok(err)
		if len(got) != len(events) {
			t.Errorf("after %d of %d bytes the timeline has %d events, not %d", len(damage), len(text), len(got), len(events))
		}
		w.state("n1", Ready)
		w.ok(w.Store.Close())
	}
	w.ok(os.Remove(timeline))
	w.ok(os.Remove(definitionPath(w.dir, "n1")))
	w.open()
	w.state("n1", Ready)
}

func TestOneProcess(t *testing.T) {
	w := newWorld(t)
	_, err := Open(w.dir, Options{})
	if err == nil || !strings.Contains(err.Error(), "another tectonic-installer") {
		t.Errorf("opened twice: %v", err)
	}
	info, err := os.Stat(w.dir)
	w.ok(err)
	if info.Mode().Perm() != fs.FileMode(0o700) {
		t.Errorf("mode %v", info.Mode())
	}
}
