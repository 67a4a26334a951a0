package netboot

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
)

// Render makes dnsmasq's configuration for a cluster. The error joins all that is wrong, by field. With network.dhcp
// "none" the result has no DHCP and no TFTP, and is only good for something when network.dns is set.
func Render(c *cluster.Cluster, o Options) (Config, error) {
	r := renderer{c: c}
	r.interfaceName()
	switch c.Network.DHCP {
	case cluster.DHCPFull:
		r.boot(o)
		r.full(o)
	case cluster.DHCPProxy:
		r.boot(o)
		r.proxy()
	case cluster.DHCPNone:
		if url, err := BootURL(c); err == nil {
			r.note("your DHCP server must send iPXE (user class iPXE) to %s, and everything else to an iPXE of its architecture by TFTP or HTTP Boot", url)
		}
	default:
		r.fail("network.dhcp: %q is none of full, proxy, none", c.Network.DHCP)
	}
	r.dns()
	if len(r.errs) > 0 {
		return Config{}, errors.Join(r.errs...)
	}
	return Config{Text: r.text.Bytes(), Files: r.files, Notes: r.notes}, nil
}

type renderer struct {
	c     *cluster.Cluster
	text  bytes.Buffer
	files map[string][]byte
	notes []string
	errs  []error
}

func (r *renderer) line(format string, a ...any) { fmt.Fprintf(&r.text, format+"\n", a...) }
func (r *renderer) note(format string, a ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, a...))
}
func (r *renderer) fail(format string, a ...any) { r.errs = append(r.errs, fmt.Errorf(format, a...)) }
func (r *renderer) keep(err error) bool {
	if err != nil {
		r.errs = append(r.errs, err)
	}
	return err == nil
}

// interfaceName keeps dnsmasq to the one interface: it shares the host with other DNS and DHCP servers (libvirt's,
// systemd-resolved), and must not answer on any network that nobody gave it.
func (r *renderer) interfaceName() {
	name := r.c.Network.Interface
	if !safeInterface.MatchString(name) {
		r.fail("network.interface: %q is not the name of a network interface; take one from \"ip link\"", name)
		return
	}
	r.line("# tectonic-installer netboot: dnsmasq for cluster %s. Rendered from the cluster file; edit that one.", commentSafe(r.c.Name))
	r.line("interface=%s", name)
	r.line("except-interface=lo")
	r.line("bind-dynamic")
	r.line("no-hosts")
}

// commentSafe is for a comment: the name has its own rules in the cluster file, a line break would end the comment.
func commentSafe(s string) string {
	if !safeName.MatchString(s) {
		return "(unnamed)"
	}
	return s
}

// maxTransfers at the same time, as many as 1024 file descriptors allow (dnsmasq(8), --tftp-max); dnsmasq's own 50 keep
// the rest of a rack waiting.
const maxTransfers = 900

// boot renders what each client architecture is told to load.
func (r *renderer) boot(o Options) {
	root, err := safePathOr("TFTP root", o.TFTPRoot, DefaultTFTPRoot)
	r.keep(err)
	bootURL, err := BootURL(r.c)
	if !r.keep(err) {
		return
	}
	r.files = map[string][]byte{FileAutoexec: autoexec(bootURL)}

	r.line("\n# Which firmware asks (option 93, RFC 4578 and IANA), and whether it is iPXE already.")
	r.line("log-dhcp")
	for _, a := range archs {
		tag := fileTag(a)
		r.line("dhcp-match=set:%s,option:client-arch,%d", tag, a.number)
	}
	// iPXE lists what it can do in option 175; 19 is HTTP. One that cannot, as in the ROMs of some cards, gets ours.
	r.line("dhcp-match=set:ipxe,175,19")

	r.line("\n# iPXE goes to matchbox, everything else to an iPXE of its architecture.")
	r.line("enable-tftp")
	r.line("tftp-root=%s", root)
	r.line("tftp-max=%d", maxTransfers)
	r.line("dhcp-boot=tag:ipxe,%s", bootURL)
	proxy := r.c.Network.DHCP == cluster.DHCPProxy
	seen := map[string]bool{}
	for _, a := range archs {
		tag := fileTag(a)
		if seen[tag] {
			continue
		}
		seen[tag] = true
		switch {
		case a.http:
			fileURL, err := below(r.c, "assets/ipxe/"+a.file)
			if !r.keep(err) {
				return
			}
			r.line("dhcp-boot=tag:!ipxe,tag:%s,%s", tag, fileURL)
			// Without option 60 in the answer UEFI takes the offer for one that has nothing to do with HTTP Boot (UEFI 2.10,
			// 24.7.2.1).
			r.line("dhcp-option-force=tag:!ipxe,tag:%s,option:vendor-class,HTTPClient", tag)
		case !proxy:
			r.line("dhcp-boot=tag:!ipxe,tag:%s,%s", tag, a.file)
		}
	}
}

// fileTag is dnsmasq's tag for the clients that get one and the same boot file in the same way.
func fileTag(a arch) string {
	tag := map[string]string{FileBIOS: "bios", FileUEFI: "uefi", FileARM64: "arm64"}[a.file]
	if a.http {
		tag += "-http"
	}
	return tag
}

// maxLeases bounds what a network full of made-up MACs can make dnsmasq remember.
const maxLeases = 1 << 16

func (r *renderer) full(o Options) {
	n := r.c.Network
	lease, err := safePathOr("lease file", o.LeaseFile, DefaultLeaseFile)
	r.keep(err)
	if !n.Subnet.IsValid() || !n.Subnet.Addr().Is4() {
		r.fail("network.subnet: %s is not an IPv4 network; full DHCP boots machines over IPv4, write it like 10.0.0.0/24", n.Subnet)
		return
	}
	leaseTime := n.LeaseTime
	if leaseTime == "" {
		leaseTime = "1h"
	}
	if !safeLease.MatchString(leaseTime) {
		r.fail("network.leaseTime: %q is no lease time of dnsmasq; write it like 30m, 1h or infinite", n.LeaseTime)
		leaseTime = "1h"
	}
	mask := net.IP(net.CIDRMask(n.Subnet.Bits(), 32))
	r.line("\n# Addresses. We are the only DHCP server of this network.")
	r.line("dhcp-authoritative")
	r.line("dhcp-leasefile=%s", lease)
	// One for each address that there is; dnsmasq stops at 1000 of its own accord.
	r.line("dhcp-lease-max=%d", max(1000, min(1<<(32-n.Subnet.Bits()), maxLeases)))
	// A machine's name is the cluster file's: one that calls itself matchbox must not become it in DNS.
	r.line("dhcp-ignore-names")
	switch {
	case n.Range.Start.IsValid() && n.Range.End.IsValid():
		if !n.Subnet.Contains(n.Range.Start) || !n.Subnet.Contains(n.Range.End) || n.Range.End.Less(n.Range.Start) {
			r.fail("network.range: %s to %s is not a range within network.subnet %s", n.Range.Start, n.Range.End, n.Subnet)
			return
		}
		r.line("dhcp-range=%s,%s,%s,%s", n.Range.Start, n.Range.End, mask, leaseTime)
	default:
		r.line("dhcp-range=%s,static,%s,%s", n.Subnet.Masked().Addr(), mask, leaseTime)
		r.note("network.range is empty: only machines with an address in the cluster file are answered, unknown ones cannot be discovered")
	}
	if n.Gateway.IsValid() {
		if !n.Subnet.Contains(n.Gateway) {
			r.fail("network.gateway: %s is not in network.subnet %s", n.Gateway, n.Subnet)
		}
		r.line("dhcp-option=option:router,%s", n.Gateway)
	} else {
		// An empty value keeps dnsmasq from naming itself (dnsmasq(8), --dhcp-option).
		r.line("dhcp-option=option:router")
	}
	switch {
	case n.DNS: // dnsmasq names itself
	case len(n.Upstream) > 0:
		r.line("dhcp-option=option:dns-server%s", addresses(n.Upstream))
	default:
		r.line("dhcp-option=option:dns-server")
	}
	r.reservations(leaseTime)
}

// addresses gives ",a,b" of those that a DHCPv4 option can carry.
func addresses(list []netip.Addr) string {
	var b strings.Builder
	for _, a := range list {
		if a.Unmap().Is4() {
			b.WriteString("," + a.Unmap().String())
		}
	}
	return b.String()
}

// reservations writes one line per machine. Several cards share its address: dnsmasq moves it to the card that asked
// last (dnsmasq(8), --dhcp-host), which is right for "whichever card boots".
func (r *renderer) reservations(leaseTime string) {
	domain := r.domain()
	if domain != "" {
		r.line("domain=%s", domain)
	}
	for i, m := range r.c.Machines {
		field := fmt.Sprintf("machines[%d]", i)
		if len(m.MACs) == 0 {
			r.fail("%s.macs: %q has none; DHCP knows a machine by the addresses of its cards", field, m.Name)
			continue
		}
		var parts []string
		for j, mac := range m.MACs {
			hw, err := cluster.ParseMAC(string(mac))
			if err != nil {
				r.fail("%s.macs[%d]: %w", field, j, err)
				continue
			}
			parts = append(parts, dhcpHostMAC(hw))
		}
		if m.Address.IsValid() {
			if !m.Address.Is4() || !r.c.Network.Subnet.Contains(m.Address) {
				r.fail("%s.address: %s is not in network.subnet %s", field, m.Address, r.c.Network.Subnet)
			}
			parts = append(parts, m.Address.String())
		}
		if m.DNSName != "" {
			name, err := dnsName(field+".dnsName", m.DNSName)
			r.keep(err)
			if label, rest, _ := strings.Cut(name, "."); rest == domain {
				parts = append(parts, label)
			}
		}
		r.line("dhcp-host=%s,%s", strings.Join(parts, ","), leaseTime)
	}
}

// dhcpHostMAC is a MAC as dhcp-host takes it: InfiniBand needs its hardware type, 20 (hex) with dnsmasq.
func dhcpHostMAC(mac cluster.MAC) string {
	if strings.Count(string(mac), ":") == 19 {
		return "20-" + string(mac)
	}
	return string(mac)
}

// domain is the one that all machines' names share, empty when they do not: dnsmasq takes one per network, and names
// from another would be dropped with a warning.
func (r *renderer) domain() string {
	domain := ""
	for _, m := range r.c.Machines {
		if m.DNSName == "" {
			continue
		}
		name, err := dnsName("dnsName", m.DNSName)
		if err != nil {
			return "" // reported where the machine is
		}
		_, rest, _ := strings.Cut(name, ".")
		if rest == "" || (domain != "" && rest != domain) {
			return ""
		}
		domain = rest
	}
	return domain
}

// proxy adds the boot file beside another server's addresses (PXE specification 2.1, 2.2.3).
func (r *renderer) proxy() {
	n := r.c.Network
	if !n.Subnet.IsValid() || !n.Subnet.Addr().Is4() {
		r.fail("network.subnet: %s is not an IPv4 network; proxy DHCP must know which network it serves, write it like 10.0.0.0/24", n.Subnet)
		return
	}
	r.line("\n# Another server gives the addresses.")
	r.line("dhcp-range=%s,proxy,%s", n.Subnet.Masked().Addr(), net.IP(net.CIDRMask(n.Subnet.Bits(), 32)))
	// UEFI HTTP Boot is answered as PXE is, with its own vendor class (dnsmasq(8), --dhcp-pxe-vendor).
	r.line("dhcp-pxe-vendor=PXEClient,HTTPClient")
	for _, a := range archs {
		if !a.http {
			r.line("pxe-service=tag:!ipxe,%s,iPXE,%s", a.csa, a.file)
		}
	}
	r.note("network.dhcp is proxy: the site's DHCP server gives the addresses and must send no boot file of its own")
	if !n.DNS {
		r.dnsNote()
	}
}
