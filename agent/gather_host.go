package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/sysconfig"
)

// runtime finds rkt or podman, as set, else whichever is there.
func (g *gatherer) runtime(ctx context.Context) error {
	want := []string{g.f.Settings.Runtime}
	if g.f.Settings.Runtime == sysconfig.RuntimeAuto {
		want = []string{sysconfig.RuntimeRkt, sysconfig.RuntimePodman}
	}
	for _, name := range want {
		path, err := g.sys.Root.Look(name)
		if err != nil {
			continue
		}
		g.f.Runtime = Runtime{Name: name, Path: path}
		if name == sysconfig.RuntimePodman {
			res, err := g.sys.Root.Run(ctx, nil, path, "--version")
			if err != nil {
				return fmt.Errorf("cannot run the kubelet: %w", err)
			}
			g.f.Runtime.Version = strings.TrimPrefix(strings.TrimSpace(res.Stdout), "podman version ")
		}
		return nil
	}
	if g.f.Settings.Runtime == sysconfig.RuntimeAuto {
		return errors.New("cannot run the kubelet: neither rkt nor podman is installed; run \"dnf install podman\", then try again")
	}
	return fmt.Errorf("cannot run the kubelet: KUBELET_RUNTIME=%s (%s), but %s is not installed; install it, or set KUBELET_RUNTIME=auto",
		g.f.Settings.Runtime, g.f.Settings.Origin("KUBELET_RUNTIME"), g.f.Settings.Runtime)
}

// criSockets are where container runtimes listen, in the order of preference:
// the paths of containerd's and CRI-O's own packages.
var criSockets = []string{"/run/containerd/containerd.sock", "/run/crio/crio.sock"}

// endpoint finds the container runtime that runs the pods.
func (g *gatherer) endpoint() error {
	f := g.f
	if e := f.Settings.ContainerRuntimeEndpoint; e != "" {
		f.Endpoint = e
		return nil
	}
	if f.Version.Minor < 24 && g.sys.Root.Exists("/run/docker.sock") {
		return nil // dockershim
	}
	for _, s := range criSockets {
		if g.sys.Root.Exists(s) {
			f.Endpoint = "unix://" + s
			return nil
		}
	}
	if f.Version.Minor < 24 {
		return nil
	}
	return fmt.Errorf("no container runtime for pods: neither %s is there; install and start containerd or CRI-O (systemctl enable --now containerd), or set CONTAINER_RUNTIME_ENDPOINT in %s",
		strings.Join(criSockets, " nor "), sysconfig.Path)
}

// cgroup tells the version of the host's cgroup hierarchy, as the kubelet sees
// it: version 2 only where the unified hierarchy is mounted at the root.
func (g *gatherer) cgroup() {
	g.f.Cgroup = 1
	if g.sys.Root.Exists("/sys/fs/cgroup/cgroup.controllers") {
		g.f.Cgroup = 2
	}
}

// render makes the kubelet's arguments and configuration.
func (g *gatherer) render() error {
	f := g.f
	dropIns, err := g.dropIns()
	if err != nil {
		return badConfig(err)
	}
	var taints []string
	for _, t := range f.Settings.NodeTaints {
		taints = append(taints, t.String())
	}
	in := kubelet.Input{
		Version: f.Version, DNS: []netip.Addr{f.DNS}, Domain: f.Settings.ClusterDomain,
		Hostname: f.Settings.NodeName, NodeIPs: f.Settings.NodeIPs, Labels: f.Settings.NodeLabels, Taints: taints,
		Endpoint: f.Endpoint, CgroupVersion: f.Cgroup, Kubeconfig: f.KubeconfigInUse, Bootstrap: f.Kubeconfig.Bootstrap, NodeCertificate: f.Kubeconfig.NodeName != "",
		ExtraArgs: f.Settings.KubeletExtraArgs, DropIns: dropIns,
	}
	out, err := kubelet.Render(in)
	if err != nil {
		return badConfig(err)
	}
	f.Kubelet = out
	return nil
}

// dropIns reads the administrator's KubeletConfiguration fragments, in the
// order of their names.
func (g *gatherer) dropIns() ([]kubelet.DropIn, error) {
	entries, err := os.ReadDir(g.sys.Root.Path(kubelet.DropInDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", kubelet.DropInDir, err)
	}
	var out []kubelet.DropIn
	for _, e := range entries { // sorted by name: os.ReadDir
		if !strings.HasSuffix(e.Name(), ".yaml") {
			continue
		}
		path := kubelet.DropInDir + "/" + e.Name()
		data, err := g.sys.Root.ReadFile(path)
		if err != nil {
			return nil, err
		}
		out = append(out, kubelet.DropIn{Name: path, Data: data})
	}
	return out, nil
}

// files renders the two settings files as join will leave them.
func (g *gatherer) files() error {
	f := g.f
	settings, image := map[string]string{}, map[string]string{}
	// systemd reads kubelet.env last: a key that stands there must be changed
	// there, or the change takes no effect.
	there := map[string]bool{}
	if data, err := g.sys.Root.ReadFile(sysconfig.KubeletEnvPath); err == nil {
		assignments, _ := sysconfig.Parse(sysconfig.KubeletEnvPath, data) // problems were reported by Load
		for _, a := range assignments {
			there[a.Key] = true
		}
	}
	for k, v := range f.Set {
		if strings.HasPrefix(k, "KUBELET_IMAGE") || there[k] {
			image[k] = v
		} else {
			settings[k] = v
		}
	}
	var err error
	if f.SettingsFile, err = g.edited(sysconfig.Path, sysconfig.Shipped, settings); err != nil {
		return err
	}
	f.ImageFile, err = g.edited(sysconfig.KubeletEnvPath, sysconfig.ShippedKubeletEnv, image)
	return err
}

// edited is the file at path with the keys set, or nil where nothing is to be
// written: an administrator's file that needs no edit stays as it is, also
// where it does not exist.
func (g *gatherer) edited(path string, shipped []byte, set map[string]string) ([]byte, error) {
	if len(set) == 0 {
		return nil, nil
	}
	now, err := g.sys.Root.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		now, err = shipped, nil
	}
	if err != nil {
		return nil, err
	}
	current := map[string]string{}
	assignments, _ := sysconfig.Parse(path, now) // problems were reported by Load
	for _, a := range assignments {
		current[a.Key] = a.Value
	}
	for k, v := range set {
		if current[k] == v {
			delete(set, k)
		}
	}
	if len(set) == 0 {
		return nil, nil
	}
	return sysconfig.Update(now, set), nil
}
