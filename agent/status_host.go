package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/selinux"
	"github.com/tectonic-worker/tectonic-worker/agent/systemd"
	"github.com/tectonic-worker/tectonic-worker/firewall"
	"github.com/tectonic-worker/tectonic-worker/sysconfig"
	"github.com/tectonic-worker/tectonic-worker/units"
)

func (s *statusLook) firewalld(ctx context.Context, joined bool) {
	f := &s.out.Firewall
	if s.facts.Settings.Firewall == sysconfig.FirewallLeave {
		f.State = "left alone (FIREWALL=leave)"
		return
	}
	fw, err := s.firewall(ctx)
	if err != nil {
		s.problem(err)
		return
	}
	st, err := fw.State(ctx)
	if errors.Is(err, firewall.ErrNotAuthorized) && os.Geteuid() != 0 {
		f.State = string(st.Presence)
		s.note("firewalld tells its ports to root alone; run status as root to see them")
		return
	}
	if err != nil {
		s.problem(err)
		return
	}
	f.State, f.Version, f.Panic = string(st.Presence), st.Version, st.Panic
	switch note := st.Note(); {
	case st.Panic || st.Presence == firewall.Failed:
		s.problem(errors.New(note))
	case note != "":
		s.note(note)
	}
	if !st.Serves() {
		return
	}
	f.Zone = recordedZone(s.ledger, s.facts.Settings, st.DefaultZone)
	for _, p := range s.facts.Settings.FirewallPorts {
		ps, err := s.port(ctx, fw, f.Zone, p)
		if errors.Is(err, firewall.ErrNotAuthorized) && os.Geteuid() != 0 {
			s.note("firewalld tells its ports to root alone; run status as root to see them")
			return
		}
		if err != nil {
			s.problem(err)
			return
		}
		f.Ports = append(f.Ports, ps)
		switch {
		case !joined:
		case !ps.Runtime:
			s.problem(fmt.Errorf("%s is not open in firewalld's zone %s; run \"tectonic-worker join\" again", p, f.Zone))
		case !ps.Permanent:
			s.problem(fmt.Errorf("%s will be shut in firewalld's zone %s after a reload; run \"tectonic-worker join\" again", p, f.Zone))
		}
	}
}

// recordedZone is the zone that join opened ports in: as set, else the ledger
// knows it.
func recordedZone(l *Ledger, s sysconfig.Settings, fallback string) string {
	if s.FirewallZone != "" {
		return s.FirewallZone
	}
	for _, e := range l.Entries() {
		var before, after portState
		if e.Kind == KindPort && decode(e, &before, &after) == nil {
			return after.Zone
		}
	}
	return fallback
}

func (s *statusLook) port(ctx context.Context, fw Firewall, zone string, p sysconfig.Port) (PortStatus, error) {
	out := PortStatus{Port: p.String()}
	for _, layer := range firewall.Layers() {
		r := port{fw: fw, layer: layer, zone: zone, port: firewall.Port(p)}
		f, err := r.Check(ctx)
		if err != nil {
			return out, err
		}
		if layer == firewall.Runtime {
			out.Runtime = f.OK
		} else {
			out.Permanent = f.OK
		}
		if _, ours := s.ledger.Find(r.Key()); ours {
			out.Ours = true
		}
	}
	return out, nil
}

// driftTime bounds the looks at all resources.
const driftTime = 15 * time.Second

// drift checks what the plan would set up, from the files on the host alone: a
// status must tell of a port that was shut also when the API server is gone.
func (s *statusLook) drift(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, driftTime)
	defer cancel()
	f := s.facts
	g := s.gatherer()
	if f.Kubeconfig == nil || s.facts.Settings.Image.Reference() == "" || !f.Settings.DNSServiceIP.IsValid() {
		s.note("what is not as it should be on this host can't be told before its settings are complete")
		return
	}
	f.DNS = f.Settings.DNSServiceIP
	for _, gather := range []func() error{g.image, func() error { return g.runtime(ctx) }, g.endpoint} {
		if err := gather(); err != nil {
			s.problem(err)
			return
		}
	}
	g.cgroup()
	if err := g.render(); err != nil {
		s.problem(err)
		return
	}
	var resources []Resource
	// What comes from the settings files themselves is as it is. The zone is
	// the one that join found by the way to the API server.
	if s.out.Firewall.Zone != "" {
		fw, err := s.firewall(ctx)
		if err == nil {
			for _, p := range f.Settings.FirewallPorts {
				for _, layer := range firewall.Layers() {
					resources = append(resources, &port{fw: fw, layer: layer, zone: s.out.Firewall.Zone, port: firewall.Port(p)})
				}
			}
		}
	}
	resources = append(resources, s.credentialStep(f, nil).resources...)
	if rt, boot, config, err := s.sys.selinuxFacts(); err == nil {
		f.SELinuxRuntime, f.SELinuxBoot, f.SELinuxConfig = rt, boot, config
		policy, evidence := selinux.PolicyLoaded(string(s.sys.Root), f.Runtime.Name)
		f.SELinuxPolicy, f.SELinuxWant = evidence, selinux.Decide(f.Settings.SELinuxMode, rt, boot, f.Runtime.Name, policy)
		resources = append(resources, s.selinuxStep(f).resources...)
	}
	resources = append(resources, s.kubeletResources(f)...)
	if us, err := s.units(ctx); err == nil {
		for _, u := range []string{units.Kubelet, units.KubeletPath} {
			resources = append(resources, &enabled{us, u}, &started{us, u, nil})
		}
	}
	for _, r := range resources {
		found, err := r.Check(ctx)
		switch {
		case errors.Is(err, firewall.ErrNotAuthorized) && os.Geteuid() != 0:
		case err != nil:
			s.problem(err)
		case !found.OK:
			what := DriftStatus{Key: r.Key(), What: driftText(r, found)}
			s.out.Drift = append(s.out.Drift, what)
		}
	}
	if n := len(s.out.Drift); n > 0 {
		s.problem(fmt.Errorf("%d things are not as the worker needs them; \"tectonic-worker join --dry-run\" shows them, \"tectonic-worker join\" sets them right", n))
	}
}

// driftText is one line for what differs; a file's diff has many, and may show
// what nobody is to see.
func driftText(r Resource, f Finding) string {
	if k := r.Key(); k.Kind == KindFile {
		if before, ok := f.Before.(fileState); ok && !before.Exists {
			return k.Name + " is missing"
		}
		if after, ok := f.After.(fileState); ok && !after.Exists {
			return k.Name + " is of another cluster"
		}
		if before, after := f.Before.(fileState), f.After.(fileState); before.SHA256 == after.SHA256 {
			return fmt.Sprintf("%s has mode %04o and owner %d, not %04o and %d", k.Name, before.Mode.Perm(), before.UID, after.Mode.Perm(), after.UID)
		}
		return k.Name + " was changed"
	}
	return oneLine(f.Diff)
}

// readAtStart are the files that the kubelet, or what starts it, reads only
// then.
var readAtStart = []string{
	"/usr/bin/tectonic-worker", sysconfig.Path, sysconfig.KubeletEnvPath,
	kubelet.KubeconfigPath, kubelet.ConfigPath, kubelet.CAPath, kubelet.DropInDir,
}

// restart finds what changed since the kubelet was started. The time that
// counts is that of the file's last change on this host (ctime): a package
// brings the time of its build as a file's own.
func (s *statusLook) restart(st systemd.State) {
	paths := append([]string{st.Fragment}, st.DropIns...)
	paths = append(paths, readAtStart...)
	if entries, err := os.ReadDir(s.sys.Root.Path(kubelet.DropInDir)); err == nil {
		for _, e := range entries {
			paths = append(paths, kubelet.DropInDir+"/"+e.Name())
		}
	}
	for _, p := range paths {
		if p == "" {
			continue
		}
		if at, err := changedAt(s.sys.Root.Path(p)); err == nil && at.After(st.Started) {
			s.out.Restart.Reasons = append(s.out.Restart.Reasons, fmt.Sprintf("%s changed at %s, after the kubelet was started", p, at.UTC().Format(time.RFC3339)))
		}
	}
	if st.Stale {
		s.out.Restart.Reasons = append(s.out.Restart.Reasons, "systemd has not read the unit's file again (systemctl daemon-reload)")
	}
	if s.out.Restart.Pending = len(s.out.Restart.Reasons) > 0; s.out.Restart.Pending {
		s.note("the kubelet that runs is older than what it is made from; \"systemctl restart " + units.Kubelet + "\" when it suits")
	}
}

func changedAt(path string) (time.Time, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return time.Time{}, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return time.Time{}, fs.ErrInvalid
	}
	return time.Unix(st.Ctim.Unix()), nil
}
