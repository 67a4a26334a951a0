package cluster

import (
	"net"
	"net/netip"
	"net/url"
	"strings"
)

// The minima of Tectonic's bare-metal requirements, and its networks.
const (
	minimumMemory Bytes = 8e9
	minimumCores        = 2
	minimumDisk   Bytes = 30e9

	defaultPods     = "10.2.0.0/16"
	defaultServices = "10.3.0.0/16"
)

// matchbox's ports by convention, and that of the machines' API.
const (
	portHTTP     = "8080"
	portRPC      = "8081"
	portMachines = "8443"
)

func or[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

// defaults fills in what the file leaves out, and brings names into one spelling.
func (c *Cluster) defaults() {
	or(&c.APIVersion, APIVersion)
	or(&c.Kind, Kind)
	c.DNS.Controller = hostSpelling(c.DNS.Controller)
	c.DNS.Ingress = hostSpelling(c.DNS.Ingress)
	if c.PodCIDRs == nil && c.ServiceCIDRs == nil {
		c.PodCIDRs = []netip.Prefix{netip.MustParsePrefix(defaultPods)}
		c.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix(defaultServices)}
	}
	for i, key := range c.SSHKeys {
		c.SSHKeys[i] = strings.TrimSpace(key)
	}

	c.Matchbox.HTTP = strings.TrimSuffix(c.Matchbox.HTTP, "/")
	if u, err := url.Parse(c.Matchbox.HTTP); err == nil && u.Hostname() != "" {
		or(&c.Matchbox.RPC, net.JoinHostPort(u.Hostname(), portRPC))
		or(&c.Matchbox.Machines, net.JoinHostPort(u.Hostname(), portMachines))
	}
	or(&c.Matchbox.TLS.CA, "tls/ca.crt")
	or(&c.Matchbox.TLS.Certificate, "tls/client.crt")
	or(&c.Matchbox.TLS.Key, "tls/client.key")

	or(&c.Network.DHCP, DHCPNone)
	or(&c.Network.LeaseTime, "1h")

	if c.OS.Name == Flatcar || c.OS.Name == FedoraCoreOS {
		or(&c.OS.Channel, "stable")
	}
	or(&c.OS.Arch, "x86_64")
	if c.Matchbox.HTTP != "" {
		or(&c.OS.Images, c.Matchbox.HTTP+"/assets")
	}
	c.OS.Images = strings.TrimSuffix(c.OS.Images, "/")

	or(&c.Install.Minimum.Memory, minimumMemory)
	or(&c.Install.Minimum.Cores, minimumCores)
	or(&c.Install.Minimum.Disk, minimumDisk)

	fileDefaults(c.Files)
	for i := range c.Machines {
		m := &c.Machines[i]
		m.DNSName = hostSpelling(m.DNSName)
		or(&m.Firmware, FirmwareUEFI)
		or(&m.Exit, ExitAuto)
		or(&m.Arch, c.OS.Arch)
		if m.Power.Driver == "" {
			m.Power.Driver = PowerManual
			if m.Power.Address != "" || m.Power.Credentials != (Credentials{}) {
				m.Power.Driver = PowerIPMI
			}
		}
		fileDefaults(m.Files)
	}
}

func fileDefaults(files []File) {
	for i := range files {
		or(&files[i].Mode, "0600")
	}
}

// hostSpelling is a DNS name as it is compared: lower case, without the root's dot.
func hostSpelling(s string) string { return strings.ToLower(strings.TrimSuffix(s, ".")) }
