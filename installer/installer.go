// Package installer is what an operator of bare machines can do: it puts together the cluster file, matchbox, the
// machines' state, their network and their power, and gives each command its one function. What each of these is lies in
// the package below; nothing here speaks a protocol itself.
package installer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
	"github.com/tectonic-worker/tectonic-worker/installer/machine"
	"github.com/tectonic-worker/tectonic-worker/installer/machine/api"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox"
	"github.com/tectonic-worker/tectonic-worker/installer/power"
)

// Exit codes, those of sysexits.h where it has one.
const (
	exitFailed      = 1
	exitUnavailable = 69
	exitTryAgain    = 75
	exitBadConfig   = 78
)

// ExitCode is how a program ends with err.
func ExitCode(err error) int {
	var findings cluster.Findings
	var settings badSettings
	switch {
	case err == nil:
		return 0
	case errors.As(err, &findings), errors.As(err, &settings):
		return exitBadConfig
	case errors.Is(err, matchbox.ErrUnreachable), errors.Is(err, api.ErrUnreachable), errors.Is(err, power.ErrSilent):
		return exitUnavailable
	case errors.Is(err, machine.ErrConflict), errors.Is(err, power.ErrSessions), errors.Is(err, errBusy):
		return exitTryAgain
	}
	return exitFailed
}

// badSettings is an error that no second attempt mends: its unit does not start it again.
type badSettings struct{ error }

func (b badSettings) Unwrap() error { return b.error }

// errBusy is found in an error that says that a machine is in the middle of something.
var errBusy = errors.New("busy")

// ProvisionerNames are the host names and addresses by which the cluster file calls the provisioner.
func ProvisionerNames(c *cluster.Cluster) []string {
	var names []string
	add := func(host string) {
		if host != "" && !slices.Contains(names, host) {
			names = append(names, host)
		}
	}
	if u, err := url.Parse(c.Matchbox.HTTP); err == nil {
		add(u.Hostname())
	}
	for _, endpoint := range []string{c.Matchbox.RPC, c.Matchbox.Machines} {
		if host, _, err := net.SplitHostPort(endpoint); err == nil {
			add(host)
		}
	}
	return names
}

// Days says how long something lasts, in whole days.
func Days(d time.Duration) string {
	n := int(d / (24 * time.Hour))
	switch {
	case d < 0:
		return "it is over"
	case n == 0:
		return "less than a day left"
	case n == 1:
		return "1 day left"
	}
	return fmt.Sprintf("%d days left", n)
}

// machinesOf finds machines of the cluster file by name.
func machinesOf(c *cluster.Cluster, names []string) ([]cluster.Machine, error) {
	var found []cluster.Machine
	var unknown []string
	for _, name := range names {
		i := slices.IndexFunc(c.Machines, func(m cluster.Machine) bool { return m.Name == name })
		switch {
		case i < 0:
			unknown = append(unknown, fmt.Sprintf("%q", name))
		case !slices.ContainsFunc(found, func(m cluster.Machine) bool { return m.Name == name }):
			found = append(found, c.Machines[i])
		}
	}
	if len(unknown) > 0 {
		var known []string
		for _, m := range c.Machines {
			known = append(known, m.Name)
		}
		return nil, fmt.Errorf("%s has no machine %s; it has %s", c.Path, strings.Join(unknown, ", "), strings.Join(known, ", "))
	}
	return found, nil
}

// each does something to many machines at once, at most so many, and gives the errors in the order of the machines.
func each(ctx context.Context, n int, do func(ctx context.Context, i int) error) []error {
	const atOnce = 16
	errs := make([]error, n)
	slots := make(chan struct{}, atOnce)
	for i := range n {
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			errs[i] = do(ctx, i)
		}()
	}
	for range atOnce {
		slots <- struct{}{}
	}
	return errs
}
