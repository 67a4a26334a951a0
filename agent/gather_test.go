package agent

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
	"github.com/tectonic-worker/tectonic-worker/firewall"
	"github.com/tectonic-worker/tectonic-worker/sysconfig"
)

func newGatherer(t *testing.T) (*gatherer, *doubles) {
	d := newDoubles(t)
	write(t, d.root, kubelet.KubeconfigPath, kubeconfigText("https://192.0.2.1:6443", plainToken), 0o600)
	d.cluster.server = node.Server{Version: "v1.34.4"}
	d.cluster.dns, d.cluster.dnsHow = netip.MustParseAddr("10.3.0.4"), "the Service"
	sys := d.system()
	return &gatherer{sys: sys, h: &handles{sys: sys}, f: &Facts{Now: d.now}}, d
}

// tectonic is a directory as the Tectonic Installer leaves it.
func tectonic(t *testing.T, d *doubles) string {
	write(t, d.root, "/assets/generated/auth/kubeconfig", kubeconfigText("https://192.0.2.2:6443", plainToken), 0o600)
	write(t, d.root, "/assets/terraform.tfvars", "tectonic_kube_dns_service_ip = \"10.3.0.1\"\n", 0o644)
	return d.root.Path("/assets")
}

// Where the DNS address comes from: what was given for this run wins over the
// assets, they over the file, and the API server is asked last.
func TestGatherDNS(t *testing.T) {
	const flag, env, assets, file, api = "10.3.0.10", "10.3.0.11", "10.3.0.1", "10.3.0.12", "10.3.0.4"
	for _, c := range []struct {
		name                    string
		flag, env, assets, file bool
		want                    string
		written                 bool
	}{
		{"flag", true, true, true, true, flag, true},
		{"environment", false, true, true, true, env, true},
		{"assets", false, false, true, true, assets, true},
		{"file", false, false, false, true, file, false},
		{"API server", false, false, false, false, api, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, d := newGatherer(t)
			in := Inputs{Settings: map[string]string{}}
			if c.flag {
				in.Settings[dnsKey] = flag
			}
			if c.env {
				in.Environ = []string{dnsKey + "=" + env}
			}
			if c.assets {
				in.Assets = tectonic(t, d)
			}
			if c.file {
				write(t, d.root, sysconfig.Path, dnsKey+"="+file+"\n", 0o644)
			}
			for _, do := range []func() error{
				func() error { return g.settings(in) }, func() error { return g.credential(in) },
				func() error { return g.server(t.Context()) }, func() error { return g.dns(t.Context()) }, g.image, g.files,
			} {
				if err := do(); err != nil {
					t.Fatal(err)
				}
			}
			if g.f.DNS.String() != c.want || g.f.DNSFrom == "" {
				t.Errorf("DNS %s (%s), want %s", g.f.DNS, g.f.DNSFrom, c.want)
			}
			if got := strings.Contains(string(g.f.SettingsFile), "\n"+dnsKey+"="+c.want+"\n") || strings.HasPrefix(string(g.f.SettingsFile), dnsKey+"="+c.want+"\n"); got != c.written {
				t.Errorf("written into the settings: %v, want %v", got, c.written)
			}
			if warned := len(g.f.Warnings) > 0; warned != (c.want != api) {
				t.Errorf("warnings %q", g.f.Warnings)
			}
		})
	}
}

// A password must not be written into a file that everybody may read.
func TestGatherKeepsPasswordsOut(t *testing.T) {
	for _, proxy := range []string{"http://user:hunter2@proxy:3128", "user:hunter2@proxy:3128", "//user:hunter2@proxy:3128"} {
		g, _ := newGatherer(t)
		if err := g.settings(Inputs{Environ: []string{"HTTPS_PROXY=" + proxy, "NODE_NAME=w1"}}); err != nil {
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: %v", proxy, err)
			}
			continue
		}
		if err := g.files(); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(g.f.SettingsFile), "hunter2") || strings.Contains(strings.Join(g.f.Warnings, ""), "hunter2") || len(g.f.Warnings) != 1 {
			t.Errorf("%s: warnings %q, file\n%s", proxy, g.f.Warnings, g.f.SettingsFile)
		}
		if !strings.Contains(string(g.f.SettingsFile), "NODE_NAME=w1\n") {
			t.Error("the rest of the environment is not written")
		}
	}
}

func TestGatherCredentialPrecedence(t *testing.T) {
	g, d := newGatherer(t)
	byHand := []byte(kubeconfigText("https://192.0.2.3:6443", plainToken))
	for _, c := range []struct {
		in   Inputs
		want string
	}{
		{Inputs{}, "https://192.0.2.1:6443"},
		{Inputs{Assets: tectonic(t, d)}, "https://192.0.2.2:6443"},
		{Inputs{Assets: d.root.Path("/assets"), Kubeconfig: byHand, KubeconfigFrom: "standard input"}, "https://192.0.2.3:6443"},
	} {
		g.f = &Facts{Now: d.now}
		if err := errors.Join(g.settings(c.in), g.credential(c.in)); err != nil || g.f.Kubeconfig.Server != c.want {
			t.Errorf("%v, %v; want %s", g.f.Kubeconfig, err, c.want)
		}
	}
}

func TestGatherImage(t *testing.T) {
	for _, c := range []struct {
		name, env, server string
		want, err         string
		written           bool
	}{
		{"control plane's version", "", "v1.34.4", "quay.io/poseidon/kubelet:v1.34.4", "", true},
		{"hyperkube of old", "", "v1.8.9+coreos.0", "quay.io/coreos/hyperkube:v1.8.9_coreos.0", "", true},
		{"as set", "KUBELET_IMAGE=example.com/k:v1.33.1\n", "v1.34.4", "example.com/k:v1.33.1", "", false},
		{"original names", "KUBELET_IMAGE_URL=quay.io/coreos/hyperkube\nKUBELET_IMAGE_TAG=v1.8.9_coreos.0\n", "v1.8.9", "quay.io/coreos/hyperkube:v1.8.9_coreos.0", "", false},
		{"newer than the API server", "KUBELET_IMAGE=example.com/k:v1.35.0\n", "v1.34.4", "", "1.34", false},
		{"no version", "KUBELET_IMAGE=example.com/k:latest\n", "v1.34.4", "", "latest", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, d := newGatherer(t)
			d.cluster.server.Version = c.server
			write(t, d.root, sysconfig.KubeletEnvPath, c.env, 0o644)
			var err error
			for _, do := range []func() error{
				func() error { return g.settings(Inputs{}) }, func() error { return g.credential(Inputs{}) },
				func() error { return g.server(t.Context()) }, g.image, g.files,
			} {
				if err = do(); err != nil {
					break
				}
			}
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || ExitCode(err) != 78 {
					t.Errorf("error %v, want one about %q", err, c.err)
				}
				return
			}
			if err != nil || g.f.Image != c.want {
				t.Errorf("image %q, %v; want %q", g.f.Image, err, c.want)
			}
			if got := strings.Contains(string(g.f.ImageFile), "KUBELET_IMAGE="+c.want); got != c.written {
				t.Errorf("written down: %v, want %v", got, c.written)
			}
		})
	}
}

func TestGatherRuntime(t *testing.T) {
	const podman = "#!/bin/sh\necho podman version 5.4.0\n"
	for _, c := range []struct {
		name, setting string
		have          []string
		want          Runtime
		err           string
	}{
		{"rkt first", "auto", []string{"rkt", "podman"}, Runtime{"rkt", "/usr/bin/rkt", ""}, ""},
		{"podman", "auto", []string{"podman"}, Runtime{"podman", "/usr/bin/podman", "5.4.0"}, ""},
		{"as set", "podman", []string{"rkt", "podman"}, Runtime{"podman", "/usr/bin/podman", "5.4.0"}, ""},
		{"neither", "auto", nil, Runtime{}, `neither rkt nor podman is installed; run "dnf install podman", then try again`},
		{"not the one set", "rkt", []string{"podman"}, Runtime{}, "/etc/sysconfig/tectonic-worker:1), but rkt is not installed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, d := newGatherer(t)
			write(t, d.root, sysconfig.Path, "KUBELET_RUNTIME="+c.setting+"\n", 0o644)
			for _, p := range c.have {
				write(t, d.root, "/usr/bin/"+p, podman, 0o755)
			}
			if err := g.settings(Inputs{}); err != nil {
				t.Fatal(err)
			}
			err := g.runtime(t.Context())
			if !strings.Contains(message(err), c.err) || (err == nil) != (c.err == "") {
				t.Fatalf("error %v, want %q", err, c.err)
			}
			if diff := cmp.Diff(c.want, g.f.Runtime); err == nil && diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestZone(t *testing.T) {
	for _, c := range []struct {
		name, setting string
		ip            string
		want, why     string
	}{
		{"as set", "trusted", "127.0.0.1", "trusted", "as set"},
		{"no address", "", "", "public", "the default zone"},
		{"loopback is no way to a cluster", "", "127.0.0.1", "public", "the default zone"},
		{"an address of nobody", "", "192.0.2.77", "public", "the default zone"},
	} {
		d := newDoubles(t)
		f := &Facts{Settings: sysconfig.Settings{FirewallZone: c.setting}}
		if c.ip != "" {
			f.Server.LocalIP = netip.MustParseAddr(c.ip)
		}
		h := &handles{sys: d.system()}
		zone, why, err := h.zone(t.Context(), d.fw, f, d.fw.state)
		if err != nil || zone != c.want || why != c.why {
			t.Errorf("%s: %q (%s), %v; want %q (%s)", c.name, zone, why, err, c.want, c.why)
		}
	}
}

func TestFirewallStep(t *testing.T) {
	ports := []sysconfig.Port{{Port: "10250", Protocol: "tcp"}, {Port: "4789", Protocol: "udp"}}
	for _, c := range []struct {
		name, setting string
		state         firewall.State
		skip, err     string
		keys          []string
	}{
		{"open", "manage", firewall.State{Presence: firewall.Running, DefaultZone: "public"}, "", "",
			[]string{"port permanent/public/10250/tcp", "port permanent/public/4789/udp", "port runtime/public/10250/tcp", "port runtime/public/4789/udp"}},
		{"leave", "leave", firewall.State{Presence: firewall.Running}, "FIREWALL=leave: open 10250/tcp 4789/udp yourself", "", nil},
		{"absent", "manage", firewall.State{Presence: firewall.NotInstalled}, "not installed", "", nil},
		{"panic", "manage", firewall.State{Presence: firewall.Running, Panic: true}, "", "panic", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDoubles(t)
			d.fw.state = c.state
			h := &handles{sys: d.system()}
			s, err := h.firewallStep(t.Context(), &Facts{Settings: sysconfig.Settings{Firewall: c.setting, FirewallPorts: ports}})
			if (err != nil) != (c.err != "") || !strings.Contains(message(err), c.err) {
				t.Fatalf("error %v", err)
			}
			if (s.skip == "") != (c.skip == "") || !strings.Contains(s.skip, c.skip) {
				t.Errorf("skipped: %q, want %q", s.skip, c.skip)
			}
			have := map[string]bool{}
			for _, r := range s.resources {
				have[r.Key().String()] = true
			}
			if diff := cmp.Diff(c.keys, sortedKeys(have)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if len(d.fw.calls) != 0 {
				t.Errorf("planning changed something: %q", d.fw.calls)
			}
		})
	}
}
