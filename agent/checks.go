package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/sysconfig"
	"github.com/tectonic-worker/tectonic-worker/units"
)

// minFree is the space under /var below which the kubelet would start to evict
// pods at once: its default hard eviction threshold is 10 % of nodefs, and an
// image of the kubelet alone takes about half of this.
const minFree = 1 << 30

// hostChecks is what a host must pass before join changes it. They need no
// cluster; clusterChecks do.
func (h *handles) hostChecks() []check {
	return []check{
		{"root", checkRoot},
		{"systemd", h.checkSystemd},
		{"runtime", h.checkRuntime},
		{"cri-socket", h.checkEndpoint},
		{"cgroup", checkCgroup},
		{"ports", h.checkPorts},
		{"swap", h.checkSwap},
		{"sysctl", h.checkSysctl},
		{"hostname", checkHostname},
		{"disk", h.checkDisk},
	}
}

func checkRoot(context.Context, *Facts) (Severity, string, string) {
	if os.Geteuid() != 0 {
		return SeverityFail, fmt.Sprintf("running as user %d", os.Geteuid()), "run it as root (sudo)"
	}
	return SeverityOK, "running as root", ""
}

func (h *handles) checkSystemd(ctx context.Context, _ *Facts) (Severity, string, string) {
	if !h.sys.Root.Exists("/run/systemd/system") { // sd_booted(3)
		return SeverityFail, "this host was not booted with systemd", "tectonic-worker runs the kubelet as a systemd service"
	}
	us, err := h.units(ctx)
	if err != nil {
		return SeverityFail, err.Error(), ""
	}
	for _, u := range []string{units.Kubelet, units.KubeletPath} {
		st, err := us.Unit(ctx, u)
		if err != nil {
			return SeverityFail, err.Error(), ""
		}
		if err := usable(u, st.Load); err != nil {
			return SeverityFail, err.Error(), ""
		}
		if u == units.Kubelet {
			h.kubeletRan = st.Running()
			// systemd before 250 names /usr/lib by way of the link /lib.
			if f := strings.TrimPrefix(st.Fragment, "/usr"); f != "" && f != strings.TrimPrefix(units.Dir, "/usr")+"/"+u {
				return SeverityWarn, fmt.Sprintf("%s is %s, not the one this package ships", u, st.Fragment), "remove it, or make it run \"tectonic-worker kubelet run\""
			}
		}
	}
	return SeverityOK, "systemd answers and has our units", ""
}

func (h *handles) checkRuntime(ctx context.Context, f *Facts) (Severity, string, string) {
	g := gatherer{sys: h.sys, h: h, f: f}
	if err := g.runtime(ctx); err != nil {
		return SeverityFail, err.Error(), ""
	}
	return SeverityOK, strings.TrimSpace(f.Runtime.Path + " " + f.Runtime.Version), ""
}

func (h *handles) checkEndpoint(ctx context.Context, f *Facts) (Severity, string, string) {
	g := gatherer{sys: h.sys, h: h, f: f}
	if err := g.endpoint(); err != nil {
		return SeverityFail, err.Error(), ""
	}
	if f.Endpoint == "" {
		return SeverityOK, "docker, through the kubelet's dockershim", ""
	}
	path, isUnix := strings.CutPrefix(f.Endpoint, "unix://")
	if !isUnix {
		return SeverityOK, f.Endpoint, ""
	}
	d := net.Dialer{Timeout: 2 * time.Second}
	conn, err := d.DialContext(ctx, "unix", h.sys.Root.Path(path))
	if err != nil {
		return SeverityFail, fmt.Sprintf("nothing answers at %s: %v", f.Endpoint, errors.Unwrap(err)), "start the container runtime (systemctl enable --now containerd)"
	}
	conn.Close()
	return SeverityOK, f.Endpoint + " answers", ""
}

func checkCgroup(_ context.Context, f *Facts) (Severity, string, string) {
	now := fmt.Sprintf("version %d, kubelet %s", f.Cgroup, f.Version)
	switch {
	case f.Cgroup == 1 && f.Version.Minor >= 35:
		// Kubernetes 1.35 changelog, #134298: failCgroupV1 became true.
		if v, _ := configBool(f.Kubelet.Config, "failCgroupV1"); v {
			return SeverityFail, now + ": this kubelet refuses cgroup version 1", "boot with systemd.unified_cgroup_hierarchy=1, or set failCgroupV1: false in " + kubelet.DropInDir
		}
	case f.Cgroup == 2 && f.Version.Minor < 19:
		return SeverityFail, now + ": kubelets before 1.19 know only cgroup version 1", "boot with systemd.unified_cgroup_hierarchy=0"
	}
	return SeverityOK, now, ""
}

// kubeletPorts are the ports the kubelet listens on: its API, and its healthz
// on loopback.
var kubeletPorts = []string{":10250", "127.0.0.1:10248"}

func (h *handles) checkPorts(ctx context.Context, _ *Facts) (Severity, string, string) {
	if h.kubeletRan {
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

func (h *handles) checkSwap(_ context.Context, f *Facts) (Severity, string, string) {
	data, err := h.sys.Root.ReadFile("/proc/swaps")
	if err != nil || strings.Count(strings.TrimSpace(string(data)), "\n") == 0 {
		return SeverityOK, "off", ""
	}
	if v, set := configBool(f.Kubelet.Config, "failSwapOn"); set && !v {
		return SeverityOK, "on, and the kubelet is set to bear it", ""
	}
	return SeverityFail, "on: the kubelet does not start with swap", "run \"swapoff -a\" and take it out of /etc/fstab, or set failSwapOn: false in " + kubelet.DropInDir
}

func (h *handles) checkSysctl(context.Context, *Facts) (Severity, string, string) {
	data, err := h.sys.Root.ReadFile("/proc/sys/net/ipv4/ip_forward")
	if err == nil && strings.TrimSpace(string(data)) == "0" {
		return SeverityWarn, "net.ipv4.ip_forward is 0: pods can't reach other nodes", "put net.ipv4.ip_forward = 1 into /etc/sysctl.d/99-kubernetes.conf and run \"sysctl --system\""
	}
	data, err = h.sys.Root.ReadFile("/proc/sys/net/bridge/bridge-nf-call-iptables")
	if err == nil && strings.TrimSpace(string(data)) == "0" {
		return SeverityWarn, "net.bridge.bridge-nf-call-iptables is 0: Services may not work for pods on one bridge", "put net.bridge.bridge-nf-call-iptables = 1 into /etc/sysctl.d/99-kubernetes.conf and run \"sysctl --system\""
	}
	return SeverityOK, "net.ipv4.ip_forward is 1", ""
}

// nodeName is a DNS-1123 subdomain: what the API server takes as a Node's name.
var nodeName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

func checkHostname(_ context.Context, f *Facts) (Severity, string, string) {
	switch {
	case !nodeName.MatchString(f.NodeName) || len(f.NodeName) > 253:
		return SeverityFail, fmt.Sprintf("%q can't be a Node's name", f.NodeName), "set another with hostnamectl, or NODE_NAME in " + sysconfig.Path
	case f.NodeName == "localhost" || strings.HasPrefix(f.NodeName, "localhost."):
		return SeverityFail, fmt.Sprintf("this host is called %q, as every unnamed one", f.NodeName), "set a name with hostnamectl, or NODE_NAME in " + sysconfig.Path
	}
	return SeverityOK, f.NodeName, ""
}

func (h *handles) checkDisk(context.Context, *Facts) (Severity, string, string) {
	for _, p := range []string{"/var/lib/kubelet", "/var/lib/containers"} {
		free, err := h.sys.Root.Free(p)
		if err == nil && free < minFree {
			return SeverityWarn, fmt.Sprintf("only %d MiB free for %s", free>>20, p), "make room: the kubelet evicts pods below 10 % free"
		}
	}
	return SeverityOK, "more than 1 GiB free under /var", ""
}

// checkClock compares our clock with the API server's Date header.
func checkClock(_ context.Context, f *Facts) (Severity, string, string) {
	if f.Server.Date.IsZero() {
		return SeverityOK, "not compared: the API server sent no date", ""
	}
	if note := f.Server.ClockNote(); note != "" {
		return SeverityWarn, note, "set the time (systemctl enable --now chronyd): certificates and tokens fail otherwise"
	}
	return SeverityOK, "within a minute of the API server's", ""
}

// configBool reads one top-level boolean of a rendered KubeletConfiguration.
func configBool(config []byte, field string) (value, set bool) {
	var m map[string]any
	if yaml.Unmarshal(config, &m) != nil {
		return false, false
	}
	switch v := m[field].(type) {
	case bool:
		return v, true
	case string:
		b, err := strconv.ParseBool(v)
		return b, err == nil
	}
	return false, false
}
