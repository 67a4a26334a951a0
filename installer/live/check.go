package live

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

// check makes every check, whatever the others gave, and chooses the disk. It writes nothing.
func (s *session) check(ctx context.Context) ([]machine.Check, machine.InventoryDisk) {
	var all []machine.Check
	add := func(name string, ok bool, wanted, found string) {
		all = append(all, machine.Check{Name: name, OK: ok, Wanted: wanted, Found: printable(found, 700)})
	}
	var cards []string
	for name, mac := range s.inventory.NICs {
		cards = append(cards, name+" "+mac)
	}
	sort.Strings(cards)
	add("mac", slices.ContainsFunc(cards, func(c string) bool { return strings.HasSuffix(c, " "+s.args.MAC) }), s.args.MAC, strings.Join(cards, ", "))

	disk, err := Choose(s.inventory.Disks, s.order.Disk, s.order.Minimum.Disk)
	if err == nil {
		err = s.free(disk)
	}
	found := disk.Name + " (" + describe(disk) + ")"
	if err != nil {
		found = err.Error()
	}
	add("disk", err == nil, hint(s.order.Disk, s.order.Minimum.Disk), found)
	if s.order.Action == machine.ActionWipe {
		return all, disk // a weak machine may be wiped
	}

	min := s.order.Minimum
	add("memory", s.inventory.Memory >= min.Memory, "at least "+size(min.Memory), size(s.inventory.Memory))
	add("cores", s.inventory.Cores >= min.Cores, fmt.Sprintf("at least %d", min.Cores), fmt.Sprint(s.inventory.Cores))
	if want := s.order.Image.Arch; want != "" {
		add("arch", want == s.inventory.Arch, want, s.inventory.Arch)
	}
	program := installerOf(s.order.Image.OS)
	switch where, err := s.lookPath(program); {
	case s.anaconda || program == anaconda:
		add("installer", s.anaconda && program == anaconda, program, map[bool]string{true: "this is a Kickstart's %pre", false: "this is no Kickstart's %pre"}[s.anaconda])
	case err != nil:
		add("installer", false, program, err.Error())
	default:
		add("installer", true, program, where)
	}
	urls, err := imageURLs(s.order.Image)
	if err != nil {
		add("image", false, "an image of "+s.order.Image.OS, err.Error())
	}
	if len(urls) > 0 {
		found, err := head(ctx, urls)
		if err != nil {
			found = err.Error()
		}
		add("image", err == nil, urls[0], found)
	}
	return all, disk
}

func hint(h machine.Disk, minimum int64) string {
	all := []string{"one disk of at least " + size(max(minimum, h.MinSize))}
	if h.MaxSize != 0 {
		all = append(all, "at most "+size(h.MaxSize))
	}
	for _, x := range []struct{ key, value string }{{"serial", h.Serial}, {"wwn", h.WWN}, {"model", h.Model}} {
		if x.value != "" {
			all = append(all, x.key+" "+x.value)
		}
	}
	if h.Rotational != nil {
		all = append(all, fmt.Sprintf("rotational %v", *h.Rotational))
	}
	return strings.Join(all, ", ")
}

// openDisk opens a disk for writing. O_EXCL makes the kernel refuse one that is mounted, or belongs to a RAID or a
// volume group, whatever /proc and /sys said before (open(2)).
func (s *session) openDisk(d machine.InventoryDisk) (*os.File, error) {
	f, err := os.OpenFile(s.path("/dev/"+d.Name), os.O_RDWR|syscall.O_EXCL, 0)
	if errors.Is(err, syscall.EBUSY) {
		return nil, fmt.Errorf("cannot use /dev/%s: something has it open or mounted; find it with lsblk and fuser", d.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open /dev/%s for writing: %w", d.Name, err)
	}
	if n, err := f.Seek(0, 2); err != nil || n != d.Size {
		f.Close()
		return nil, fmt.Errorf("cannot use /dev/%s: it shows %d bytes and had %d before", d.Name, n, d.Size)
	}
	return f, nil
}

func (s *session) free(d machine.InventoryDisk) error {
	f, err := s.openDisk(d)
	if err != nil {
		return err
	}
	return f.Close()
}

// lookPath looks where the live system's unit may not have its PATH.
func (l *Live) lookPath(program string) (string, error) {
	for _, dir := range []string{"/usr/local/bin", "/usr/bin", "/usr/sbin", "/bin", "/sbin", "/opt/bin"} {
		if info, err := os.Stat(l.path(dir + "/" + program)); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return dir + "/" + program, nil
		}
	}
	if l.Root == "" {
		if where, err := exec.LookPath(program); err == nil {
			return where, nil
		}
	}
	return "", fmt.Errorf("not in this live system")
}

// head asks for what the operating system's installer will download, before anything is erased for it.
func head(ctx context.Context, urls []string) (string, error) {
	client := &http.Client{Timeout: callTimeout, Transport: &http.Transport{}}
	var length int64
	for i, u := range urls {
		n, err := retry(ctx, 3, func() (int64, error) {
			request, err := http.NewRequestWithContext(ctx, http.MethodHead, u, nil)
			if err != nil {
				return 0, err
			}
			response, err := client.Do(request)
			if err != nil {
				return 0, err
			}
			response.Body.Close()
			if response.StatusCode != http.StatusOK {
				return 0, fmt.Errorf("%s answers %s; run \"tectonic-installer images sync\"", u, response.Status)
			}
			return response.ContentLength, nil
		})
		if err != nil {
			return "", err
		}
		if i == 0 {
			length = n
		}
	}
	return size(length), nil
}

func retry[T any](ctx context.Context, times int, f func() (T, error)) (T, error) {
	for n := 1; ; n++ {
		v, err := f()
		if err == nil || n == times || ctx.Err() != nil {
			return v, err
		}
		timer := time.NewTimer(time.Duration(n) * 500 * time.Millisecond)
		select {
		case <-ctx.Done():
			timer.Stop()
			return v, err
		case <-timer.C:
		}
	}
}
