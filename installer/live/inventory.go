package live

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

// Inventory reads /sys and /proc (the kernel's ABI documents sysfs-block, sysfs-devices-system-cpu, sysfs-devices-memory).
func (l *Live) Inventory() (machine.Inventory, error) {
	i := machine.Inventory{Firmware: "bios", Arch: arch(runtime.GOARCH), NICs: l.nics()}
	if _, err := os.Stat(l.path("/sys/firmware/efi")); err == nil {
		i.Firmware = "uefi"
	}
	var err error
	if i.Memory, err = l.memory(); err != nil {
		return i, err
	}
	if i.Cores, err = l.cores(); err != nil {
		return i, err
	}
	i.Disks, err = l.disks()
	return i, err
}

func arch(goarch string) string {
	switch goarch {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	}
	return goarch
}

// text is a file's content without the white space around it, empty where there is no such file.
func (l *Live) text(elements ...string) string {
	data, err := os.ReadFile(l.path(filepath.Join(elements...)))
	if err != nil {
		return ""
	}
	return strings.Trim(strings.TrimSpace(string(data)), "\x00")
}

func (l *Live) number(elements ...string) int64 {
	n, err := strconv.ParseInt(l.text(elements...), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// memory is what is built in. MemTotal alone is what the kernel left of it, some hundred MB less.
func (l *Live) memory() (int64, error) {
	total := int64(0)
	for _, line := range strings.Split(l.text("/proc/meminfo"), "\n") {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64)
			if err == nil {
				total = kib << 10
			}
		}
	}
	if total == 0 {
		return 0, errors.New("cannot tell how much memory this machine has: /proc/meminfo has no MemTotal")
	}
	const dir = "/sys/devices/system/memory"
	block, err := strconv.ParseInt(l.text(dir, "block_size_bytes"), 16, 64)
	if err != nil {
		return total, nil
	}
	blocks, _ := filepath.Glob(l.path(dir + "/memory[0-9]*"))
	return max(total, block*int64(len(blocks))), nil
}

// cores are cores and not their hardware threads.
func (l *Live) cores() (int, error) {
	seen := map[string]bool{}
	dirs, _ := filepath.Glob(l.path("/sys/devices/system/cpu/cpu[0-9]*"))
	for _, dir := range dirs {
		topology := filepath.Join("/sys/devices/system/cpu", filepath.Base(dir), "topology")
		core := l.text(topology, "core_id")
		if core == "" {
			continue // offline
		}
		seen[l.text(topology, "physical_package_id")+"/"+l.text(topology, "die_id")+"/"+core] = true
	}
	if len(seen) > 0 {
		return len(seen), nil
	}
	n := strings.Count("\n"+l.text("/proc/cpuinfo"), "\nprocessor")
	if n == 0 {
		return 0, errors.New("cannot tell how many cores this machine has: neither /sys/devices/system/cpu nor /proc/cpuinfo shows one")
	}
	return n, nil
}

func (l *Live) nics() map[string]string {
	nics := map[string]string{}
	entries, _ := os.ReadDir(l.path("/sys/class/net"))
	for _, e := range entries {
		// ARPHRD_ETHER and ARPHRD_INFINIBAND (linux/if_arp.h).
		if t := l.text("/sys/class/net", e.Name(), "type"); t != "1" && t != "32" {
			continue
		}
		if hw, err := net.ParseMAC(l.text("/sys/class/net", e.Name(), "address")); err == nil {
			nics[e.Name()] = hw.String()
		}
	}
	return nics
}

var noDisk = regexp.MustCompile(`^(sr|fd)[0-9]|^mmcblk[0-9]+(boot|rpmb|gp)`)

func (l *Live) disks() ([]machine.InventoryDisk, error) {
	entries, err := os.ReadDir(l.path("/sys/block"))
	if err != nil {
		return nil, fmt.Errorf("cannot list this machine's disks: %w", err)
	}
	use, err := l.uses()
	if err != nil {
		return nil, err
	}
	disks := []machine.InventoryDisk{}
	for _, e := range entries {
		name := e.Name()
		dir := filepath.Join("/sys/block", name)
		// Loop, device-mapper, RAID and RAM devices have no device behind them; optical and floppy drives, and the
		// boot areas of an eMMC, are no disks.
		if _, err := os.Stat(l.path(dir + "/device")); err != nil || noDisk.MatchString(name) || l.number(dir, "hidden") == 1 {
			continue
		}
		// Always in units of 512 bytes, whatever the disk's sectors are.
		bytes := l.number(dir, "size") * 512
		if bytes == 0 {
			continue // a drive without a medium
		}
		udev := l.udev(l.text(dir, "dev"))
		disks = append(disks, machine.InventoryDisk{
			Name: name, Size: bytes,
			Serial: first(l.text(dir, "serial"), l.text(dir, "device/serial"), l.vpdSerial(dir), udev["ID_SERIAL_SHORT"]),
			WWN:    first(l.text(dir, "wwid"), l.text(dir, "device/wwid"), udev["ID_WWN_WITH_EXTENSION"], udev["ID_WWN"]),
			Model:  first(l.text(dir, "device/model"), strings.ReplaceAll(udev["ID_MODEL"], "_", " ")),
			// A disk behind USB is one that somebody plugged in, whatever it says of its medium.
			Removable:  l.number(dir, "removable") == 1 || l.onUSB(dir),
			Rotational: l.number(dir, "queue/rotational") == 1,
			ReadOnly:   l.number(dir, "ro") == 1,
			InUse:      use.of(l, name),
		})
	}
	return disks, nil
}

func first(values ...string) string {
	for _, v := range values {
		if v = printable(strings.TrimSpace(v), 200); v != "" {
			return v
		}
	}
	return ""
}

func (l *Live) onUSB(dir string) bool {
	target, err := os.Readlink(l.path(dir))
	return err == nil && strings.Contains(target, "/usb")
}

// vpdSerial is the Unit Serial Number page of a SCSI device (SPC-4 7.8.17), which libata makes for SATA disks too.
func (l *Live) vpdSerial(dir string) string {
	page, err := os.ReadFile(l.path(dir + "/device/vpd_pg80"))
	if err != nil || len(page) < 4 {
		return ""
	}
	end := min(4+int(page[2])<<8+int(page[3]), len(page))
	return strings.Trim(string(page[4:end]), " \x00")
}

// udev is what udev knows of a block device, from its database: "E:KEY=value" lines.
func (l *Live) udev(dev string) map[string]string {
	known := map[string]string{}
	if dev == "" {
		return known
	}
	for _, line := range strings.Split(l.text("/run/udev/data/b"+dev), "\n") {
		if rest, ok := strings.CutPrefix(line, "E:"); ok {
			key, value, _ := strings.Cut(rest, "=")
			known[key] = value
		}
	}
	return known
}
