package watch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

// A terminal that keeps what is on it: enough of one for what a screen sends.
type terminal struct {
	mu    sync.Mutex
	lines []string
	row   int
	raw   bytes.Buffer
	drawn chan struct{}
}

func (t *terminal) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.raw.Write(p)
	rest := string(p)
	for rest != "" {
		if strings.HasPrefix(rest, "\x1b[") {
			end := strings.IndexFunc(rest[2:], func(r rune) bool { return r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' }) + 2
			switch rest[end] {
			case 'A':
				n := 0
				fmt.Sscanf(rest[2:], "%d", &n)
				t.row -= n
			case 'J':
				t.lines = t.lines[:min(len(t.lines), t.row)]
			}
			rest = rest[end+1:]
			continue
		}
		for len(t.lines) <= t.row {
			t.lines = append(t.lines, "")
		}
		switch rest[0] {
		case '\n':
			t.row++
		case '\r':
		default:
			t.lines[t.row] += rest[:1]
		}
		rest = rest[1:]
	}
	select {
	case t.drawn <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (t *terminal) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, "\n")
}

var at = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func machines() []machine.Status {
	late := at.Add(-90 * time.Second)
	return []machine.Status{
		{Name: "node1", Role: "controller", State: machine.Ready, Since: at.Add(-26 * time.Hour)},
		{Name: "node2", Role: "worker", State: machine.Installing, Action: machine.ActionInstall, Since: at.Add(-75 * time.Second), Stage: "write", Percent: 42, Next: "its installer reports progress"},
		{Name: "node3", Role: "worker", State: machine.Armed, Action: machine.ActionWipe, Since: at.Add(-11 * time.Minute), Next: "it boots from the network", Overdue: &late},
		{Name: "node4", Role: "worker", State: machine.Failed, Since: at.Add(-3 * time.Second), Reason: "nothing was written, its checks failed: disk: wanted 30 GiB, found \x1b[31m8 GiB"},
		{MACs: []string{"52:54:00:a1:9c:ae"}, State: machine.Discovered, Since: at.Add(-72 * time.Hour), Next: "an operator accepts it"},
	}
}

func TestDraw(t *testing.T) {
	got := Draw(machines(), 100, 24, at, false)
	want := `MACHINE            ROLE        STATE         FOR     PROGRESS
node1              controller  ready         26h00m
node2              worker      installing    1m15s   [####......]  42 % write  next: its installer …
node3              worker      armed (wipe)  11m00s                            OVERDUE for 1m30s: i…
node4              worker      failed        3s                                nothing was written,…
52:54:00:a1:9c:ae              discovered    3d                                next: an operator ac…
5 machines: 1 discovered, 1 armed, 1 installing, 1 ready, 1 failed; 1 overdue
`
	if got != want {
		t.Errorf("drawn\n%s\nwant\n%s", got, want)
	}
	// What needs an operator comes first when there is no room for all.
	got = Draw(machines(), 60, 6, at, true)
	if lines := strings.Split(got, "\n"); len(lines) != 5 || !strings.Contains(lines[1], "node4") || !strings.Contains(lines[2], "node3") || !strings.HasSuffix(lines[3], "…") {
		t.Errorf("drawn in six lines:\n%s", got)
	}
	if strings.Contains(Draw(machines(), 200, 24, at, false), "\x1b") {
		t.Error("a machine's words move the cursor")
	}
	for columns := range 120 {
		for line := range strings.Lines(Draw(machines(), columns, 24, at, false)) {
			if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > columns && columns > 0 {
				t.Fatalf("a line has %d columns of %d: %q", n, columns, line)
			}
		}
	}
	many := make([]machine.Status, 10_000)
	for i := range many {
		many[i] = machine.Status{Name: fmt.Sprint("n", i), State: machine.Ready, Since: at}
	}
	many[7000].State = machine.Failed
	if got := Draw(many, 80, 24, at, false); strings.Count(got, "\n") != 22 || !strings.Contains(got, "n7000") || !strings.Contains(got, "9999 ready, 1 failed; 9980 not shown") {
		t.Errorf("ten thousand:\n%s", got)
	}
}

// double is a provisioner whose machines the test moves.
type double struct {
	mu     sync.Mutex
	all    []machine.Status
	seq    uint64
	down   error
	events chan machine.Event
	broken chan error
}

func newDouble(all []machine.Status) *double {
	return &double{all: all, seq: 7, events: make(chan machine.Event), broken: make(chan error)}
}

func (d *double) source() Source {
	return Source{
		List: func(context.Context) ([]machine.Status, uint64, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			return append([]machine.Status(nil), d.all...), d.seq, d.down
		},
		Follow: func(ctx context.Context, from uint64, take func(machine.Event) error) error {
			for {
				select {
				case e := <-d.events:
					if e.Seq <= from {
						return fmt.Errorf("event %d was asked for again after %d", e.Seq, from)
					}
					if err := take(e); err != nil {
						return err
					}
				case err := <-d.broken:
					return err
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		},
	}
}

func (d *double) set(change func(all []machine.Status)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d.all)
}

// running starts a watch that the test ends.
func running(t *testing.T, o Options) (screen *terminal, ended <-chan error, stop func()) {
	screen = &terminal{drawn: make(chan struct{}, 1)}
	o.Out = screen
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	done := make(chan error, 1)
	go func() { done <- Run(ctx, o) }()
	return screen, done, cancel
}

// shows waits until something is on the terminal.
func (t *terminal) shows(tb testing.TB, what string) {
	tb.Helper()
	deadline := time.After(20 * time.Second)
	for !strings.Contains(t.String(), what) {
		select {
		case <-t.drawn:
		case <-deadline:
			tb.Fatalf("%q is not shown:\n%s", what, t)
		}
	}
}

func TestTable(t *testing.T) {
	d := newDouble(machines())
	screen, ended, stop := running(t, Options{Source: d.source(), Mode: Table, Size: func() (int, int) { return 120, 24 }})
	screen.shows(t, "node2")
	d.set(func(all []machine.Status) { all[1].State = machine.Installed })
	d.events <- machine.Event{Seq: 8, Machine: "node2", Kind: "installed"}
	screen.shows(t, "1 installed")
	if s := screen.String(); strings.Count(s, "MACHINE") != 1 || strings.Count(s, "node1") != 1 {
		t.Errorf("not drawn in place:\n%s", s)
	}
	d.broken <- errors.New("the cable is out")
	screen.shows(t, "! not up to date since")
	d.events <- machine.Event{Seq: 9, Machine: "node2", Kind: "ready"} // it follows again, from where it was
	stop()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
	screen.mu.Lock()
	defer screen.mu.Unlock()
	if !strings.HasSuffix(screen.raw.String(), wrapped) {
		t.Error("the terminal is left without line wrapping")
	}
}

func TestLines(t *testing.T) {
	d := newDouble(machines())
	screen, ended, stop := running(t, Options{Source: d.source(), Machines: []string{"node2", "node3"}, Now: func() time.Time { return at }})
	screen.shows(t, "12:00:00  node2  installing; next: its installer reports progress")
	screen.shows(t, "12:00:00  node3  armed (wipe); OVERDUE for 1m30s: it boots from the network")
	d.events <- machine.Event{Seq: 8, Time: at.Local(), Machine: "node1", Source: "dhcp", Kind: "ack", Message: "has 192.0.2.1"}
	d.events <- machine.Event{Seq: 9, Time: at.Local(), Machine: "node2", Source: "installer", Kind: "progress", Message: "write, 50 %\x1b[2J"}
	screen.shows(t, "node2  installer progress: write, 50 %?[2J")
	stop()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
	if s := screen.String(); strings.Contains(s, "node1") || strings.Contains(s, "node4") {
		t.Errorf("others are shown:\n%s", s)
	}
}

func TestJSON(t *testing.T) {
	d := newDouble(machines()[:2])
	screen, ended, stop := running(t, Options{Source: d.source(), Mode: JSON})
	d.events <- machine.Event{Seq: 8, Machine: "node2", Source: "installer", Kind: "installed"}
	d.set(func(all []machine.Status) { all[1].State = machine.Installed })
	screen.shows(t, `"state":"installed"`)
	stop()
	<-ended
	var got []string
	for line := range strings.Lines(strings.TrimSpace(screen.String())) {
		var l struct {
			Machine *machine.Status
			Event   *machine.Event
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if l.Machine != nil {
			got = append(got, l.Machine.Name+" "+string(l.Machine.State))
		} else {
			got = append(got, fmt.Sprint(l.Event.Seq))
		}
	}
	if s := strings.Join(got, ", "); s != "node1 ready, node2 installing, 8, node2 installed" {
		t.Errorf("streamed %s", s)
	}
}

func TestUntil(t *testing.T) {
	d := newDouble(machines()[:2])
	screen, ended, _ := running(t, Options{Source: d.source(), Until: machine.Ready})
	screen.shows(t, "node2")
	d.set(func(all []machine.Status) { all[1].State = machine.Ready })
	d.events <- machine.Event{Seq: 8, Machine: "node2", Kind: "ready"}
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
	d = newDouble(machines())
	_, ended, _ = running(t, Options{Source: d.source(), Until: machine.Ready})
	if err := <-ended; !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), "node4") {
		t.Errorf("a failed machine: %v", err)
	}
	d.down = errors.New("no route to host")
	_, ended, _ = running(t, Options{Source: d.source()})
	if err := <-ended; err != d.down {
		t.Errorf("the first question: %v", err)
	}
}
