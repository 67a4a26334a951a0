package installer

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
)

// AddMachine writes a machine into the cluster file, as it stands otherwise, and gives the cluster with it. The file is
// replaced whole, or not at all.
func AddMachine(c *cluster.Cluster, m cluster.Machine) (*cluster.Cluster, error) {
	info, err := os.Stat(c.Path)
	if err != nil {
		return nil, fmt.Errorf("cannot add %s: %w", m.Name, err)
	}
	text, err := os.ReadFile(c.Path)
	if err != nil {
		return nil, fmt.Errorf("cannot add %s: %w", m.Name, err)
	}
	text, err = cluster.AddMachine(text, m)
	if err != nil {
		return nil, fmt.Errorf("cannot add %s to %s: %w", m.Name, c.Path, err)
	}
	added, err := cluster.Parse(c.Path, text)
	if err != nil {
		return nil, fmt.Errorf("cannot add %s to %s: %w", m.Name, c.Path, err)
	}
	// A link leads to the file that is meant.
	path, err := filepath.EvalSymlinks(c.Path)
	if err != nil {
		return nil, err
	}
	if err := replaceFile(path, text, info.Mode().Perm()); err != nil {
		return nil, fmt.Errorf("cannot write %s: %w", c.Path, err)
	}
	return added, nil
}

// AcceptDiscovered makes a machine that booted by itself one of the cluster: into the cluster file, and applied. The
// provisioner has to have seen it, unless force is set.
func AcceptDiscovered(ctx context.Context, c *cluster.Cluster, m cluster.Machine, force bool) (Plan, error) {
	machines, err := Machines(c)
	if err != nil {
		return Plan{}, err
	}
	defer machines.Close()
	if !force {
		lctx, cancel := context.WithTimeout(ctx, callTime)
		defer cancel()
		all, err := machines.Machines(lctx)
		if err != nil {
			return Plan{}, err
		}
		for _, mac := range m.MACs {
			seen := false
			for _, st := range all.Machines {
				seen = seen || slices.Contains(st.MACs, string(mac))
			}
			if !seen {
				return Plan{}, fmt.Errorf("cannot accept %s: no machine with the MAC address %s has booted from the network yet; \"tectonic-installer watch\" shows those that have, and --force accepts it unseen", m.Name, mac)
			}
		}
	}
	added, err := AddMachine(c, m)
	if err != nil {
		return Plan{}, err
	}
	return Apply(ctx, added, ApplyOptions{})
}
