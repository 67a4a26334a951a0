package netboot

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
)

// dns renders records for the names in the cluster file, or switches DNS off.
func (r *renderer) dns() {
	n := r.c.Network
	if !n.DNS {
		r.line("\nport=0")
		return
	}
	r.line("\n# Names of the cluster file. dnsmasq answers these; everything else goes upstream.")
	if len(n.Upstream) > 0 {
		r.line("no-resolv")
		for _, a := range n.Upstream {
			if !a.IsValid() || a.Zone() != "" {
				r.fail("network.upstream: %s is not an address of a DNS server", a)
				continue
			}
			r.line("server=%s", a)
		}
	}
	r.line("domain-needed")
	r.line("bogus-priv")

	// A node's own record comes first: dnsmasq takes an address's PTR from the first name that has it.
	for i, m := range r.c.Machines {
		if m.DNSName == "" {
			continue
		}
		name, err := dnsName(fmt.Sprintf("machines[%d].dnsName", i), m.DNSName)
		if !r.keep(err) {
			continue
		}
		if !m.Address.IsValid() {
			r.fail("machines[%d].address: %q has none, so its DNS name cannot be answered; give it one, or set network.dns to false", i, m.Name)
			continue
		}
		r.record(name, m.Address)
	}
	r.shared("dns.controller", r.c.DNS.Controller, cluster.Controller)
	r.shared("dns.ingress", r.c.DNS.Ingress, cluster.Worker)
	r.provisioner()
	if n.DHCP != cluster.DHCPFull {
		r.note("machines must use this host for DNS: your DHCP server has to name it, or your DNS servers have to forward these names to it")
	}
}

func (r *renderer) record(name string, a netip.Addr) {
	r.line("host-record=%s,%s", name, a.Unmap().WithZone(""))
}

// shared is a name of the whole cluster, answered with all machines of a role.
func (r *renderer) shared(field, name, role string) {
	if name == "" {
		return
	}
	folded, err := dnsName(field, name)
	if !r.keep(err) {
		return
	}
	found := false
	for _, m := range r.c.Machines {
		// A single controller may well be known by the cluster's own name.
		own := strings.EqualFold(strings.TrimSuffix(m.DNSName, "."), folded)
		if m.Role == role && m.Address.IsValid() {
			found = true
			if !own {
				r.record(folded, m.Address)
			}
		}
	}
	if !found {
		r.note("%s (%s) has no record: there is no %s with an address", field, folded, role)
	}
}

// provisioner answers for this host's own names with whatever address the interface has now.
func (r *renderer) provisioner() {
	names := []struct{ field, host string }{{"matchbox.machines", hostOf(r.c.Matchbox.Machines)}}
	if r.c.Matchbox.External {
		if host := hostOf(r.c.Matchbox.HTTP); host != "" {
			r.note("matchbox.http (%s) is another host's: its name must be known to the DNS servers upstream", host)
		}
	} else {
		names = append(names, struct{ field, host string }{"matchbox.http", hostOf(r.c.Matchbox.HTTP)},
			struct{ field, host string }{"matchbox.rpc", hostOf(r.c.Matchbox.RPC)})
	}
	seen := map[string]bool{}
	for _, n := range names {
		if n.host == "" {
			continue
		}
		name, err := dnsName(n.field, n.host)
		if r.keep(err) && !seen[name] {
			seen[name] = true
			r.line("interface-name=%s,%s/4", name, r.c.Network.Interface)
		}
	}
}

func (r *renderer) dnsNote() {
	if host := hostOf(r.c.Matchbox.HTTP); host != "" {
		r.note("%s must resolve with the DNS servers that the site's DHCP names: iPXE looks it up", host)
	}
}
