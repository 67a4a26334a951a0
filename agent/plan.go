package agent

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/tectonic-worker/tectonic-worker/agent/container"
	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
	"github.com/tectonic-worker/tectonic-worker/agent/selinux"
	"github.com/tectonic-worker/tectonic-worker/firewall"
	"github.com/tectonic-worker/tectonic-worker/sysconfig"
	"github.com/tectonic-worker/tectonic-worker/units"
)

// plan is the ordered list of what a worker needs on this host. It changes
// nothing.
func (h *handles) plan(ctx context.Context, f *Facts, undo *undoList) ([]step, error) {
	fw, err := h.firewallStep(ctx, f)
	if err != nil {
		return nil, err
	}
	us, err := h.units(ctx)
	if err != nil {
		return nil, err
	}
	trust, err := h.trust(ctx, f)
	if err != nil {
		return nil, err
	}
	return []step{
		h.settingsStep(f),
		h.credentialStep(f, trust),
		h.selinuxStep(f),
		fw,
		h.kubeletStep(f),
		{
			name: "units", title: "Enable and start the kubelet",
			resources: []Resource{
				&enabled{us, units.Kubelet},
				&started{us, units.Kubelet, &undo.restart},
				&enabled{us, units.KubeletPath},
				&started{us, units.KubeletPath, nil},
				// Last: from here on the agent repairs what drifts.
				&enabled{us, units.Agent},
				&started{us, units.Agent, nil},
			},
		},
	}, nil
}

func (h *handles) settingsStep(f *Facts) step {
	s := step{name: "settings", title: "Write the settings", restarts: true, warnings: f.Warnings}
	if f.SettingsFile != nil {
		s.resources = append(s.resources, &file{root: h.sys.Root, path: sysconfig.Path, content: f.SettingsFile, mode: 0o644})
	}
	if f.ImageFile != nil {
		s.resources = append(s.resources, &file{root: h.sys.Root, path: sysconfig.KubeletEnvPath, content: f.ImageFile, mode: 0o644})
	}
	if s.resources == nil {
		s.evidence = sysconfig.Path + " says all that is needed"
	}
	return s
}

func (h *handles) credentialStep(f *Facts, trust []Resource) step {
	s := step{
		name: "credentials", title: "Write the kubeconfig", restarts: true,
		resources: append([]Resource{
			&file{root: h.sys.Root, path: kubelet.KubeconfigPath, content: f.Kubeconfig.Data(), mode: 0o600, force: true, secret: true},
		}, trust...),
	}
	if h.staleIdentity(f) {
		s.resources = append(s.resources, &absent{h.sys.Root, kubelet.NodeKubeconfigPath})
	}
	if f.Kubeconfig.Shared {
		s.warnings = append(s.warnings, fmt.Sprintf("the credential (%s) is shared by every worker that uses this kubeconfig; a bootstrap token would give each its own", f.Kubeconfig.Subject))
	}
	return s
}

// staleIdentity tells whether the kubelet has a credential of its own for
// another cluster, which it would go on to use whatever kubeconfig it is given.
func (h *handles) staleIdentity(f *Facts) bool {
	if !f.Kubeconfig.Bootstrap {
		return false
	}
	data, err := h.sys.Root.ReadFile(kubelet.NodeKubeconfigPath)
	if err != nil {
		return false
	}
	own, err := node.ParseFiles(data, kubelet.RootDir, h.sys.Root.ReadFile)
	return err != nil || own.Validate(f.Now) != nil || own.Server != f.Kubeconfig.Server || !bytes.Equal(own.CA, f.Kubeconfig.CA)
}

func (h *handles) caFile(f *Facts) *file {
	return &file{root: h.sys.Root, path: kubelet.CAPath, content: f.Kubeconfig.CA, mode: 0o644, force: true}
}

// trust pins Quay's signing key for rkt, which verifies images itself; podman
// has its own policy for that. It is nothing where the key is there.
func (h *handles) trust(ctx context.Context, f *Facts) ([]Resource, error) {
	fromQuay := strings.HasPrefix(f.Image, container.RktTrustedKeyPrefix+"/")
	if f.Runtime.Name != sysconfig.RuntimeRkt || !fromQuay || h.sys.Root.Exists(container.RktTrustedKeyPath) {
		return nil, nil
	}
	key, err := h.sys.quayKey(ctx, node.Proxy{HTTP: f.Settings.HTTPProxy, HTTPS: f.Settings.HTTPSProxy, No: f.Settings.NoProxy})
	if err != nil {
		return nil, err
	}
	return []Resource{&file{root: h.sys.Root, path: container.RktTrustedKeyPath, content: key, mode: 0o664, force: true}}, nil
}

func (h *handles) selinuxStep(f *Facts) step {
	w := f.SELinuxWant
	s := step{name: "selinux", title: "Set SELinux", evidence: w.Why}
	if w.Config != selinux.Unset && w.Config != f.SELinuxBoot {
		content, err := selinux.EditConfig(f.SELinuxConfig, w.Config)
		if err != nil {
			s.warnings = append(s.warnings, fmt.Sprintf("the mode at the next boot stays %s: %v", f.SELinuxBoot, err))
		} else {
			s.resources = append(s.resources, &file{root: h.sys.Root, path: selinux.ConfigPath, content: content, mode: 0o644})
		}
	}
	if w.Runtime != selinux.Unset && w.Runtime != f.SELinuxRuntime {
		s.resources = append(s.resources, &selinuxMode{h.sys.SELinux, w.Runtime})
	}
	return s
}

// firewallStep opens the ports in the zone that the cluster's packets come in
// by. A host without a running firewalld needs none opened: a note, no failure.
func (h *handles) firewallStep(ctx context.Context, f *Facts) (step, error) {
	s := step{name: "firewall", title: "Open the firewall"}
	if f.Settings.Firewall == sysconfig.FirewallLeave {
		s.skip = "FIREWALL=leave: open " + portList(f) + " yourself"
		return s, nil
	}
	fw, err := h.firewall(ctx)
	if err != nil {
		return s, err
	}
	st, err := fw.State(ctx)
	if err != nil {
		return s, err
	}
	if !st.Serves() {
		s.skip = st.Note()
		return s, nil
	}
	if st.Panic {
		return s, fmt.Errorf("cannot open the firewall: %s", st.Note())
	}
	zone, why, err := h.zone(ctx, fw, f, st)
	if err != nil {
		return s, err
	}
	for _, p := range f.Settings.FirewallPorts {
		for _, layer := range firewall.Layers() {
			s.resources = append(s.resources, &port{fw: fw, layer: layer, zone: zone, port: firewall.Port{Port: p.Port, Protocol: p.Protocol}})
		}
	}
	s.evidence = fmt.Sprintf("zone %s (%s): %s, now and after a reload", zone, why, portList(f))
	return s, nil
}

// zone is the one set, else that of the interface that reaches the API server,
// else the default zone.
func (h *handles) zone(ctx context.Context, fw Firewall, f *Facts, st firewall.State) (zone, why string, err error) {
	if f.Settings.FirewallZone != "" {
		return f.Settings.FirewallZone, "as set", nil
	}
	iface := interfaceOf(f.Server.LocalIP)
	if iface == "" {
		return st.DefaultZone, "the default zone", nil
	}
	zone, err = fw.ZoneOfInterface(ctx, iface)
	return zone, "of " + iface + ", which reaches the API server", err
}

// interfaceOf finds the network interface that has an address.
func interfaceOf(ip netip.Addr) string {
	if !ip.IsValid() || ip.IsLoopback() {
		return ""
	}
	ifaces, err := net.Interfaces()
	if err != nil {
		return ""
	}
	for _, i := range ifaces {
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr() == ip.Unmap() {
				return i.Name
			}
		}
	}
	return ""
}

func portList(f *Facts) string {
	var s []string
	for _, p := range f.Settings.FirewallPorts {
		s = append(s, p.String())
	}
	return strings.Join(s, " ")
}

func (h *handles) kubeletStep(f *Facts) step {
	s := step{
		name: "kubelet-config", title: "Configure the kubelet", restarts: true,
		warnings: f.Kubelet.Notes, resources: h.kubeletResources(f),
	}
	s.evidence = fmt.Sprintf("%s for kubelet %s", kubelet.ConfigPath, f.Version)
	if f.Kubelet.Config == nil {
		s.evidence = fmt.Sprintf("kubelet %s takes flags alone", f.Version)
	}
	return s
}

// kubeletResources is what the kubelet's launcher needs beside the settings
// and the kubeconfig; it sees to it itself where join was not run.
func (h *handles) kubeletResources(f *Facts) []Resource {
	rs := []Resource{h.caFile(f)}
	if f.Kubelet.Config != nil {
		rs = append(rs, h.configFile(f))
	}
	for _, d := range h.kubeletDirs(f) {
		rs = append(rs, &directory{h.sys.Root, d})
	}
	return rs
}

func (h *handles) kubeletDirs(f *Facts) []string {
	dirs := slices.Clone(f.Kubelet.Dirs)
	for _, v := range volumes(f) {
		if v.Create {
			dirs = append(dirs, v.Source)
		}
	}
	return dirs
}

func (h *handles) configFile(f *Facts) *file {
	return &file{root: h.sys.Root, path: kubelet.ConfigPath, content: f.Kubelet.Config, mode: 0o600, force: true}
}
