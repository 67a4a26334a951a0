package lab

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/cavaliergopher/cpio"
)

// initrd packs what the kernel starts: init, busybox, and the modules up to the file systems.
func (b flatcarBuild) initrd() error {
	var archive bytes.Buffer
	w := cpio.NewWriter(&archive)
	for _, dir := range []string{"bin", "dev", "etc", "modules", "proc", "run", "sys"} {
		if err := w.WriteHeader(&cpio.Header{Name: dir, Mode: cpio.TypeDir | 0o755}); err != nil {
			return err
		}
	}
	add := func(name string, mode cpio.FileMode, data []byte) error {
		if err := w.WriteHeader(&cpio.Header{Name: name, Mode: cpio.TypeReg | mode, Size: int64(len(data))}); err != nil {
			return err
		}
		_, err := w.Write(data)
		return err
	}
	addFrom := func(name string, mode cpio.FileMode, data []byte, err error) error {
		if err != nil {
			return err
		}
		return add(name, mode, data)
	}
	busybox, err := os.ReadFile(filepath.Join(b.root, "usr/bin/busybox"))
	if err := addFrom("bin/busybox", 0o755, busybox, err); err != nil {
		return err
	}
	for _, applet := range []string{
		"sh", "mount", "umount", "mkdir", "insmod", "grep", "sed", "cat", "cp", "ln", "rm", "sync", "poweroff", "chroot", "ip", "udhcpc", "switch_root",
	} {
		if err := w.WriteHeader(&cpio.Header{Name: "bin/" + applet, Mode: cpio.TypeSymlink | 0o777, Linkname: "busybox", Size: int64(len("busybox"))}); err != nil {
			return err
		}
		if _, err := io.WriteString(w, "busybox"); err != nil {
			return err
		}
	}
	order := ""
	for _, name := range flatcarModules {
		path, err := b.module(name)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err := addFrom("modules/"+name+".ko", 0o644, data, err); err != nil {
			return err
		}
		order += name + ".ko\n"
	}
	if err := add("modules/order", 0o644, []byte(order)); err != nil {
		return err
	}
	for from, to := range map[string]string{"metal/init.sh": "init", "metal/dhcp.sh": "dhcp.sh"} {
		data, err := flatcarFiles.ReadFile(from)
		if err := addFrom(to, 0o755, data, err); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.work, "initrd.cpio"), archive.Bytes(), 0o644)
}

// module finds a module of the kernel.
func (b flatcarBuild) module(name string) (string, error) {
	found := ""
	err := filepath.WalkDir(filepath.Join(b.root, "usr/lib/modules"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == name+".ko" {
			found = path
			return fs.SkipAll
		}
		return err
	})
	if err == nil && found == "" {
		err = fmt.Errorf("the kernel has no module %s", name)
	}
	return found, err
}

// live writes what a PXE boot loads: the kernel, and an archive with the system in it. The system is compressed
// already, so gzip only wraps it: an emulated machine unpacks that in a moment.
func (b flatcarBuild) live(kernel, release string) error {
	if err := copyFile(kernel, filepath.Join(release, "flatcar_production_pxe.vmlinuz"), 0o644); err != nil {
		return err
	}
	initrd, err := os.ReadFile(filepath.Join(b.work, "initrd.cpio"))
	if err != nil {
		return err
	}
	system, err := os.ReadFile(b.squashfs())
	if err != nil {
		return err
	}
	out, err := os.Create(filepath.Join(release, "flatcar_production_pxe_image.cpio.gz"))
	if err != nil {
		return err
	}
	defer out.Close()
	gz, err := gzip.NewWriterLevel(out, gzip.NoCompression)
	if err != nil {
		return err
	}
	// The kernel unpacks archives one after the other.
	if _, err := gz.Write(initrd); err != nil {
		return err
	}
	w := cpio.NewWriter(gz)
	if err := w.WriteHeader(&cpio.Header{Name: "usr.squashfs", Mode: cpio.TypeReg | 0o644, Size: int64(len(system))}); err != nil {
		return err
	}
	if _, err := w.Write(system); err != nil {
		return err
	}
	return errors.Join(w.Close(), gz.Close(), out.Close())
}

// Sizes of the disk image's partitions in MiB; that of the system is what it needs.
const (
	espSize  = 24
	oemSize  = 4
	rootSize = 24
)

// image writes the disk image: GPT with Flatcar's names and numbers of partitions, syslinux for a BIOS and systemd-boot
// for UEFI. Every file system is made as a file of its own and put in its place; nothing is mounted.
func (b flatcarBuild) image(ctx context.Context, kernel, release string) error {
	const mib = 1 << 20
	info, err := os.Stat(b.squashfs())
	if err != nil {
		return err
	}
	usrSize := (info.Size() + mib - 1) / mib
	type part struct {
		number      int
		name, kind  string
		attributes  string
		size, start int64 // MiB
		file        string
	}
	const linux = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
	parts := []*part{
		{1, "EFI-SYSTEM", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", ", attrs=\"LegacyBIOSBootable\"", espSize, 0, "esp"},
		{3, "USR-A", linux, "", usrSize, 0, "usr.squashfs"},
		{6, "OEM", linux, "", oemSize, 0, "oem"},
		{9, "ROOT", linux, "", rootSize, 0, "root"},
	}
	next := int64(1)
	table := "label: gpt\n"
	for _, p := range parts {
		p.start = next
		next += p.size
		table += fmt.Sprintf("%d : start=%dMiB, size=%dMiB, type=%s, name=%s%s\n", p.number, p.start, p.size, p.kind, p.name, p.attributes)
	}
	if err := b.esp(ctx, kernel, parts[0].start*mib/512); err != nil {
		return err
	}
	for _, p := range parts[2:] {
		path := filepath.Join(b.work, p.file)
		if err := sparse(path, p.size*mib); err != nil {
			return err
		}
		if err := b.run(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^resize_inode", "-L", p.name, "-E", "lazy_itable_init=0,lazy_journal_init=0", path); err != nil {
			return err
		}
	}
	disk := filepath.Join(b.work, "disk")
	if err := sparse(disk, (next+1)*mib); err != nil {
		return err
	}
	sfdisk := exec.CommandContext(ctx, "sfdisk", "--quiet", disk)
	sfdisk.Stdin = strings.NewReader(table)
	if out, err := sfdisk.CombinedOutput(); err != nil {
		return fmt.Errorf("sfdisk: %w\n%s", err, out)
	}
	out, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer out.Close()
	mbr, err := os.ReadFile(filepath.Join(b.root, "usr/lib/syslinux/mbr/gptmbr.bin"))
	if err != nil {
		return err
	}
	if len(mbr) > 440 {
		return fmt.Errorf("the boot sector is %d bytes, but the partition table begins at 440", len(mbr))
	}
	if _, err := out.WriteAt(mbr, 0); err != nil {
		return err
	}
	for _, p := range parts {
		data, err := os.ReadFile(filepath.Join(b.work, p.file))
		if err != nil {
			return err
		}
		if _, err := out.WriteAt(data, p.start*mib); err != nil {
			return err
		}
	}
	if err := out.Close(); err != nil {
		return err
	}
	// The smallest blocks of bzip2 are the fastest ones to undo under emulation.
	if err := b.run(ctx, "bzip2", "-1", disk); err != nil {
		return err
	}
	return os.Rename(disk+".bz2", filepath.Join(release, "flatcar_production_image.bin.bz2"))
}

// esp makes the EFI system partition; hidden is where it begins on the disk, in sectors, which a BIOS's boot loader
// reads from it.
func (b flatcarBuild) esp(ctx context.Context, kernel string, hidden int64) error {
	// An emulated machine on a busy one fails the check of its timer now and then.
	const options = "console=ttyS0,115200n8 quiet loglevel=4 no_timer_check"
	path := filepath.Join(b.work, "esp")
	if err := sparse(path, espSize<<20); err != nil {
		return err
	}
	files := filepath.Join(b.work, "esp.files")
	content := map[string]string{
		"loader/loader.conf":      "timeout 0\ndefault lab.conf\n",
		"loader/entries/lab.conf": "title Lab OS\nlinux /flatcar/vmlinuz\ninitrd /flatcar/initrd.cpio\noptions " + options + "\n",
		"syslinux/syslinux.cfg":   "DEFAULT lab\nPROMPT 0\nTIMEOUT 1\nLABEL lab\n  LINUX /flatcar/vmlinuz\n  INITRD /flatcar/initrd.cpio\n  APPEND " + options + "\n",
	}
	for name, text := range content {
		if err := os.MkdirAll(filepath.Join(files, filepath.Dir(name)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(files, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	copies := map[string]string{
		kernel:                               "flatcar/vmlinuz",
		filepath.Join(b.work, "initrd.cpio"): "flatcar/initrd.cpio",
		filepath.Join(b.root, "usr/lib/systemd/boot/efi/systemd-bootx64.efi"): "EFI/BOOT/BOOTX64.EFI",
	}
	for from, to := range copies {
		if err := os.MkdirAll(filepath.Join(files, filepath.Dir(to)), 0o755); err != nil {
			return err
		}
		if err := copyFile(from, filepath.Join(files, to), 0o644); err != nil {
			return err
		}
	}
	if err := b.run(ctx, "mkfs.vfat", "-n", "EFI-SYSTEM", "-h", fmt.Sprint(hidden), path); err != nil {
		return err
	}
	if err := b.run(ctx, "sh", "-c", `exec mcopy -s -i "$1" "$2"/* ::`, "sh", path, files); err != nil {
		return err
	}
	return b.run(ctx, "syslinux", "--install", "--directory", "syslinux", path)
}

func sparse(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// newImageKey makes the key that signs the lab's images: key.asc for those who verify as operators do, key.gpg for
// gpgv. The secret half lives as long as the function that it returns, which signs every file of a directory.
func newImageKey(dir string) (func(release string) error, error) {
	entity, err := openpgp.NewEntity("Lab images", "", "images@lab.example", &packet.Config{DefaultHash: crypto.SHA512, RSABits: 2048})
	if err != nil {
		return nil, err
	}
	var public bytes.Buffer
	if err := entity.Serialize(&public); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "key.gpg"), public.Bytes(), 0o644); err != nil {
		return nil, err
	}
	var armored bytes.Buffer
	w, err := armor.Encode(&armored, openpgp.PublicKeyType, nil)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(public.Bytes()); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "key.asc"), armored.Bytes(), 0o644); err != nil {
		return nil, err
	}
	return func(release string) error {
		entries, err := os.ReadDir(release)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := signFile(entity, filepath.Join(release, e.Name())); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

func signFile(entity *openpgp.Entity, path string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	var signature bytes.Buffer
	if err := openpgp.DetachSign(&signature, entity, in, nil); err != nil {
		return err
	}
	return os.WriteFile(path+".sig", signature.Bytes(), 0o644)
}
