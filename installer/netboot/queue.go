package netboot

import (
	"fmt"
	"sync"
)

// maxQueue events wait for a receiver that is slow or gone; a boot storm of 10,000 machines makes about 80,000.
const maxQueue = 200_000

// queue holds events in their order. When it is full the new ones are dropped and counted: what came first explains
// what came later.
type queue struct {
	mu      sync.Mutex
	change  sync.Cond
	events  []Event
	limit   int
	dropped int
	last    Event // that was dropped
	closed  bool
}

func newQueue(limit int) *queue {
	q := &queue{limit: limit}
	q.change.L = &q.mu
	return q
}

func (q *queue) put(e Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.events) >= q.limit {
		q.dropped++
		q.last = e
		return
	}
	q.events = append(q.events, e)
	q.change.Signal()
}

// take waits for the next event; false says that there will be none.
func (q *queue) take() (Event, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.events) == 0 && q.dropped == 0 && !q.closed {
		q.change.Wait()
	}
	if len(q.events) > 0 {
		e := q.events[0]
		q.events = q.events[1:]
		return e, true
	}
	if q.dropped > 0 {
		n := q.dropped
		q.dropped = 0
		return Event{Time: q.last.Time, Source: SourceDHCP, Kind: KindWarning,
			Message: fmt.Sprintf("%d events of the network were dropped: they came faster than they could be recorded", n)}, true
	}
	return Event{}, false
}

// close lets take give what is left, then end.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.change.Broadcast()
}
