package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// tool is a program that the lab runs on the machine itself, or the path of a file that it needs, and the package that
// has it.
type tool struct{ program, debian, rhel string }

// tools is the one list of what the lab installs on the machine. Nothing else on it is changed.
var tools = []tool{
	{"mmdebstrap", "mmdebstrap", "mmdebstrap"},
	{"systemd-nspawn", "systemd-container", "systemd-container"},
	{"etcd", "etcd-server", "etcd"},
	{"ip", "iproute2", "iproute"},
	{"nft", "nftables", "nftables"},
	{"nsenter", "util-linux", "util-linux"},
	{"systemd-analyze", "systemd", "systemd"},
	{"rpm", "rpm", "rpm"},
	{"rpm2cpio", "rpm2cpio", "rpm"},
	{"cpio", "cpio", "cpio"},
	{"dnf", "dnf", "dnf"},
	{"createrepo_c", "createrepo-c", "createrepo_c"},
	{"rpmlint", "rpmlint", "rpmlint"},
	{"shellcheck", "shellcheck", "ShellCheck"},
	{"strace", "strace", "strace"},
	{"dbus-daemon", "dbus-daemon", "dbus-daemon"},
	{"firewalld", "firewalld", "firewalld"},
	{"man", "man-db", "man-db"},
	{"groff", "groff-base", "groff-base"},
	{"dash", "dash", "dash"},
	{"gpg", "gpg", "gnupg2"},
	{"openssl", "openssl", "openssl"},
	{"iptables", "iptables", "iptables-nft"},
	{"podman", "podman", "podman"},
	{"crun", "crun", "crun"},
	{"containerd", "containerd", "containerd"},
	{"runc", "runc", "runc"},
	{"qemu-system-x86_64", "qemu-system-x86", "qemu-kvm-core"},
	{"ipmi_sim", "openipmi", "OpenIPMI-lanserv"},
	{"ipmitool", "ipmitool", "ipmitool"},
	{"mksquashfs", "squashfs-tools", "squashfs-tools"},
	{"sfdisk", "fdisk", "util-linux"},
	{"mkfs.vfat", "dosfstools", "dosfstools"},
	{"mkfs.ext4", "e2fsprogs", "e2fsprogs"},
	{"mcopy", "mtools", "mtools"},
	{"syslinux", "syslinux", "syslinux"},
	{"bzip2", "bzip2", "bzip2"},
	{"dnsmasq", "dnsmasq-base", "dnsmasq"},
	{"/usr/lib/ipxe/undionly.kpxe", "ipxe", "ipxe-bootimgs"},
	{"/usr/lib/ipxe/qemu/pxe-virtio.rom", "ipxe-qemu", "ipxe-roms-qemu"},
	{"/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf", "edk2-ovmf"},
	{"efibootmgr", "efibootmgr", "efibootmgr"},
	{"curl", "curl", "curl"},
	{"wget", "wget", "wget"},
}

// absent lists the tools that are not installed.
func absent() []tool {
	var missing []tool
	for _, t := range tools {
		if strings.HasPrefix(t.program, "/") && exists(t.program) {
			continue
		}
		if _, err := exec.LookPath(t.program); err != nil && !exists("/usr/sbin/"+t.program) && !exists("/sbin/"+t.program) {
			missing = append(missing, t)
		}
	}
	return missing
}

// MissingTools names the programs that InstallTools would install.
func MissingTools() []string {
	var names []string
	for _, t := range absent() {
		names = append(names, t.program)
	}
	return names
}

// InstallTools installs the missing programs with the machine's own package manager. A service that a package
// would start is kept from starting: the lab runs the programs itself, in namespaces of its own.
func InstallTools(ctx context.Context, logf func(string, ...any)) error {
	missing := absent()
	if len(missing) == 0 {
		return nil
	}
	if os.Geteuid() != 0 {
		return errors.New("cannot install the lab's tools: not root; run it as root, or install " + strings.Join(MissingTools(), ", "))
	}
	_, aptErr := exec.LookPath("apt-get")
	_, dnfErr := exec.LookPath("dnf")
	var commands [][]string
	switch {
	case aptErr == nil:
		var packages []string
		for _, t := range missing {
			packages = append(packages, t.debian)
		}
		logf("tools: apt-get install %s", strings.Join(packages, " "))
		commands = [][]string{
			{"apt-get", "update", "-qq"},
			append([]string{"apt-get", "install", "-qq", "-y", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0"}, packages...),
		}
	case dnfErr == nil:
		var packages []string
		for _, t := range missing {
			packages = append(packages, t.rhel)
		}
		logf("tools: dnf install %s", strings.Join(packages, " "))
		commands = [][]string{append([]string{"dnf", "install", "-y", "-q"}, packages...)}
	default:
		return errors.New("cannot install the lab's tools: neither apt-get nor dnf is here; install " + strings.Join(MissingTools(), ", "))
	}
	allow, err := denyServiceStarts()
	if err != nil {
		return err
	}
	defer allow()
	for _, argv := range commands {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("cannot install the lab's tools: %s: %w\n%s", strings.Join(argv, " "), err, out)
		}
	}
	if left := MissingTools(); len(left) > 0 {
		return fmt.Errorf("cannot find %s even after installing their packages", strings.Join(left, ", "))
	}
	return nil
}

// denyServiceStarts puts Debian's policy-rc.d in place while packages are installed (invoke-rc.d(8): 101 is "action
// forbidden"), so that a firewalld or an etcd on the machine itself never starts because of the lab. A machine
// that has a policy of its own keeps it.
func denyServiceStarts() (allow func(), err error) {
	const policy = "/usr/sbin/policy-rc.d"
	if exists(policy) || !exists("/usr/sbin/invoke-rc.d") {
		return func() {}, nil
	}
	if err := os.WriteFile(policy, []byte("#!/bin/sh\nexit 101\n"), 0o755); err != nil {
		return nil, fmt.Errorf("cannot keep services from starting while packages are installed: %w", err)
	}
	return func() { os.Remove(policy) }, nil
}
