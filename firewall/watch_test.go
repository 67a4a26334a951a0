package firewall

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/tectonic-worker/tectonic-worker/firewall/firewalldtest"
)

// lines collects what a watch logs.
type lines struct {
	mu   sync.Mutex
	text []string
}

func (l *lines) logf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, fmt.Sprintf(format, args...))
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.text)
}

// follow starts a watch and waits until it is connected.
func follow(t *testing.T, bus *firewalldtest.Bus) (<-chan Event, *lines) {
	t.Helper()
	var log lines
	events := WatchBus(t.Context(), bus.Address, log.logf)
	expectEvents(t, events, "the start", Event{Kind: Connected})
	return events, &log
}

// expectEvents waits for exactly these events, in this order.
func expectEvents(t *testing.T, events <-chan Event, what string, want ...Event) {
	t.Helper()
	var got []Event
	limit := time.After(20 * time.Second)
	for len(got) < len(want) {
		select {
		case e := <-events:
			got = append(got, e)
			continue
		case <-limit:
		}
		break
	}
	for quiet := false; !quiet && len(got) >= len(want); {
		select {
		case e := <-events:
			got = append(got, e)
		case <-time.After(300 * time.Millisecond):
			quiet = true
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("after %s (-want +got):\n%s", what, diff)
	}
}

// await waits for an event of a kind and gives what came before it.
func await(t *testing.T, events <-chan Event, kind EventKind) (before []EventKind) {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		select {
		case e, open := <-events:
			if !open {
				t.Fatalf("the watch ended before %s; before came %v", kind, before)
			}
			if e.Kind == kind {
				return before
			}
			before = append(before, e.Kind)
		case <-limit:
			t.Fatalf("no %s; there came %v", kind, before)
		}
	}
}

// Everything that can happen to a real firewalld, as it is seen.
func TestWatchFirewalld(t *testing.T) {
	t.Parallel()
	f := firewalldtest.Start(t, nil)
	events, log := follow(t, f.Bus)

	f.Cmd("--reload")
	expectEvents(t, events, "--reload", Event{Kind: Reloaded})
	f.Cmd("--complete-reload")
	expectEvents(t, events, "--complete-reload", Event{Kind: Reloaded})
	f.Cmd("--add-port=10250/tcp")
	expectEvents(t, events, "--add-port", Event{Kind: PortAdded, Zone: "public", Port: kubelet})
	f.Cmd("--remove-port=10250/tcp")
	expectEvents(t, events, "--remove-port", Event{Kind: PortRemoved, Zone: "public", Port: kubelet})
	f.Cmd("--permanent", "--zone=work", "--add-port=10250/tcp")
	expectEvents(t, events, "--permanent --add-port", Event{Kind: ZoneUpdated, Zone: "work"})
	f.Cmd("--permanent", "--zone=work", "--remove-port=10250/tcp")
	expectEvents(t, events, "--permanent --remove-port", Event{Kind: ZoneUpdated, Zone: "work"})
	f.Cmd("--zone=work", "--add-interface=lab0")
	expectEvents(t, events, "--add-interface", Event{Kind: InterfaceMoved, Zone: "work", Interface: "lab0"})
	f.Cmd("--zone=internal", "--change-interface=lab0")
	await(t, events, InterfaceMoved)
	drain(events)
	f.Cmd("--zone=internal", "--remove-interface=lab0")
	expectEvents(t, events, "--remove-interface", Event{Kind: InterfaceMoved, Zone: "internal", Interface: "lab0"})
	f.Cmd("--set-default-zone=work")
	await(t, events, DefaultZoneChanged)
	drain(events)
	f.Cmd("--panic-on")
	expectEvents(t, events, "--panic-on", Event{Kind: PanicOn})
	f.Cmd("--panic-off")
	expectEvents(t, events, "--panic-off", Event{Kind: PanicOff})

	// What is not for us wakes nobody.
	f.Cmd("--add-rich-rule=rule family=ipv4 source address=192.0.2.1 drop")
	f.Cmd("--add-source=192.0.2.0/24")
	f.Cmd("--add-service=http")
	f.Cmd("--add-masquerade")
	expectEvents(t, events, "changes of other things")

	f.Stop()
	expectEvents(t, events, "a stop", Event{Kind: Gone})
	f.Restart()
	await(t, events, Back)
	drain(events)
	f.Kill()
	expectEvents(t, events, "kill -9", Event{Kind: Gone})
	f.Restart()
	await(t, events, Back)
	drain(events)
	f.Cmd("--reload")
	expectEvents(t, events, "a reload after the restart", Event{Kind: Reloaded})
	if got := log.all(); len(got) != 0 {
		t.Errorf("logged: %q", got)
	}
}

// drain reads until nothing has come for a while.
func drain(events <-chan Event) {
	for {
		select {
		case <-events:
		case <-time.After(300 * time.Millisecond):
			return
		}
	}
}

// A reload that fails sends no signal: the timer of whoever watches has to find that out.
func TestWatchFailedReload(t *testing.T) {
	t.Parallel()
	f := firewalldtest.Start(t, nil)
	events, _ := follow(t, f.Bus)
	f.WriteConfig("zones/broken.xml", "<zone><port port=")
	_, err := f.TryCmd("--reload")
	drained := make(chan []EventKind)
	go func() {
		var kinds []EventKind
		for {
			select {
			case e := <-events:
				kinds = append(kinds, e.Kind)
			case <-time.After(500 * time.Millisecond):
				drained <- kinds
				return
			}
		}
	}()
	if kinds := <-drained; err == nil || slices.Contains(kinds, Reloaded) {
		t.Errorf("reload: %v, events %v", err, kinds)
	}
}

// The bus goes and comes; the watch says so once for each, and goes on.
func TestWatchBusRestart(t *testing.T) {
	t.Parallel()
	f := firewalldtest.Start(t, nil)
	events, log := follow(t, f.Bus)
	for range 2 {
		f.Bus.Stop()
		expectEvents(t, events, "the end of the bus", Event{Kind: Lost})
		f.Bus.Restart()
		expectEvents(t, events, "its return", Event{Kind: Connected})
	}
	f.Bus.Restart() // at once
	await(t, events, Connected)
	f.Restart() // firewalld does not always survive that itself
	await(t, events, Back)
	drain(events)
	f.Cmd("--reload")
	expectEvents(t, events, "a reload on the new bus", Event{Kind: Reloaded})
	if got := log.all(); len(got) != 6 || !strings.HasPrefix(got[0], "the system bus went away") || !strings.HasPrefix(got[1], "the system bus is back") {
		t.Errorf("logged: %q", got)
	}
}

// A bus that is not there yet is waited for.
func TestWatchBeforeTheBus(t *testing.T) {
	t.Parallel()
	bus := firewalldtest.StartBus(t, firewalldtest.BusConfig{})
	bus.Stop()
	var log lines
	events := WatchBus(t.Context(), bus.Address, log.logf)
	expectEvents(t, events, "the start without a bus")
	bus.Restart()
	expectEvents(t, events, "the bus's start", Event{Kind: Connected})
	if got := log.all(); len(got) != 2 || !strings.HasPrefix(got[0], "firewalld cannot be watched: cannot talk to firewalld: the system bus at unix:path=") {
		t.Errorf("logged: %q", got)
	}
}

// A broker that accepts and never speaks holds up nothing for ever, and ctx ends the wait at once.
func TestWatchSilentBus(t *testing.T) {
	t.Parallel()
	bus := firewalldtest.StartBus(t, firewalldtest.BusConfig{})
	bus.Signal(syscall.SIGSTOP)
	t.Cleanup(func() { bus.Signal(syscall.SIGCONT) })
	ctx, cancel := context.WithCancel(t.Context())
	events := WatchBus(ctx, bus.Address, nil)
	expectEvents(t, events, "a silent bus")
	cancel()
	ended(t, events)
}

func ended(t *testing.T, events <-chan Event) {
	t.Helper()
	limit := time.After(5 * time.Second)
	for {
		select {
		case _, open := <-events:
			if !open {
				return
			}
		case <-limit:
			t.Fatal("the watch does not end with its context")
		}
	}
}

// Any user of the bus may send a signal to our connection. Only firewalld's count.
func TestWatchForgedSignals(t *testing.T) {
	t.Parallel()
	f := firewalldtest.Start(t, nil)
	before := names(t, f.Bus)
	events, _ := follow(t, f.Bus)
	forger, err := dbus.Connect(f.Bus.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer forger.Close()
	for _, name := range names(t, f.Bus) {
		if slices.Contains(before, name) {
			continue
		}
		for _, signal := range []struct {
			path dbus.ObjectPath
			name string
			body []any
		}{
			{objectPath, ifaceMain + ".Reloaded", nil},
			{objectPath, ifaceMain + ".PanicModeEnabled", nil},
			{"/org/freedesktop/DBus", ifaceBus + ".NameOwnerChanged", []any{busName, ":1.0", ""}},
		} {
			msg := &dbus.Message{Type: dbus.TypeSignal, Body: signal.body, Headers: map[dbus.HeaderField]dbus.Variant{
				dbus.FieldPath:        dbus.MakeVariant(signal.path),
				dbus.FieldInterface:   dbus.MakeVariant(signal.name[:strings.LastIndexByte(signal.name, '.')]),
				dbus.FieldMember:      dbus.MakeVariant(signal.name[strings.LastIndexByte(signal.name, '.')+1:]),
				dbus.FieldDestination: dbus.MakeVariant(name),
			}}
			if len(signal.body) > 0 {
				msg.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(signal.body...))
			}
			if call := forger.Send(msg, nil); call != nil && call.Err != nil {
				t.Fatal(call.Err)
			}
		}
	}
	expectEvents(t, events, "forged signals")
	f.Cmd("--reload")
	expectEvents(t, events, "a true one", Event{Kind: Reloaded})
}

// names lists the unique names on a bus.
func names(t *testing.T, bus *firewalldtest.Bus) []string {
	t.Helper()
	conn, err := dbus.Connect(bus.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var all []string
	if err := conn.BusObject().Call(ifaceBus+".ListNames", 0).Store(&all); err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(n string) bool { return !strings.HasPrefix(n, ":") || n == conn.Names()[0] })
}

// A reader that does not read holds up nobody, and finds in the end what came last.
func TestWatchSlowReader(t *testing.T) {
	t.Parallel()
	f := firewalldtest.Start(t, nil)
	events, _ := follow(t, f.Bus)
	ctx, c := connect(t, f.Bus)
	for port := range 150 {
		open(t, ctx, c, Runtime, "public", Port{fmt.Sprint(20000 + port), "tcp"})
	}
	f.Cmd("--reload")
	f.Cmd("--panic-on")
	f.Cmd("--panic-off")
	f.Stop()
	time.Sleep(300 * time.Millisecond) // the reader's sleep, which is what the test is about
	var got []Event
	for quiet := false; !quiet; {
		select {
		case e := <-events:
			got = append(got, e)
		case <-time.After(500 * time.Millisecond):
			quiet = true
		}
	}
	if len(got) > maxPending+1 || len(got) < 5 {
		t.Fatalf("%d events: %v", len(got), got)
	}
	if diff := cmp.Diff([]Event{{Kind: Reloaded}, {Kind: PanicOn}, {Kind: PanicOff}, {Kind: Gone}}, got[len(got)-4:]); diff != "" {
		t.Errorf("the last events (-want +got):\n%s", diff)
	}
	if !slices.Contains(got, Event{Kind: PortAdded}) {
		t.Errorf("150 ports are not told as one event without a port: %v", got)
	}
}

func TestQueue(t *testing.T) {
	t.Parallel()
	q := newQueue()
	for _, kind := range []EventKind{Gone, Back, Gone, Back, Reloaded, Reloaded} {
		q.add(Event{Kind: kind})
	}
	head, _ := q.first()
	if head.Kind != Gone || len(q.pending) != 3 {
		t.Fatalf("%+v", q.pending)
	}
	q.add(Event{Kind: Gone}) // while the first one is being handed over
	q.taken(head.id)
	var got []EventKind
	for _, p := range q.pending {
		got = append(got, p.Kind)
	}
	if diff := cmp.Diff([]EventKind{Back, Reloaded, Gone}, got); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

// With the context everything of the watch ends, in whatever state it is.
func TestWatchEnds(t *testing.T) { // not parallel: it counts goroutines
	bus := firewalldtest.StartBus(t, firewalldtest.BusConfig{})
	sockets := func() (n int) {
		entries, _ := os.ReadDir("/proc/self/fd")
		for _, e := range entries {
			if to, _ := os.Readlink("/proc/self/fd/" + e.Name()); strings.HasPrefix(to, "socket:") {
				n++
			}
		}
		return n
	}
	goroutines, open := runtime.NumGoroutine(), sockets()
	for i := range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		events := WatchBus(ctx, bus.Address, nil)
		if i%2 == 0 {
			await(t, events, Connected)
		}
		cancel()
		ended(t, events)
	}
	bus.Stop()
	ctx, cancel := context.WithCancel(t.Context())
	events := WatchBus(ctx, bus.Address, nil)
	cancel()
	ended(t, events)
	deadline := time.Now().Add(5 * time.Second)
	for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C { // godbus ends its own a moment later
		if runtime.NumGoroutine() <= goroutines && sockets() <= open {
			tick.Stop()
			return
		}
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<16)
			t.Fatalf("%d goroutines and %d sockets before, %d and %d after:\n%s", goroutines, open, runtime.NumGoroutine(), sockets(), stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// An idle watch sleeps: the copy of this test that does nothing else is not given the CPU.
func TestWatchIdle(t *testing.T) {
	if os.Getenv("TECTONIC_WORKER_TEST_IDLE") == "" {
		t.Parallel()
		f := firewalldtest.Start(t, nil)
		cmd := exec.Command(os.Args[0], "-test.run=^TestWatchIdle$", "-test.v")
		cmd.Env = append(f.Bus.Env(), "TECTONIC_WORKER_TEST_IDLE=1", "GODEBUG=asyncpreemptoff=1")
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		if err != nil || !strings.Contains(string(out), "slept") {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	events := Watch(t.Context(), nil)
	await(t, events, Connected)
	// The runtime's own threads (sysmon, the collector) come to rest first.
	runtime.GC()
	<-time.After(3 * time.Second)
	before := switches(t)
	<-time.After(4 * time.Second)
	n := switches(t) - before
	// One timer of ours, and what the runtime does about it.
	if n > 40 {
		t.Errorf("%d times in four seconds a thread gave up the CPU", n)
	}
	t.Logf("slept: %d switches in four seconds", n)
}

func switches(t *testing.T) int64 {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return u.Nvcsw + u.Nivcsw
}

// From firewalld's signal to the event, over real reloads; a second connection marks when the bus delivered.
func TestWatchLatency(t *testing.T) {
	f := firewalldtest.Start(t, nil)
	events, _ := follow(t, f.Bus)
	conn, err := dbus.Connect(f.Bus.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	signals := make(chan *dbus.Signal, 10)
	conn.Signal(signals)
	if err := conn.AddMatchSignal(dbus.WithMatchInterface(ifaceMain), dbus.WithMatchMember("Reloaded")); err != nil {
		t.Fatal(err)
	}
	var late []time.Duration
	for range 10 {
		done := make(chan error, 1)
		go func() { _, err := f.TryCmd("--reload"); done <- err }()
		var heard, told time.Time
		for heard.IsZero() || told.IsZero() {
			select {
			case <-signals:
				heard = time.Now()
			case e := <-events:
				if e.Kind == Reloaded {
					told = time.Now()
				}
			case <-time.After(20 * time.Second):
				t.Fatal("no signal")
			}
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		late = append(late, told.Sub(heard))
	}
	slices.Sort(late)
	t.Logf("event after the bare signal: median %v, worst %v", late[len(late)/2], late[len(late)-1])
	if median := late[len(late)/2]; median > 20*time.Millisecond {
		t.Errorf("the median is %v", median)
	}
}
