package agent

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/node"
)

// maxEvents bounds what waits for an API server that can't be reached; what
// comes after is dropped and counted. The journal has it all.
const maxEvents = 32

// herald tells the API server what happened, and never makes anybody wait.
type herald struct {
	sys  *System
	wake chan struct{}

	mu      sync.Mutex
	cluster Cluster // nil: none yet
	counts  node.Events
	queue   []node.Event
	want    *condition // to be written; nil: nothing
	dropped int
	refused string // the last error that waiting does not mend
}

type condition struct {
	node string
	node.Condition
}

func newHerald(sys *System) *herald { return &herald{sys: sys, wake: make(chan struct{}, 1)} }

// event queues an Event on the Node.
func (h *herald) event(nodeName, reason, message string, warning bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if nodeName == "" || len(h.queue) >= maxEvents {
		h.dropped++
		return
	}
	h.queue = append(h.queue, h.counts.Add(node.Event{Node: nodeName, Reason: reason, Message: message, Warning: warning, At: h.sys.Now()}))
	h.ring()
}

// condition has the Node's condition written; an older one that was not
// written yet is forgotten.
func (h *herald) condition(nodeName string, c node.Condition) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.want = &condition{nodeName, c}
	h.ring()
}

// use speaks with another credential from now on.
func (h *herald) use(c Cluster) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cluster, h.refused = c, ""
	h.ring()
}

// retry is called when the API server was heard of.
func (h *herald) retry() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.want != nil || len(h.queue) > 0 {
		h.ring()
	}
}

func (h *herald) ring() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// lost tells how many Events were dropped.
func (h *herald) lost() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.dropped
}

// run writes until ctx ends.
func (h *herald) run(ctx context.Context) {
	for n := 0; ; {
		err := h.deliver(ctx)
		var again <-chan time.Time
		if err != nil && ctx.Err() == nil {
			t := time.NewTimer(pause(n, 5*time.Second, 5*time.Minute))
			defer t.Stop()
			again = t.C
			n++
		} else {
			n = 0
		}
		select {
		case <-ctx.Done():
			return
		case <-h.wake:
		case <-again:
		}
	}
}

// deliver writes what is there. The error says that it is worth trying again.
func (h *herald) deliver(ctx context.Context) error {
	for ctx.Err() == nil {
		h.mu.Lock()
		c, want := h.cluster, h.want
		var event *node.Event
		if len(h.queue) > 0 {
			event = &h.queue[0]
		}
		h.mu.Unlock()
		if c == nil || want == nil && event == nil {
			return nil
		}
		var err error
		if want != nil {
			err = c.SetCondition(ctx, want.node, want.Condition)
		} else {
			err = c.PostEvent(ctx, *event)
		}
		var api *node.APIError
		mends := errors.As(err, &api) && (api.Retry() || api.Reason == node.NotFound || api.Reason == node.Interrupted)
		if err != nil && mends {
			return err
		}
		h.mu.Lock()
		if want != nil {
			if h.want == want {
				h.want = nil
			}
		} else if len(h.queue) > 0 {
			h.queue = h.queue[1:]
			if err != nil {
				h.dropped++
			}
		}
		fresh := err != nil && err.Error() != h.refused
		if fresh {
			h.refused = err.Error()
		}
		h.mu.Unlock()
		if fresh {
			h.sys.Log.Warn("the API server takes no reports", "error", err)
		}
	}
	return ctx.Err()
}
