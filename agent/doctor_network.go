package agent

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tectonic-worker/tectonic-worker/firewall"
	"github.com/tectonic-worker/tectonic-worker/sysconfig"
)

// kubeletPorts are the ports the kubelet listens on: its API, and its healthz
// on loopback.
var kubeletPorts = []string{":10250", "127.0.0.1:10248"}

func (x *examiner) checkPorts(ctx context.Context) (Severity, string, string) {
	if x.kubeletRan {
		return SeverityOK, "in use by our kubelet", ""
	}
	var lc net.ListenConfig
	for _, addr := range kubeletPorts {
		l, err := lc.Listen(ctx, "tcp", addr)
		if errors.Is(err, syscall.EADDRINUSE) {
			_, p, _ := net.SplitHostPort(addr)
			return SeverityFail, "port " + p + "/tcp is in use", fmt.Sprintf("find by whom with \"ss -ltnp sport = :%s\" and stop it (another kubelet?)", p)
		}
		if err == nil {
			l.Close()
		}
	}
	return SeverityOK, "10250/tcp and 10248/tcp are free", ""
}

// The API server's default --service-node-port-range.
const (
	firstNodePort = 30000
	lastNodePort  = 32767
)

func (x *examiner) checkNodePorts(context.Context) (Severity, string, string) {
	if r := strings.Fields(x.sysctl("net.ipv4.ip_local_port_range")); len(r) == 2 {
		low, _ := strconv.Atoi(r[0])
		high, _ := strconv.Atoi(r[1])
		if low <= lastNodePort && high >= firstNodePort && !reserved(x.sysctl("net.ipv4.ip_local_reserved_ports")) {
			return SeverityWarn, fmt.Sprintf("the kernel gives ports %d to %d to outgoing connections: NodePorts among them fail at times", low, high),
				"put net.ipv4.ip_local_reserved_ports = 30000-32767 into /etc/sysctl.d/99-kubernetes.conf and run \"sysctl --system\""
		}
	}
	if x.kubeletRan {
		return SeverityOK, "kept from outgoing connections", "" // old kube-proxies listen on them
	}
	if p := x.listener(firstNodePort, lastNodePort); p != 0 {
		return SeverityWarn, fmt.Sprintf("port %d is listened on: a Service with that NodePort can't be reached here", p), fmt.Sprintf("see by whom with \"ss -ltnup sport = :%d\"", p)
	}
	return SeverityOK, "30000-32767 are free, and kept from outgoing connections", ""
}

// reserved tells whether a list of ports and ranges has every NodePort.
func reserved(list string) bool {
	for _, part := range strings.Split(list, ",") {
		a, b, isRange := strings.Cut(strings.TrimSpace(part), "-")
		low, _ := strconv.Atoi(a)
		high, _ := strconv.Atoi(b)
		if isRange && low <= firstNodePort && high >= lastNodePort {
			return true
		}
	}
	return false
}

// listener finds a port in a range that something listens on, from the kernel's
// tables (proc_net_tcp(5)); 0 where there is none.
func (x *examiner) listener(low, high int) int {
	for table, listening := range map[string]string{"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"} {
		data, err := x.sys.Root.ReadFile("/proc/net/" + table)
		if err != nil {
			continue
		}
		for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
			f := strings.Fields(lines.Text())
			if len(f) < 4 || f[3] != listening {
				continue
			}
			_, hex, _ := strings.Cut(f[1], ":")
			if p, err := strconv.ParseUint(hex, 16, 16); err == nil && int(p) >= low && int(p) <= high {
				return int(p)
			}
		}
	}
	return 0
}

func (x *examiner) checkNodeIP(context.Context) (Severity, string, string) {
	ips := x.f.Settings.NodeIPs
	if len(ips) == 0 {
		return SeverityOK, "not set: the kubelet takes the address of the default route", ""
	}
	var said []string
	for _, ip := range ips {
		if ip == x.f.DNS {
			return SeverityFail, fmt.Sprintf("NODE_IP is %s, which is the cluster's DNS address", ip), "set NODE_IP in " + sysconfig.Path + " to an address of this host"
		}
		if ip.IsUnspecified() {
			continue // the kubelet chooses one of that family
		}
		iface := interfaceOf(ip)
		if iface == "" {
			return SeverityFail, fmt.Sprintf("no interface of this host has the address %s of NODE_IP", ip), "set NODE_IP in " + sysconfig.Path + " to one of \"ip -brief address\", or leave it out"
		}
		said = append(said, fmt.Sprintf("%s is %s's", ip, iface))
	}
	return SeverityOK, strings.Join(said, ", "), ""
}

func (x *examiner) checkFirewalld(ctx context.Context) (Severity, string, string) {
	if x.f.Settings.Firewall == sysconfig.FirewallLeave {
		return SeverityNote, "left alone (FIREWALL=leave): open " + portList(x.f) + " yourself", ""
	}
	fw, err := x.firewall(ctx)
	if err != nil {
		return SeverityNote, "not known: " + err.Error(), ""
	}
	st, err := fw.State(ctx)
	if err != nil {
		return SeverityWarn, err.Error(), ""
	}
	switch {
	case st.Panic:
		return SeverityFail, st.Note(), ""
	case st.Presence == firewall.Failed:
		return SeverityWarn, st.Note(), ""
	case !st.Serves():
		return SeverityNote, st.Note(), ""
	}
	said := fmt.Sprintf("firewalld %s runs, default zone %s", st.Version, st.DefaultZone)
	if us, err := x.units(ctx); err == nil {
		for _, other := range []string{"iptables.service", "nftables.service"} {
			if u, err := us.Unit(ctx, other); err == nil && u.Running() {
				return SeverityWarn, said + ", and so does " + other, "two services that set up the packet filter undo each other: \"systemctl disable --now " + other + "\""
			}
		}
	}
	if !x.kubeletRan || x.joining {
		return SeverityOK, said, ""
	}
	zone := st.DefaultZone
	if l, err := OpenLedger(x.sys.Root); err == nil {
		zone = recordedZone(l, x.f.Settings, zone)
	}
	var shut []string
	for _, p := range x.f.Settings.FirewallPorts {
		for _, layer := range firewall.Layers() {
			open, err := fw.Query(ctx, layer, zone, firewall.Port(p))
			if err != nil {
				return SeverityWarn, err.Error(), ""
			}
			if !open {
				shut = append(shut, fmt.Sprintf("%s (%s)", p, layer))
			}
		}
	}
	if shut != nil {
		return SeverityFail, fmt.Sprintf("shut in zone %s: %s", zone, strings.Join(shut, ", ")), "run \"tectonic-worker join\" again, which opens them"
	}
	return SeverityOK, fmt.Sprintf("%s; %s are open in zone %s", said, portList(x.f), zone), ""
}

// resolvConf is what kubelets give their pods the servers of.
const resolvConf = "/etc/resolv.conf"

func (x *examiner) checkResolvConf(context.Context) (Severity, string, string) {
	path := resolvConf
	if p, _ := configField(x.f.Kubelet.Config, "resolvConf").(string); p != "" {
		path = p
	}
	data, err := x.sys.Root.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if to, err := os.Readlink(x.sys.Root.Path(path)); err == nil {
			return SeverityFail, path + " is a link to " + to + ", which is not there", "start what writes it (NetworkManager, systemd-resolved), or put a file in its place"
		}
		return SeverityFail, "there is no " + path, "start what writes it (NetworkManager), or write one with a line \"nameserver ADDRESS\""
	case err != nil:
		return SeverityFail, err.Error(), ""
	}
	var servers []netip.Addr
	for _, line := range strings.Split(string(data), "\n") {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "nameserver" {
			if ip, err := netip.ParseAddr(f[1]); err == nil {
				servers = append(servers, ip)
			}
		}
	}
	if servers == nil {
		return SeverityFail, path + " names no server", "add a line \"nameserver ADDRESS\", or mend what writes it (nmcli device show)"
	}
	for _, ip := range servers {
		if ip.IsLoopback() {
			return SeverityWarn, fmt.Sprintf("%s names %s: in a pod with the host's resolver, and in the cluster's DNS pods, that is the pod itself", path, ip),
				"put \"resolvConf: /run/systemd/resolve/resolv.conf\" (or another file without it) into a file in /etc/tectonic-worker/kubelet.d"
		}
	}
	if len(servers) > 3 {
		return SeverityNote, fmt.Sprintf("%s names %d servers: the kubelet and the C library take the first three", path, len(servers)), ""
	}
	return SeverityOK, fmt.Sprintf("%s names %d servers", path, len(servers)), ""
}

// dnsTime bounds the look-up: twice the C library's timeout for one server.
const dnsTime = 10 * time.Second

func (x *examiner) checkDNS(ctx context.Context) (Severity, string, string) {
	if x.f.Kubeconfig == nil {
		return SeverityNote, "not asked: there is no valid kubeconfig to take a name from", ""
	}
	u, err := url.Parse(x.f.Kubeconfig.Server)
	if err != nil {
		return SeverityFail, err.Error(), ""
	}
	name := u.Hostname()
	if _, err := netip.ParseAddr(name); err == nil {
		return SeverityOK, "the API server is named by its address", ""
	}
	ctx, cancel := context.WithTimeout(ctx, dnsTime)
	defer cancel()
	begin := time.Now()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	var de *net.DNSError
	const remedy = "check the servers in /etc/resolv.conf (getent ahosts "
	switch {
	case err == nil:
		return SeverityOK, fmt.Sprintf("%s is %s (%d ms)", name, addrs[0].Unmap(), time.Since(begin).Milliseconds()), ""
	case errors.As(err, &de) && de.IsNotFound:
		return SeverityFail, name + " does not exist, as the DNS server says", "check the name in the kubeconfig, and " + remedy + name + ")"
	case errors.As(err, &de) && de.IsTimeout, ctx.Err() != nil:
		return SeverityFail, fmt.Sprintf("no DNS server answered for %s within %v", name, dnsTime), remedy + name + ")"
	}
	return SeverityFail, fmt.Sprintf("%s can't be resolved: %v", name, err), remedy + name + ")"
}
