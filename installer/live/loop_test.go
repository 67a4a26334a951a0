package live

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// loop makes a block device of a sparse file: the kernel's, with its own idea of who uses it.
func loop(t *testing.T, size, sector int64) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("not root: no loop devices")
	}
	need(t, "losetup", "sfdisk", "mkfs.ext4", "blkid", "wipefs")
	file := filepath.Join(t.TempDir(), "disk")
	write(t, file, "")
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	device := command(t, "losetup", "--find", "--show", "--sector-size", fmt.Sprint(sector), file)
	t.Cleanup(func() { command(t, "losetup", "--detach", device) })
	return device
}

func sfdisk(t *testing.T, device, table string) {
	t.Helper()
	cmd := exec.Command("sfdisk", "--quiet", "--no-tell-kernel", "--wipe", "always", device)
	cmd.Stdin = strings.NewReader(table)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk %s: %v\n%s", device, err, out)
	}
}

// Partition tables of both sector sizes, written by sfdisk.
func TestReadPartitions(t *testing.T) {
	for _, sector := range []int64{512, 4096} {
		device := loop(t, 200<<20, sector)
		sfdisk(t, device, "label: gpt\nstart=1MiB, size=20MiB, type=U, uuid=01234567-89AB-CDEF-0123-456789ABCDEF\nstart=50MiB, size=100MiB, type=L\n")
		f, err := os.Open(device)
		if err != nil {
			t.Fatal(err)
		}
		got := readPartitions(f, 200<<20)
		f.Close()
		if len(got) != 2 || got[0].kind != efiSystem || got[0].from != 1<<20 || got[0].to != 21<<20 || got[1].from != 50<<20 || got[1].to != 150<<20 ||
			got[0].sector != sector || got[0].id.String() != "67452301ab89efcd0123456789abcdef" || got[1].kind == efiSystem {
			t.Errorf("sectors of %d: %+v", sector, got)
		}
	}
	device := loop(t, 200<<20, 512)
	sfdisk(t, device, "label: dos\nstart=1MiB, size=20MiB, type=83\n")
	f, err := os.Open(device)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := readPartitions(f, 200<<20); len(got) != 1 || got[0].from != 1<<20 || got[0].to != 21<<20 {
		t.Errorf("MBR: %+v", got)
	}
}

// A disk that the kernel has mounted is refused whatever /proc shows, and its content stays.
func TestMountedDiskIsRefused(t *testing.T) {
	device := loop(t, 64<<20, 512)
	command(t, "mkfs.ext4", "-q", device)
	dir := t.TempDir()
	command(t, "mount", device, dir)
	t.Cleanup(func() { command(t, "umount", dir) })
	write(t, filepath.Join(dir, "precious"), "data")
	command(t, "sync", "-f", dir)

	h, p := newHost(t), newProvisionerDouble(t)
	p.order.Action = machine.ActionWipe
	p.order.Minimum.Disk = 1 << 20
	h.sysfs("vda", 64<<20, nil)
	if err := os.Symlink(device, h.path("/dev/vda")); err != nil {
		t.Fatal(err)
	}
	err := p.live(h).Install(t.Context())
	if err == nil || !strings.Contains(err.Error(), "something has it open or mounted") || p.said() != "hello checks failed" {
		t.Errorf("%v after %s", err, p.said())
	}
	if got := content(t, filepath.Join(dir, "precious")); got != "data" {
		t.Errorf("the file holds %q", got)
	}
}

// After a wipe nothing that looks for signatures finds one, on the disk or where its partitions were; a second wipe
// is no error.
func TestWipe(t *testing.T) {
	const size = 300 << 20
	for _, label := range []string{"gpt", "dos", "none"} {
		t.Run(label, func(t *testing.T) {
			device := loop(t, size, 512)
			extents := [][2]int64{{0, size}}
			if label != "none" {
				sfdisk(t, device, "label: "+label+"\nstart=1MiB, size=99MiB\nstart=100MiB, size=150MiB\n")
				extents = append(extents, [2]int64{1 << 20, 100 << 20}, [2]int64{100 << 20, 250 << 20})
			}
			signatures := func() (found []string) {
				for i, e := range extents {
					if i == 0 && label != "none" {
						if out, _ := exec.Command("wipefs", "--noheadings", device).Output(); len(out) > 0 {
							found = append(found, strings.Fields(string(out))...)
						}
						continue
					}
					if out, _ := exec.Command("blkid", "--probe", "--offset", fmt.Sprint(e[0]), "--size", fmt.Sprint(e[1]-e[0]), device).Output(); len(out) > 0 {
						found = append(found, string(out))
					}
				}
				return found
			}
			for i, e := range extents {
				if i == 0 && label != "none" {
					continue
				}
				command(t, "mkfs.ext4", "-q", "-E", fmt.Sprintf("offset=%d", e[0]), device, fmt.Sprintf("%dk", (e[1]-e[0])>>10))
			}
			if got := signatures(); len(got) < len(extents) {
				t.Fatalf("only %q were there", got)
			}
			for range 2 {
				h, p := newHost(t), newProvisionerDouble(t)
				p.order.Action = machine.ActionWipe
				p.order.Minimum = machine.Minimum{Memory: 1 << 60, Cores: 1 << 20, Disk: 1 << 20} // a weak machine may be wiped
				h.sysfs("vda", size, nil)
				if err := os.Symlink(device, h.path("/dev/vda")); err != nil {
					t.Fatal(err)
				}
				if err := p.live(h).Wipe(t.Context()); err != nil {
					t.Fatal(err)
				}
				if p.said() != "hello checks claim installed" || strings.Join(p.ends, " ") != "poweroff" {
					t.Errorf("said %s, ended %v", p.said(), p.ends)
				}
				if got := signatures(); len(got) > 0 {
					t.Errorf("left: %q", got)
				}
			}
		})
	}
}

// A partition table that somebody made up leads nowhere.
func FuzzReadPartitions(f *testing.F) {
	header := make([]byte, 4096)
	copy(header[512:], "EFI PART")
	header[512+72], header[512+80], header[512+84] = 2, 4, 128
	f.Add(header, int64(1<<20))
	header[510], header[511] = 0x55, 0xaa
	f.Add(header[:512], int64(512))
	f.Fuzz(func(t *testing.T, disk []byte, size int64) {
		for _, p := range readPartitions(strings.NewReader(string(disk)), size) {
			if p.from <= 0 || p.to <= p.from || p.to > size {
				t.Errorf("a partition from %d to %d on a disk of %d", p.from, p.to, size)
			}
		}
	})
}
