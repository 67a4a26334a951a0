package firewall

import (
	"context"
	"sync"
)

// EventKind says what happened.
type EventKind string

// The kinds of event. Every one of them is a reason to look again; none says what the state is now.
const (
	Reloaded           EventKind = "reloaded"             // a reload ended well: what was runtime alone is gone
	Gone               EventKind = "gone"                 // firewalld left the bus: stopped, or crashed
	Back               EventKind = "back"                 // firewalld is on the bus, and may not serve yet
	PortAdded          EventKind = "port-added"           // at runtime, in Zone
	PortRemoved        EventKind = "port-removed"         // at runtime, from Zone
	DefaultZoneChanged EventKind = "default-zone-changed" // to Zone
	InterfaceMoved     EventKind = "interface-moved"      // Interface came to Zone or left it, at runtime
	ZoneUpdated        EventKind = "zone-updated"         // the permanent configuration of Zone is another, or gone
	PanicOn            EventKind = "panic-on"
	PanicOff           EventKind = "panic-off"
	Lost               EventKind = "lost"      // the bus is gone; nothing is heard until Connected
	Connected          EventKind = "connected" // from here on everything is heard: read the state now
)

// Event is something that happened to firewalld. Zone, Port and Interface are set where the kind says so, and empty
// where so much happened that the details were dropped.
type Event struct {
	Kind      EventKind
	Zone      string
	Port      Port
	Interface string
}

// maxPending bounds what is kept for a reader that does not read.
const maxPending = 64

// queue holds what the reader has not read yet, each event once.
type queue struct {
	mu      sync.Mutex
	pending []pending
	next    uint64
	wake    chan struct{} // holds one token where pending may have something new
}

type pending struct {
	Event
	id uint64
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

// add appends an event and never blocks. An equal one that waits already gives way, so that of on, off, on the last one
// stays the last.
func (q *queue) add(e Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.append(e)
	if len(q.pending) > maxPending {
		all := q.pending
		q.pending = nil
		for _, p := range all {
			q.append(Event{Kind: p.Kind})
		}
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) append(e Event) {
	for i, p := range q.pending {
		if p.Event == e {
			q.pending = append(q.pending[:i], q.pending[i+1:]...)
			break
		}
	}
	q.next++
	q.pending = append(q.pending, pending{e, q.next})
}

// first gives the oldest event, if there is one.
func (q *queue) first() (pending, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.pending) == 0 {
		return pending{}, false
	}
	return q.pending[0], true
}

// taken removes an event that was delivered. It may have given way to a newer one meanwhile, which stays.
func (q *queue) taken(id uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, p := range q.pending {
		if p.id == id {
			q.pending = append(q.pending[:i], q.pending[i+1:]...)
			return
		}
	}
}

// deliver sends the events, in order, until ctx ends.
func (q *queue) deliver(ctx context.Context, to chan<- Event) {
	for {
		head, some := q.first()
		send := to
		if !some {
			send = nil
		}
		select {
		case send <- head.Event:
			q.taken(head.id)
		case <-q.wake:
		case <-ctx.Done():
			return
		}
	}
}
