package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/selinux"
)

func (x *examiner) checkCgroup(context.Context) (Severity, string, string) {
	f := x.f
	if f.Version.Major == 0 {
		return SeverityNote, fmt.Sprintf("version %d; the kubelet's version is not known yet", f.Cgroup), ""
	}
	now := fmt.Sprintf("version %d, kubelet %s", f.Cgroup, f.Version)
	switch {
	case f.Cgroup == 1 && f.Version.Minor >= 35:
		// Kubernetes 1.35 changelog, #134298: failCgroupV1 became true.
		if v, set := configBool(f.Kubelet.Config, "failCgroupV1"); v || !set && f.Kubelet.Config != nil {
			return SeverityFail, now + ": this kubelet refuses cgroup version 1", "boot with systemd.unified_cgroup_hierarchy=1, or set failCgroupV1: false in " + kubelet.DropInDir
		}
	case f.Cgroup == 2 && f.Version.Minor < 19:
		return SeverityFail, now + ": kubelets before 1.19 know only cgroup version 1", "boot with systemd.unified_cgroup_hierarchy=0"
	}
	return SeverityOK, now, ""
}

// needed are the controllers without which the kubelet does not start, in both
// versions' names: pkg/kubelet/cm/cgroup_manager_linux.go.
var neededControllers = map[int][]string{1: {"cpu", "cpuacct", "cpuset", "memory", "devices"}, 2: {"cpu", "cpuset", "memory", "pids"}}

func (x *examiner) checkControllers(context.Context) (Severity, string, string) {
	have := map[string]bool{}
	if x.f.Cgroup == 2 {
		data, err := x.sys.Root.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		if err != nil {
			return SeverityNote, "not known: " + err.Error(), ""
		}
		for _, c := range strings.Fields(string(data)) {
			have[c] = true
		}
	} else {
		data, err := x.sys.Root.ReadFile("/proc/cgroups")
		if err != nil {
			return SeverityNote, "not known: " + err.Error(), ""
		}
		for _, line := range strings.Split(string(data), "\n") {
			if f := strings.Fields(line); len(f) == 4 && f[3] == "1" {
				have[f[0]] = true
			}
		}
	}
	var lacks []string
	for _, c := range neededControllers[x.f.Cgroup] {
		if !have[c] {
			lacks = append(lacks, c)
		}
	}
	if lacks != nil {
		return SeverityFail, "the kernel has no cgroup controller " + strings.Join(lacks, ", "), "take cgroup_disable= off the kernel's command line (grubby --update-kernel=ALL --remove-args=cgroup_disable) and reboot"
	}
	return SeverityOK, strings.Join(neededControllers[x.f.Cgroup], ", "), ""
}

func (x *examiner) checkSwap(context.Context) (Severity, string, string) {
	data, err := x.sys.Root.ReadFile("/proc/swaps")
	if err != nil || strings.Count(strings.TrimSpace(string(data)), "\n") == 0 {
		return SeverityOK, "off", ""
	}
	if v, set := configBool(x.f.Kubelet.Config, "failSwapOn"); set && !v {
		return SeverityOK, "on, and the kubelet is set to bear it", ""
	}
	return SeverityFail, "on: the kubelet does not start with swap", "run \"swapoff -a\" and take it out of /etc/fstab, or set failSwapOn: false in " + kubelet.DropInDir
}

// modules are what containers and the networks of clusters need of the kernel.
var modules = []string{"overlay", "br_netfilter", "nf_conntrack", "ip_set"}

func (x *examiner) checkModules(context.Context) (Severity, string, string) {
	var lacks []string
	unknown := false
	for _, m := range modules {
		if x.sys.Root.Exists("/sys/module/" + m) {
			continue // loaded, or built in with parameters
		}
		known, err := x.loadable(m)
		switch {
		case err != nil:
			unknown = true
		case !known:
			lacks = append(lacks, m)
		}
	}
	switch {
	case lacks != nil && x.rhelMajor() >= 10:
		return SeverityWarn, "this kernel has no module " + strings.Join(lacks, ", "), "run \"dnf install kernel-modules-extra-$(uname -r)\": on RHEL 10 network plugins need what is in it"
	case lacks != nil:
		return SeverityWarn, "this kernel has no module " + strings.Join(lacks, ", "), "install the kernel package that has it (kernel-modules, kernel-modules-extra) of the kernel that runs"
	case unknown:
		return SeverityNote, "not known: /lib/modules has nothing of the kernel that runs", "after an update of the kernel, reboot"
	}
	return SeverityOK, strings.Join(modules, ", "), ""
}

// loadable tells whether the running kernel has a module, built in or as a file.
func (x *examiner) loadable(name string) (bool, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return false, err
	}
	dir := "/lib/modules/" + unix.ByteSliceToString(u.Release[:])
	known := regexp.MustCompile(`(?m)/` + strings.ReplaceAll(name, "_", "[-_]") + `\.ko(\.\w+)?(:|$)`)
	var last error
	found := false
	for _, file := range []string{"/modules.dep", "/modules.builtin"} {
		data, err := x.sys.Root.ReadFile(dir + file)
		if err != nil {
			last = err
			continue
		}
		found = true
		if known.Match(data) {
			return true, nil
		}
	}
	if found {
		return false, nil
	}
	return false, last
}

// sysctl reads a kernel setting by its dotted name; empty where there is none.
func (x *examiner) sysctl(name string) string {
	data, err := x.sys.Root.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func (x *examiner) checkSysctl(context.Context) (Severity, string, string) {
	remedy := func(name string) string {
		return "put " + name + " = 1 into /etc/sysctl.d/99-kubernetes.conf and run \"sysctl --system\""
	}
	if x.sysctl("net.ipv4.ip_forward") == "0" {
		return SeverityWarn, "net.ipv4.ip_forward is 0: pods can't reach other nodes", remedy("net.ipv4.ip_forward")
	}
	for _, ip := range x.f.Settings.NodeIPs {
		if ip.Is6() && x.sysctl("net.ipv6.conf.all.forwarding") == "0" {
			return SeverityWarn, "net.ipv6.conf.all.forwarding is 0: pods can't reach other nodes over IPv6", remedy("net.ipv6.conf.all.forwarding")
		}
	}
	if x.sysctl("net.bridge.bridge-nf-call-iptables") == "0" {
		return SeverityWarn, "net.bridge.bridge-nf-call-iptables is 0: Services may not work for pods on one bridge", remedy("net.bridge.bridge-nf-call-iptables")
	}
	return SeverityOK, "net.ipv4.ip_forward is 1", ""
}

// kernelDefaults is what the kubelet sets by itself, or, with
// protectKernelDefaults, demands: setupKernelTunables in
// pkg/kubelet/cm/container_manager_linux.go.
var kernelDefaults = []struct{ name, value string }{
	{"vm.overcommit_memory", "1"}, {"vm.panic_on_oom", "0"}, {"kernel.panic", "10"}, {"kernel.panic_on_oops", "1"},
	{"kernel.keys.root_maxkeys", "1000000"}, {"kernel.keys.root_maxbytes", "25000000"},
}

func (x *examiner) checkKernelDefaults(context.Context) (Severity, string, string) {
	var differ, lines []string
	for _, d := range kernelDefaults {
		if now := x.sysctl(d.name); now != "" && now != d.value {
			differ = append(differ, fmt.Sprintf("%s is %s", d.name, now))
			lines = append(lines, d.name+" = "+d.value)
		}
	}
	protect, _ := configBool(x.f.Kubelet.Config, "protectKernelDefaults")
	if !protect && slices.ContainsFunc(x.f.Kubelet.Flags, func(f string) bool { return f == "--protect-kernel-defaults" || f == "--protect-kernel-defaults=true" }) {
		protect = true
	}
	switch {
	case differ == nil:
		return SeverityOK, "as a kubelet with protectKernelDefaults demands", ""
	case protect:
		return SeverityFail, "the kubelet has protectKernelDefaults and will not start: " + strings.Join(differ, ", "),
			"put " + strings.Join(lines, ", ") + " into /etc/sysctl.d/99-kubernetes.conf and run \"sysctl --system\""
	}
	return SeverityOK, "the kubelet sets them itself (protectKernelDefaults is off)", ""
}

func (x *examiner) checkSELinux(context.Context) (Severity, string, string) {
	now, boot, config, err := x.sys.selinuxFacts()
	if err != nil {
		return SeverityWarn, err.Error(), "see sestatus(8)"
	}
	said := fmt.Sprintf("%s now, %s at boot", now, boot)
	if cmdline, err := x.sys.Root.ReadFile("/proc/cmdline"); err == nil {
		for _, arg := range strings.Fields(string(cmdline)) {
			if arg == "selinux=0" || arg == "enforcing=0" {
				return SeverityNote, said + ", but the kernel was booted with " + arg + ", which goes before " + selinux.ConfigPath, ""
			}
		}
	}
	if now == selinux.Disabled {
		return SeverityOK, said, ""
	}
	if mlsPolicy.Match(config) {
		return SeverityWarn, said + ", with a multi-level policy", "no container policy is made for SELINUXTYPE=mls; set SELINUXTYPE=targeted in " + selinux.ConfigPath + ", relabel and reboot"
	}
	policy, evidence := selinux.PolicyLoaded(string(x.sys.Root), x.f.Runtime.Name)
	want := selinux.Decide(x.f.Settings.SELinuxMode, now, boot, x.f.Runtime.Name, policy)
	switch {
	case want.Runtime == selinux.Unset || want.Runtime == now:
		return SeverityOK, joinComma(said, evidence), ""
	case x.kubeletRan:
		return SeverityWarn, fmt.Sprintf("%s, where %s is wanted: %s", said, want.Runtime, want.Why), "run \"tectonic-worker join\" again, which sets it"
	}
	return SeverityNote, fmt.Sprintf("%s; join will make it %s: %s", said, want.Runtime, want.Why), ""
}

var mlsPolicy = regexp.MustCompile(`(?m)^[ \t]*SELINUXTYPE[ \t]*=[ \t]*mls`)

// fapolicyd's files; its rules are compiled from the directory.
const (
	fapolicyd      = "fapolicyd.service"
	fapolicydConf  = "/etc/fapolicyd/fapolicyd.conf"
	fapolicydRules = "/etc/fapolicyd/compiled.rules"
)

func (x *examiner) checkFapolicyd(ctx context.Context) (Severity, string, string) {
	if !x.sys.Root.Exists(fapolicydConf) {
		return SeverityOK, "is not installed", ""
	}
	us, err := x.units(ctx)
	if err != nil {
		return SeverityNote, "is installed; whether it runs is not known: " + err.Error(), ""
	}
	st, err := us.Unit(ctx, fapolicyd)
	if err != nil || !st.Running() {
		return SeverityOK, "is installed and does not run", ""
	}
	conf, err := x.sys.Root.ReadFile(fapolicydConf)
	if err == nil && permissive.Match(conf) {
		return SeverityOK, "runs, and only reports (permissive = 1)", ""
	}
	rules, err := x.sys.Root.ReadFile(fapolicydRules)
	if errors.Is(err, fs.ErrPermission) {
		return SeverityNote, "runs; its rules can't be read without root", ""
	}
	for _, dir := range []string{"/var/lib/containers", "/var/lib/containerd", "/var/lib/rkt"} {
		if bytes.Contains(rules, []byte("dir="+dir)) {
			return SeverityOK, "runs, and has a rule for " + dir, ""
		}
	}
	return SeverityWarn, "runs, and no rule of it lets programs from container images run: the kubelet will be denied",
		"put \"allow perm=any all : dir=/var/lib/containers/\" into /etc/fapolicyd/rules.d/40-containers.rules and run \"fagenrules --load\" and \"systemctl restart fapolicyd\""
}

var permissive = regexp.MustCompile(`(?m)^[ \t]*permissive[ \t]*=[ \t]*1`)

// configBool reads one top-level boolean of a rendered KubeletConfiguration.
func configBool(config []byte, field string) (value, set bool) {
	switch v := configField(config, field).(type) {
	case bool:
		return v, true
	case string:
		b, err := strconv.ParseBool(v)
		return b, err == nil
	}
	return false, false
}

// configField reads one top-level field of a rendered KubeletConfiguration; nil
// where it is not set.
func configField(config []byte, field string) any {
	var m map[string]any
	if yaml.Unmarshal(config, &m) != nil {
		return nil
	}
	return m[field]
}
