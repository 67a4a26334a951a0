package assets

import (
	_ "embed"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

//go:embed files/tectonic-machine.service
var machineUnit string

//go:embed files/tectonic-ready.service
var readyUnit string

//go:embed files/ready.sh
var readyScript string

const readyScriptPath = "/etc/tectonic-machine/ready.sh"

// readyText is the script that reports an installed system's first boot.
func readyText(c *cluster.Cluster) string {
	return strings.ReplaceAll(readyScript, "@URL@", "https://"+c.Matchbox.Machines+machine.PathReady)
}

// A textFile is a file of the installed system.
type textFile struct{ path, text string }

// ntp is the configuration of the operating system's own time client. chrony has none that could only be added to:
// the file as Fedora ships it, but for the servers.
func ntp(c *cluster.Cluster) (path, text string) {
	if c.OS.Name == cluster.Flatcar {
		return "/etc/systemd/timesyncd.conf.d/10-tectonic.conf", "[Time]\nNTP=" + strings.Join(c.NTP, " ") + "\n"
	}
	var b strings.Builder
	for _, server := range c.NTP {
		b.WriteString("server " + server + " iburst\n")
	}
	b.WriteString("driftfile /var/lib/chrony/drift\nmakestep 1.0 3\nrtcsync\nkeyfile /etc/chrony.keys\nleapsectz right/UTC\nlogdir /var/log/chrony\n")
	return "/etc/chrony.conf", b.String()
}

// proxyFiles tell services and shells of the way out.
func proxyFiles(c *cluster.Cluster) []textFile {
	environment := proxyEnvironment(c)
	if len(environment) == 0 {
		return nil
	}
	var manager, shell strings.Builder
	manager.WriteString("[Manager]\n")
	for _, e := range environment {
		// systemd expands % (systemd-system.conf(5)), and a URL may have it.
		manager.WriteString("DefaultEnvironment=\"" + strings.ReplaceAll(e.name+"="+e.value, "%", "%%") + "\"\n")
		shell.WriteString("export " + e.name + "='" + e.value + "'\n")
	}
	return []textFile{
		{"/etc/systemd/system.conf.d/10-tectonic-proxy.conf", manager.String()},
		{"/etc/profile.d/tectonic-proxy.sh", shell.String()},
	}
}

type variable struct{ name, value string }

// proxyEnvironment has both spellings, since programs read one or the other.
func proxyEnvironment(c *cluster.Cluster) []variable {
	if c.Proxy.HTTP == "" && c.Proxy.HTTPS == "" {
		return nil
	}
	var out []variable
	for _, v := range []variable{{"HTTP_PROXY", c.Proxy.HTTP}, {"HTTPS_PROXY", c.Proxy.HTTPS}, {"NO_PROXY", strings.Join(noProxy(c), ",")}} {
		if v.value != "" {
			out = append(out, v, variable{strings.ToLower(v.name), v.value})
		}
	}
	return out
}

// noProxy adds to the operator's list what no proxy outside can reach: the cluster itself and its provisioner. Machines are
// not named one by one: each that is added would change what every other is to be.
func noProxy(c *cluster.Cluster) []string {
	names := slices.Clone(c.Proxy.NoProxy)
	names = append(names, "localhost", "127.0.0.1", "::1", ".svc", ".cluster.local", c.DNS.Controller, c.DNS.Ingress)
	if u, err := url.Parse(c.Matchbox.HTTP); err == nil {
		names = append(names, u.Hostname())
	}
	if host, _, err := net.SplitHostPort(c.Matchbox.Machines); err == nil {
		names = append(names, host)
	}
	for _, p := range slices.Concat(c.PodCIDRs, c.ServiceCIDRs, []netip.Prefix{c.Network.Subnet}) {
		if p.IsValid() {
			names = append(names, p.String())
		}
	}
	var out []string
	for _, n := range names {
		if n != "" && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}
