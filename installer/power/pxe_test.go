package power

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

// firmware boots from the network when it is switched on with that boot device set, as often as it wants to.
type firmware struct {
	lab.Switch
	boots  chan struct{} // one for each network boot
	misses int           // how many requests for a network boot it does not follow
}

func newFirmware(misses int) *firmware {
	f := &firmware{boots: make(chan struct{}, 10), misses: misses}
	f.Changed = func(on bool, boot string) {
		if on && boot == "pxe" {
			if f.misses--; f.misses < 0 {
				f.boots <- struct{}{}
			}
		}
	}
	return f
}

func (f *firmware) seen(ctx context.Context) error {
	select {
	case <-f.boots:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestNetworkBoot(t *testing.T) {
	t.Parallel()
	once := []string{"boot pxe", "power true"}
	again := []string{"power false", "boot pxe", "power true"}
	broken := errors.New("the events ended")
	for _, tt := range []struct {
		name   string
		misses int
		on     bool // before
		o      PXEOptions
		calls  []string
		err    error
		text   string
	}{
		{name: "off", calls: once},
		{name: "running", on: true, o: PXEOptions{Soft: time.Second}, calls: append([]string{"power true", "shutdown"}, again...)},
		{name: "ignored once", misses: 1, o: PXEOptions{UEFI: true}, calls: append(append([]string{}, once...), again...)},
		{name: "ignored for ever", misses: 9, calls: append(append([]string{}, once...), again...), err: ErrNotSeen, text: "switched on for a network boot 2 times"},
		{name: "three tries", misses: 9, o: PXEOptions{Tries: 3}, calls: append(append(append([]string{}, once...), again...), again...), err: ErrNotSeen, text: "its power is on"},
		{name: "who looks is gone", o: PXEOptions{Seen: func(context.Context) error { return broken }}, calls: once, err: broken},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFirmware(tt.misses)
			m := open(t, quick(startBMC(t, f).Address.String()))
			ctx := within(t, 60*time.Second)
			if tt.on {
				if err := m.On(ctx); err != nil {
					t.Fatal(err)
				}
			}
			var said []string
			tt.o.Within = 400 * time.Millisecond
			tt.o.Say = func(s string) { said = append(said, s) }
			if tt.o.Seen == nil {
				tt.o.Seen = f.seen
			}
			err := NetworkBoot(ctx, m, tt.o)
			if !errors.Is(err, tt.err) || tt.err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%v; want %v, %q", err, tt.err, tt.text)
			}
			if diff := cmp.Diff(tt.calls, f.Calls()); diff != "" {
				t.Errorf("what the machine was told (-want +got):\n%s", diff)
			}
			if len(said) < 3 || said[0] != "power off" {
				t.Errorf("said %q", said)
			}
		})
	}
	t.Run("nobody looks", func(t *testing.T) {
		t.Parallel()
		err := NetworkBoot(within(t, 20*time.Second), open(t, quick(startBMC(t, newFirmware(0)).Address.String())), PXEOptions{})
		if !errors.Is(err, ErrNotSeen) || !strings.Contains(err.Error(), "nobody looked") {
			t.Error(err)
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		t.Parallel()
		f := newFirmware(9)
		ctx, cancel := context.WithCancel(t.Context())
		err := NetworkBoot(ctx, open(t, quick(startBMC(t, f).Address.String())), PXEOptions{Seen: func(ctx context.Context) error {
			cancel()
			<-ctx.Done()
			return ctx.Err()
		}})
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if n := len(f.Calls()); n > len(once) {
			t.Errorf("it went on: %q", f.Calls())
		}
	})
}
