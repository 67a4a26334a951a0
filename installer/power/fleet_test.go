package power

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

// slow is a chassis that takes its time, and notes how many work at once.
type slow struct {
	lab.Switch
	takes time.Duration
	at    func(delta int)
}

func (s *slow) SetPower(on bool) error {
	s.at(1)
	defer s.at(-1)
	time.Sleep(s.takes) // the hardware's time, not a wait for something
	return s.Switch.SetPower(on)
}

// Many BMCs work at once; one that is wrong and one that is gone keep nobody else from being switched.
func TestFleet(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var now, most int
	at := func(delta int) {
		mu.Lock()
		defer mu.Unlock()
		now += delta
		most = max(most, now)
	}
	const machines = 12
	var targets []Target
	var chassis []*slow
	for i := range machines {
		c := &slow{takes: 300 * time.Millisecond, at: at}
		b := startBMC(t, c)
		o := quick(b.Address.String())
		o.Answer, o.Settle = time.Second, 3*time.Second
		switch i {
		case 3:
			o.Credentials.Password = "wrong"
		case 5:
			b.Kill()
		}
		targets = append(targets, Target{Name: fmt.Sprintf("node%d", i), BMC: o.Address,
			Open: func(ctx context.Context) (Machine, error) { return OpenIPMI(ctx, o) }})
		chassis = append(chassis, c)
	}
	f := &Fleet{}
	outcomes := f.Do(within(t, 60*time.Second), ActionOn, targets)
	for i, o := range outcomes {
		if o.Machine != targets[i].Name || o.Took <= 0 {
			t.Errorf("outcome %d: %+v", i, o)
		}
		switch i {
		case 3:
			if !errors.Is(o.Err, ErrCredentials) || !strings.HasPrefix(o.Err.Error(), "cannot log in") || o.State != Unknown {
				t.Errorf("%v", o.Err)
			}
		case 5:
			if !errors.Is(o.Err, ErrSilent) {
				t.Errorf("%v", o.Err)
			}
		default:
			if o.Err != nil || o.State != On || !chassis[i].Power() {
				t.Errorf("%s: %s, %v", o.Machine, o.State, o.Err)
			}
		}
	}
	if most < 3 {
		t.Errorf("%d BMCs worked at once, want more", most)
	}
	most = 0
	f.Parallel = 2
	f.Guard = func(_ context.Context, machine string, a Action) error {
		if machine == "node0" && a == ActionOff {
			return errors.New("it is ready; use --force")
		}
		return nil
	}
	outcomes = f.Do(within(t, 60*time.Second), ActionOff, targets[:3])
	if o := outcomes[0]; o.Err == nil || !strings.Contains(o.Err.Error(), "--force") || !chassis[0].Power() {
		t.Errorf("a machine that is guarded: %+v, power %t", o, chassis[0].Power())
	}
	if slices.Contains(chassis[0].Calls(), "power false") || chassis[1].Power() || chassis[2].Power() || most > 2 {
		t.Errorf("%q; %d at once", chassis[0].Calls(), most)
	}
}

// two machines behind one BMC are never asked at once.
func TestFleetSharedBMC(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var now, most int
	b := startBMC(t, nil)
	var targets []Target
	for i := range 6 {
		targets = append(targets, Target{Name: fmt.Sprint(i), BMC: b.Address.String(), Open: func(ctx context.Context) (Machine, error) {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			m, err := OpenIPMI(ctx, quick(b.Address.String()))
			return closing{m, func() { mu.Lock(); now--; mu.Unlock() }}, err
		}})
	}
	for _, o := range (&Fleet{}).Do(within(t, 30*time.Second), ActionStatus, targets) {
		if o.Err != nil || o.State != Off {
			t.Errorf("%+v", o)
		}
	}
	if most != 1 {
		t.Errorf("%d at once", most)
	}
}

type closing struct {
	Machine
	closed func()
}

func (c closing) Close() error {
	defer c.closed()
	return c.Machine.Close()
}

// A network boot of many, each believed when its own request was seen.
func TestFleetNetworkBoot(t *testing.T) {
	t.Parallel()
	var said sync.Map
	var targets []Target
	for i := range 4 {
		f := newFirmware(i % 2)
		o := quick(startBMC(t, f).Address.String())
		targets = append(targets, Target{Name: fmt.Sprintf("node%d", i), BMC: o.Address,
			Open: func(ctx context.Context) (Machine, error) { return OpenIPMI(ctx, o) },
			PXE:  PXEOptions{Seen: f.seen, Within: 500 * time.Millisecond}})
	}
	f := &Fleet{Say: func(machine, text string) { said.Store(machine+" "+text, true) }}
	for _, o := range f.Do(within(t, 60*time.Second), ActionPXE, targets) {
		if o.Err != nil || o.State != On {
			t.Errorf("%+v", o)
		}
	}
	for _, want := range []string{"node0 it booted from the network", "node1 no network boot was seen within 500ms: try 2 of 2"} {
		if _, ok := said.Load(want); !ok {
			t.Errorf("%q was not said", want)
		}
	}
}
