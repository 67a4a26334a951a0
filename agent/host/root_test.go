package host

import (
	"bytes"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestPath(t *testing.T) {
	for _, c := range []struct {
		root Root
		in   string
		want string
	}{
		{"/", "/etc/x", "/etc/x"},
		{"", "/etc/x", "/etc/x"},
		{"/srv/root", "/etc/x", "/srv/root/etc/x"},
		{"/srv/root/", "/", "/srv/root"},
	} {
		if got := c.root.Path(c.in); got != c.want {
			t.Errorf("Root(%q).Path(%q) = %q, want %q", c.root, c.in, got, c.want)
		}
	}
}

func TestWriteFileModeAndOwner(t *testing.T) {
	old := unix.Umask(0o077) // root's umask on a hardened host
	defer unix.Umask(old)
	for _, mode := range []fs.FileMode{0o600, 0o644, 0o664, 0o400} {
		r := testRoot(t)
		want := owner(mode)
		if os.Geteuid() == 0 {
			want.UID, want.GID = 12, 34
		}
		for _, content := range []string{"first\n", "second, longer\n", ""} {
			if err := r.WriteFile("/f", []byte(content), want); err != nil {
				t.Fatal(err)
			}
			got, err := r.Stat("/f")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if got := mustRead(t, r, "/f"); got != content {
				t.Errorf("holds %q, want %q", got, content)
			}
		}
		if got := names(t, r, "/"); len(got) != 1 {
			t.Errorf("left over: %q", got)
		}
	}
}

// A reader at any moment sees all of the old file or all of the new one.
func TestWriteFileIsNeverTorn(t *testing.T) {
	r := testRoot(t)
	contents := [][]byte{bytes.Repeat([]byte("a"), 300_000), bytes.Repeat([]byte("b"), 200_000)}
	if err := r.WriteFile("/f", contents[0], owner(0o644)); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				data, err := r.ReadFile("/f")
				if err != nil {
					t.Errorf("a reader saw no file: %v", err)
					return
				}
				if !bytes.Equal(data, contents[0]) && !bytes.Equal(data, contents[1]) {
					t.Errorf("a reader saw a torn file of %d bytes", len(data))
					return
				}
			}
		})
	}
	for i := range 20 {
		if err := r.WriteFile("/f", contents[i%2], owner(0o644)); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	readers.Wait()
}

func TestWriteFileRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(path string) error
		want string
	}{
		{"symlink", func(p string) error { return os.Symlink("/etc/hostname", p) }, "it is a symbolic link, not a regular file; move it away first"},
		{"dangling symlink", func(p string) error { return os.Symlink("nowhere", p) }, "it is a symbolic link"},
		{"directory", func(p string) error { return os.Mkdir(p, 0o755) }, "it is a directory"},
		{"fifo", func(p string) error { return unix.Mkfifo(p, 0o600) }, "it is a FIFO"},
		{"socket", func(p string) error {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p, Net: "unix"})
			if err == nil {
				l.SetUnlinkOnClose(false)
				l.Close()
			}
			return err
		}, "it is a socket"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := testRoot(t)
			if err := c.make(r.Path("/f")); err != nil {
				t.Fatal(err)
			}
			before, _ := r.Stat("/f")
			err := r.WriteFile("/f", []byte("x"), owner(0o600))
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "cannot write /f: ") {
				t.Errorf("error %v, want one that says %q", err, c.want)
			}
			after, _ := r.Stat("/f")
			if diff := cmp.Diff(before, after); diff != "" {
				t.Error("it was changed:", diff)
			}
			if got := names(t, r, "/"); len(got) != 1 {
				t.Errorf("left over: %q", got)
			}
		})
	}
}

func TestWriteFileWithoutDirectory(t *testing.T) {
	err := testRoot(t).WriteFile("/no/f", []byte("x"), owner(0o600))
	if !errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), tempPrefix) {
		t.Errorf("error %v: want ErrNotExist, and not the temporary file's name", err)
	}
}

// Disk full (fault 5): the old file stays, whole, and nothing lies about.
func TestWriteFileDiskFull(t *testing.T) {
	r := testRoot(t)
	smallDisk(t, r, "/etc", "128k")
	if err := r.WriteFile("/etc/f", []byte("old\n"), owner(0o640)); err != nil {
		t.Fatal(err)
	}
	err := r.WriteFile("/etc/f", make([]byte, 1<<20), owner(0o600))
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("error %v, want ENOSPC", err)
	}
	if want := "cannot write /etc/f: no space left on device; the file is as it was"; err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
	if got := mustRead(t, r, "/etc/f"); got != "old\n" {
		t.Errorf("the old file holds %q", got)
	}
	if diff := cmp.Diff([]string{"f"}, names(t, r, "/etc")); diff != "" {
		t.Error(diff)
	}
}

// Inodes exhausted (fault 6).
func TestWriteFileNoInodes(t *testing.T) {
	r := testRoot(t)
	smallDisk(t, r, "/etc", "1m,nr_inodes=2") // the directory itself, and one file
	if err := r.WriteFile("/etc/f", []byte("old"), owner(0o600)); err != nil {
		t.Fatal(err)
	}
	if err := r.WriteFile("/etc/f", []byte("new"), owner(0o600)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("error %v, want ENOSPC", err)
	}
	if got := mustRead(t, r, "/etc/f"); got != "old" {
		t.Errorf("holds %q", got)
	}
}

// Read-only /etc (fault 7).
func TestWriteFileReadOnly(t *testing.T) {
	r := testRoot(t)
	smallDisk(t, r, "/etc", "1m")
	mustWrite(t, r, "/etc/f", "old", 0o644)
	if err := unix.Mount("", r.Path("/etc"), "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	err := r.WriteFile("/etc/f", []byte("new"), owner(0o644))
	if !errors.Is(err, unix.EROFS) || err.Error() != "cannot write /etc/f: read-only file system" {
		t.Errorf("error %v", err)
	}
}

func TestReadFile(t *testing.T) {
	r := testRoot(t)
	mustWrite(t, r, "/f", "hello", 0o644)
	mustWrite(t, r, "/most", strings.Repeat("x", maxFile), 0o644)
	mustWrite(t, r, "/more", strings.Repeat("x", maxFile+1), 0o644)
	if err := os.Symlink("f", r.Path("/link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(r.Path("/fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		size int
		want string
	}{
		{"/f", 5, ""},
		{"/link", 5, ""},
		{"/most", maxFile, ""},
		{"/more", 0, "cannot read /more: it is larger than 8 MiB"},
		{"/fifo", 0, "cannot read /fifo: it is a FIFO, not a regular file"}, // and does not wait for a writer
		{"/", 0, "cannot read /: it is a directory, not a regular file"},
	} {
		data, err := r.ReadFile(c.path)
		if got := message(err); got != c.want || len(data) != c.size {
			t.Errorf("%s: %d bytes, %q; want %d, %q", c.path, len(data), got, c.size, c.want)
		}
	}
	if _, err := r.ReadFile("/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want ErrNotExist", err)
	}
	if data, err := Root("/").ReadFile("/proc/self/stat"); err != nil || len(data) == 0 {
		t.Errorf("a file of size 0 that has content: %d bytes, %v", len(data), err)
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestMkdirAll(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	r := testRoot(t)
	if err := errors.Join(os.Mkdir(r.Path("/var"), 0o755), os.Chmod(r.Path("/var"), 0o711)); err != nil {
		t.Fatal(err)
	}
	made, err := r.MkdirAll("/var/lib/x/", 0o750)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/var/lib", "/var/lib/x"}, made); diff != "" {
		t.Error(diff)
	}
	for p, want := range map[string]fs.FileMode{"/var": 0o711, "/var/lib": 0o750, "/var/lib/x": 0o750} {
		if f, err := r.Stat(p); err != nil || f.Mode.Perm() != want {
			t.Errorf("%s: %04o, %v, want %04o", p, f.Mode.Perm(), err, want)
		}
	}
	if made, err := r.MkdirAll("/var/lib/x", 0o700); err != nil || made != nil {
		t.Errorf("made %q again, %v", made, err)
	}
	mustWrite(t, r, "/var/file", "", 0o644)
	if _, err := r.MkdirAll("/var/file/x", 0o700); err == nil || !strings.Contains(err.Error(), "/var/file") {
		t.Errorf("below a file: %v", err)
	}
	if !r.RemoveDir("/var/lib/x") || r.RemoveDir("/var") || r.RemoveDir("/none") {
		t.Error("RemoveDir must remove empty directories and nothing else")
	}
}

func TestRemove(t *testing.T) {
	r := testRoot(t)
	mustWrite(t, r, "/f", "", 0o644)
	mustWrite(t, r, "/d/f", "", 0o644)
	for _, p := range []string{"/f", "/f", "/none/f"} {
		if err := r.Remove(p); err != nil {
			t.Errorf("%s: %v", p, err)
		}
	}
	if err := r.Remove("/d"); message(err) != "cannot remove /d: directory not empty" {
		t.Errorf("error %v", err)
	}
}

// What a killed write left goes; everything else stays.
func TestSweep(t *testing.T) {
	r := testRoot(t)
	mustWrite(t, r, "/etc/"+tempPrefix+"kubeconfig-abc", "half", 0o600)
	mustWrite(t, r, "/etc/kubeconfig", "whole", 0o600)
	mustWrite(t, r, "/etc/.other-tmp-", "", 0o600)
	if err := os.Mkdir(r.Path("/etc/"+tempPrefix+"dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.Sweep("/etc")
	r.Sweep("/none")
	if diff := cmp.Diff([]string{".other-tmp-", tempPrefix + "dir", "kubeconfig"}, names(t, r, "/etc")); diff != "" {
		t.Error(diff)
	}
}

// A sweep must not take away the file that another process writes right now:
// the kubelet's launcher does not hold the lock.
func TestSweepSparesWritesUnderWay(t *testing.T) {
	r := testRoot(t)
	content := make([]byte, 100_000)
	stop := make(chan struct{})
	var sweeper sync.WaitGroup
	sweeper.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				r.Sweep("/")
			}
		}
	})
	for range 40 {
		if err := r.WriteFile("/f", content, owner(0o600)); err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	sweeper.Wait()
}

func TestFree(t *testing.T) {
	r := testRoot(t)
	smallDisk(t, r, "/var", "2m")
	free, err := r.Free("/var/lib/none/yet")
	if err != nil || free <= 0 || free > 2<<20 {
		t.Errorf("%d bytes free, %v", free, err)
	}
	if _, err := Root("/proc/self/none").Free("/x"); err == nil {
		t.Error("a root that does not exist has free space")
	}
}

func TestExists(t *testing.T) {
	r := testRoot(t)
	mustWrite(t, r, "/f", "", 0o644)
	if err := os.Symlink(filepath.Base("nowhere"), r.Path("/dangling")); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]bool{"/f": true, "/": true, "/none": false, "/dangling": false} {
		if got := r.Exists(p); got != want {
			t.Errorf("Exists(%s) = %v", p, got)
		}
	}
}

// Every type has its name in a sentence.
func TestTypeName(t *testing.T) {
	for m, want := range map[fs.FileMode]string{
		0o644: "a regular file", fs.ModeDir: "a directory", fs.ModeSymlink: "a symbolic link",
		fs.ModeNamedPipe: "a FIFO", fs.ModeSocket: "a socket", fs.ModeDevice: "a device",
	} {
		if got := typeName(m); got != want {
			t.Errorf("typeName(%v) = %q, want %q", m, got, want)
		}
	}
}
