package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/selinux"
	"github.com/tectonic-worker/tectonic-worker/firewall"
	"github.com/tectonic-worker/tectonic-worker/sysconfig"
	"github.com/tectonic-worker/tectonic-worker/units"
)

// Drift says what becomes of a resource that is not as wanted any more.
type Drift string

const (
	DriftRepair Drift = sysconfig.DriftRepair
	DriftReport Drift = sysconfig.DriftReport
)

// driftOf is the policy for one kind of resource.
func driftOf(s sysconfig.Settings, k Key) Drift {
	switch {
	case k == Key{KindFile, selinux.ConfigPath}, k.Kind == KindSELinux:
		return Drift(s.DriftSELinux)
	case k.Kind == KindPort:
		return Drift(s.DriftPorts)
	case k.Kind == KindEnabled, k.Kind == KindStarted:
		return Drift(s.DriftUnits)
	}
	return Drift(s.DriftFiles)
}

// errNotJoined is a host without a kubeconfig: there is nothing to keep.
var errNotJoined = errors.New("this host has not joined a cluster: there is no " + kubelet.KubeconfigPath)

// kept is what must hold on a worker while it is one: join's plan without what
// belongs to the administrator (settings, the kubeconfig) and without what
// systemd sees to (a kubelet that runs).
type kept struct {
	facts     *Facts
	resources []Resource
	zone      string    // where the ports are; empty where firewalld has none to keep
	firewall  string    // how firewalld is, in words
	problems  []string  // what could not be found out, and so is not kept
	own       []byte    // the kubeconfig that the kubelet got for itself, or nil
	notAfter  time.Time // when the credential ends that the node speaks with; zero: never
}

// gather reads the files on the host and makes what must hold of them. It asks
// no API server. What one part of the host makes impossible is a problem; the
// rest is kept all the same. The error says that nothing can be kept.
func (k *keeper) gather(ctx context.Context) (*kept, error) {
	f := &Facts{Now: k.sys.Now()}
	g := &gatherer{sys: k.sys, h: &k.handles, f: f}
	in := Inputs{Environ: k.o.Environ}
	out := &kept{facts: f}
	problem := func(err error) {
		if err != nil {
			out.problems = append(out.problems, err.Error())
		}
	}
	if err := g.settings(in); err != nil {
		return nil, err
	}
	if !k.sys.Root.Exists(kubelet.KubeconfigPath) {
		return nil, errNotJoined
	}
	// What the kubelet runs with, not one that was put there since and is no good.
	if accepted := k.sys.read(acceptedPath); accepted != nil {
		in.Kubeconfig, in.KubeconfigFrom = accepted, acceptedPath
	}
	err := g.credential(in)
	if f.Kubeconfig == nil {
		return nil, err
	}
	problem(err) // an expired one still says what the cluster is
	if own, err := k.sys.Root.ReadFile(kubelet.NodeKubeconfigPath); err == nil && f.Kubeconfig.Bootstrap {
		out.own = own
	}
	_, out.notAfter, _, err = k.sys.Certificate()
	problem(err)
	if err := k.render(ctx, g); err != nil {
		problem(err)
		out.resources = append(out.resources, &knowing{Resource: k.caFile(f), k: k})
	} else {
		for _, r := range k.kubeletResources(f) {
			if fr, ok := r.(*file); ok {
				r = &knowing{Resource: fr, k: k}
			}
			out.resources = append(out.resources, r)
		}
	}
	se, err := k.selinux(f)
	problem(err)
	out.resources = append(out.resources, se...)
	problem(k.ports(ctx, f, out))
	us, err := k.units(ctx)
	if err != nil {
		problem(err)
		return out, nil
	}
	out.resources = append(out.resources, &enabled{us, units.Kubelet}, &enabled{us, units.KubeletPath}, &started{us, units.KubeletPath, nil})
	return out, nil
}

// render makes the kubelet's configuration as the launcher would.
func (k *keeper) render(ctx context.Context, g *gatherer) error {
	for _, find := range []func() error{
		func() error { return g.dns(ctx) }, g.image,
		func() error {
			err := g.endpoint()
			// A container runtime that is being restarted has no socket for a
			// moment; the one it had is the one it will have.
			if err != nil && k.last != nil && k.last.facts.Endpoint != "" {
				g.f.Endpoint, err = k.last.facts.Endpoint, nil
			}
			return err
		},
	} {
		if err := find(); err != nil {
			return err
		}
	}
	g.cgroup()
	return g.render()
}

// selinux gives both modes as resources, also where they are as wanted now.
func (k *keeper) selinux(f *Facts) ([]Resource, error) {
	var err error
	if f.SELinuxRuntime, f.SELinuxBoot, f.SELinuxConfig, err = k.sys.selinuxFacts(); err != nil {
		return nil, err
	}
	name := f.Settings.Runtime
	if name == sysconfig.RuntimeAuto {
		name = sysconfig.RuntimePodman
		if _, err := k.sys.Root.Look(sysconfig.RuntimeRkt); err == nil {
			name = sysconfig.RuntimeRkt
		}
	}
	policy, evidence := selinux.PolicyLoaded(string(k.sys.Root), name)
	f.SELinuxPolicy = evidence
	f.SELinuxWant = selinux.Decide(f.Settings.SELinuxMode, f.SELinuxRuntime, f.SELinuxBoot, name, policy)
	var out []Resource
	if w := f.SELinuxWant.Config; w != selinux.Unset {
		content, err := selinux.EditConfig(f.SELinuxConfig, w)
		if err != nil {
			return nil, err
		}
		out = append(out, &file{root: k.sys.Root, path: selinux.ConfigPath, content: content, mode: 0o644})
	}
	if w := f.SELinuxWant.Runtime; w != selinux.Unset {
		out = append(out, &selinuxMode{k.sys.SELinux, w})
	}
	return out, nil
}

// ports adds the ports, in the zone that the cluster's packets come in by now.
// A host without a firewalld that serves has none to keep.
func (k *keeper) ports(ctx context.Context, f *Facts, out *kept) error {
	if f.Settings.Firewall == sysconfig.FirewallLeave {
		out.firewall = "left alone (FIREWALL=leave)"
		return nil
	}
	fw, err := k.handles.firewall(ctx)
	if err != nil {
		return err
	}
	st, err := fw.State(ctx)
	if err != nil {
		return err
	}
	out.firewall = string(st.Presence)
	if !st.Serves() {
		return nil
	}
	if note := st.Note(); note != "" {
		out.problems = append(out.problems, note)
	}
	if out.zone, err = k.zoneNow(ctx, fw, f, st); err != nil {
		return err
	}
	// The runtime comes first: it is what is shut right now.
	for _, layer := range []firewall.Layer{firewall.Runtime, firewall.Permanent} {
		for _, p := range f.Settings.FirewallPorts {
			out.resources = append(out.resources, &port{fw: fw, layer: layer, zone: out.zone, port: firewall.Port(p)})
		}
	}
	return nil
}

// zoneNow is join's zone, found without the API server: by the route to it.
// Where there is no route or its name can't be resolved now, the ports stay
// where they are.
func (k *keeper) zoneNow(ctx context.Context, fw Firewall, f *Facts, st firewall.State) (string, error) {
	if f.Settings.FirewallZone == "" {
		f.Server.LocalIP = k.route(ctx, f.Kubeconfig.Server)
		if interfaceOf(f.Server.LocalIP) == "" {
			if k.last != nil && k.last.zone != "" {
				return k.last.zone, nil
			}
			if l, err := OpenLedger(k.sys.Root); err == nil {
				if z := recordedZone(l, f.Settings, ""); z != "" {
					return z, nil
				}
			}
		}
	}
	zone, _, err := k.handles.zone(ctx, fw, f, st)
	if zone == "" && err == nil {
		zone = st.DefaultZone
	}
	return zone, err
}

// localAddress tells from which address this host would speak to a server. No
// packet is sent but, perhaps, one that asks for its name.
func localAddress(ctx context.Context, server string) netip.Addr {
	u, err := url.Parse(server)
	if err != nil {
		return netip.Addr{}
	}
	d := net.Dialer{Timeout: 5 * time.Second}
	conn, err := d.DialContext(ctx, "udp", net.JoinHostPort(u.Hostname(), "443"))
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	a, _ := conn.LocalAddr().(*net.UDPAddr)
	if a == nil {
		return netip.Addr{}
	}
	return a.AddrPort().Addr().Unmap()
}

// knowing is a file that the kubelet's launcher writes at each start. Where it
// is as we left it and the settings ask for another by now, it is not drift:
// the administrator restarts the kubelet when it suits.
type knowing struct {
	Resource
	k *keeper
}

// pending tells whether the file waits for the kubelet's next start.
func (p *knowing) pending(l *Ledger, f Finding) bool {
	before, ok := f.Before.(fileState)
	e, known := l.Find(p.Key())
	if !ok || !known || !before.Exists {
		return false
	}
	var was, after fileState
	return decode(e, &was, &after) == nil && after.SHA256 == before.SHA256 && after.Mode == before.Mode && after.UID == before.UID && after.GID == before.GID
}
