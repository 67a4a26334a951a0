package machine

import (
	"context"
	"errors"
	"time"
)

// snapshotAfter is how many bytes of journal are kept before they are folded into a snapshot.
const snapshotAfter = 16 << 20

// batch is what reaches the disk with one sync: every change that came while the one before was being synced.
type batch struct {
	records []record
	done    chan struct{} // closed when it is on the disk, or when err says why not
	err     error
	reached []chan struct{} // closed when timelines and definitions have it
}

func newBatch() *batch { return &batch{done: make(chan struct{})} }

// task is what the scribe does, in the order of the journal.
type task struct {
	records  []record
	snapshot int // write this snapshot of what was known
	known    []record
	reached  []chan struct{} // closed when the records are written
}

// keep adds records to the batch that is written next. s.mu is held.
func (s *Store) keep(records ...record) *batch {
	s.pending.records = append(s.pending.records, records...)
	b := s.pending
	select {
	case s.kick <- struct{}{}:
	default:
	}
	return b
}

// kept waits until a batch is on the disk.
func (s *Store) kept(ctx context.Context, b *batch) error {
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return refuse(ErrBroken, "cannot say whether the machine's state is on the disk: %v; look at the machine before trying again", context.Cause(ctx))
	}
}

// usable is asked before each change, with s.mu held.
func (s *Store) usable() error {
	if s.closed {
		return refuse(ErrBroken, "the machines' state in %s is closed: tectonic-installer is ending", s.dir)
	}
	return s.broken
}

// commits writes batches until the store is closed. It is the only writer of the journal.
func (s *Store) commits() {
	defer close(s.tasks)
	for range s.kick {
		s.mu.Lock()
		b := s.pending
		s.pending = newBatch()
		broken := s.broken
		s.mu.Unlock()
		if broken == nil && len(b.records) > 0 {
			if err := s.journal.append(b.records); err != nil {
				// After a failed sync the kernel may call lost pages clean: nothing that follows could be trusted.
				broken = refuse(ErrBroken, "cannot keep the machines' state in %s: %v; nothing is served an installer until tectonic-installer is started again with a working disk", s.dir, err)
				s.log.Error("the machines' state cannot be written", "error", err)
				s.mu.Lock()
				s.broken = broken
				s.mu.Unlock()
			}
		}
		if broken != nil {
			b.err = broken
			close(b.done)
			continue // who waits for what is reached has b.err
		}
		s.feed.publish(eventsOf(b.records))
		close(b.done)
		s.tasks <- task{records: b.records, reached: b.reached}
		if s.journal.size >= s.snapshotAfter {
			s.turn()
		}
	}
}

func eventsOf(records []record) []Event {
	events := make([]Event, 0, len(records))
	for _, r := range records {
		if r.Event != nil {
			events = append(events, *r.Event)
		}
	}
	return events
}

// turn begins a new segment and has the scribe fold the older ones into a snapshot.
func (s *Store) turn() {
	if s.behind.Load() {
		return
	}
	if err := s.journal.turn(); err != nil {
		s.log.Error("the machines' state is not compacted", "error", err)
		return
	}
	// What is known may be ahead of the disk by the batch that waits. It is in the next segment, and was not yet answered.
	s.tasks <- task{snapshot: s.journal.n, known: s.everything()}
}

func (s *Store) everything() []record {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]record, 0, len(s.machines)+1)
	all = append(all, record{Seq: s.seq})
	for key, k := range s.machines {
		e := k.entry
		all = append(all, record{Key: key, Entry: &e, Inventory: k.inventory, Event: k.last})
	}
	return all
}

// scribe writes what is derived from the journal: timelines and definitions. It calls OnChange.
func (s *Store) scribe() {
	defer close(s.written)
	for t := range s.tasks {
		switch {
		case t.snapshot > 0:
			if s.behind.Load() {
				continue
			}
			if err := errors.Join(syncTree(s.dir), writeSnapshot(s.dir, t.snapshot, t.known)); err != nil {
				s.log.Error("the machines' state is not compacted; its journal grows", "error", err)
			}
		default:
			if err := s.write(t.records); err != nil && !s.behind.Swap(true) {
				s.log.Error("timelines or definitions cannot be written; the journal keeps them until the next start", "error", err)
			}
			s.announce(t.records)
			for _, reached := range t.reached {
				close(reached)
			}
		}
	}
}

func (s *Store) write(records []record) error {
	lines := map[string][]Event{}
	var errs []error
	for _, r := range records {
		if r.Event != nil {
			lines[r.Key] = append(lines[r.Key], *r.Event)
		}
		switch {
		case r.Definition != nil:
			err := writeDefinition(s.dir, r.Key, r.Definition)
			errs = append(errs, err)
			if err == nil {
				s.mu.Lock()
				if k := s.machines[r.Key]; k != nil && len(k.unwritten) > 0 && &k.unwritten[0] == &r.Definition[0] {
					k.unwritten = nil
				}
				s.mu.Unlock()
			}
		case r.Forgotten:
			delete(lines, r.Key)
			errs = append(errs, removeTimeline(s.dir, r.Key))
		case r.Gone:
			errs = append(errs, removeDefinition(s.dir, r.Key))
		}
	}
	for key, events := range lines {
		errs = append(errs, appendTimeline(s.dir, key, events))
	}
	return errors.Join(errs...)
}

func (s *Store) announce(records []record) {
	if s.onChange == nil {
		return
	}
	for _, r := range records {
		t := Transition{Machine: r.Key, From: r.from, Time: s.now()}
		switch {
		case r.Gone:
		case r.Entry != nil && r.Entry.State != r.from:
			t.To, t.Action, t.Time, t.MAC = r.Entry.State, r.Entry.Action, r.Entry.Since, r.Entry.MAC
		default:
			continue
		}
		if isMAC(r.Key) {
			t.Machine, t.MAC = "", r.Key
		}
		s.onChange(t)
	}
}

// settled waits until timelines and definitions have what was committed before.
func (s *Store) settled(ctx context.Context) error {
	s.mu.Lock()
	if err := s.usable(); err != nil {
		s.mu.Unlock()
		return err
	}
	b := s.keep()
	reached := make(chan struct{})
	b.reached = append(b.reached, reached)
	s.mu.Unlock()
	if err := s.kept(ctx, b); err != nil {
		return err
	}
	select {
	case <-reached:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// expiries ends what has lasted its time, about once a second's worth of patience after it.
func (s *Store) expiries(every time.Duration) {
	defer close(s.swept)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.expire()
		case <-s.stop:
			return
		}
	}
}
