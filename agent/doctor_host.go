package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tectonic-worker/tectonic-worker/sysconfig"
	"github.com/tectonic-worker/tectonic-worker/units"
)

func (x *examiner) checkRoot(context.Context) (Severity, string, string) {
	if os.Geteuid() != 0 {
		return SeverityFail, fmt.Sprintf("running as user %d", os.Geteuid()), "run it as root (sudo): some checks can't look without"
	}
	return SeverityOK, "running as root", ""
}

// osRelease reads a field of os-release(5), which has the syntax of an
// EnvironmentFile.
func (x *examiner) osRelease() map[string]string {
	out := map[string]string{}
	for _, p := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		data, err := x.sys.Root.ReadFile(p)
		if err != nil {
			continue
		}
		all, _ := sysconfig.Parse(p, data) // what can't be read is not there
		for _, a := range all {
			out[a.Key] = a.Value
		}
		break
	}
	return out
}

// rhelMajor is the major version of RHEL that the host is, or is like; 0 where
// it is another system.
func (x *examiner) rhelMajor() int {
	r := x.osRelease()
	if r["ID"] != "rhel" && !strings.Contains(" "+r["ID_LIKE"]+" ", " rhel ") {
		return 0
	}
	major, _, _ := strings.Cut(r["VERSION_ID"], ".")
	n, _ := strconv.Atoi(major)
	return n
}

func (x *examiner) checkOS(context.Context) (Severity, string, string) {
	r := x.osRelease()
	name := r["PRETTY_NAME"]
	if name == "" {
		return SeverityNote, "/etc/os-release does not say which system this is", ""
	}
	switch n := x.rhelMajor(); {
	case n == 0:
		return SeverityNote, name + " is not RHEL: the package is made for RHEL 7 to 10", ""
	case n < 7 || n > 10:
		return SeverityWarn, name + ": the package is made for RHEL 7 to 10", "use one of these releases"
	}
	return SeverityOK, name, ""
}

func (x *examiner) checkSystemd(ctx context.Context) (Severity, string, string) {
	if !x.sys.Root.Exists("/run/systemd/system") { // sd_booted(3)
		return SeverityFail, "this host was not booted with systemd", "tectonic-worker runs the kubelet as a systemd service"
	}
	us, err := x.units(ctx)
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
		// systemd before 250 names /usr/lib by way of the link /lib.
		if f := strings.TrimPrefix(st.Fragment, "/usr"); f != "" && f != strings.TrimPrefix(units.Dir, "/usr")+"/"+u {
			return SeverityWarn, fmt.Sprintf("%s is %s, not the one this package ships", u, st.Fragment), "remove it, or make it run \"tectonic-worker kubelet run\""
		}
		for _, d := range st.DropIns {
			if data, err := x.sys.Root.ReadFile(d); err == nil && execStart.Match(data) {
				return SeverityWarn, fmt.Sprintf("%s makes %s run another program", d, u), "remove it (systemctl revert " + u + "), or make it run \"tectonic-worker kubelet run\""
			}
		}
		if st.Stale {
			return SeverityWarn, "the file of " + u + " changed since systemd read it", "run \"systemctl daemon-reload\""
		}
	}
	return SeverityOK, "systemd answers and has our units", ""
}

// execStart finds the setting of a command in a unit's drop-in.
var execStart = regexp.MustCompile(`(?m)^[ \t]*ExecStart[ \t]*=`)

// writtenTo are the directories that join and the kubelet write to.
var writtenTo = []string{
	"/etc/sysconfig", "/etc/kubernetes", "/etc/systemd/system", "/var/lib/tectonic-worker", "/var/lib/kubelet",
	"/var/lib/containers", "/var/lib/cni", "/var/log", RunDir,
}

func (x *examiner) checkReadOnly(context.Context) (Severity, string, string) {
	var ro []string
	for _, dir := range writtenTo {
		if m, err := x.sys.Root.FileSystem(dir); err == nil && m.ReadOnly {
			ro = append(ro, dir)
		}
	}
	if ro != nil {
		return SeverityFail, "mounted read-only: " + strings.Join(ro, ", "), "see with \"findmnt -T " + ro[0] + "\" why; after an error of the disk the kernel does so itself (dmesg)"
	}
	return SeverityOK, "what the worker writes to can be written to", ""
}

func (x *examiner) checkNoexec(context.Context) (Severity, string, string) {
	run := []string{"/usr/bin", "/var/lib/containers", "/var/lib/containerd", "/var/lib/rkt", "/opt/cni/bin", x.f.Runtime.Path}
	for _, p := range run {
		if p == "" || !x.sys.Root.Exists(p) {
			continue
		}
		if m, err := x.sys.Root.FileSystem(p); err == nil && m.NoExec {
			return SeverityFail, p + " is on a noexec mount: no program in it can be started", "remount it (mount -o remount,exec), and take noexec out of /etc/fstab"
		}
	}
	if m, err := x.sys.Root.FileSystem("/var/lib/kubelet"); err == nil && m.NoExec {
		return SeverityWarn, "/var/lib/kubelet is on a noexec mount: programs in volumes and plugins can't be started", "give it a file system of its own, or take noexec out of /etc/fstab"
	}
	return SeverityOK, "programs and images are on mounts that allow to run them", ""
}

// minFree is the space under /var below which the kubelet would start to evict
// pods at once: its default hard eviction threshold is 10 % of nodefs, and an
// image of the kubelet alone takes about half of this.
const minFree = 1 << 30

func (x *examiner) checkDisk(context.Context) (Severity, string, string) {
	for _, p := range []string{"/var/lib/kubelet", "/var/lib/containers", "/var/lib/containerd", "/var/log"} {
		m, err := x.sys.Root.FileSystem(p)
		switch {
		case err != nil:
		case m.Free < minFree:
			return SeverityWarn, fmt.Sprintf("only %d MiB free for %s", m.Free>>20, p), "make room: the kubelet evicts pods below 10 % free"
		case m.Inodes > 0 && m.FreeInodes*20 < m.Inodes: // the kubelet's nodefs.inodesFree
			return SeverityWarn, fmt.Sprintf("only %d of %d inodes free for %s", m.FreeInodes, m.Inodes, p), "remove small files: the kubelet evicts pods below 5 % free"
		}
	}
	return SeverityOK, "more than 1 GiB free under /var", ""
}

// The least that a worker should have.
const (
	minMemory = 8e9
	minCPUs   = 2
	minDisk   = 30e9
	// A part of the memory and of the disk is gone before anyone can count it:
	// firmware, the kernel, the file system's own tables.
	uncounted = 0.9
)

func (x *examiner) checkHardware(context.Context) (Severity, string, string) {
	var has, lacks []string
	say := func(enough bool, format string, args ...any) {
		if enough {
			has = append(has, fmt.Sprintf(format, args...))
		} else {
			lacks = append(lacks, fmt.Sprintf(format, args...))
		}
	}
	if data, err := x.sys.Root.ReadFile("/proc/cpuinfo"); err == nil {
		n := len(processor.FindAll(data, -1))
		say(n >= minCPUs, "%d processors", n)
	}
	if data, err := x.sys.Root.ReadFile("/proc/meminfo"); err == nil {
		if m := memTotal.FindSubmatch(data); m != nil {
			kib, _ := strconv.ParseFloat(string(m[1]), 64)
			say(kib*1024 >= minMemory*uncounted, "%.1f GB of memory", kib*1024/1e9)
		}
	}
	if m, err := x.sys.Root.FileSystem("/var/lib/kubelet"); err == nil {
		say(float64(m.Size) >= minDisk*uncounted, "%.0f GB of disk under /var", float64(m.Size)/1e9)
	}
	if lacks != nil {
		return SeverityWarn, "only " + strings.Join(lacks, " and "), "a worker should have 2 processors, 8 GB of memory and 30 GB of disk"
	}
	return SeverityOK, strings.Join(has, ", "), ""
}

var (
	processor = regexp.MustCompile(`(?m)^processor\s*:`)
	memTotal  = regexp.MustCompile(`(?m)^MemTotal:\s+(\d+) kB`)
)

// checkPrograms looks for what is started on the host's side. The kubelet's own
// programs (iptables, conntrack, losetup, mount helpers) are in its image.
func (x *examiner) checkPrograms(context.Context) (Severity, string, string) {
	missing := func(names ...string) bool {
		for _, n := range names {
			if strings.HasPrefix(n, "/") && x.sys.Root.Exists(n) {
				return false
			}
			if _, err := x.sys.Root.Look(n); err == nil {
				return false
			}
		}
		return true
	}
	var lacks []string
	need := func(what string, names ...string) {
		if missing(names...) {
			lacks = append(lacks, what)
		}
	}
	need("mount", "mount")
	need("umount", "umount")
	need("journalctl", "journalctl")
	need("systemctl", "systemctl")
	if x.f.Runtime.Name == sysconfig.RuntimePodman {
		need("crun or runc, for podman", "crun", "runc")
		need("conmon, for podman", "conmon", "/usr/libexec/podman/conmon", "/usr/lib/podman/conmon")
	}
	if strings.Contains(x.f.Endpoint, "containerd") {
		need("runc or crun, for containerd", "runc", "crun")
		need("containerd-shim-runc-v2, for containerd", "containerd-shim-runc-v2")
	}
	if lacks != nil {
		return SeverityFail, "missing: " + strings.Join(lacks, "; "), "install them (dnf install PROGRAM, or dnf reinstall the package they belong to)"
	}
	if missing("modprobe") {
		return SeverityWarn, "modprobe is missing: no kernel module can be loaded", "run \"dnf install kmod\""
	}
	return SeverityOK, "all are there", ""
}

func (x *examiner) checkSettings(context.Context) (Severity, string, string) {
	if x.settingsErr != nil {
		return SeverityFail, x.settingsErr.Error(), "correct the lines named"
	}
	if len(x.f.Warnings) > 0 {
		return SeverityNote, strings.Join(x.f.Warnings, "; "), ""
	}
	for _, p := range []string{sysconfig.Path, sysconfig.KubeletEnvPath} {
		if !x.sys.Root.Exists(p) {
			return SeverityNote, p + " is not there: all in it has its default", ""
		}
	}
	return SeverityOK, "both files are valid", ""
}

// nodeName is a DNS-1123 subdomain: what the API server takes as a Node's name.
var nodeName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

func (x *examiner) checkHostname(context.Context) (Severity, string, string) {
	name := x.f.NodeName
	switch {
	case name == "":
		return SeverityNote, "not known: the settings can't be read", ""
	case !nodeName.MatchString(name) || len(name) > 253:
		return SeverityFail, fmt.Sprintf("%q can't be a Node's name", name), "set another with hostnamectl, or NODE_NAME in " + sysconfig.Path
	case name == "localhost" || strings.HasPrefix(name, "localhost."):
		return SeverityFail, fmt.Sprintf("this host is called %q, as every unnamed one", name), "set a name with hostnamectl, or NODE_NAME in " + sysconfig.Path
	case len(name) > 63:
		// The kubelet labels the Node with kubernetes.io/hostname, and a label's value has 63 at most.
		return SeverityFail, fmt.Sprintf("%q has %d characters: the label kubernetes.io/hostname takes 63", name, len(name)), "set a shorter name with hostnamectl, or NODE_NAME in " + sysconfig.Path
	}
	return SeverityOK, name, ""
}

var machineID = regexp.MustCompile(`^[0-9a-f]{32}$`)

func (x *examiner) checkMachineID(context.Context) (Severity, string, string) {
	const remedy = "run \"systemd-machine-id-setup\" and reboot"
	data, err := x.sys.Root.ReadFile("/etc/machine-id")
	id := string(bytes.TrimSpace(data))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return SeverityFail, "there is no /etc/machine-id", remedy
	case err != nil:
		return SeverityWarn, err.Error(), remedy
	case id == "" || id == "uninitialized":
		return SeverityFail, "/etc/machine-id is empty: this host was not set up", remedy
	case !machineID.MatchString(id) || strings.Count(id, id[:1]) == len(id):
		return SeverityFail, fmt.Sprintf("/etc/machine-id holds %q, which is no machine ID", id), "empty it; " + remedy
	}
	return SeverityOK, id, ""
}

// timeServices are what keeps clocks right on RHEL and its family.
var timeServices = []string{"chronyd.service", "ntpd.service", "systemd-timesyncd.service", "chrony.service", "ntpsec.service", "phc2sys.service"}

func (x *examiner) checkTimeSync(ctx context.Context) (Severity, string, string) {
	var t unix.Timex // Modes 0: a question
	state, err := unix.Adjtimex(&t)
	synced := err == nil && state != unix.TIME_ERROR
	us, err := x.units(ctx)
	if err != nil {
		return SeverityNote, "not known: " + err.Error(), ""
	}
	for _, name := range timeServices {
		st, err := us.Unit(ctx, name)
		if err != nil || !st.Running() {
			continue
		}
		if !synced {
			return SeverityNote, name + " runs, but the kernel calls the clock unsynchronised", "look with \"chronyc tracking\" or \"timedatectl\""
		}
		return SeverityOK, name + " runs, and the clock is synchronised", ""
	}
	if synced {
		return SeverityOK, "the kernel calls the clock synchronised, by a service that is not known here", ""
	}
	return SeverityWarn, "nothing keeps this host's clock right", "run \"dnf install chrony\" and \"systemctl enable --now chronyd\": certificates and tokens fail on a wrong clock"
}

// others are what installers of other Kubernetes distributions leave.
var others = []struct{ path, of string }{
	{"/etc/kubernetes/kubelet.conf", "kubeadm"}, {"/etc/kubernetes/bootstrap-kubelet.conf", "kubeadm"},
	{"/var/lib/kubelet/kubeadm-flags.env", "kubeadm"},
	{"/etc/systemd/system/kubelet.service.d/10-kubeadm.conf", "kubeadm"}, {"/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf", "kubeadm"},
	{"/usr/lib/systemd/system/kubelet.service.d/kubeadm.conf", "kubeadm"},
	{"/etc/rancher/k3s", "k3s"}, {"/var/lib/rancher/k3s", "k3s"}, {"/etc/rancher/rke2", "RKE2"}, {"/var/lib/rancher/rke2", "RKE2"},
	{"/var/lib/k0s", "k0s"}, {"/var/snap/microk8s", "MicroK8s"}, {"/etc/eks", "Amazon EKS"}, {"/etc/origin/node", "OpenShift"},
}

func (x *examiner) checkLeftovers(context.Context) (Severity, string, string) {
	if pid, name := x.otherKubelet(); pid != "" {
		return SeverityFail, fmt.Sprintf("another %s runs (process %s)", name, pid), "stop and remove what runs it (systemctl status " + pid + ")"
	}
	var left []string
	for _, o := range others {
		if x.sys.Root.Exists(o.path) {
			left = append(left, fmt.Sprintf("%s (%s)", o.path, o.of))
		}
	}
	if pods, _ := os.ReadDir(x.sys.Root.Path("/etc/kubernetes/manifests")); len(pods) > 0 {
		left = append(left, "/etc/kubernetes/manifests/"+pods[0].Name()+" (a static pod)")
	}
	if left != nil {
		return SeverityWarn, "left by another installer: " + strings.Join(left, ", "), "reset it with that installer's own command (kubeadm reset, k3s-uninstall.sh …), or remove these"
	}
	return SeverityOK, "no other installer's files are here", ""
}

// otherKubelet finds a running kubelet that is not of our unit.
func (x *examiner) otherKubelet() (pid, name string) {
	procs, _ := filepath.Glob(x.sys.Root.Path("/proc/[0-9]*"))
	for _, p := range procs {
		pid := filepath.Base(p)
		comm, err := x.sys.Root.ReadFile("/proc/" + pid + "/comm")
		if err != nil {
			continue
		}
		name := strings.TrimSpace(string(comm))
		switch name {
		case "kubelet", "hyperkube", "k3s-server", "k3s-agent", "rke2", "k0s", "kubelite":
		default:
			continue
		}
		// Ours is in its unit's cgroup, or in that of its container.
		cgroup, err := x.sys.Root.ReadFile("/proc/" + pid + "/cgroup")
		if err != nil || bytes.Contains(cgroup, []byte("kubelet.service")) || bytes.Contains(cgroup, []byte("libpod")) {
			continue
		}
		if x.kubeletRan && name == "kubelet" {
			continue // rkt and cgroup namespaces hide which one it is
		}
		return pid, name
	}
	return "", ""
}
