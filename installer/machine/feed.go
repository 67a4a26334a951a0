package machine

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// feedLength is how many of the last events are held at least for who follows: a minute of a thousand busy machines.
const feedLength = 1 << 14

// feed holds the last events in the order of their numbers, which have no gap.
type feed struct {
	mu    sync.Mutex
	ring  []Event
	more  chan struct{} // closed and replaced at each publication
	ended bool
}

func newFeed() *feed { return &feed{more: make(chan struct{})} }

func (f *feed) publish(events []Event) {
	if len(events) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ring = append(f.ring, events...)
	if len(f.ring) > 2*feedLength { // the older half goes at once, so that not each event moves all
		f.ring = append([]Event(nil), f.ring[len(f.ring)-feedLength:]...)
	}
	close(f.more)
	f.more = make(chan struct{})
}

func (f *feed) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	close(f.more)
	f.more = make(chan struct{})
}

// after gives up to max events behind a number, and what to wait for when there are none.
func (f *feed) after(seq uint64, max int) (events []Event, lost uint64, more <-chan struct{}, ended bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.ring) == 0 || f.ring[len(f.ring)-1].Seq <= seq {
		return nil, 0, f.more, f.ended
	}
	first := f.ring[0].Seq
	start := 0
	if seq >= first {
		start = int(seq - first + 1)
	} else {
		lost = first - seq - 1
	}
	end := min(len(f.ring), start+max)
	return append([]Event(nil), f.ring[start:end]...), lost, f.more, f.ended
}

// Follow gives every event with a number above from, those still held first and then as they come, until ctx ends or
// the store is closed. Where events are no longer held, one with source "state" and kind "gap" says how many; the
// timelines have them.
func (s *Store) Follow(ctx context.Context, from uint64) <-chan Event {
	out := make(chan Event)
	go func() {
		defer close(out)
		send := func(e Event) bool {
			select {
			case out <- e:
				return true
			case <-ctx.Done():
				return false
			}
		}
		for {
			events, lost, more, ended := s.feed.after(from, 256)
			if lost > 0 && from > 0 {
				gap := Event{Seq: from + lost, Time: s.now(), Source: SourceState, Kind: "gap", Message: fmt.Sprintf("%d events are no longer held here; the timelines have them", lost)}
				if !send(gap) {
					return
				}
			}
			for _, e := range events {
				if !send(e) {
					return
				}
				from = e.Seq
			}
			if len(events) > 0 {
				continue
			}
			if ended {
				return
			}
			select {
			case <-more:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// Transition is a change of a machine's state, already on the disk.
type Transition struct {
	Machine string // empty while Discovered
	MAC     string
	From    State // empty: it was not known
	To      State // empty: it is deleted
	Action  Action
	Time    time.Time
}
