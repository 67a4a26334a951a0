package installer

import (
	"context"
	"errors"
	"fmt"

	"github.com/tectonic-worker/tectonic-worker/installer/assets"
	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
	"github.com/tectonic-worker/tectonic-worker/installer/machine"
	"github.com/tectonic-worker/tectonic-worker/installer/machine/api"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox"
)

// Outcome is what became of one machine.
type Outcome struct {
	Machine string         `json:"machine"`
	Status  machine.Status `json:"status"`
	Err     error          `json:"-"`
}

// ArmOptions say what machines are armed for.
type ArmOptions struct {
	Action machine.Action
	// Force arms a machine whose disk holds an installed system, or takes it from its installer.
	Force bool
}

// Arm lets the next network boot of each machine install (or wipe) it, once.
func Arm(ctx context.Context, c *cluster.Cluster, names []string, o ArmOptions) ([]Outcome, error) {
	return forEach(ctx, c, names, func(ctx context.Context, m cluster.Machine, machines *api.Client, mb *matchbox.Client) (machine.Status, error) {
		res, err := machines.Arm(ctx, m.Name, machine.ArmRequest{Action: o.Action, Force: o.Force, External: c.Matchbox.External})
		if err != nil || !c.Matchbox.External {
			return res.Status, err
		}
		if err := putInstallGroups(ctx, c, m, mb, res.Token); err != nil {
			_, derr := machines.Disarm(ctx, m.Name, true)
			return res.Status, errors.Join(fmt.Errorf("cannot arm %s: %w", m.Name, err), derr)
		}
		return res.Status, nil
	})
}

// Disarm takes arming back.
func Disarm(ctx context.Context, c *cluster.Cluster, names []string, force bool) ([]Outcome, error) {
	return forEach(ctx, c, names, func(ctx context.Context, m cluster.Machine, machines *api.Client, mb *matchbox.Client) (machine.Status, error) {
		// The groups first: what is refused below must not leave an installer that is served.
		if mb != nil {
			if err := deleteInstallGroups(ctx, mb, c.Name, m.Name); err != nil {
				return machine.Status{}, err
			}
		}
		return machines.Disarm(ctx, m.Name, force)
	})
}

// ClearFailure accepts machines again that have failed.
func ClearFailure(ctx context.Context, c *cluster.Cluster, names []string) ([]Outcome, error) {
	return forEach(ctx, c, names, func(ctx context.Context, m cluster.Machine, machines *api.Client, _ *matchbox.Client) (machine.Status, error) {
		return machines.Accept(ctx, m.Name)
	})
}

// forEach does something to machines by name, many at once. The matchbox client is nil unless matchbox is external.
func forEach(ctx context.Context, c *cluster.Cluster, names []string, do func(context.Context, cluster.Machine, *api.Client, *matchbox.Client) (machine.Status, error)) ([]Outcome, error) {
	found, err := machinesOf(c, names)
	if err != nil {
		return nil, err
	}
	machines, err := Machines(c)
	if err != nil {
		return nil, err
	}
	defer machines.Close()
	var mb *matchbox.Client
	if c.Matchbox.External {
		if mb, err = dialMatchbox(ctx, c); err != nil {
			return nil, err
		}
		defer mb.Close()
	}
	outcomes := make([]Outcome, len(found))
	errs := each(ctx, len(found), func(ctx context.Context, i int) (err error) {
		ctx, cancel := context.WithTimeout(ctx, callTime)
		defer cancel()
		outcomes[i].Machine = found[i].Name
		outcomes[i].Status, err = do(ctx, found[i], machines, mb)
		return err
	})
	for i, err := range errs {
		outcomes[i].Err = err
	}
	return outcomes, nil
}

// bootingCard is iPXE's variable for the MAC address of the card that it boots from.
const bootingCard = "${mac}"

// putInstallGroups gives an external matchbox what an armed machine is served: the profile with its token, then the
// groups that point to it.
func putInstallGroups(ctx context.Context, c *cluster.Cluster, m cluster.Machine, mb *matchbox.Client, token string) error {
	profile, groups := assets.InstallGroup(c, m, machine.KernelArgs("https://"+c.Matchbox.Machines, token, bootingCard))
	if err := mb.ProfilePut(ctx, profile); err != nil {
		return err
	}
	for _, g := range groups {
		if err := mb.GroupPut(ctx, g); err != nil {
			return err
		}
	}
	return nil
}
