package installer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
	"github.com/tectonic-worker/tectonic-worker/installer/machine"
	"github.com/tectonic-worker/tectonic-worker/installer/machine/api"
	"github.com/tectonic-worker/tectonic-worker/installer/power"
)

// PowerOptions say how machines are switched.
type PowerOptions struct {
	Force  bool
	Soft   time.Duration // for an operating system to end
	Within time.Duration // from power on to the DHCP request
	Tries  int
	// Say gets one line for each step of a machine.
	Say func(machine, text string)
	// Console is the person who presses the buttons of a machine without a BMC.
	Console *power.Console
}

// Power switches machines of the cluster file. What disrupts is done only when the provisioner says that the machine is
// not in use: a machine that is ready, or being installed, is left alone unless forced; a network boot wants a machine
// that is armed.
func Power(ctx context.Context, c *cluster.Cluster, action power.Action, names []string, o PowerOptions) ([]power.Outcome, error) {
	found, err := machinesOf(c, names)
	if err != nil {
		return nil, err
	}
	var machines *api.Client
	if action.Disrupts() && (!o.Force || action == power.ActionPXE) {
		if machines, err = Machines(c); err != nil {
			return nil, err
		}
		defer machines.Close()
	}
	fleet := power.Fleet{Say: o.Say}
	if !o.Force {
		fleet.Guard = func(ctx context.Context, name string, a power.Action) error {
			return mayDisrupt(ctx, machines, name, a)
		}
	}
	var targets []power.Target
	for _, m := range found {
		t := power.Target{Name: m.Name, BMC: m.Power.Address, Soft: o.Soft}
		if m.Power.Driver == cluster.PowerManual {
			t.BMC = ""
			t.Open = func(context.Context) (power.Machine, error) { return o.Console.Machine(m.Name), nil }
		} else {
			t.Open = func(ctx context.Context) (power.Machine, error) {
				file := m.Power.Credentials.File
				if file != "" {
					file = c.Resolve(file)
				}
				login, err := power.LoadCredentials(file, m.Power.Credentials.Env)
				if err != nil {
					return nil, fmt.Errorf("cannot log in to the BMC of %s: %w", m.Name, err)
				}
				return power.OpenIPMI(ctx, power.IPMI{Address: m.Power.Address, Credentials: login})
			}
		}
		if action == power.ActionPXE {
			t.PXE = power.PXEOptions{
				UEFI: m.Firmware != cluster.FirmwareBIOS, Soft: o.Soft, Within: o.Within, Tries: o.Tries,
				Seen: func(ctx context.Context) error { return netbootSeen(ctx, machines, m) },
			}
		}
		targets = append(targets, t)
	}
	return fleet.Do(ctx, action, targets), nil
}

func mayDisrupt(ctx context.Context, machines *api.Client, name string, a power.Action) error {
	if !a.Disrupts() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	st, err := machines.Machine(ctx, name)
	switch {
	case errors.Is(err, machine.ErrUnknown):
		return fmt.Errorf("%s is left as it is: the provisioner does not know it; run \"tectonic-installer apply\", or switch it with --force", name)
	case err != nil:
		return fmt.Errorf("%s is left as it is, as its state is not known: %w; --force switches it all the same", name, err)
	case st.State == machine.Installing:
		return fmt.Errorf("%s is left as it is: its disk is being written; wait, or switch it with --force (%w)", name, errBusy)
	case a == power.ActionPXE && st.State != machine.Armed:
		return fmt.Errorf("%s is left as it is: it is %s, so a network boot would only send it to its disk; run \"tectonic-installer arm %s\" first, or give --force", name, st.State, name)
	case st.State == machine.Ready && a != power.ActionPXE:
		return fmt.Errorf("%s is left as it is: it is ready, and in use; switch it with --force", name)
	}
	return nil
}

// netbootSeen waits until the provisioner has seen a machine boot from the network after now.
func netbootSeen(ctx context.Context, machines *api.Client, m cluster.Machine) error {
	lctx, cancel := context.WithTimeout(ctx, callTime)
	all, err := machines.Machines(lctx)
	cancel()
	if err != nil {
		return err
	}
	seen := errors.New("seen")
	err = machines.Follow(ctx, all.Seq, func(e machine.Event) error {
		if e.Machine != m.Name {
			return nil
		}
		switch e.Source {
		case machine.SourceDHCP, machine.SourceTFTP, machine.SourceIPXE, machine.SourceHTTP, machine.SourceInstaller:
			return seen
		}
		return nil
	})
	if errors.Is(err, seen) {
		return nil
	}
	return err
}
