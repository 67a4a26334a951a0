package installer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/tectonic-worker/tectonic-worker/installer/assets"
	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
	"github.com/tectonic-worker/tectonic-worker/installer/machine"
	"github.com/tectonic-worker/tectonic-worker/installer/machine/api"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox"
)

// Plan is the difference between a cluster file and what the provisioner has.
type Plan struct {
	matchbox.Plan
	Machines []MachineChange `json:"machines"`

	definitions map[string]machine.Definition
}

// MachineChange is what is to be done with a machine's definition.
type MachineChange struct {
	Name   string          `json:"name"`
	Action matchbox.Action `json:"action"`
	State  machine.State   `json:"state,omitempty"` // as it is now; empty: it is not known
	// Note is why it cannot be, or what it means.
	Note string `json:"note,omitempty"`
}

// Empty is true when there is nothing to do.
func (p Plan) Empty() bool {
	return p.Plan.Empty() && !slices.ContainsFunc(p.Machines, func(m MachineChange) bool { return m.Action != matchbox.Keep })
}

// ApplyOptions say how far a plan goes.
type ApplyOptions struct {
	// Prune takes away what is this cluster's and no longer in its file. Machines and groups of others stay.
	Prune bool
	// Progress gets a line for each step; may be nil.
	Progress func(string)
}

// NewPlan compares the cluster file with the provisioner.
func NewPlan(ctx context.Context, c *cluster.Cluster, o ApplyOptions) (Plan, error) {
	mb, machines, err := connect(ctx, c)
	if err != nil {
		return Plan{}, err
	}
	defer mb.Close()
	defer machines.Close()
	return newPlan(ctx, c, mb, machines, o)
}

// Apply makes the provisioner what the cluster file says, and gives what it did. Interrupted at any point, it is done by
// the next run: what refers to something is written after it.
func Apply(ctx context.Context, c *cluster.Cluster, o ApplyOptions) (Plan, error) {
	mb, machines, err := connect(ctx, c)
	if err != nil {
		return Plan{}, err
	}
	defer mb.Close()
	defer machines.Close()
	plan, err := newPlan(ctx, c, mb, machines, o)
	if err != nil {
		return plan, err
	}
	if err := mb.Apply(ctx, plan.Plan); err != nil {
		return plan, err
	}
	errs := each(ctx, len(plan.Machines), func(ctx context.Context, i int) error {
		change := plan.Machines[i]
		ctx, cancel := context.WithTimeout(ctx, callTime)
		defer cancel()
		switch change.Action {
		case matchbox.Create, matchbox.Update:
			_, err := machines.Put(ctx, plan.definitions[change.Name])
			return err
		case matchbox.Delete:
			return machines.Delete(ctx, change.Name, false)
		}
		return nil
	})
	return plan, errors.Join(errs...)
}

// connect reaches both APIs, or says why not before anything is changed. Install groups in a matchbox that knows no states
// would wipe every machine that boots from the network, so both must be the same server unless matchbox is external.
func connect(ctx context.Context, c *cluster.Cluster) (*matchbox.Client, *api.Client, error) {
	machines, err := Machines(c)
	if err != nil {
		return nil, nil, err
	}
	mb, err := dialMatchbox(ctx, c)
	if err != nil || c.Matchbox.External {
		return mb, machines, err
	}
	var states string
	err = machines.Get(ctx, askInstance, nil, &states)
	if err == nil {
		var groups string
		if groups, err = mb.Instance(ctx); err == nil && groups != states {
			err = fmt.Errorf("nothing was changed: the matchbox at %s does not keep the machines' states that %s has, and would serve an installer to every network boot; set matchbox.external: true in %s, or point both to the same \"tectonic-installer serve\"", c.Matchbox.RPC, c.Matchbox.Machines, c.Path)
		}
	}
	if err != nil {
		return nil, nil, errors.Join(err, mb.Close())
	}
	return mb, machines, nil
}

func newPlan(ctx context.Context, c *cluster.Cluster, mb *matchbox.Client, machines *api.Client, o ApplyOptions) (Plan, error) {
	rendered, err := render(ctx, c, machines)
	if err != nil {
		return Plan{}, err
	}
	plan := Plan{definitions: map[string]machine.Definition{}}
	wanted := matchbox.Wanted{Ignition: rendered.Ignition, Generic: rendered.Generic, Profiles: rendered.Profiles, Groups: rendered.Groups}
	if plan.Plan, err = mb.Plan(ctx, wanted, matchbox.PlanOptions{Cluster: c.Name, Prune: o.Prune}); err != nil {
		return Plan{}, err
	}
	lctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	known, err := machines.Machines(lctx)
	if err != nil {
		return Plan{}, err
	}
	have := map[string]machine.Status{}
	for _, m := range known.Machines {
		if m.Name != "" {
			have[m.Name] = m
		}
	}
	if c.Matchbox.External {
		plan.keepArmed(c, have)
	}
	for _, d := range rendered.Machines {
		plan.definitions[d.Name] = d
		change := MachineChange{Name: d.Name, Action: matchbox.Create}
		if st, ok := have[d.Name]; ok {
			change.State = st.State
			digest, err := d.Digest()
			if err != nil {
				return Plan{}, err
			}
			switch {
			case st.Cluster != "" && st.Cluster != c.Name:
				return Plan{}, fmt.Errorf("the provisioner has a machine %s of cluster %s; names of machines are unique on a provisioner: rename it in %s", d.Name, st.Cluster, c.Path)
			case st.Definition == digest:
				change.Action = matchbox.Keep
			default:
				change.Action = matchbox.Update
			}
		}
		plan.Machines = append(plan.Machines, change)
	}
	for _, st := range known.Machines {
		if _, wanted := plan.definitions[st.Name]; wanted || st.Name == "" || st.Cluster != c.Name {
			continue
		}
		change := MachineChange{Name: st.Name, Action: matchbox.Keep, State: st.State, Note: "no longer in the cluster file; --prune takes it away"}
		if o.Prune {
			change.Action, change.Note = matchbox.Delete, "no longer in the cluster file"
		}
		plan.Machines = append(plan.Machines, change)
	}
	return plan, nil
}

// keepArmed leaves alone what an external matchbox has because a machine is armed: no cluster file says so.
func (p *Plan) keepArmed(c *cluster.Cluster, have map[string]machine.Status) {
	armed := map[string]bool{}
	for _, m := range c.Machines {
		if st := have[m.Name].State; st != machine.Armed && st != machine.Booting {
			continue
		}
		profile, groups := assets.InstallGroup(c, m, nil)
		armed[profile.ID] = true
		for _, g := range groups {
			armed[g.ID] = true
		}
	}
	of := func(change matchbox.Change) bool { return armed[change.ID] }
	p.Changes = slices.DeleteFunc(p.Changes, of)
	p.Orphans = slices.DeleteFunc(p.Orphans, of)
}

// render turns the cluster file into what the provisioner shall have.
func render(ctx context.Context, c *cluster.Cluster, machines *api.Client) (assets.Rendered, error) {
	ca, err := os.ReadFile(c.Resolve(c.Matchbox.TLS.CA))
	if err != nil {
		return assets.Rendered{}, fmt.Errorf("cannot read the authority of %s: %w; \"tectonic-installer certs\" makes one", c.Path, err)
	}
	var programs map[string]string
	if err := machines.Get(ctx, askPrograms, nil, &programs); err != nil {
		return assets.Rendered{}, err
	}
	return assets.Render(c, assets.Input{CA: ca, MachineProgram: programs, Files: os.ReadFile})
}
