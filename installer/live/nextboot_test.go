package live

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

// What is written to the firmware's variables is what efibootmgr reads, whatever was there before.
func TestBootFromDisk(t *testing.T) {
	need(t, "sfdisk", "efibootmgr")
	const uuid = "01234567-89ab-cdef-0123-456789abcdef"
	const line = "HD(1,GPT," + uuid + ",0x800,0xa000)/File(\\EFI\\BOOT\\BOOT"
	setup := func(t *testing.T) (*host, machine.InventoryDisk) {
		h := newHost(t)
		file := h.disk("vda", 200<<20, nil)
		sfdisk(t, file, "label: gpt\nstart=1MiB, size=20MiB, type=U, uuid="+uuid+"\nstart=50MiB, size=100MiB, type=L\n")
		if err := os.MkdirAll(h.path(efivars), 0o755); err != nil {
			t.Fatal(err)
		}
		return h, machine.InventoryDisk{Name: "vda", Size: 200 << 20}
	}
	variable := func(t *testing.T, h *host, name string, value ...byte) {
		t.Helper()
		if err := writeVariable(h.path(efivars), name, value); err != nil {
			t.Fatal(err)
		}
	}
	efibootmgr := func(t *testing.T, h *host) string {
		t.Helper()
		cmd := exec.Command("efibootmgr", "--verbose")
		cmd.Env = append(os.Environ(), "EFIVARFS_PATH="+h.path(efivars)+"/")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("efibootmgr: %v\n%s", err, out)
		}
		return string(out)
	}
	boot := func(t *testing.T, h *host, d machine.InventoryDisk) string {
		t.Helper()
		said, err := (&Live{Root: h.root}).bootFromDisk(d)
		if err != nil {
			t.Fatal(err)
		}
		return said
	}
	expect := func(t *testing.T, text string, parts ...string) {
		t.Helper()
		for _, p := range parts {
			if !strings.Contains(text, p) {
				t.Errorf("%q is not in\n%s", p, text)
			}
		}
	}
	network := append([]byte{1, 0, 0, 0, 4, 0}, append(wide("PXE"), 0x7f, 0xff, 4, 0)...)

	t.Run("new entry", func(t *testing.T) {
		h, d := setup(t)
		variable(t, h, "Boot0000", network...)
		variable(t, h, "Boot0003", network...)
		variable(t, h, "BootOrder", 3, 0, 0, 0)
		if said := boot(t, h, d); !strings.Contains(said, "the new Boot0001") {
			t.Error(said)
		}
		once := efibootmgr(t, h)
		expect(t, once, "BootNext: 0001", "BootOrder: 0001,0003,0000", "Boot0001* tectonic-installer\t"+line, "Boot0003* PXE")
		boot(t, h, d)
		if twice := efibootmgr(t, h); twice != once {
			t.Errorf("a second time it is\n%s\nand was\n%s", twice, once)
		}
		t.Run("after a new installation", func(t *testing.T) {
			const other = "11111111-2222-3333-4444-555555555555"
			sfdisk(t, h.path("/dev/vda"), "label: gpt\nstart=1MiB, size=20MiB, type=U, uuid="+other+"\n")
			boot(t, h, d)
			got := efibootmgr(t, h)
			expect(t, got, "BootNext: 0001", "BootOrder: 0001,0003,0000", "HD(1,GPT,"+other)
			if strings.Contains(got, uuid) || strings.Contains(got, "Boot0002") {
				t.Errorf("the old entry is left:\n%s", got)
			}
		})
	})
	t.Run("entry of the operating system", func(t *testing.T) {
		h, d := setup(t)
		variable(t, h, "Timeout", 0, 0)
		boot(t, h, d)
		data := content(t, filepath.Join(h.path(efivars), "Boot0000"+globalVariable))
		if err := os.RemoveAll(h.path(efivars)); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(h.path(efivars), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(h.path(efivars), "Boot0007"+globalVariable), strings.Replace(data, string(wide(entryName)), string(wide("Flatcar")), 1))
		variable(t, h, "BootOrder", 5, 0, 7, 0)
		if said := boot(t, h, d); !strings.HasSuffix(said, "by Boot0007") {
			t.Error(said)
		}
		expect(t, efibootmgr(t, h), "BootNext: 0007", "BootOrder: 0007,0005", "Boot0007* Flatcar")
	})
	t.Run("no order yet", func(t *testing.T) {
		h, d := setup(t)
		variable(t, h, "Timeout", 0, 0)
		boot(t, h, d)
		expect(t, efibootmgr(t, h), "BootNext: 0000", "BootOrder: 0000", line)
	})
	t.Run("no system partition", func(t *testing.T) {
		h, d := setup(t)
		variable(t, h, "Timeout", 0, 0)
		sfdisk(t, h.path("/dev/vda"), "label: gpt\nstart=1MiB, size=20MiB, type=L\n")
		if _, err := (&Live{Root: h.root}).bootFromDisk(d); err == nil || !strings.Contains(err.Error(), "no EFI system partition") {
			t.Error(err)
		}
	})
}

// A whole installation on a machine with UEFI ends with the disk as the next boot; where that fails it is no failure.
func TestInstallWithUEFI(t *testing.T) {
	need(t, "sfdisk")
	for _, works := range []bool{true, false} {
		h, p := newHost(t), newProvisionerDouble(t)
		p.order.Minimum.Disk = 1 << 20
		h.write("/sys/firmware/efi/fw_platform_size", "64")
		h.write(efivars+"/Timeout"+globalVariable, "\x07\x00\x00\x00\x00\x00")
		file := h.disk("vda", 200<<20, nil)
		if works {
			h.program("flatcar-install", `printf 'label: gpt\nstart=1MiB, size=20MiB, type=U\n' | PATH=$PATH:/usr/sbin:/sbin sfdisk --quiet --no-tell-kernel `+file)
		} else {
			h.program("flatcar-install", "exit 0")
		}
		if err := p.live(h).Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, err := os.Stat(h.path(efivars + "/BootNext" + globalVariable))
		if (err == nil) != works || p.said() != "hello checks claim installed" || p.hello.Inventory.Firmware != "uefi" {
			t.Errorf("works %v: %v after %s on %s", works, err, p.said(), p.hello.Inventory.Firmware)
		}
	}
}

func FuzzLoadOption(f *testing.F) {
	f.Add(newLoadOption(partition{number: 1, from: 1 << 20, to: 21 << 20, sector: 512}))
	f.Add([]byte{1, 0, 0, 0, 255, 255, 'a', 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, path := loadOption(data); len(path) > len(data) {
			t.Errorf("a path of %d bytes out of %d", len(path), len(data))
		}
	})
}
