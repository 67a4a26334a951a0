package installer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
	"github.com/tectonic-worker/tectonic-worker/installer/credentials"
	"github.com/tectonic-worker/tectonic-worker/installer/machine"
	"github.com/tectonic-worker/tectonic-worker/installer/machine/api"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox"
)

// callTime bounds a call to the machines' API.
const callTime = 30 * time.Second

// operatorTLS loads the operator's credentials of the cluster file.
func operatorTLS(c *cluster.Cluster) (*tls.Config, error) {
	t := c.Matchbox.TLS
	config, err := credentials.LoadClient(c.Resolve(t.CA), c.Resolve(t.Certificate), c.Resolve(t.Key))
	if err != nil {
		return nil, fmt.Errorf("cannot use the credentials of %s: %w", c.Path, err)
	}
	return config, nil
}

// Machines connects to the machines' API of the cluster's provisioner.
func Machines(c *cluster.Cluster) (*api.Client, error) {
	if c.Matchbox.Machines == "" {
		return nil, fmt.Errorf("%s does not say where the machines' API is: set matchbox.machines to the HOST:PORT of \"tectonic-installer serve --machine-address\"", c.Path)
	}
	config, err := operatorTLS(c)
	if err != nil {
		return nil, err
	}
	return api.NewClient(c.Matchbox.Machines, config), nil
}

// dialMatchbox connects to matchbox's gRPC API.
func dialMatchbox(ctx context.Context, c *cluster.Cluster) (*matchbox.Client, error) {
	if c.Matchbox.RPC == "" {
		return nil, errors.New("the cluster file does not say where matchbox's gRPC API is: set matchbox.rpc to its HOST:PORT")
	}
	config, err := operatorTLS(c)
	if err != nil {
		return nil, err
	}
	return matchbox.Dial(ctx, matchbox.Options{Endpoint: c.Matchbox.RPC, TLS: config})
}

// Timeline gives what happened to a machine, by its name or a MAC address.
func Timeline(ctx context.Context, c *cluster.Cluster, name string) ([]machine.Event, error) {
	machines, err := Machines(c)
	if err != nil {
		return nil, err
	}
	defer machines.Close()
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	return machines.Timeline(ctx, name)
}
