package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

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
		// The scheme may be left out, and then url.Parse finds no password.
		if strings.HasSuffix(k.Name, "_PROXY") && strings.Contains(value, "@") {
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

const dnsKey = "KUBERNETES_DNS_SERVICE_IP"

// credential finds the kubeconfig: given by hand, in the assets, or on the
// host already.
func (g *gatherer) credential(in Inputs) error {
	f := g.f
	if in.Assets != "" {
		a, err := assets.Read(in.Assets)
		by := f.Settings.Origin(dnsKey)
		dnsGiven := by == "flag" || by == "environment" // for this run; a file's is older than the assets
		if err := assetsMiss(err, in.Kubeconfig != nil, dnsGiven); err != nil {
			return badConfig(err)
		}
		f.KubeconfigData, f.KubeconfigFrom = a.Kubeconfig, in.Assets
		if !dnsGiven && a.DNSServiceIP.IsValid() {
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

// assetsMiss passes over what is missing in the assets but was given by hand.
func assetsMiss(err error, kubeconfigGiven, dnsGiven bool) error {
	var noKubeconfig *assets.NoKubeconfigError
	var noVars *assets.TFVarsError
	if kubeconfigGiven && errors.As(err, &noKubeconfig) || dnsGiven && errors.As(err, &noVars) {
		return nil
	}
	return err
}

// clock tells whether a kubeconfig that is not valid now would be by the API
// server's clock: then it is this host's that is wrong.
func (g *gatherer) clock(ctx context.Context, invalid error) error {
	var ps node.Problems
	if g.f.Kubeconfig == nil || !errors.As(invalid, &ps) || !ps.OnlyTime() {
		return invalid
	}
	c, err := g.sys.Cluster(g.f.Kubeconfig, g.proxy())
	if err != nil {
		return invalid
	}
	theirs, err := c.ServerTime(ctx)
	if err != nil || g.f.Kubeconfig.Validate(theirs) != nil {
		return invalid
	}
	return fmt.Errorf("this host's clock is wrong: it says %s and the API server's says %s, by which the kubeconfig is valid; set the time (systemctl enable --now chronyd), then try again",
		g.f.Now.UTC().Format(time.RFC3339), theirs.UTC().Format(time.RFC3339))
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
	const key = dnsKey
	if f.DNS.IsValid() { // from the assets
		f.Set[key] = f.DNS.String()
		return g.compareDNS(ctx)
	}
	if f.Settings.DNSServiceIP.IsValid() {
		f.DNS, f.DNSFrom = f.Settings.DNSServiceIP, f.Settings.Origin(key)
		return g.compareDNS(ctx)
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
		return badConfig(fmt.Errorf("cannot tell the cluster's DNS Service address: it is not set in %s, and the API server does not tell it: %w", sysconfig.Path, err))
	}
	f.DNS, f.DNSFrom = ip, how
	f.Set[key] = ip.String()
	return nil
}

// compareDNS warns where the cluster says another address than the one set:
// pods would find no names, and nothing else would tell.
func (g *gatherer) compareDNS(ctx context.Context) error {
	f := g.f
	if !f.Online {
		return nil
	}
	c, err := g.sys.Cluster(f.Kubeconfig, g.proxy())
	if err != nil {
		return err
	}
	// A bootstrap token may not ask; then there is nothing to compare.
	if theirs, how, err := c.DNSServiceIP(ctx); err == nil && theirs != f.DNS {
		f.Warnings = append(f.Warnings, fmt.Sprintf("the cluster's DNS address is set to %s (%s), but the cluster says %s (%s); if pods can't resolve names, set it with --dns-service-ip", f.DNS, f.DNSFrom, theirs, how))
	}
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

// ConfigError is bad configuration: what the administrator gave can't be used.
type ConfigError struct{ Err error }

func (e *ConfigError) Error() string { return e.Err.Error() }
func (e *ConfigError) Unwrap() error { return e.Err }

func badConfig(err error) error { return &ConfigError{err} }
