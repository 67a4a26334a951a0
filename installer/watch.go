package installer

import (
	"context"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
	"github.com/tectonic-worker/tectonic-worker/installer/machine"
	"github.com/tectonic-worker/tectonic-worker/installer/watch"
)

// WatchSource is the cluster's provisioner as something to watch.
func WatchSource(c *cluster.Cluster) (watch.Source, func(), error) {
	machines, err := Machines(c)
	if err != nil {
		return watch.Source{}, nil, err
	}
	return watch.Source{
		List: func(ctx context.Context) ([]machine.Status, uint64, error) {
			ctx, cancel := context.WithTimeout(ctx, callTime)
			defer cancel()
			all, err := machines.Machines(ctx)
			return all.Machines, all.Seq, err
		},
		Follow: machines.Follow,
	}, machines.Close, nil
}
