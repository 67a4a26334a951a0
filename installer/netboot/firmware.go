package netboot

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Boot files as machines ask for them.
const (
	FileBIOS     = "undionly.kpxe" // uses the card's own UNDI driver, so any card works
	FileUEFI     = "ipxe.efi"
	FileARM64    = "ipxe-arm64.efi"
	FileAutoexec = "autoexec.ipxe"
)

// Firmware is where this host has iPXE, as its distribution packages it; empty for what it has not.
type Firmware struct {
	BIOS  string
	UEFI  string
	ARM64 string
}

// Where distributions put iPXE: Debian's ipxe; ipxe-bootimgs of EL 7 and 8; ipxe-bootimgs-x86 and
// ipxe-bootimgs-aarch64 of EL 9 and 10 and Fedora. ipxe.efi drives the card itself, snponly.efi uses the firmware's
// driver: the first comes first on x86-64, where iPXE has drivers for most cards; on arm64 it has few.
var places = struct{ bios, uefi, arm64 []string }{
	bios: []string{"usr/lib/ipxe/undionly.kpxe", "usr/share/ipxe/undionly.kpxe"},
	uefi: []string{"boot/ipxe.efi", "usr/lib/ipxe/ipxe.efi", "usr/share/ipxe/ipxe-x86_64.efi",
		"usr/lib/ipxe/snponly.efi", "usr/share/ipxe/ipxe-snponly-x86_64.efi"},
	arm64: []string{"usr/share/ipxe/arm64-efi/snponly.efi", "usr/share/ipxe/arm64-efi/ipxe.efi"},
}

// FindFirmware looks below root ("/" on a real host). The error is set when BIOS or x86-64 UEFI is missing; what was
// found is returned all the same.
func FindFirmware(root string) (Firmware, error) {
	f := Firmware{BIOS: first(root, places.bios), UEFI: first(root, places.uefi), ARM64: first(root, places.arm64)}
	var missing []string
	if f.BIOS == "" {
		missing = append(missing, FileBIOS)
	}
	if f.UEFI == "" {
		missing = append(missing, FileUEFI)
	}
	if len(missing) > 0 {
		return f, fmt.Errorf("cannot find iPXE's %s on this host: install ipxe-bootimgs-x86 (EL) or ipxe (Debian), or put the files into the TFTP root yourself",
			strings.Join(missing, " and "))
	}
	return f, nil
}

func first(root string, paths []string) string {
	for _, p := range paths {
		p = filepath.Join(root, p)
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() && info.Size() > 0 {
			return p
		}
	}
	return ""
}

// Install copies the firmware and cfg.Files into the TFTP root and, for UEFI HTTP Boot, into ipxe/ of the assets
// (assets may be empty: no HTTP Boot). A file that is the same already is left alone, a new one appears whole.
// A file that the host has no firmware for is kept if the operator put one there.
func (f Firmware) Install(cfg Config, tftpRoot, assets string) error {
	tftp := map[string]string{
		FileBIOS: f.BIOS,
		// dnsmasq before 2.75 and some boot ROMs put the layer's number behind the name in proxy mode.
		FileBIOS + ".0": f.BIOS,
		FileUEFI:        f.UEFI,
		FileARM64:       f.ARM64,
	}
	errs := []error{install(tftpRoot, tftp, cfg.Files)}
	if assets != "" {
		errs = append(errs, install(filepath.Join(assets, "ipxe"), map[string]string{FileUEFI: f.UEFI, FileARM64: f.ARM64}, cfg.Files))
	}
	return errors.Join(errs...)
}

func install(dir string, copies map[string]string, files map[string][]byte) error {
	// dnsmasq serves as an unprivileged user, so everybody may read.
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot make %s for the boot files: %w", dir, err)
	}
	var errs []error
	for name, source := range copies {
		if source == "" {
			continue
		}
		content, err := os.ReadFile(source)
		if err == nil {
			err = put(filepath.Join(dir, name), content)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot put iPXE into place as %s: %w", filepath.Join(dir, name), err))
		}
	}
	for name, content := range files {
		if err := put(filepath.Join(dir, filepath.Base(name)), content); err != nil {
			errs = append(errs, fmt.Errorf("cannot write the boot file %s: %w", filepath.Join(dir, name), err))
		}
	}
	return errors.Join(errs...)
}

// put writes a file that readers see whole or not at all.
func put(path string, content []byte) error {
	if same(path, content) {
		return nil
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(content)
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

func same(path string, content []byte) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return false
	}
	want := sha256.Sum256(content)
	return string(h.Sum(nil)) == string(want[:])
}

// autoexec is what an iPXE of 2023 and later looks for beside itself before it follows DHCP (the one that a signed shim
// starts does nothing else), so it leads to the same place.
func autoexec(bootURL string) []byte {
	return []byte("#!ipxe\nisset ${ip} || dhcp || exit 1\nchain " + bootURL + "\n")
}
