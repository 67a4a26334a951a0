package power

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// PXEOptions say how a machine is brought to boot from the network.
type PXEOptions struct {
	UEFI bool
	Soft time.Duration // for an operating system that runs to end; zero: the power is cut
	// Seen returns nil when the machine was seen booting from the network (its DHCP request), or waits until ctx
	// ends. It is called before the power goes on. Nil: nobody looks, and ErrNotSeen says so.
	Seen   func(ctx context.Context) error
	Within time.Duration // from power on to Seen: 5 minutes; servers test their memory first
	Tries  int           // 2
	Say    func(string)  // one line for each step; may be nil
}

// ErrNotSeen is a machine that was switched on for a network boot and did not show up.
var ErrNotSeen = errors.New("no network boot was seen")

// pxer is a Machine that does a network boot in one step of its own.
type pxer interface {
	networkBoot(ctx context.Context, o PXEOptions) error
}

// NetworkBoot brings a machine to boot from the network once: off, boot device set and read back, on, and then believed
// only when seen. It is tried again within o.Tries.
func NetworkBoot(ctx context.Context, m Machine, o PXEOptions) error {
	if o.Within <= 0 {
		o.Within = 5 * time.Minute
	}
	if o.Tries <= 0 {
		o.Tries = 2
	}
	if o.Say == nil {
		o.Say = func(string) {}
	}
	if p, ok := m.(pxer); ok {
		return p.networkBoot(ctx, o)
	}
	for try := range o.Tries {
		if try > 0 {
			o.Say(fmt.Sprintf("no network boot was seen within %s: try %d of %d", o.Within, try+1, o.Tries))
			o.Soft = 0 // it is not known what runs there
		}
		seen, err := networkBootOnce(ctx, m, o)
		if err != nil || seen {
			return err
		}
		if o.Seen == nil {
			return fmt.Errorf("it is on and was told to boot from the network, but nobody looked: %w; \"tectonic-installer watch\" shows its DHCP request", ErrNotSeen)
		}
	}
	state, err := m.Status(ctx)
	if err != nil {
		state = Unknown
	}
	return fmt.Errorf("it was switched on for a network boot %d times, and no DHCP request of its MACs came within %s (its power is %s): %w; "+
		"compare the MACs in the cluster file with its cards, look whether the card that is plugged in may boot (PXE on in the firmware), "+
		"whether BIOS or UEFI is what the firmware expects, and whether its switch port is in the provisioner's network", o.Tries, o.Within, state, ErrNotSeen)
}

func networkBootOnce(ctx context.Context, m Machine, o PXEOptions) (seen bool, err error) {
	o.Say("power off")
	if err := m.Off(ctx, o.Soft); err != nil {
		return false, err
	}
	want := Boot{PXE, o.UEFI}
	back, err := m.SetBoot(ctx, want)
	if err != nil {
		return false, err
	}
	if back == want {
		o.Say("next boot: " + back.String())
	} else {
		o.Say(fmt.Sprintf("next boot: %s; the BMC reads back %s, the firmware decides", want, back))
	}
	// The request can come before On has read back that the power is on.
	watch, cancel := context.WithCancel(ctx)
	defer cancel()
	result := make(chan error, 1)
	if o.Seen != nil {
		go func() { result <- o.Seen(watch) }()
	}
	o.Say("power on")
	if err := m.On(ctx); err != nil {
		return false, err
	}
	if o.Seen == nil {
		return false, nil
	}
	timer := time.NewTimer(o.Within)
	defer timer.Stop()
	select {
	case err := <-result:
		if err != nil {
			return false, fmt.Errorf("cannot tell whether it booted from the network: %w", err)
		}
		o.Say("it booted from the network")
		return true, nil
	case <-timer.C:
		return false, nil
	case <-ctx.Done():
		return false, fmt.Errorf("it is on; whether it boots from the network was not waited for: %w", ctx.Err())
	}
}
