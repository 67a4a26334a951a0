package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"github.com/tectonic-worker/tectonic-worker/agent/assets"
	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
	"github.com/tectonic-worker/tectonic-worker/sysconfig"
)

// Inputs is what the administrator gave join.
type Inputs struct {
	Settings       map[string]string // settings given as flags, by key
	Environ        []string
	Assets         string // a directory or archive the Tectonic Installer left
	Kubeconfig     []byte // given by hand; wins over the assets'
	KubeconfigFrom string // where that came from
}

// settings reads the two files under the flags and the environment.
func (g *gatherer) settings(in Inputs) error {
	s, err := sysconfig.Load(sysconfig.Source{Root: string(g.sys.Root), Flags: in.Settings, Environ: in.Environ})
	if err != nil {
		return err
	}
	g.f.Settings = s
	g.f.Set = map[string]string{}
	for k, v := range in.Settings {
		g.f.Set[k] = v
	}
	// The kubelet's unit will not see this process's environment.
	for _, k := range sysconfig.Keys() {
		if s.Origin(k.Name) != "environment" {
			continue
		}
		value := environ(in.Environ, k.Name)
		if u, err := url.Parse(value); err == nil && u.User != nil {
			g.f.Warnings = append(g.f.Warnings, fmt.Sprintf("%s is taken from the environment and not written down, because it holds a password; put it into %s yourself, or the kubelet runs without it", k.Name, sysconfig.Path))
			continue
		}
		g.f.Set[k.Name] = value
	}
	g.f.NodeName = s.NodeName
	if g.f.NodeName == "" {
		// As the kubelet does it: pkg/util/node.GetHostname lower-cases and trims.
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("cannot read this host's name: %w", err)
		}
		g.f.NodeName = strings.ToLower(strings.TrimSpace(name))
	}
	return nil
}

// environ is the value of a variable in a list of KEY=VALUE.
func environ(env []string, key string) string {
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, key+"="); ok {
			return v
		}
	}
	return ""
}

// credential finds the kubeconfig: given by hand, in the assets, or on the
// host already.
func (g *gatherer) credential(in Inputs) error {
	f := g.f
	if in.Assets != "" {
		a, err := assets.Read(in.Assets)
		if err != nil {
			return badConfig(err)
		}
		f.KubeconfigData, f.KubeconfigFrom = a.Kubeconfig, in.Assets
		if _, given := in.Settings["KUBERNETES_DNS_SERVICE_IP"]; !given && a.DNSServiceIP.IsValid() {
			f.DNS, f.DNSFrom = a.DNSServiceIP, a.How
		}
	}
	if in.Kubeconfig != nil {
		f.KubeconfigData, f.KubeconfigFrom = in.Kubeconfig, in.KubeconfigFrom
	}
	if f.KubeconfigData == nil {
		data, err := g.sys.Root.ReadFile(kubelet.KubeconfigPath)
		if errors.Is(err, fs.ErrNotExist) {
			return badConfig(fmt.Errorf("no kubeconfig: none was given and there is no %s; give one with --kubeconfig FILE or --assets DIR (the Tectonic Installer leaves it in generated/auth/kubeconfig)", kubelet.KubeconfigPath))
		}
		if err != nil {
			return badConfig(err)
		}
		f.KubeconfigData, f.KubeconfigFrom = data, kubelet.KubeconfigPath
	}
	k, err := node.Parse(f.KubeconfigData)
	if err != nil {
		return badConfig(fmt.Errorf("cannot use the kubeconfig from %s: %w", f.KubeconfigFrom, err))
	}
	f.Kubeconfig = k
	if err := k.Validate(f.Now); err != nil {
		return badConfig(fmt.Errorf("cannot use the kubeconfig from %s: %w", f.KubeconfigFrom, err))
	}
	return nil
}

func (g *gatherer) proxy() node.Proxy {
	s := g.f.Settings
	return node.Proxy{HTTP: s.HTTPProxy, HTTPS: s.HTTPSProxy, No: s.NoProxy}
}

// server asks the API server who it is, and whether it takes the credential.
func (g *gatherer) server(ctx context.Context) error {
	f := g.f
	c, err := g.sys.Cluster(f.Kubeconfig, g.proxy())
	if err != nil {
		return err
	}
	if f.Server, err = c.Reach(ctx); err != nil {
		return err
	}
	f.Online = true
	if f.ServerVersion, err = kubelet.ParseVersion(f.Server.Version); err != nil {
		return fmt.Errorf("cannot understand the API server's version: %w", err)
	}
	return nil
}

// dns settles the cluster's DNS Service address: as set, else from the assets,
// else as the API server says.
func (g *gatherer) dns(ctx context.Context) error {
	f := g.f
	const key = "KUBERNETES_DNS_SERVICE_IP"
	if f.DNS.IsValid() { // from the assets
		f.Set[key] = f.DNS.String()
		return nil
	}
	if f.Settings.DNSServiceIP.IsValid() {
		f.DNS, f.DNSFrom = f.Settings.DNSServiceIP, f.Settings.Origin(key)
		return nil
	}
	if !f.Online {
		return badConfig(fmt.Errorf("%s is not set in %s; set it to the cluster's DNS Service address (tectonic_kube_dns_service_ip in terraform.tfvars)", key, sysconfig.Path))
	}
	c, err := g.sys.Cluster(f.Kubeconfig, g.proxy())
	if err != nil {
		return err
	}
	ip, how, err := c.DNSServiceIP(ctx)
	if err != nil {
		return badConfig(fmt.Errorf("cannot tell the cluster's DNS Service address: it is not set in %s, and the API server does not tell it: %w; give it with --dns-service-ip IP", sysconfig.Path, err))
	}
	f.DNS, f.DNSFrom = ip, how
	f.Set[key] = ip.String()
	return nil
}

// image settles which image runs: as set, else the control plane's own
// version.
func (g *gatherer) image() error {
	f := g.f
	f.Image, f.ImageFrom = f.Settings.Image.Reference(), "as set"
	if f.Image == "" {
		if !f.Online {
			return badConfig(fmt.Errorf("no kubelet image is set in %s, and the API server was not asked for its version; set KUBELET_IMAGE there", sysconfig.KubeletEnvPath))
		}
		f.Image, f.ImageFrom = kubelet.DefaultImage(f.ServerVersion, f.Server.Version), "the control plane's own version"
		f.Set["KUBELET_IMAGE"] = f.Image
	}
	v, err := kubelet.VersionOfImage(f.Image)
	if err != nil {
		return badConfig(err)
	}
	f.Version = v
	if f.Online {
		if err := kubelet.CheckSkew(v, f.ServerVersion); err != nil {
			return badConfig(err)
		}
	}
	return nil
}

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
		Endpoint: f.Endpoint, CgroupVersion: f.Cgroup, Bootstrap: f.Kubeconfig.Bootstrap, NodeCertificate: f.Kubeconfig.NodeName != "",
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
	for k, v := range f.Set {
		if strings.HasPrefix(k, "KUBELET_IMAGE") {
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

// ConfigError is bad configuration: what the administrator gave can't be used.
type ConfigError struct{ Err error }

func (e *ConfigError) Error() string { return e.Err.Error() }
func (e *ConfigError) Unwrap() error { return e.Err }

func badConfig(err error) error { return &ConfigError{err} }
