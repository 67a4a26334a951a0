package power

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Action is what is done to machines.
type Action string

// The actions, in the words of the command line.
const (
	ActionStatus Action = "status"
	ActionOn     Action = "on"
	ActionOff    Action = "off"
	ActionCycle  Action = "cycle"
	ActionPXE    Action = "pxe"
)

// Disrupts says whether the action ends what runs on a machine that is on.
func (a Action) Disrupts() bool { return a == ActionOff || a == ActionCycle || a == ActionPXE }

// Target is a machine of a fleet.
type Target struct {
	Name string
	BMC  string // its address; machines that share one are switched one after the other
	Open func(ctx context.Context) (Machine, error)
	PXE  PXEOptions    // for ActionPXE
	Soft time.Duration // for ActionOff and ActionCycle
}

// Outcome is what became of one machine.
type Outcome struct {
	Machine string        `json:"machine"`
	State   State         `json:"state"` // as last read; unknown after an error
	Took    time.Duration `json:"took"`
	Err     error         `json:"-"` // without the machine's name
}

// Fleet switches many machines at once.
type Fleet struct {
	Parallel int // BMCs at once; 32 when zero
	// Guard is asked before each action that disrupts, with the machine's name; its error keeps that machine as it
	// is. Nil: everything may be switched.
	Guard func(ctx context.Context, machine string, a Action) error
	// Say gets one line for each step; calls do not overlap. May be nil.
	Say func(machine, text string)
}

// Do acts on all targets and returns when all are done, in the order of the targets. One that fails does not stop
// the others.
func (f *Fleet) Do(ctx context.Context, a Action, targets []Target) []Outcome {
	parallel := f.Parallel
	if parallel <= 0 {
		parallel = 32
	}
	var mu sync.Mutex
	say := func(machine string) func(string) {
		return func(text string) {
			if f.Say != nil {
				mu.Lock()
				defer mu.Unlock()
				f.Say(machine, text)
			}
		}
	}
	outcomes := make([]Outcome, len(targets))
	// One worker takes all targets of a BMC: a chassis of blades has one for all of its machines.
	var order []string
	byBMC := map[string][]int{}
	for i, t := range targets {
		key := t.BMC
		if key == "" {
			key = fmt.Sprintf("machine %d", i)
		}
		if byBMC[key] == nil {
			order = append(order, key)
		}
		byBMC[key] = append(byBMC[key], i)
	}
	slots := make(chan struct{}, parallel)
	var wg sync.WaitGroup
	for _, key := range order {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			for _, i := range byBMC[key] {
				start := time.Now()
				state, err := f.one(ctx, a, targets[i], say(targets[i].Name))
				outcomes[i] = Outcome{targets[i].Name, state, time.Since(start), err}
			}
		})
	}
	wg.Wait()
	return outcomes
}

func (f *Fleet) one(ctx context.Context, a Action, t Target, say func(string)) (State, error) {
	if err := ctx.Err(); err != nil {
		return Unknown, fmt.Errorf("not switched: %w", err)
	}
	if f.Guard != nil && a.Disrupts() {
		if err := f.Guard(ctx, t.Name, a); err != nil {
			return Unknown, err
		}
	}
	m, err := t.Open(ctx)
	if err != nil {
		return Unknown, err
	}
	defer m.Close()
	switch a {
	case ActionStatus:
		return m.Status(ctx)
	case ActionOn:
		return settled(On, m.On(ctx))
	case ActionOff:
		return settled(Off, m.Off(ctx, t.Soft))
	case ActionCycle:
		return settled(On, m.Cycle(ctx, t.Soft))
	case ActionPXE:
		o := t.PXE
		if o.Say == nil {
			o.Say = say
		}
		return settled(On, NetworkBoot(ctx, m, o))
	}
	return Unknown, fmt.Errorf("there is no power action %q", a)
}

func settled(s State, err error) (State, error) {
	if err != nil {
		return Unknown, err
	}
	return s, nil
}
