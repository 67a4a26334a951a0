// Package watch shows how far machines are: as a table that is drawn in place, as lines, or as a stream of JSON. It owns
// how that looks, and asks and changes nothing itself: where the machines' states come from is given to it.
package watch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

// Source is where states and events come from.
type Source struct {
	// List gives all machines, and the number of the last event that they have in them.
	List func(context.Context) ([]machine.Status, uint64, error)
	// Follow gives every event above a number to take until ctx ends, take returns an error, or the stream breaks.
	Follow func(ctx context.Context, from uint64, take func(machine.Event) error) error
}

// Mode is how it is shown.
type Mode int

const (
	Lines Mode = iota // each event as a line
	Table             // all machines, drawn in place; for a terminal
	JSON              // one object a line: {"machine": …} for a state, {"event": …} for an event
)

// Options of Run.
type Options struct {
	Source
	Out  io.Writer
	Mode Mode
	// Machines are the names or MAC addresses that are shown; none: all.
	Machines []string
	// Until ends the watch when every machine that is shown is in this state; a failed one ends it with ErrFailed. Empty: it
	// goes on.
	Until machine.State
	// Size is the terminal's, in columns and lines, asked before each drawing. Nil: 80 by 24.
	Size func() (columns, lines int)
	// Colour allows colours in the table.
	Colour bool
	Now    func() time.Time // time.Now
}

// ErrFailed is in the error that ends a watch for a state which a failed machine does not get to.
var ErrFailed = errors.New("failed")

// Where what is shown is asked for anew: after an event no sooner than, and without one no later than.
const (
	soonest = 500 * time.Millisecond
	latest  = 5 * time.Second
)

// patience is between two attempts to reach a provisioner that is gone.
const patience = 2 * time.Second

// Run shows the machines until ctx ends, Until is reached, or the output is closed. Only its first question may fail:
// afterwards it says that the provisioner is gone, and waits for it.
func Run(ctx context.Context, o Options) error {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Size == nil {
		o.Size = func() (int, int) { return 80, 24 }
	}
	w := &watcher{Options: o, overdue: map[string]bool{}, states: map[string]machine.State{}}
	if err := w.list(ctx); err != nil {
		return err
	}
	if o.Mode == Table {
		w.screen = &screen{out: o.Out}
		defer w.screen.leave()
	}
	return w.run(ctx)
}

type watcher struct {
	Options
	screen *screen

	all     []machine.Status
	seq     uint64
	gone    error // why the provisioner is not reached
	since   time.Time
	overdue map[string]bool          // who was said to be overdue
	states  map[string]machine.State // what JSON said last
}

func (w *watcher) list(ctx context.Context) error {
	all, seq, err := w.List(ctx)
	if err != nil {
		return err
	}
	w.all = slices.DeleteFunc(all, func(s machine.Status) bool { return !w.shows(s) })
	w.seq = seq
	return nil
}

func (w *watcher) shows(s machine.Status) bool {
	return len(w.Machines) == 0 || slices.ContainsFunc(w.Machines, func(m string) bool {
		return m == s.Name || slices.Contains(s.MACs, m)
	})
}

func (w *watcher) about(e machine.Event) bool {
	return len(w.Machines) == 0 || e.Kind == "gap" || slices.Contains(w.Machines, e.Machine) || slices.Contains(w.Machines, e.MAC)
}

// followed is what the stream brought.
type followed struct {
	event machine.Event
	err   error // it broke
}

func (w *watcher) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	news := make(chan followed)
	follow := func(from uint64, wait time.Duration) {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		err := w.Follow(ctx, from, func(e machine.Event) error {
			select {
			case news <- followed{event: e}:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		if err == nil {
			err = errors.New("the stream of events ended")
		}
		select {
		case news <- followed{err: err}:
		case <-ctx.Done():
		}
	}
	last := w.seq
	go follow(last, 0)
	if done, err := w.show(); done || err != nil {
		return err
	}
	asked := w.Now()
	again := time.NewTimer(latest)
	defer again.Stop()
	tick := time.NewTicker(time.Second) // ages grow in the table
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case n := <-news:
			if n.err != nil {
				if ctx.Err() != nil {
					return nil
				}
				if err := w.lost(n.err); err != nil {
					return err
				}
				go follow(last, patience)
				continue
			}
			last = n.event.Seq
			if err := w.tell(n.event); err != nil {
				return err
			}
			again.Reset(max(0, soonest-w.Now().Sub(asked)))
		case <-again.C:
			again.Reset(latest)
			asked = w.Now()
			if err := w.list(ctx); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				if err := w.lost(err); err != nil {
					return err
				}
				continue
			}
			if err := w.found(); err != nil {
				return err
			}
			if done, err := w.show(); done || err != nil {
				return err
			}
		case <-tick.C:
			if w.Mode == Table {
				if err := w.draw(); err != nil {
					return err
				}
			}
		}
	}
}

// lost says once that the provisioner is gone.
func (w *watcher) lost(err error) error {
	if w.gone != nil {
		return nil
	}
	w.gone, w.since = err, w.Now()
	switch w.Mode {
	case Table:
		return w.draw()
	case JSON:
		return w.json(map[string]string{"error": err.Error()})
	}
	_, err = fmt.Fprintf(w.Out, "%s  %v; trying again\n", w.Now().Format(time.TimeOnly), err)
	return err
}

func (w *watcher) found() error {
	if w.gone == nil {
		return nil
	}
	w.gone = nil
	if w.Mode == Lines {
		_, err := fmt.Fprintf(w.Out, "%s  the provisioner answers again\n", w.Now().Format(time.TimeOnly))
		return err
	}
	return nil
}

// tell shows an event where events are shown.
func (w *watcher) tell(e machine.Event) error {
	if !w.about(e) {
		return nil
	}
	switch w.Mode {
	case Lines:
		_, err := fmt.Fprintln(w.Out, Line(e))
		return err
	case JSON:
		return w.json(map[string]machine.Event{"event": e})
	}
	return nil
}

// show brings what was listed to the output, and says whether the watch has come to its end.
func (w *watcher) show() (done bool, err error) {
	switch w.Mode {
	case Table:
		err = w.draw()
	default:
		for _, s := range w.all {
			if err = w.state(s); err != nil {
				break
			}
		}
	}
	if err != nil || w.Until == "" || len(w.all) == 0 {
		return false, err
	}
	done = true
	var failed error
	for _, s := range w.all {
		if s.State == machine.Failed && w.Until != machine.Failed {
			failed = errors.Join(failed, fmt.Errorf("%s %w: %s", nameOf(s), ErrFailed, s.Reason))
		}
		done = done && s.State == w.Until
	}
	return done || failed != nil, failed
}

// state says what events do not: where a machine is at the start, and that it is overdue.
func (w *watcher) state(s machine.Status) error {
	name := nameOf(s)
	was, late := w.states[name], w.overdue[name]
	w.states[name], w.overdue[name] = s.State, s.Overdue != nil
	switch w.Mode {
	case JSON:
		if was != s.State || late != (s.Overdue != nil) {
			return w.json(map[string]machine.Status{"machine": s})
		}
	case Lines:
		if was == "" || s.Overdue != nil && !late {
			_, err := fmt.Fprintf(w.Out, "%s  %s  %s\n", w.Now().Format(time.TimeOnly), name, summary(s, w.Now()))
			return err
		}
	}
	return nil
}

func (w *watcher) json(v any) error {
	return json.NewEncoder(w.Out).Encode(v)
}

func (w *watcher) draw() error {
	columns, lines := w.Size()
	text := Draw(w.all, columns, lines, w.Now(), w.Colour)
	if w.gone != nil {
		text += clip(fmt.Sprintf("! not up to date since %s: %v", w.since.Format(time.TimeOnly), w.gone), columns) + "\n"
	}
	return w.screen.draw(text)
}
