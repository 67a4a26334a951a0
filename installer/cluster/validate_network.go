package cluster

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// A named range of addresses, for messages.
type namedRange struct {
	field string
	netip.Prefix
}

// networks checks every range of addresses against every other.
func (v *validator) networks() {
	c := v.c
	oneEach := v.list("podCIDRs", c.PodCIDRs)
	if v.list("serviceCIDRs", c.ServiceCIDRs) && oneEach {
		v.families()
	}
	v.sizes()
	if s := c.Network.Subnet; s.IsValid() && v.usable("network.subnet", s) {
		if s.Addr().Is6() && c.Network.DHCP != DHCPNone {
			v.wrong("network.subnet", "%s is IPv6, and firmware boots over IPv4; give the machines' IPv4 network", s)
		} else {
			v.subnet = s
			v.ranges = append(v.ranges, namedRange{"network.subnet", s})
		}
	}
	for i, a := range v.ranges {
		for _, b := range v.ranges[:i] {
			if a.Overlaps(b.Prefix) {
				v.wrong(a.field, "%s overlaps %s, %s; give it addresses of its own", a, b.field, b)
			}
		}
		if docker := netip.MustParsePrefix("172.17.0.0/16"); a.field != "network.subnet" && a.Overlaps(docker) {
			v.warn(a.field, "%s overlaps %s, which docker takes for its own bridge on each machine", a, docker)
		}
	}
	v.dhcp()
}

// list checks pods or services, and says whether there is at most one of each IP family.
func (v *validator) list(field string, cidrs []netip.Prefix) bool {
	families := map[bool]int{}
	oneEach := true
	for i, p := range cidrs {
		if !p.IsValid() {
			continue // said already
		}
		if first, twice := families[p.Addr().Is4()]; twice {
			v.wrong(at(field, i), "%s is of the same IP family as %s; give at most one of each family", p, at(field, first))
			oneEach = false
			continue
		}
		families[p.Addr().Is4()] = i
		if v.usable(at(field, i), p) {
			v.ranges = append(v.ranges, namedRange{at(field, i), p})
		}
	}
	return oneEach
}

func (r namedRange) String() string { return r.Prefix.String() }

// families wants pods and services to be of the same families in the same order (Kubernetes, "IPv4/IPv6 dual-stack").
func (v *validator) families() {
	pods, services := v.c.PodCIDRs, v.c.ServiceCIDRs
	for field, list := range map[string][]netip.Prefix{"podCIDRs": pods, "serviceCIDRs": services} {
		if len(list) == 0 {
			v.wrong(field, "it is missing while its counterpart is given; give both, or neither for %s and %s", defaultPods, defaultServices)
			return
		}
	}
	for i := range max(len(pods), len(services)) {
		if i >= len(pods) || i >= len(services) ||
			pods[i].IsValid() && services[i].IsValid() && pods[i].Addr().Is4() != services[i].Addr().Is4() {
			v.wrong("serviceCIDRs", "podCIDRs and serviceCIDRs are not of the same IP families in the same order; make them so")
			return
		}
	}
}

// sizes of pod and service ranges. A node gets a /24 of IPv4 and a /64 of IPv6 (kube-controller-manager,
// --node-cidr-mask-size-ipv4 and -ipv6).
func (v *validator) sizes() {
	for i, p := range v.c.PodCIDRs {
		if !p.IsValid() {
			continue
		}
		node := 24
		if p.Addr().Is6() {
			node = 64
		}
		switch room := node - p.Bits(); {
		case room < 0:
			v.wrong(at("podCIDRs", i), "%s is smaller than the /%d that each machine takes of it; give a shorter prefix", p, node)
		case room < 30 && 1<<room < len(v.c.Machines):
			v.wrong(at("podCIDRs", i), "%s has room for %d machines, each of which takes a /%d, and there are %d; give a shorter prefix", p, 1<<room, node, len(v.c.Machines))
		case room < 30 && 3*(1<<room) <= 4*len(v.c.Machines):
			v.warn(at("podCIDRs", i), "%s has room for %d machines, each of which takes a /%d, and there are %d already", p, 1<<room, node, len(v.c.Machines))
		}
	}
	for i, p := range v.c.ServiceCIDRs {
		if !p.IsValid() {
			continue
		}
		switch hosts := p.Addr().BitLen() - p.Bits(); {
		case hosts < 5:
			v.wrong(at("serviceCIDRs", i), "%s has too few addresses: the API server, DNS and etcd take the 1st, 10th and 15th; give a shorter prefix", p)
		case hosts > 20:
			v.warn(at("serviceCIDRs", i), "%s is larger than the 20 bits that a kube-apiserver before 1.33 takes", p)
		}
	}
}

// usable refuses ranges that no host's address is of.
func (v *validator) usable(field string, p netip.Prefix) bool {
	if p.Bits() == 0 {
		v.wrong(field, "%s is every address; give a range", p)
		return false
	}
	for _, reserved := range []struct{ cidr, what string }{
		{"127.0.0.0/8", "the loopback addresses"}, {"169.254.0.0/16", "the link-local addresses"},
		{"224.0.0.0/3", "the multicast and reserved addresses"}, {"0.0.0.0/8", "no host's addresses"},
		{"::/127", "the loopback address"}, {"fe80::/10", "the link-local addresses"}, {"ff00::/8", "the multicast addresses"},
	} {
		if p.Overlaps(netip.MustParsePrefix(reserved.cidr)) {
			v.wrong(field, "%s overlaps %s, %s; choose private ones, such as %s", p, reserved.cidr, reserved.what, defaultPods)
			return false
		}
	}
	return true
}

func (v *validator) dhcp() {
	n := v.c.Network
	if !v.word("network.dhcp", n.DHCP, DHCPFull, DHCPProxy, DHCPNone) {
		return
	}
	if n.Interface != "" && (len(n.Interface) > 15 || !linkForm.MatchString(n.Interface)) {
		v.wrong("network.interface", "%s is not a network interface's name; \"ip link\" on the provisioner shows them", printable(n.Interface))
	}
	if m := leaseForm.FindStringSubmatch(n.LeaseTime); n.LeaseTime != "infinite" && m == nil {
		v.wrong("network.leaseTime", "%s is not a time; write it like 45m, 1h, or infinite", printable(n.LeaseTime))
	} else if m != nil {
		if seconds, _ := strconv.Atoi(m[1]); (m[2] == "" || m[2] == "s") && seconds < 120 || (m[2] == "m" && seconds < 2) || seconds == 0 {
			v.wrong("network.leaseTime", "%s is shorter than the two minutes that dnsmasq gives at least; make it longer", n.LeaseTime)
		}
	}
	if n.DHCP != DHCPNone || n.DNS {
		v.given("network.interface", n.Interface, "the provisioner's interface towards the machines, so that no other network is answered")
	}
	if n.DHCP != DHCPNone && !n.Subnet.IsValid() {
		v.wrong("network.subnet", "it is missing; give the machines' network, such as 172.18.0.0/24")
	}
	if n.DHCP != DHCPFull {
		for field, there := range map[string]bool{"network.range": n.Range != Range{}, "network.gateway": n.Gateway.IsValid()} {
			if there {
				v.wrong(field, "with dhcp: %s other servers give addresses; remove it", n.DHCP)
			}
		}
		return
	}
	v.addressRange()
	if !n.Gateway.IsValid() {
		v.warn("network.gateway", "it is missing, so machines have no way out to the registries; give it unless they have another card for that")
	} else if v.host("network.gateway", n.Gateway) && n.inRange(n.Gateway) {
		v.wrong("network.gateway", "%s is within network.range and could be given to a machine; move one of them", n.Gateway)
	}
	if p := v.provisioner(); n.inRange(p) {
		v.wrong("network.range", "it holds the provisioner's own address, %s; leave that out", p)
	}
}

func (v *validator) addressRange() {
	n := v.c.Network
	r := n.Range
	switch {
	case v.broken["network.range.start"] || v.broken["network.range.end"]:
		return
	case !r.Start.IsValid() || !r.End.IsValid():
		v.wrong("network.range", "start or end is missing; give both: the addresses for machines that have none of their own")
		return
	case !v.host("network.range.start", r.Start) || !v.host("network.range.end", r.End):
		return
	case r.End.Less(r.Start):
		v.wrong("network.range", "its end, %s, is before its start, %s; exchange them", r.End, r.Start)
	}
}

// host checks that a is an address for a host in the subnet.
func (v *validator) host(field string, a netip.Addr) bool {
	s := v.subnet
	switch {
	case !s.IsValid():
		return false
	case !s.Contains(a):
		v.wrong(field, "%s is not in network.subnet, %s; correct one of them", a, s)
	case s.Bits() < 31 && s.Addr().Is4() && (a == s.Addr() || a == lastOf(s)):
		v.wrong(field, "%s is the subnet's first or last address, which no host has; choose another", a)
	default:
		return true
	}
	return false
}

// lastOf is the broadcast address of an IPv4 network.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}

func (n Network) inRange(a netip.Addr) bool {
	r := n.Range
	return a.IsValid() && r.Start.IsValid() && r.End.IsValid() && !a.Less(r.Start) && !r.End.Less(a)
}

// provisioner is its address when the file has it, which it need not.
func (v *validator) provisioner() netip.Addr {
	u, err := url.Parse(v.c.Matchbox.HTTP)
	if err != nil {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(strings.Trim(u.Hostname(), "[]"))
	if err != nil {
		return netip.Addr{}
	}
	return a
}
