package live

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

// What a machine with all sorts of devices shows, and what is made of it.
func TestInventory(t *testing.T) {
	h := newHost(t)
	link := func(name, target string) {
		t.Helper()
		if err := os.MkdirAll(h.path("/sys/devices/"+target), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("../devices/"+target, h.path("/sys/block/"+name)); err != nil {
			t.Fatal(err)
		}
	}
	h.sysfs("sda", 480e9, map[string]string{"queue/rotational": "1", "device/model": "ST480LM  ", "device/vpd_pg80": "\x00\x80\x00\x08 WD12345",
		"device/wwid": "naa.5000c500a1b2c3d4", "sda1/partition": "1", "sda1/dev": "8:1", "dev": "8:0"})
	h.sysfs("sdb", 480e9, map[string]string{"dev": "8:16", "sdb2/partition": "2", "sdb2/dev": "8:18", "sdb2/holders/md127/x": ""})
	h.sysfs("sdc", 480e9, map[string]string{"dev": "8:32", "holders/dm-0/x": ""})
	h.sysfs("dm-0", 480e9, map[string]string{"dm/name": "vg0-root"})
	h.sysfs("sdd", 480e9, map[string]string{"dev": "8:48", "sdd1/partition": "1", "sdd1/dev": "8:49"})
	h.sysfs("sde", 480e9, map[string]string{"dev": "8:64", "sde3/partition": "3", "sde3/dev": "8:67"})
	h.sysfs("nvme0n1", 960e9, map[string]string{"dev": "259:0", "device/serial": "S4NV", "wwid": "eui.0025385b01412345", "device/model": "SAMSUNG MZ"})
	h.sysfs("nvme0c0n1", 960e9, map[string]string{"hidden": "1"})
	h.sysfs("vda", 40*gib, map[string]string{"serial": "virt", "ro": "1"})
	h.sysfs("sr0", 700e6, map[string]string{"device/type": "5"})
	h.sysfs("fd0", 1440<<10, nil)
	h.sysfs("mmcblk0boot0", 4<<20, nil)
	h.sysfs("mmcblk0", 32e9, map[string]string{"removable": "1"})
	h.sysfs("sdz", 0, nil)
	h.sysfs("loop0", 30e9, nil)
	for _, virtual := range []string{"loop0", "dm-0"} {
		if err := os.RemoveAll(h.path("/sys/block/" + virtual + "/device")); err != nil {
			t.Fatal(err)
		}
	}
	link("sdu", "pci0000:00/0000:00:14.0/usb2/2-1/host6/block/sdu")
	h.sysfs("sdu", 64e9, map[string]string{"dev": "65:64"})
	h.write("/run/udev/data/b65:64", "S:disk/by-id/usb\nE:ID_SERIAL_SHORT=4C53\nE:ID_MODEL=Cruzer_Blade\nE:ID_WWN=0x1\n")
	h.write("/proc/self/mountinfo", "21 1 0:20 / / rw shared:1 - tmpfs rootfs rw\n30 21 8:49 / /mnt/a\\040b rw - ext4 /dev/sdd1 rw\n31 21 0:40 / /mnt/c rw shared:2 master:3 - btrfs /dev/sde3 rw\n")
	h.write("/proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/dev/sda1 partition 1000 0 -2\n")

	got, err := (&Live{Root: h.root}).Inventory()
	if err != nil {
		t.Fatal(err)
	}
	want := machine.Inventory{Memory: 64 * 0x8000000, Cores: 2, Firmware: "bios", Arch: got.Arch, NICs: map[string]string{"eth0": testMAC}, Disks: []machine.InventoryDisk{
		{Name: "mmcblk0", Size: 32e9, Removable: true},
		{Name: "nvme0n1", Size: 960e9, Serial: "S4NV", WWN: "eui.0025385b01412345", Model: "SAMSUNG MZ"},
		{Name: "sda", Size: 480e9, Serial: "WD12345", WWN: "naa.5000c500a1b2c3d4", Model: "ST480LM", Rotational: true, InUse: "sda1 is swap"},
		{Name: "sdb", Size: 480e9, InUse: "sdb2 belongs to md127"},
		{Name: "sdc", Size: 480e9, InUse: "sdc belongs to vg0-root"},
		{Name: "sdd", Size: 480e9, InUse: `sdd1 is mounted on /mnt/a\040b`},
		{Name: "sde", Size: 480e9, InUse: "sde3 is mounted on /mnt/c"},
		{Name: "sdu", Size: 64e9, Serial: "4C53", Model: "Cruzer Blade", WWN: "0x1", Removable: true},
		{Name: "vda", Size: 40 * gib, Serial: "virt", ReadOnly: true},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	disk, err := Choose(got.Disks, machine.Disk{}, 30e9)
	if err != nil || disk.Name != "nvme0n1" {
		t.Errorf("chose %s, %v", disk.Name, err)
	}
}

// The machine that runs the test has memory, cores and a network card.
func TestInventoryOfThisMachine(t *testing.T) {
	got, err := (&Live{}).Inventory()
	if err != nil {
		t.Fatal(err)
	}
	if got.Memory < 64<<20 || got.Cores < 1 || got.Arch == "" {
		t.Errorf("%+v", got)
	}
}

func TestChoose(t *testing.T) {
	yes, no := true, false
	disks := []machine.InventoryDisk{
		{Name: "sda", Size: 8000e9, Rotational: true, Serial: "BIG1", WWN: "naa.5000c500a1b2c3d4", Model: "Seagate Exos"},
		{Name: "sdb", Size: 480e9, Serial: "SSD1", WWN: "0x5002538e40a1b2c3", Model: "Samsung PM883"},
		{Name: "sdc", Size: 480e9, Serial: "SSD2", Model: "Samsung PM883"},
		{Name: "sdd", Size: 960e9, Serial: "SSD3", Model: "Micron 5300"},
		{Name: "sde", Size: 16e9, Serial: "DOM", Model: "SATADOM"},
		{Name: "sdf", Size: 240e9, Serial: "STICK", Removable: true},
		{Name: "sdg", Size: 240e9, Serial: "LVM", InUse: "sdg1 belongs to vg0"},
		{Name: "sdh", Size: 240e9, Serial: "LOCKED", ReadOnly: true},
	}
	for name, c := range map[string]struct {
		hints machine.Disk
		of    string // the disks' names, all when empty
		want  string // a disk's name, or words of the error
	}{
		"no hint, many":             {want: "4 disks fit and one must be meant"},
		"no hint, one fits":         {of: "sda sde sdf sdg sdh", want: "sda"},
		"no hint, none fits":        {of: "sde sdf sdg sdh", want: "no disk fits: sde (16.0 GB, model SATADOM, serial DOM: smaller than the minimum of 30.0 GB), sdf (240.0 GB, serial STICK: removable), sdg (240.0 GB, serial LVM: in use: sdg1 belongs to vg0), sdh (240.0 GB, serial LOCKED: read-only)"},
		"serial":                    {hints: machine.Disk{Serial: "SSD2"}, want: "sdc"},
		"serial, other case":        {hints: machine.Disk{Serial: " ssd2 "}, want: "sdc"},
		"part of a serial":          {hints: machine.Disk{Serial: "SSD"}, want: "no disk fits"},
		"serial of one in use":      {hints: machine.Disk{Serial: "LVM"}, want: "in use"},
		"serial of a removable":     {hints: machine.Disk{Serial: "STICK"}, want: "removable"},
		"serial of a small one":     {hints: machine.Disk{Serial: "DOM"}, want: "smaller than the minimum"},
		"wwn, as lsblk shows it":    {hints: machine.Disk{WWN: "0x5000C500A1B2C3D4"}, want: "sda"},
		"wwn, as sysfs shows it":    {hints: machine.Disk{WWN: "naa.5002538e40a1b2c3"}, want: "sdb"},
		"model, one":                {hints: machine.Disk{Model: "micron"}, want: "sdd"},
		"model, two":                {hints: machine.Disk{Model: "PM883"}, want: "2 disks fit and one must be meant"},
		"model and size, two":       {hints: machine.Disk{Model: "PM883", MinSize: 100e9}, want: "2 disks fit"},
		"rotational":                {hints: machine.Disk{Rotational: &yes}, want: "sda"},
		"not rotational, two least": {hints: machine.Disk{Rotational: &no}, want: "3 disks fit"},
		"size, the smallest":        {hints: machine.Disk{MinSize: 500e9}, want: "sdd"},
		"size, upper":               {hints: machine.Disk{MinSize: 500e9, MaxSize: 1000e9}, want: "sdd"},
		"size, equal ones":          {hints: machine.Disk{MaxSize: 500e9}, want: "2 disks fit"},
		"size, none":                {hints: machine.Disk{MinSize: 9000e9}, want: "smaller than 9.0 TB"},
		"hints that disagree":       {hints: machine.Disk{Serial: "SSD1", Rotational: &yes}, want: "no disk fits"},
		"no disk":                   {of: "none", want: "no disk at all"},
	} {
		t.Run(name, func(t *testing.T) {
			var of []machine.InventoryDisk
			for _, d := range disks {
				if c.of == "" || strings.Contains(c.of, d.Name) {
					of = append(of, d)
				}
			}
			got, err := Choose(of, c.hints, 30e9)
			if got.Name != c.want && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%q, %v; want %s", got.Name, err, c.want)
			}
			if err != nil && got.Name != "" {
				t.Errorf("both %s and %v", got.Name, err)
			}
		})
	}
}

// Whatever the hints: a chosen disk is fit, and the choice does not depend on the order in which disks were found.
func FuzzChoose(f *testing.F) {
	f.Add(uint32(0), uint32(0x123456), "a", "", "", int64(0), int64(0))
	f.Add(uint32(0xffffffff), uint32(7), "", "b", "c", int64(1), int64(100))
	f.Fuzz(func(t *testing.T, flags, sizes uint32, serial, wwn, model string, least, most int64) {
		words := []string{"", "a", "b", "c"}
		var disks, reversed []machine.InventoryDisk
		for i := range 4 {
			bits := flags >> (8 * i)
			d := machine.InventoryDisk{Name: "sd" + string(rune('a'+i)), Size: int64(sizes>>(8*i)&0xff) << 20, Serial: words[bits&3], WWN: words[bits>>2&3], Model: words[bits&3],
				Rotational: bits&16 != 0, Removable: bits&32 != 0, ReadOnly: bits&64 != 0}
			if bits&128 != 0 {
				d.InUse = "busy"
			}
			disks = append(disks, d)
			reversed = append([]machine.InventoryDisk{d}, reversed...)
		}
		hints := machine.Disk{Serial: serial, WWN: wwn, Model: model, MinSize: least, MaxSize: most}
		got, err := Choose(disks, hints, 1<<20)
		again, errAgain := Choose(reversed, hints, 1<<20)
		if got != again || (err == nil) != (errAgain == nil) {
			t.Fatalf("%v %v, and in another order %v %v", got, err, again, errAgain)
		}
		if err == nil && (got.InUse != "" || got.Removable || got.ReadOnly || got.Size < 1<<20 || got.Size < least || most != 0 && got.Size > most) {
			t.Fatalf("chose %+v for %+v", got, hints)
		}
	})
}
