package lab

import (
	"context"
	"embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// FlatcarVersion is what the lab's image calls itself; Flatcar has no release of that number.
const FlatcarVersion = "0.77.0"

// flatcarFiles are the parts of the lab's operating system that the lab brings itself.
//
//go:embed metal
var flatcarFiles embed.FS

// flatcarPackages make the system: systemd with its network and its resolver, the real Ignition with the programs that
// it calls, what flatcar-install calls, and curl for what an installed system reports.
var flatcarPackages = []string{
	"systemd", "systemd-sysv", "systemd-resolved", "udev", "dbus", "kmod", "netbase", "passwd", "mount", "util-linux", "iproute2",
	"ignition", "curl", "ca-certificates", "gpgv", "bzip2", "lbzip2", "e2fsprogs", "efibootmgr",
	"busybox-static", "linux-image-cloud-amd64", "systemd-boot-efi", "syslinux-common",
}

// flatcarModules are loaded by the first program, in this order. ext4 is part of Debian's kernel.
var flatcarModules = []string{
	"virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio-rng", "virtio_blk",
	"failover", "net_failover", "virtio_net", "loop", "squashfs", "overlay",
}

// flatcarLateModules are in the system for whoever asks for them.
var flatcarLateModules = []string{"efivarfs", "button", "evdev", "fat", "vfat", "nls_cp437", "nls_ascii", "nls_iso8859-1"}

// flatcarUnneeded is left out of the system: what only Debian's installation of packages needs, and what is big.
var flatcarUnneeded = []string{
	"boot/*", "vmlinuz*", "initrd.img*", "var/cache/*", "var/lib/apt", "var/lib/dpkg", "var/log/*", "usr/lib/apt", "usr/lib/dpkg", "usr/share/perl*",
	"usr/lib/modules", "usr/lib/firmware", "usr/lib/syslinux", "usr/lib/systemd/boot", "usr/lib/dracut", "usr/share/initramfs-tools", "etc/initramfs-tools",
	"usr/lib/x86_64-linux-gnu/perl*", "usr/lib/x86_64-linux-gnu/libperl*", "usr/lib/x86_64-linux-gnu/gconv", "usr/lib/x86_64-linux-gnu/libapt*",
	"usr/lib/x86_64-linux-gnu/libstdc++*", "usr/lib/x86_64-linux-gnu/libmvec*", "usr/lib/x86_64-linux-gnu/libdb-5*",
	"usr/lib/udev/hwdb*", "etc/udev/hwdb*", "usr/bin/perl*", "usr/bin/ignition-validate", "usr/bin/busybox", "usr/bin/openssl", "usr/bin/apt*", "usr/bin/dpkg*",
	"usr/bin/localedef", "usr/bin/bash", "usr/bin/rbash", "usr/bin/ss", "usr/bin/tar", "usr/sbin/ldconfig", "usr/bin/localectl", "usr/bin/timedatectl", "usr/bin/hostnamectl", "var/lib/systemd/catalog", "usr/bin/systemd-analyze", "usr/sbin/tc", "usr/sbin/rdma", "usr/sbin/devlink", "usr/sbin/debugfs",
	"usr/share/zoneinfo", "usr/share/zsh", "usr/share/bash-completion", "usr/share/common-licenses", "usr/share/doc*", "usr/share/info", "usr/share/man",
	"usr/share/locale", "usr/share/lintian", "usr/share/polkit-1", "usr/share/i18n", "usr/share/terminfo", "usr/share/gdb", "usr/lib/terminfo",
	"usr/lib/systemd/system/apt-*", "usr/lib/systemd/system/dpkg-*", "usr/lib/systemd/system/e2scrub*", "etc/systemd/system/*.wants",
	"etc/machine-id", "etc/hostname", "etc/resolv.conf", "var/lib/dbus/machine-id", "usr/lib/systemd/system-preset/*",
	"usr/lib/systemd/catalog", "usr/lib/systemd/system-generators/systemd-gpt-auto-generator", "usr/lib/systemd/system-generators/systemd-cryptsetup-generator",
	"usr/lib/systemd/system-generators/systemd-hibernate-resume-generator",
}

// flatcarMasked only cost time in a machine that lives for minutes under emulation.
var flatcarMasked = []string{
	"getty@.service", "serial-getty@.service", "console-getty.service", "getty.target", "systemd-firstboot.service", "systemd-hwdb-update.service",
	"ldconfig.service", "systemd-journal-catalog-update.service", "systemd-sysusers.service", "systemd-update-done.service", "systemd-update-utmp.service",
	"systemd-update-utmp-runlevel.service", "systemd-random-seed.service", "systemd-boot-system-token.service",
	"systemd-pstore.service", "systemd-binfmt.service", "systemd-user-sessions.service", "systemd-tmpfiles-clean.timer",
	"systemd-journal-flush.service", "systemd-remount-fs.service", "fstrim.timer", "modprobe@drm.service", "modprobe@configfs.service",
	"modprobe@fuse.service", "modprobe@dm_mod.service", "modprobe@loop.service", "kmod-static-nodes.service",
	"dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-fs-fuse-connections.mount", "sys-kernel-config.mount",
	"systemd-ask-password-console.path", "systemd-ask-password-wall.path", "proc-sys-fs-binfmt_misc.automount", "systemd-rfkill.socket", "systemd-initctl.socket",
	"systemd-networkd-persistent-storage.service", "systemd-fsck-root.service", "systemd-boot-update.service", "systemd-pcrphase-sysinit.service", "systemd-pcrphase.service",
}

// flatcarSystem are files of the system; path -> content.
var flatcarSystem = map[string]string{
	// Not "ID=flatcar": it is Debian, and says so.
	"/etc/os-release":                      "NAME=\"Lab OS\"\nID=lab\nVERSION_ID=" + FlatcarVersion + "\nPRETTY_NAME=\"The lab's stand-in for Flatcar, Debian " + debianSuite + "\"\n",
	"/etc/systemd/network/50-dhcp.network": "[Match]\nName=en* eth*\n\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n\n[DHCPv4]\nClientIdentifier=mac\nUseHostname=no\n",
	"/etc/nsswitch.conf":                   "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\n",
	"/etc/hosts":                           "127.0.0.1 localhost\n",
	"/etc/fstab":                           "",
	// Debian's Ignition wants to know.
	"/etc/selinux/config":                                                    "SELINUX=disabled\nSELINUXTYPE=default\n",
	"/etc/systemd/journald.conf.d/50-lab.conf":                               "[Journal]\nStorage=volatile\nForwardToConsole=yes\nTTYPath=/dev/console\nMaxLevelConsole=info\nAudit=no\n",
	"/etc/systemd/system.conf.d/50-lab.conf":                                 "[Manager]\nShowStatus=no\nDefaultTimeoutStartSec=300\nDefaultTimeoutStopSec=20\n",
	"/etc/systemd/resolved.conf.d/50-lab.conf":                               "[Resolve]\nLLMNR=no\nMulticastDNS=no\nDNSSEC=no\nDNSStubListener=no\nFallbackDNS=\nReadEtcHosts=yes\n",
	"/usr/lib/systemd/system-preset/50-lab.preset":                           "enable systemd-networkd.service\nenable systemd-networkd-wait-online.service\nenable systemd-resolved.service\n",
	"/usr/lib/systemd/system-preset/99-default.preset":                       "disable *\n",
	"/etc/systemd/system/systemd-networkd-wait-online.service.d/50-lab.conf": "[Service]\nExecStart=\nExecStart=/lib/systemd/systemd-networkd-wait-online --any --timeout=300\n",
	"/etc/tmpfiles.d/systemd-resolve.conf":                                   "",
}

// Flatcar is the lab's operating system as Flatcar publishes a release: what a PXE boot needs, the disk image, and the
// signatures of both.
type Flatcar struct {
	Dir string // <Dir>/amd64-usr/<FlatcarVersion>/flatcar_production_…
	Key string // the public key of the signatures, ASCII-armoured
}

func (c *Cache) flatcarRootPath() string {
	return filepath.Join(c.Dir, "flatcar-root-"+digest(debianSuite, strings.Join(flatcarPackages, " ")))
}

// flatcarRoot is a Debian with the packages, as it was installed.
func (c *Cache) flatcarRoot(ctx context.Context) (string, error) {
	path := c.flatcarRootPath()
	return path, c.make(ctx, "root of the machines' operating system", path, func(ctx context.Context, dir string) error {
		return mmdebstrap(ctx, dir, flatcarPackages)
	})
}

func (c *Cache) flatcarPath() (string, error) {
	parts := []string{"3", c.flatcarRootPath(), FlatcarVersion, strings.Join(flatcarModules, " "), strings.Join(flatcarLateModules, " "),
		strings.Join(flatcarUnneeded, " "), strings.Join(flatcarMasked, " ")}
	for _, path := range sortedKeys(flatcarSystem) {
		parts = append(parts, path, flatcarSystem[path])
	}
	entries, err := flatcarFiles.ReadDir("metal")
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		data, err := flatcarFiles.ReadFile("metal/" + e.Name())
		if err != nil {
			return "", err
		}
		parts = append(parts, e.Name(), string(data))
	}
	return filepath.Join(c.Dir, "flatcar-"+digest(parts...)), nil
}

// Flatcar gives the operating system that the lab's machines boot and install. Two minutes the first time.
func (c *Cache) Flatcar(ctx context.Context) (Flatcar, error) {
	path, err := c.flatcarPath()
	if err != nil {
		return Flatcar{}, err
	}
	f := Flatcar{Dir: filepath.Join(path, "mirror"), Key: filepath.Join(path, "key.asc")}
	if exists(path) {
		return f, nil
	}
	root, err := c.flatcarRoot(ctx)
	if err != nil {
		return f, err
	}
	return f, c.make(ctx, "machines' operating system", path, func(ctx context.Context, dir string) error {
		b := flatcarBuild{root: root, dir: dir, work: filepath.Join(dir, "work")}
		if err := b.build(ctx); err != nil {
			return err
		}
		return os.RemoveAll(b.work)
	})
}

// flatcarBuild makes the operating system in dir.
type flatcarBuild struct{ root, dir, work string }

func (b flatcarBuild) build(ctx context.Context) error {
	release := filepath.Join(b.dir, "mirror", "amd64-usr", FlatcarVersion)
	for _, dir := range []string{release, b.work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	sign, err := newImageKey(b.dir)
	if err != nil {
		return err
	}
	if err := b.system(ctx); err != nil {
		return err
	}
	if err := b.initrd(); err != nil {
		return err
	}
	kernel, err := b.kernel()
	if err != nil {
		return err
	}
	if err := b.live(kernel, release); err != nil {
		return err
	}
	if err := b.image(ctx, kernel, release); err != nil {
		return err
	}
	version := "FLATCAR_BUILD=0\nFLATCAR_BRANCH=77\nFLATCAR_PATCH=0\nFLATCAR_VERSION=" + FlatcarVersion + "\nFLATCAR_VERSION_ID=" + FlatcarVersion + "\n"
	if err := os.WriteFile(filepath.Join(release, "version.txt"), []byte(version), 0o644); err != nil {
		return err
	}
	return sign(release)
}

// system packs the files of the system: usr.squashfs.
func (b flatcarBuild) system(ctx context.Context) error {
	system := filepath.Join(b.work, "system")
	if err := b.run(ctx, "cp", "-a", b.root, system); err != nil {
		return err
	}
	move := [][2]string{{"usr/lib/dracut/modules.d/30ignition/ignition", "usr/bin/ignition"}}
	for _, m := range move {
		if err := os.Rename(filepath.Join(system, m[0]), filepath.Join(system, m[1])); err != nil {
			return err
		}
	}
	for _, pattern := range flatcarUnneeded {
		paths, err := filepath.Glob(filepath.Join(system, pattern))
		if err != nil {
			return err
		}
		for _, path := range paths {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	release, err := b.release()
	if err != nil {
		return err
	}
	modules := filepath.Join(system, "usr/lib/modules", release)
	if err := os.MkdirAll(modules, 0o755); err != nil {
		return err
	}
	for _, name := range append(append([]string{}, flatcarModules...), flatcarLateModules...) {
		source, err := b.module(name)
		if err != nil {
			return err
		}
		if err := copyFile(source, filepath.Join(modules, name+".ko"), 0o644); err != nil {
			return err
		}
	}
	for _, name := range []string{"modules.builtin", "modules.order", "modules.builtin.modinfo"} {
		if err := copyFile(filepath.Join(b.root, "usr/lib/modules", release, name), filepath.Join(modules, name), 0o644); err != nil {
			return err
		}
	}
	// The machine's own depmod may be of another version; the system has one.
	if err := b.run(ctx, "chroot", system, "depmod", release); err != nil {
		return err
	}
	installer, err := flatcarFiles.ReadFile("metal/flatcar-install.sh")
	if err != nil {
		return err
	}
	files := map[string]string{"/usr/bin/flatcar-install": string(installer)}
	for path, content := range flatcarSystem {
		files[path] = content
	}
	for path, content := range files {
		mode := os.FileMode(0o644)
		if strings.HasPrefix(content, "#!") {
			mode = 0o755
		}
		target := filepath.Join(system, path)
		if err := os.RemoveAll(target); err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(target, []byte(content), mode); err != nil {
			return err
		}
	}
	for _, unit := range flatcarMasked {
		if err := os.Symlink("/dev/null", filepath.Join(system, "etc/systemd/system", unit)); err != nil {
			return err
		}
	}
	for target, link := range map[string]string{
		"/run/systemd/resolve/resolv.conf":      "etc/resolv.conf",
		"/lib/systemd/system/multi-user.target": "etc/systemd/system/default.target",
	} {
		if err := os.Symlink(target, filepath.Join(system, link)); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(system, "usr/share/lab"), 0o755); err != nil {
		return err
	}
	if err := copyFile(filepath.Join(b.dir, "key.gpg"), filepath.Join(system, "usr/share/lab/image-signing-key.gpg"), 0o644); err != nil {
		return err
	}
	return b.run(ctx, "mksquashfs", system, b.squashfs(), "-comp", "zstd", "-Xcompression-level", "12", "-noappend", "-no-progress", "-quiet", "-no-xattrs")
}

func (b flatcarBuild) squashfs() string { return filepath.Join(b.work, "usr.squashfs") }

// kernel is the path of Debian's.
func (b flatcarBuild) kernel() (string, error) {
	release, err := b.release()
	return filepath.Join(b.root, "boot/vmlinuz-"+release), err
}

// release is the version of the kernel that is installed in the root.
func (b flatcarBuild) release() (string, error) {
	found, err := filepath.Glob(filepath.Join(b.root, "usr/lib/modules/*"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("cannot tell the kernel: %d in %s (%v)", len(found), b.root, err)
	}
	return filepath.Base(found[0]), nil
}

func (b flatcarBuild) run(ctx context.Context, argv ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, out)
	}
	return nil
}

func copyFile(from, to string, mode os.FileMode) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, mode)
}
