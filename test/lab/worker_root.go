package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const debianSuite = "bookworm"

// workerPackages are what a worker host has installed. netbase: without its /etc/protocols firewalld exits at once.
var workerPackages = []string{
	"systemd", "systemd-sysv", "dbus", "polkitd", "firewalld", "nftables", "python3-nftables", "netbase", "rpm", "dnf", "iproute2",
	"procps", "iptables", "conntrack", "kmod", "mount", "ca-certificates", "podman", "crun", "containerd", "runc",
	"containernetworking-plugins", "ethtool", "socat", "strace", "curl",
}

// workerFiles are what the lab adds to a worker's root filesystem; path -> content.
var workerFiles = map[string]string{
	// In a container systemd-nspawn mounts cgroup v1 and /proc/sys read-only; a kubelet writes both. They are this machine's
	// own (cgroup and network namespaces), so writing them stays inside.
	"/etc/systemd/system/lab-writable.service": `[Unit]
Description=Lab: let a kubelet write cgroups and sysctls
DefaultDependencies=no
Before=basic.target systemd-sysctl.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/lib/lab/writable

[Install]
WantedBy=basic.target
`,
	"/usr/lib/lab/writable": `#!/bin/sh
for dir in /proc/sys /sys/fs/cgroup/*; do
	if mountpoint -q "$dir"; then mount -o remount,rw,bind "$dir"; fi
done
`,
	// What an administrator of a worker has set.
	"/etc/sysctl.d/99-kubernetes.conf": "net.ipv4.ip_forward = 1\n",
	"/etc/cni/net.d/10-lab.conflist": `{
  "cniVersion": "1.0.0",
  "name": "lab",
  "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.2.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "loopback"}
  ]
}
`,
	"/etc/containers/storage.conf": `[storage]
driver = "overlay"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"

[storage.options]
additionalimagestores = ["` + imageStoreMount + `"]
`,
	"/etc/resolv.conf": "nameserver " + bridgeAddress + "\noptions timeout:1 attempts:1\n",
	"/etc/hosts":       "127.0.0.1 localhost\n" + controlPlaneAddress + " " + controlPlaneName + "\n",
	// Debian's own, but quieter: a failed test shows the end of the journal.
	"/etc/containerd/config.toml": `version = 2

[debug]
  level = "warn"

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/opt/cni/bin"
  conf_dir = "/etc/cni/net.d"
`,
}

// imageStoreMount is where a worker finds the kubelet images, read-only.
const imageStoreMount = "/usr/lib/lab/images"

// workerMasked are units that only cost time in a machine that lives for a minute.
var workerMasked = []string{
	"podman-auto-update.service", "podman-auto-update.timer", "podman-restart.service", "e2scrub_reap.service",
	"apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer", "e2scrub_all.timer",
	"dnf-makecache.timer", "console-getty.service", "getty@.service", "getty-static.service", "systemd-timesyncd.service", "podman.socket", "podman.service",
	"systemd-networkd.service", "systemd-networkd.socket", "systemd-networkd-wait-online.service", "systemd-firstboot.service",
}

func (c *Cache) workerRootPath() string {
	parts := []string{debianSuite, strings.Join(workerPackages, " "), strings.Join(workerMasked, " ")}
	for _, path := range sortedKeys(workerFiles) {
		parts = append(parts, path, workerFiles[path])
	}
	return filepath.Join(c.Dir, "worker-"+digest(parts...))
}

// WorkerRoot gives the root filesystem that every worker is an overlay of. Nobody may write to it.
func (c *Cache) WorkerRoot(ctx context.Context) (string, error) {
	path := c.workerRootPath()
	return path, c.make(ctx, "worker root filesystem", path, func(ctx context.Context, dir string) error {
		if err := mmdebstrap(ctx, dir, workerPackages); err != nil {
			return err
		}
		return dressWorker(dir)
	})
}

// mmdebstrap makes a Debian root filesystem at target, a directory or a .tar. The machine's own mirrors are used
// where it is a Debian machine.
func mmdebstrap(ctx context.Context, target string, packages []string) error {
	args := []string{
		"--quiet", "--variant=minbase", "--include=" + strings.Join(packages, ","),
		"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
		"--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/info/*",
		debianSuite, target,
	}
	for _, sources := range []string{"/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"} {
		if data, err := os.ReadFile(sources); err == nil && strings.Contains(string(data), debianSuite) {
			args = append(args, sources)
			break
		}
	}
	cmd := exec.CommandContext(ctx, "mmdebstrap", args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mmdebstrap: %w\n%s", err, out)
	}
	return nil
}

// dressWorker adds the lab's files and leaves the machine without an identity, as a fresh installation is.
func dressWorker(root string) error {
	for _, dir := range []string{"/lib/modules", "/opt/cni", "/usr/lib/lab/images", "/var/lib/rkt", "/etc/sysconfig"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	// Kubernetes' convention; Debian puts the plugins elsewhere.
	if err := os.Symlink("/usr/lib/cni", filepath.Join(root, "/opt/cni/bin")); err != nil {
		return err
	}
	for path, content := range workerFiles {
		mode := os.FileMode(0o644)
		if strings.HasPrefix(content, "#!") {
			mode = 0o755
		}
		target := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		// mmdebstrap copies some of the machine's own, and they may be symlinks.
		if err := os.RemoveAll(target); err != nil {
			return err
		}
		if err := os.WriteFile(target, []byte(content), mode); err != nil {
			return err
		}
	}
	units := filepath.Join(root, "/etc/systemd/system")
	for _, unit := range workerMasked {
		os.Remove(filepath.Join(units, unit))
		if err := os.Symlink("/dev/null", filepath.Join(units, unit)); err != nil {
			return err
		}
	}
	wants := filepath.Join(units, "basic.target.wants")
	if err := os.MkdirAll(wants, 0o755); err != nil {
		return err
	}
	if err := os.Symlink("/etc/systemd/system/lab-writable.service", filepath.Join(wants, "lab-writable.service")); err != nil {
		return err
	}
	for _, path := range []string{"/etc/machine-id", "/etc/hostname", "/var/lib/dbus/machine-id"} {
		if err := os.RemoveAll(filepath.Join(root, path)); err != nil {
			return err
		}
	}
	return nil
}
