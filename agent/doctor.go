package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tectonic-worker/tectonic-worker/sysconfig"
	"github.com/tectonic-worker/tectonic-worker/units"
)

// DoctorOptions is which checks to run: all, without the skipped ones, or only
// those named.
type DoctorOptions struct {
	Environ    []string
	Skip, Only []string
}

// CheckInfo is a row of the table of checks.
type CheckInfo struct {
	Name  string `json:"name"`
	About string `json:"about"`
	Join  bool   `json:"join"` // join runs it too
}

// Checks lists every check there is, in the order in which they are shown.
func Checks() []CheckInfo {
	var out []CheckInfo
	for _, c := range checks {
		out = append(out, CheckInfo{c.name, c.about, c.join})
	}
	return out
}

// UnknownChecks is the error of names that no check has.
func UnknownChecks(names ...string) error {
	var unknown []string
	for _, n := range names {
		if !slices.ContainsFunc(checks, func(c check) bool { return c.name == n }) {
			unknown = append(unknown, fmt.Sprintf("%q", printable(n)))
		}
	}
	if unknown == nil {
		return nil
	}
	return fmt.Errorf("there is no check named %s; \"tectonic-worker doctor --list\" shows all", strings.Join(unknown, " or "))
}

// clusterTime bounds what doctor asks the API server before the checks that
// need the answer.
const clusterTime = 25 * time.Second

// Doctor looks at this host and its way to the cluster with every check, and
// changes nothing. It needs neither a joined host nor root; what it can't look
// at is one of its findings.
func Doctor(ctx context.Context, sys *System, o DoctorOptions) []CheckResult {
	h := &handles{sys: sys}
	defer h.close()
	x := &examiner{handles: h, f: &Facts{Now: sys.Now()}}
	in := Inputs{Environ: o.Environ}
	var now, later []check
	for _, c := range checks {
		if len(o.Only) > 0 && !slices.Contains(o.Only, c.name) {
			continue
		}
		if c.cluster {
			later = append(later, c)
		} else {
			now = append(now, c)
		}
	}
	x.files(in)
	x.host(ctx)
	first := make(chan []CheckResult, 1)
	go func() { first <- x.run(ctx, now, o.Skip) }()
	var all []CheckResult
	if slices.ContainsFunc(later, func(c check) bool { return !slices.Contains(o.Skip, c.name) }) {
		// The first ones read the facts while the API server is asked.
		y := *x
		f := *x.f
		y.f = &f
		y.cluster(ctx)
		all = y.run(ctx, later, o.Skip)
	} else {
		all = x.run(ctx, later, o.Skip)
	}
	all = append(all, <-first...)
	return inOrder(all)
}

// inOrder sorts findings as the table has the checks.
func inOrder(all []CheckResult) []CheckResult {
	place := map[string]int{}
	for i, c := range checks {
		place[c.name] = i
	}
	slices.SortStableFunc(all, func(a, b CheckResult) int { return place[a.Name] - place[b.Name] })
	return all
}

// examiner is what the checks look at: the facts, and why the missing ones are
// missing.
type examiner struct {
	*handles
	f       *Facts
	joining bool // join looks, and what it mends itself must not keep it from doing so

	settingsErr, credentialErr, imageErr error // of the files
	runtimeErr, endpointErr, renderErr   error // of the host
	serverErr                            error // of the cluster
}

func (x *examiner) gatherer() *gatherer { return &gatherer{sys: x.sys, h: x.handles, f: x.f} }

// files reads the settings and the kubeconfig.
func (x *examiner) files(in Inputs) {
	g := x.gatherer()
	if x.settingsErr = g.settings(in); x.settingsErr != nil {
		// The rest of the host is looked at all the same, by the defaults that
		// decide where to look.
		x.f.Set = map[string]string{}
		x.f.Settings.Runtime = sysconfig.RuntimeAuto
	}
	x.credentialErr = g.credential(in)
	x.imageErr = g.image()
	x.f.DNS = x.f.Settings.DNSServiceIP
}

// host finds out what the checks of the host compare with.
func (x *examiner) host(ctx context.Context) {
	g := x.gatherer()
	g.cgroup()
	if us, err := x.units(ctx); err == nil {
		if st, err := us.Unit(ctx, units.Kubelet); err == nil {
			x.kubeletRan = st.Running()
		}
	}
	x.runtimeErr = g.runtime(ctx)
	if x.endpointErr = g.endpoint(); x.endpointErr == nil {
		x.render()
	}
}

// render makes the kubelet's configuration where all that it is made from is
// known; it decides what the host must be like.
func (x *examiner) render() {
	if x.f.Kubeconfig == nil || x.f.Version.Major == 0 || !x.f.DNS.IsValid() {
		x.renderErr = errNotKnown
		return
	}
	x.renderErr = x.gatherer().render()
}

// errNotKnown stands for what can't be told before the host is joined.
var errNotKnown = errors.New("not known before this host is joined")

// cluster asks the API server.
func (x *examiner) cluster(ctx context.Context) {
	if x.f.Kubeconfig == nil {
		x.serverErr = errNotKnown
		return
	}
	ctx, cancel := context.WithTimeout(ctx, clusterTime)
	defer cancel()
	g := x.gatherer()
	if x.serverErr = g.server(ctx); x.serverErr != nil {
		return
	}
	if x.imageErr != nil {
		x.imageErr = g.image()
	}
	if x.endpointErr == nil && x.renderErr != nil {
		x.render()
	}
}

// joinChecks are the checks of a host that join is about to change.
func joinChecks() []check {
	return slices.DeleteFunc(slices.Clone(checks), func(c check) bool { return !c.join })
}
