package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tectonic-worker/tectonic-worker/agent/host"
	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
	"github.com/tectonic-worker/tectonic-worker/agent/selinux"
	"github.com/tectonic-worker/tectonic-worker/agent/systemd"
	"github.com/tectonic-worker/tectonic-worker/firewall"
	"github.com/tectonic-worker/tectonic-worker/sysconfig"
)

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		panic(err)
	}
	return unix.ByteSliceToString(u.Release[:])
}

// Each check, alone, on a crafted host: what it finds, how bad that is, and
// that the sentence names it.
func TestChecks(t *testing.T) {
	put := func(path, content string) func(*doubles, *examiner) {
		return func(d *doubles, _ *examiner) { mustWrite(d.root, path, content) }
	}
	facts := func(set func(f *Facts)) func(*doubles, *examiner) {
		return func(_ *doubles, x *examiner) { set(x.f) }
	}
	modules := "/lib/modules/" + kernelRelease()
	v := func(s string) kubelet.Version {
		parsed, err := kubelet.ParseVersion(s)
		if err != nil {
			panic(err)
		}
		return parsed
	}
	el10 := put("/etc/os-release", "ID=\"almalinux\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"10.0\"\nPRETTY_NAME=\"AlmaLinux 10.0\"\n")
	type setup []func(*doubles, *examiner)
	for _, tt := range []struct {
		check string
		setup setup
		want  Severity
		says  string
	}{
		{"os", setup{el10}, SeverityOK, "AlmaLinux 10.0"},
		{"os", setup{put("/etc/os-release", "ID=rhel\nVERSION_ID=6.10\nPRETTY_NAME=\"RHEL 6.10\"\n")}, SeverityWarn, "RHEL 7 to 10"},
		{"os", setup{put("/etc/os-release", "ID=debian\nPRETTY_NAME=Debian\n")}, SeverityNote, "is not RHEL"},
		{"os", nil, SeverityNote, "does not say"},

		{"systemd", nil, SeverityFail, "not booted with systemd"},
		{"systemd", setup{put("/run/systemd/system/x", "")}, SeverityOK, ""},
		{"systemd", setup{put("/run/systemd/system/x", ""), unit("kubelet.service", func(st *systemd.State) { st.Load = "masked" })}, SeverityFail, "unmask"},
		{"systemd", setup{put("/run/systemd/system/x", ""), unit("kubelet.service", func(st *systemd.State) { st.Fragment = "/etc/systemd/system/kubelet.service" })}, SeverityWarn, "not the one this package ships"},
		{"systemd", setup{put("/run/systemd/system/x", ""), unit("kubelet.path", func(st *systemd.State) { st.Stale = true })}, SeverityWarn, "daemon-reload"},
		{"systemd", setup{put("/run/systemd/system/x", ""), put("/d.conf", "[Service]\nExecStart=\nExecStart=/bin/x\n"), unit("kubelet.service", func(st *systemd.State) { st.DropIns = []string{"/d.conf"} })}, SeverityWarn, "/d.conf"},
		{"systemd", setup{put("/run/systemd/system/x", ""), put("/d.conf", "[Service]\nExecStartPre=/bin/x\n"), unit("kubelet.service", func(st *systemd.State) { st.DropIns = []string{"/d.conf"} })}, SeverityOK, ""},

		{"hardware", setup{put("/proc/cpuinfo", "processor\t: 0\nmodel name\t: x\nprocessor\t: 1\n"), put("/proc/meminfo", "MemTotal:        7900000 kB\n")}, "", "2 processors"},
		{"hardware", setup{put("/proc/cpuinfo", "processor\t: 0\n"), put("/proc/meminfo", "MemTotal:        2000000 kB\n")}, SeverityWarn, "only 1 processors and 2.0 GB of memory"},

		{"programs", nil, SeverityFail, "missing: mount; umount"},
		{"programs", setup{programs("mount", "umount", "journalctl", "systemctl")}, SeverityWarn, "modprobe"},
		{"programs", setup{programs("mount", "umount", "journalctl", "systemctl", "modprobe")}, SeverityOK, ""},
		{"programs", setup{programs("mount", "umount", "journalctl", "systemctl", "modprobe"), facts(func(f *Facts) { f.Runtime.Name = sysconfig.RuntimePodman })}, SeverityFail, "crun or runc, for podman"},
		{"programs", setup{programs("mount", "umount", "journalctl", "systemctl", "modprobe", "runc"), facts(func(f *Facts) { f.Endpoint = "unix:///run/containerd/containerd.sock" })}, SeverityFail, "containerd-shim-runc-v2"},

		{"leftovers", nil, SeverityOK, ""},
		{"leftovers", setup{put("/etc/kubernetes/kubelet.conf", ""), put("/var/lib/rancher/k3s/x", "")}, SeverityWarn, "/etc/kubernetes/kubelet.conf (kubeadm), /var/lib/rancher/k3s (k3s)"},
		{"leftovers", setup{put("/etc/kubernetes/manifests/etcd.yaml", "")}, SeverityWarn, "static pod"},
		{"leftovers", setup{put("/proc/42/comm", "k3s-agent\n"), put("/proc/42/cgroup", "0::/system.slice/k3s.service\n")}, SeverityFail, "process 42"},
		{"leftovers", setup{put("/proc/42/comm", "kubelet\n"), put("/proc/42/cgroup", "0::/system.slice/kubelet.service/x\n")}, SeverityOK, ""},

		{"hostname", setup{facts(func(f *Facts) { f.NodeName = "worker-1.example" })}, SeverityOK, "worker-1.example"},
		{"hostname", setup{facts(func(f *Facts) { f.NodeName = "Worker_1" })}, SeverityFail, "can't be a Node's name"},
		{"hostname", setup{facts(func(f *Facts) { f.NodeName = "localhost.localdomain" })}, SeverityFail, "every unnamed one"},
		{"hostname", setup{facts(func(f *Facts) { f.NodeName = strings.Repeat("a", 64) })}, SeverityFail, "takes 63"},

		{"machine-id", nil, SeverityFail, "no /etc/machine-id"},
		{"machine-id", setup{put("/etc/machine-id", "\n")}, SeverityFail, "empty"},
		{"machine-id", setup{put("/etc/machine-id", "uninitialized\n")}, SeverityFail, "empty"},
		{"machine-id", setup{put("/etc/machine-id", strings.Repeat("0", 32)+"\n")}, SeverityFail, "no machine ID"},
		{"machine-id", setup{put("/etc/machine-id", "0123456789abcdef0123456789abcdef\n")}, SeverityOK, ""},

		{"cgroup", setup{facts(func(f *Facts) { f.Cgroup = 1; f.Version = v("v1.34.1") })}, SeverityOK, "version 1"},
		{"cgroup", setup{facts(func(f *Facts) {
			f.Cgroup = 1
			f.Version = v("v1.35.0")
			f.Kubelet.Config = []byte("failCgroupV1: true\n")
		})}, SeverityFail, "refuses cgroup version 1"},
		{"cgroup", setup{facts(func(f *Facts) {
			f.Cgroup = 1
			f.Version = v("v1.35.0")
			f.Kubelet.Config = []byte("failCgroupV1: false\n")
		})}, SeverityOK, ""},
		{"cgroup", setup{facts(func(f *Facts) { f.Cgroup = 2; f.Version = v("v1.8.9") })}, SeverityFail, "unified_cgroup_hierarchy=0"},
		{"cgroup", setup{facts(func(f *Facts) { f.Cgroup = 2 })}, SeverityNote, "not known yet"},

		{"cgroup-controllers", setup{facts(func(f *Facts) { f.Cgroup = 2 }), put("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids\n")}, SeverityOK, ""},
		{"cgroup-controllers", setup{facts(func(f *Facts) { f.Cgroup = 2 }), put("/sys/fs/cgroup/cgroup.controllers", "cpu io pids\n")}, SeverityFail, "cpuset, memory"},
		{"cgroup-controllers", setup{facts(func(f *Facts) { f.Cgroup = 1 }), put("/proc/cgroups", "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t1\t1\ncpuacct\t1\t1\t1\ncpuset\t1\t1\t1\ndevices\t1\t1\t1\nmemory\t0\t1\t0\n")}, SeverityFail, "memory"},

		{"swap", setup{put("/proc/swaps", "Filename Type Size Used Priority\n")}, SeverityOK, "off"},
		{"swap", setup{put("/proc/swaps", "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n")}, SeverityFail, "swapoff"},
		{"swap", setup{put("/proc/swaps", "Filename\n/dev/sda2\n"), facts(func(f *Facts) { f.Kubelet.Config = []byte("failSwapOn: false\n") })}, SeverityOK, "bear"},

		{"kernel-modules", nil, SeverityNote, "not known"},
		{"kernel-modules", setup{put(modules+"/modules.dep", "kernel/fs/overlayfs/overlay.ko.xz:\nkernel/net/bridge/br_netfilter.ko.xz: a\nkernel/net/netfilter/nf_conntrack.ko.xz:\n"), put(modules+"/modules.builtin", "kernel/net/netfilter/ipset/ip_set.ko\n")}, SeverityOK, ""},
		{"kernel-modules", setup{el10, put(modules+"/modules.dep", "kernel/fs/overlayfs/overlay.ko.xz:\nkernel/net/netfilter/nf_conntrack.ko.xz:\n"), put("/sys/module/br_netfilter/x", "")}, SeverityWarn, "kernel-modules-extra-$(uname -r)"},

		{"sysctl", setup{sysctl("net.ipv4.ip_forward", "0")}, SeverityWarn, "ip_forward"},
		{"sysctl", setup{sysctl("net.ipv4.ip_forward", "1"), sysctl("net.bridge.bridge-nf-call-iptables", "0")}, SeverityWarn, "bridge-nf"},
		{"sysctl", setup{sysctl("net.ipv4.ip_forward", "1"), sysctl("net.ipv6.conf.all.forwarding", "0"), facts(func(f *Facts) { f.Settings.NodeIPs = []netip.Addr{netip.MustParseAddr("2001:db8::1")} })}, SeverityWarn, "IPv6"},

		{"kernel-defaults", setup{sysctl("vm.overcommit_memory", "0")}, SeverityOK, "sets them itself"},
		{"kernel-defaults", setup{sysctl("vm.overcommit_memory", "0"), sysctl("kernel.panic", "10"), facts(func(f *Facts) { f.Kubelet.Config = []byte("protectKernelDefaults: true\n") })}, SeverityFail, "vm.overcommit_memory is 0; put vm.overcommit_memory = 1"},
		{"kernel-defaults", setup{sysctl("vm.overcommit_memory", "1"), facts(func(f *Facts) { f.Kubelet.Config = []byte("protectKernelDefaults: true\n") })}, SeverityOK, ""},

		{"selinux", nil, SeverityOK, "disabled"},
		{"selinux", setup{put(selinux.ConfigPath, "SELINUX=enforcing\n"), mode(selinux.Enforcing), facts(func(f *Facts) { f.Settings.SELinuxMode = sysconfig.SELinuxAuto })}, SeverityNote, "join will make it permissive"},
		{"selinux", setup{put(selinux.ConfigPath, "SELINUX=enforcing\n"), mode(selinux.Enforcing), kubeletRuns, facts(func(f *Facts) { f.Settings.SELinuxMode = sysconfig.SELinuxAuto })}, SeverityWarn, "permissive is wanted"},
		{"selinux", setup{put(selinux.ConfigPath, "SELINUX=permissive\nSELINUXTYPE=mls\n"), mode(selinux.Permissive)}, SeverityWarn, "mls"},
		{"selinux", setup{put(selinux.ConfigPath, "SELINUX=enforcing\n"), put("/proc/cmdline", "ro selinux=0 quiet\n")}, SeverityNote, "selinux=0"},

		{"fapolicyd", nil, SeverityOK, "not installed"},
		{"fapolicyd", setup{put(fapolicydConf, "permissive = 0\n"), unitRuns(fapolicyd), put(fapolicydRules, "allow perm=any uid=0 : dir=/usr/\n")}, SeverityWarn, "fagenrules"},
		{"fapolicyd", setup{put(fapolicydConf, "permissive = 0\n"), unitRuns(fapolicyd), put(fapolicydRules, "allow perm=any all : dir=/var/lib/containers/\n")}, SeverityOK, ""},
		{"fapolicyd", setup{put(fapolicydConf, "permissive = 1\n"), unitRuns(fapolicyd)}, SeverityOK, "only reports"},

		{"node-ports", setup{sysctl("net.ipv4.ip_local_port_range", "32768\t60999")}, SeverityOK, ""},
		{"node-ports", setup{sysctl("net.ipv4.ip_local_port_range", "1024\t65000")}, SeverityWarn, "ip_local_reserved_ports"},
		{"node-ports", setup{sysctl("net.ipv4.ip_local_port_range", "1024\t65000"), sysctl("net.ipv4.ip_local_reserved_ports", "22,30000-32767")}, SeverityOK, ""},
		{"node-ports", setup{put("/proc/net/tcp", "  sl  local_address rem_address   st\n   0: 00000000:7580 00000000:0000 0A 0\n")}, SeverityWarn, "30080"},
		{"node-ports", setup{put("/proc/net/tcp", "   0: 00000000:7580 00000000:0000 01 0\n")}, SeverityOK, ""},

		{"node-ip", setup{facts(func(f *Facts) { f.Settings.NodeIPs = []netip.Addr{netip.MustParseAddr("192.0.2.1")} })}, SeverityFail, "192.0.2.1"},
		{"node-ip", setup{facts(func(f *Facts) {
			f.DNS = netip.MustParseAddr("10.3.0.10")
			f.Settings.NodeIPs = []netip.Addr{f.DNS}
		})}, SeverityFail, "DNS address"},

		{"firewalld", nil, SeverityOK, "public"},
		{"firewalld", setup{fw(func(d *firewallDouble) { d.state.Panic = true })}, SeverityFail, "panic"},
		{"firewalld", setup{fw(func(d *firewallDouble) { d.state = firewall.State{Presence: firewall.Masked} })}, SeverityNote, "masked"},
		{"firewalld", setup{fw(func(d *firewallDouble) { d.state.Presence = firewall.Failed })}, SeverityWarn, "check-config"},
		{"firewalld", setup{unitRuns("iptables.service")}, SeverityWarn, "iptables.service"},
		{"firewalld", setup{kubeletRuns, facts(func(f *Facts) { f.Settings.FirewallPorts = []sysconfig.Port{{Port: "10250", Protocol: "tcp"}} })}, SeverityFail, "10250/tcp (permanent), 10250/tcp (runtime)"},
		{"firewalld", setup{facts(func(f *Facts) { f.Settings.Firewall = sysconfig.FirewallLeave })}, SeverityNote, "left alone"},

		{"resolv-conf", nil, SeverityFail, "no /etc/resolv.conf"},
		{"resolv-conf", setup{put(resolvConf, "search a\n")}, SeverityFail, "names no server"},
		{"resolv-conf", setup{put(resolvConf, "nameserver 127.0.0.53\n")}, SeverityWarn, "127.0.0.53"},
		{"resolv-conf", setup{put(resolvConf, "nameserver 127.0.0.53\n"), put("/r.conf", "nameserver 10.0.0.1\n"), facts(func(f *Facts) { f.Kubelet.Config = []byte("resolvConf: /r.conf\n") })}, SeverityOK, "/r.conf"},
		{"resolv-conf", setup{put(resolvConf, strings.Repeat("nameserver 10.0.0.1\n", 4))}, SeverityNote, "first three"},
		{"resolv-conf", setup{func(d *doubles, _ *examiner) {
			mustWrite(d.root, "/etc/x", "")
			if err := os.Symlink("/run/nowhere", d.root.Path(resolvConf)); err != nil {
				panic(err)
			}
		}}, SeverityFail, "/run/nowhere"},

		{"proxy", nil, SeverityOK, "none"},
		{"proxy", setup{facts(func(f *Facts) {
			f.Settings.HTTPSProxy = "http://u:planted@proxy:3128"
			f.DNS = netip.MustParseAddr("10.3.0.10")
		})}, SeverityWarn, "the service range that has 10.3.0.10, .svc"},
		{"proxy", setup{facts(func(f *Facts) {
			f.Settings.HTTPSProxy, f.Settings.NoProxy = "http://proxy:3128", "10.3.0.0/16,.svc"
			f.DNS = netip.MustParseAddr("10.3.0.10")
		})}, SeverityOK, ""},

		{"kubeconfig", nil, SeverityNote, "none yet"},
		{"certificate", nil, SeverityNote, "none yet"},
		{"settings", setup{func(_ *doubles, x *examiner) { x.settingsErr = errors.New("a\nb") }}, SeverityFail, "a b"},
		{"kubelet", nil, SeverityNote, "not joined"},
		{"kubelet", setup{put(kubelet.KubeconfigPath, ""), unit("kubelet.service", func(st *systemd.State) { st.Active, st.Result = "failed", "start-limit-hit" })}, SeverityFail, "start-limit-hit"},
		{"cri", nil, SeverityNote, "see cri-socket"},
		{"cri-socket", nil, SeverityWarn, "containerd.sock"},
		{"cri-socket", setup{facts(func(f *Facts) { f.Endpoint = "unix:///run/no.sock" })}, SeverityFail, "nothing answers"},
		{"cni", nil, SeverityNote, "none yet"},
		{"cni", setup{put("/etc/cni/net.d/10-x.conflist", "{}")}, SeverityWarn, "no plugin"},
		{"cni", setup{put("/etc/cni/net.d/10-x.conflist", "{}"), put("/opt/cni/bin/loopback", "")}, SeverityOK, "10-x.conflist"},

		{"api", setup{unreachable}, SeverityFail, "(tcp: connection-refused); start it"},
		{"clock", setup{unreachable}, SeverityNote, "see api"},
		{"clock", setup{facts(func(f *Facts) { f.Server = node.Server{Date: time.Now(), Skew: time.Hour} })}, SeverityWarn, "ahead"},
		{"version-skew", setup{facts(func(f *Facts) { f.Version, f.ServerVersion = v("v1.30.0"), v("v1.34.0") })}, SeverityFail, "1.30"},
		{"identity", setup{put("/etc/machine-id", "0123456789abcdef0123456789abcdef\n"), registered("fedcba9876543210fedcba9876543210", true)}, SeverityFail, "another machine's"},
		{"identity", setup{put("/etc/machine-id", "0123456789abcdef0123456789abcdef\n"), registered("fedcba9876543210fedcba9876543210", false)}, SeverityWarn, "fedcba"},
		{"identity", setup{put("/etc/machine-id", "0123456789abcdef0123456789abcdef\n"), registered("0123456789abcdef0123456789abcdef", true)}, SeverityOK, ""},
	} {
		t.Run(fmt.Sprintf("%s/%s", tt.check, tt.says), func(t *testing.T) {
			d := newDoubles(t)
			h := &handles{sys: d.system()}
			x := &examiner{handles: h, f: &Facts{Now: d.now, NodeName: "w1"}}
			for _, set := range tt.setup {
				set(d, x)
			}
			var got CheckResult
			for _, c := range checks {
				if c.name == tt.check {
					got = x.one(t.Context(), c)
				}
			}
			said := got.String()
			if tt.want != "" && got.Severity != tt.want || !strings.Contains(said, tt.says) || got.Name != tt.check {
				t.Errorf("%s %s, want %s saying %q", got.Severity, said, tt.want, tt.says)
			}
			if strings.Contains(said, "planted") || strings.ContainsAny(said, "\n\x1b") {
				t.Errorf("shows what it must not: %q", said)
			}
		})
	}
}

func mustWrite(r host.Root, path, content string) {
	if _, err := r.MkdirAll(dirOf(path), 0o755); err != nil {
		panic(err)
	}
	if err := os.WriteFile(r.Path(path), []byte(content), 0o644); err != nil {
		panic(err)
	}
}

func programs(names ...string) func(*doubles, *examiner) {
	return func(d *doubles, _ *examiner) {
		for _, n := range names {
			mustWrite(d.root, "/usr/bin/"+n, "")
			if err := os.Chmod(d.root.Path("/usr/bin/"+n), 0o755); err != nil {
				panic(err)
			}
		}
	}
}

func sysctl(name, value string) func(*doubles, *examiner) {
	return func(d *doubles, _ *examiner) {
		mustWrite(d.root, "/proc/sys/"+strings.ReplaceAll(name, ".", "/"), value+"\n")
	}
}

func unit(name string, change func(*systemd.State)) func(*doubles, *examiner) {
	return func(d *doubles, _ *examiner) { d.units.set(name, change) }
}

func unitRuns(name string) func(*doubles, *examiner) {
	return func(d *doubles, _ *examiner) {
		d.units.states[name] = &systemd.State{Name: name, Load: "loaded", Active: "active"}
	}
}

func mode(m selinux.Mode) func(*doubles, *examiner) {
	return func(d *doubles, _ *examiner) { d.se.mode = m }
}

func fw(change func(*firewallDouble)) func(*doubles, *examiner) {
	return func(d *doubles, _ *examiner) { change(d.fw) }
}

func kubeletRuns(_ *doubles, x *examiner) { x.kubeletRan = true }

func unreachable(_ *doubles, x *examiner) {
	x.serverErr = &node.APIError{Layer: node.LayerTCP, Reason: node.ConnectionRefused, Op: "reach it", What: "nobody listens", Remedy: "start it"}
}

func registered(id string, ready bool) func(*doubles, *examiner) {
	return func(d *doubles, x *examiner) {
		x.f.Kubeconfig = &node.Kubeconfig{}
		d.cluster.node = &node.NodeState{Name: "w1", Registered: true, Ready: ready, MachineID: id}
	}
}

// A check that hangs for ever is given up, and the others are not kept.
func TestCheckIsBounded(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	x := &examiner{f: &Facts{}}
	got := x.run(ctx, []check{
		{name: "hangs", look: func(*examiner, context.Context) (Severity, string, string) { select {} }},
		{name: "fine", look: func(*examiner, context.Context) (Severity, string, string) {
			return SeverityOK, "evil\x1b[2J\nline", ""
		}},
	}, nil)
	if got[0].Severity != SeverityWarn || got[1].Severity != SeverityOK || strings.ContainsAny(got[1].Evidence, "\x1b\n") {
		t.Errorf("%+v", got)
	}
}

func TestRegistryOf(t *testing.T) {
	for image, want := range map[string]string{
		"quay.io/coreos/hyperkube:v1.8.9_coreos.0": "quay.io", "docker://quay.io/a/b:v1": "quay.io", "kubelet:v1": "registry-1.docker.io",
		"me/kubelet:v1": "registry-1.docker.io", "docker.io/me/kubelet:v1": "registry-1.docker.io", "localhost:5000/k:v1": "localhost:5000", "reg:5000/k@sha256:00": "reg:5000",
	} {
		if got := registryOf(image); got != want {
			t.Errorf("%s: %s, want %s", image, got, want)
		}
	}
}

// Settings that can't be read are one finding; everything else is looked at.
func TestDoctorWithBadSettings(t *testing.T) {
	d := newDoubles(t)
	write(t, d.root, sysconfig.Path, "NODE_IP=1.2.3\nNO_SUCH_KEY=1\n", 0o644)
	write(t, d.root, kubelet.KubeconfigPath, kubeconfigText("https://127.0.0.1:6443", plainToken), 0o600)
	d.cluster.server = node.Server{Version: "v1.34.1", Date: d.now}
	d.cluster.dns, d.cluster.dnsHow = netip.MustParseAddr("10.3.0.10"), "the kube-dns Service"
	d.cluster.node = &node.NodeState{}
	all := map[string]CheckResult{}
	for _, r := range Doctor(t.Context(), d.system(), DoctorOptions{Skip: []string{"registry"}}) {
		all[r.Name] = r
	}
	if len(all) != len(checks) {
		t.Errorf("%d findings of %d checks", len(all), len(checks))
	}
	if r := all["settings"]; r.Severity != SeverityFail || !strings.Contains(r.Evidence, "1.2.3") || !strings.Contains(r.Evidence, "NO_SUCH_KEY") {
		t.Errorf("%+v", r)
	}
	for name, want := range map[string]Severity{"api": SeverityOK, "clock": SeverityOK, "dns-service": SeverityOK, "dns": SeverityOK, "registry": SeveritySkipped} {
		if all[name].Severity != want {
			t.Errorf("%+v, want %s", all[name], want)
		}
	}
	if r := all["runtime"]; !strings.Contains(r.Evidence, "neither rkt nor podman") {
		t.Errorf("%+v", r)
	}
}
