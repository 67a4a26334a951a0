package firewall

import (
	"context"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

// How long the watch waits before it tries the bus again; each failure doubles the pause, and a part of it is random, so
// that a fleet whose hosts lost their bus at the same moment does not come back at the same moment.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 15 * time.Second
)

// Watch tells what happens to firewalld, on the system bus. See WatchBus.
func Watch(ctx context.Context, logf func(string, ...any)) <-chan Event {
	return WatchBus(ctx, os.Getenv("DBUS_SYSTEM_BUS_ADDRESS"), logf)
}

// WatchBus tells what happens to the firewalld on the bus at a D-Bus address, until ctx ends; then the channel is closed
// and nothing of the watch is left. The empty address is the system bus.
//
// It has a connection of its own. It subscribes first and only then sends Connected, so a reader that looks at the state
// when it gets Connected misses nothing. When the bus goes away it sends Lost, tries again for as long as it takes, and
// sends Connected. It neither starts firewalld nor needs it to run.
//
// A slow reader never holds up the bus: what it has not read yet is kept as the newest of equal events in their order,
// and where these become too many, as one event of each kind, without zone, port and interface. logf gets a line when
// the bus is lost, and when it is back.
func WatchBus(ctx context.Context, address string, logf func(string, ...any)) <-chan Event {
	if logf == nil {
		logf = func(string, ...any) {}
	}
	w := &watch{address: address, logf: logf, queue: newQueue()}
	events := make(chan Event)
	var both sync.WaitGroup
	both.Go(func() { w.stayConnected(ctx) })
	both.Go(func() { w.queue.deliver(ctx, events) })
	go func() {
		both.Wait()
		close(events)
	}()
	return events
}

type watch struct {
	address string
	logf    func(string, ...any)
	queue   *queue
}

// stayConnected connects, waits for the connection to break, and connects again.
func (w *watch) stayConnected(ctx context.Context) {
	var pause time.Duration
	for tries := 0; ; tries++ {
		conn, err := w.subscribe(ctx)
		if err == nil {
			if tries > 0 {
				w.logf("the system bus is back; firewalld is watched again")
			}
			tries = 0
			since := time.Now()
			w.queue.add(Event{Kind: Connected})
			select {
			case <-conn.Context().Done():
			case <-ctx.Done():
			}
			_ = conn.Close()
			if ctx.Err() != nil {
				return
			}
			if time.Since(since) > lastPause { // a bus that breaks at once is not tried without a pause
				pause = 0
			}
			w.queue.add(Event{Kind: Lost})
			w.logf("the system bus went away; firewalld cannot be watched until it is back")
		} else if tries == 0 && ctx.Err() == nil {
			w.logf("firewalld cannot be watched: %v; trying again until it can", busError(w.address, err))
		}
		pause = min(max(2*pause, firstPause), lastPause)
		again := time.NewTimer(pause/2 + rand.N(pause/2+1))
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return
		}
	}
}

// subscription is one member of one interface that is listened to. Members are asked for by name: fail2ban and podman
// make firewalld signal rich rules and sources all day long, and an idle host must not be woken by them.
type subscription struct{ iface, member string }

var subscriptions = []subscription{
	{ifaceMain, "Reloaded"},
	{ifaceMain, "DefaultZoneChanged"},
	{ifaceMain, "PanicModeEnabled"},
	{ifaceMain, "PanicModeDisabled"},
	{ifaceZone, "PortAdded"},
	{ifaceZone, "PortRemoved"},
	{ifaceZone, "InterfaceAdded"},
	{ifaceZone, "InterfaceRemoved"},
	{ifaceZone, "ZoneOfInterfaceChanged"},
	{ifaceConfigZone, "Updated"},
	{ifaceConfigZone, "Removed"},
	{ifaceConfigZone, "Renamed"},
}

// subscribe connects and asks for the signals.
func (w *watch) subscribe(ctx context.Context) (*dbus.Conn, error) {
	ear := &ear{queue: w.queue}
	conn, err := dial(ctx, w.address, dbus.WithSignalHandler(ear))
	if err != nil {
		return nil, err
	}
	ctx, done := context.WithTimeout(ctx, queryTimeout)
	defer done()
	if err := ear.listen(ctx, conn); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// ear is the signal handler of one connection. godbus calls it in the order in which the bus sent.
type ear struct {
	queue *queue

	mu sync.Mutex
	// owner is firewalld's unique name. Any user of the bus may send a signal straight to us, past all match rules, and
	// only the sender's name, which the bus itself writes, tells it from firewalld's.
	owner string
	heard bool // the bus has told of an owner
}

func (e *ear) listen(ctx context.Context, conn *dbus.Conn) error {
	err := conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(ifaceBus), dbus.WithMatchInterface(ifaceBus),
		dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, busName))
	if err != nil {
		return err
	}
	for _, s := range subscriptions {
		err := conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(busName), dbus.WithMatchInterface(s.iface), dbus.WithMatchMember(s.member))
		if err != nil {
			return err
		}
	}
	var owner string
	err = conn.BusObject().CallWithContext(ctx, ifaceBus+".GetNameOwner", 0, busName).Store(&owner)
	if err != nil {
		if code, _ := classify(err); code != CodeNotRunning {
			return err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.heard { // else what was heard is newer than the answer
		e.owner = owner
	}
	return nil
}

// DeliverSignal implements dbus.SignalHandler.
func (e *ear) DeliverSignal(_, _ string, s *dbus.Signal) {
	if event, ok := e.understand(s); ok {
		e.queue.add(event)
	}
}

// understand turns a signal into an event; false where it is not firewalld's, or not one we know.
func (e *ear) understand(s *dbus.Signal) (Event, bool) {
	arg := func(i int) string {
		if i >= len(s.Body) {
			return ""
		}
		word, _ := s.Body[i].(string)
		return word
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if s.Sender == ifaceBus && s.Name == ifaceBus+".NameOwnerChanged" && arg(0) == busName {
		e.owner, e.heard = arg(2), true
		if e.owner == "" {
			return Event{Kind: Gone}, true
		}
		return Event{Kind: Back}, true
	}
	if e.owner == "" || s.Sender != e.owner {
		return Event{}, false
	}
	switch s.Name {
	case ifaceMain + ".Reloaded":
		return Event{Kind: Reloaded}, true
	case ifaceMain + ".DefaultZoneChanged":
		return Event{Kind: DefaultZoneChanged, Zone: arg(0)}, true
	case ifaceMain + ".PanicModeEnabled":
		return Event{Kind: PanicOn}, true
	case ifaceMain + ".PanicModeDisabled":
		return Event{Kind: PanicOff}, true
	case ifaceZone + ".PortAdded":
		return Event{Kind: PortAdded, Zone: arg(0), Port: Port{arg(1), arg(2)}}, true
	case ifaceZone + ".PortRemoved":
		return Event{Kind: PortRemoved, Zone: arg(0), Port: Port{arg(1), arg(2)}}, true
	case ifaceZone + ".InterfaceAdded", ifaceZone + ".InterfaceRemoved", ifaceZone + ".ZoneOfInterfaceChanged":
		return Event{Kind: InterfaceMoved, Zone: arg(0), Interface: arg(1)}, true
	case ifaceConfigZone + ".Updated", ifaceConfigZone + ".Removed", ifaceConfigZone + ".Renamed":
		return Event{Kind: ZoneUpdated, Zone: arg(0)}, true
	}
	return Event{}, false
}
