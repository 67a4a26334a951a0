package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// inMountNamespace runs the calling test again in a process with mounts of its
// own, and tells whether this is that process.
func inMountNamespace(t *testing.T) bool {
	t.Helper()
	const key = "TECTONIC_WORKER_TEST_NAMESPACE"
	if os.Getenv(key) == t.Name() {
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("not root: only root can mount")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), key+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

func mount(t *testing.T, source, target, kind string, flags uintptr) {
	t.Helper()
	if err := os.MkdirAll(target, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(source, target, kind, flags, ""); err != nil {
		t.Fatalf("mount %s at %s: %v", source, target, err)
	}
}

func put(t *testing.T, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(p), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// both runs f with openat2 and with what older kernels have.
func both(t *testing.T, f func(t *testing.T, remove func(path string) error)) {
	t.Run("openat2", func(t *testing.T) {
		f(t, func(p string) error { return Root("/").RemoveTree(t.Context(), p) })
	})
	t.Run("older kernels", func(t *testing.T) {
		f(t, func(p string) error {
			parent, err := unix.Open(filepath.Dir(p), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(parent)
			id, err := mountID(parent)
			if err != nil {
				return err
			}
			w := &walk{ctx: t.Context(), open: func(dir int, name string) (int, error) { return openSameMount(dir, name, id) }}
			return w.removeAll(parent, p)
		})
	})
}

func TestRemoveTree(t *testing.T) {
	both(t, func(t *testing.T, remove func(string) error) {
		dir := t.TempDir()
		tree, outside := filepath.Join(dir, "tree"), filepath.Join(dir, "outside")
		put(t, tree+"/a", tree+"/b/c/d", tree+"/.hidden", tree+"/with space\n", outside+"/canary")
		for link, to := range map[string]string{"/absolute": outside, "/relative": "../outside", "/b/up": "../..", "/dangling": "nowhere", "/loop": "loop"} {
			if err := os.Symlink(to, tree+link); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Link(outside+"/canary", tree+"/hard"); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mkfifo(tree+"/fifo", 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(tree+"/b", 0); err != nil {
			t.Fatal(err)
		}
		if err := remove(tree); err != nil {
			t.Fatal(err)
		}
		if left, _ := filepath.Glob(dir + "/*"); !slices.Equal(left, []string{outside}) {
			t.Errorf("what is left: %v", left)
		}
		if _, err := os.Stat(outside + "/canary"); err != nil {
			t.Errorf("a symbolic link was followed: %v", err)
		}
		if err := remove(tree); err != nil {
			t.Errorf("the second time: %v", err)
		}
		put(t, tree)
		if err := remove(tree); err != nil || exists(tree) {
			t.Errorf("a file: %v", err)
		}
		// A link in the tree's place is removed, not what it shows.
		if err := os.Symlink(outside, tree); err != nil {
			t.Fatal(err)
		}
		if err := remove(tree); err != nil || !exists(outside+"/canary") || exists(tree) {
			t.Errorf("a link in the tree's place: %v", err)
		}
	})
}

func exists(p string) bool { _, err := os.Lstat(p); return err == nil }

// A pod may nest directories deeper than any path or number of open files.
func TestRemoveTreeDeep(t *testing.T) {
	both(t, func(t *testing.T, remove func(string) error) {
		tree := filepath.Join(t.TempDir(), "tree")
		if err := os.Mkdir(tree, 0o755); err != nil {
			t.Fatal(err)
		}
		dir, err := unix.Open(tree, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		for i := 0; i < 3000 && err == nil; i++ {
			if err = unix.Mkdirat(dir, "deeper", 0o755); err != nil {
				break
			}
			var next int
			next, err = unix.Openat(dir, "deeper", unix.O_RDONLY|unix.O_DIRECTORY, 0)
			unix.Close(dir)
			dir = next
		}
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(dir)
		if err := remove(tree); err != nil || exists(tree) {
			t.Errorf("%v", err)
		}
	})
}

func TestRemoveTreeRefuses(t *testing.T) {
	for _, p := range []string{"/", "", "//", "/.."} {
		if err := Root("/").RemoveTree(t.Context(), p); err == nil {
			t.Fatalf("%q: not refused", p)
		}
	}
	dir := t.TempDir()
	put(t, dir+"/tree/file")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Root("/").RemoveTree(ctx, dir+"/tree"); !errors.Is(err, context.Canceled) || !exists(dir+"/tree/file") {
		t.Errorf("after its time: %v", err)
	}
}

// A bind mount of / left below a directory that is removed once cost hosts
// their /etc. Here nothing at all is removed, and the mount is named.
func TestRemoveTreeStopsAtMounts(t *testing.T) {
	if !inMountNamespace(t) {
		return
	}
	both(t, func(t *testing.T, remove func(string) error) {
		dir := t.TempDir()
		canary := filepath.Join(dir, "canary")
		put(t, canary+"/etc/passwd")
		for _, c := range []struct {
			name, at string
			mount    func(at string)
		}{
			{"the root", "/pods/uid/volumes/root", func(at string) {
				mount(t, "/", at, "", unix.MS_BIND)
				// A mistake must not cost this machine its files.
				mount(t, "", at, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY)
			}},
			{"a directory of the same file system", "/pods/uid/volumes/same", func(at string) { mount(t, canary, at, "", unix.MS_BIND) }},
			{"another file system", "/pods/uid/volumes/a b", func(at string) { mount(t, "tmpfs", at, "tmpfs", 0) }},
			{"a file", "/pods/uid/file", func(at string) {
				put(t, at)
				if err := unix.Mount(canary+"/etc/passwd", at, "", unix.MS_BIND, ""); err != nil {
					t.Fatal(err)
				}
			}},
			{"the tree itself", "", func(at string) { mount(t, canary, at, "", unix.MS_BIND) }},
		} {
			t.Run(c.name, func(t *testing.T) {
				tree := filepath.Join(dir, "tree")
				put(t, tree+"/pods/uid/data")
				c.mount(tree + c.at)
				defer func() {
					if err := unix.Unmount(tree+c.at, 0); err != nil {
						t.Error(err)
					}
					if err := remove(tree); err != nil || exists(tree) {
						t.Errorf("once it is unmounted: %v", err)
					}
				}()
				err := remove(tree)
				var m *MountError
				if !errors.As(err, &m) || m.Point != tree+c.at || !strings.Contains(err.Error(), tree+c.at+" is a mount") {
					t.Errorf("error %v, want one that names %s", err, tree+c.at)
				}
				if !exists(canary + "/etc/passwd") {
					t.Fatal("the canary is dead")
				}
				if strings.Contains(t.Name(), "openat2") && c.at != "" && !exists(tree+"/pods/uid/data") {
					t.Error("something was removed although a mount is there")
				}
			})
		}
	})
}

// A mount that appears when the walk is under way: the look at the mounts
// beforehand does not see it, the walk itself has to.
func TestRemoveTreeMountAppears(t *testing.T) {
	if !inMountNamespace(t) {
		return
	}
	for _, old := range []bool{false, true} {
		t.Run(fmt.Sprintf("older kernel %v", old), func(t *testing.T) {
			dir := t.TempDir()
			canary, tree := filepath.Join(dir, "canary"), filepath.Join(dir, "tree")
			put(t, canary+"/keep", tree+"/a/b/c/file", tree+"/later")
			parent, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(parent)
			w, err := newWalk(t.Context(), parent)
			if err != nil {
				t.Fatal(err)
			}
			open := w.open
			if old {
				id, err := mountID(parent)
				if err != nil {
					t.Fatal(err)
				}
				open = func(d int, name string) (int, error) { return openSameMount(d, name, id) }
			}
			t.Cleanup(func() { _ = unix.Unmount(tree+"/a/b/c", 0) })
			w.open = func(d int, name string) (int, error) {
				if name == "c" {
					mount(t, canary, tree+"/a/b/c", "", unix.MS_BIND)
				}
				return open(d, name)
			}
			err = w.remove(parent, "tree", tree, 0)
			var m *MountError
			if !errors.As(err, &m) || m.Point != tree+"/a/b/c" {
				t.Errorf("error %v, want one that names %s", err, tree+"/a/b/c")
			}
			if !exists(canary + "/keep") {
				t.Error("the canary is dead")
			}
			// Right before the directory itself goes: rmdir(2) has the last word.
			if err := unix.Unmount(tree+"/a/b/c", 0); err != nil {
				t.Fatal(err)
			}
			w.open = func(d int, name string) (int, error) {
				fd, err := open(d, name)
				if name == "c" {
					mount(t, canary, tree+"/a/b/c", "", unix.MS_BIND)
				}
				return fd, err
			}
			if err := w.remove(parent, "tree", tree, 0); !errors.As(err, &m) || !exists(canary+"/keep") {
				t.Errorf("mounted over an open directory: %v, canary there: %v", err, exists(canary+"/keep"))
			}
		})
	}
}

func TestMountID(t *testing.T) {
	f, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a, err := mountID(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	b, err := handleMountID(int(f.Fd()))
	if err != nil {
		t.Skipf("name_to_handle_at: %v", err)
	}
	if a != b {
		t.Errorf("fdinfo says %d, name_to_handle_at %d", a, b)
	}
}

func TestParseMountinfo(t *testing.T) {
	got, err := parseMountinfo([]byte(`25 1 253:0 / / rw,relatime shared:1 - xfs /dev/mapper/rhel-root rw
90 25 0:50 / /var/lib/kubelet/pods/u/volumes/tok\040en rw shared:80 master:2 - tmpfs tmpfs rw,size=1k
91 25 253:0 /data/a\134b /var/lib/kubelet/x rw - xfs /dev/mapper/rhel-root rw
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []Mount{
		{25, 1, "/", "/", true, "xfs", "/dev/mapper/rhel-root"},
		{90, 25, "/", "/var/lib/kubelet/pods/u/volumes/tok en", true, "tmpfs", "tmpfs"},
		{91, 25, `/data/a\b`, "/var/lib/kubelet/x", false, "xfs", "/dev/mapper/rhel-root"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"x", "1 2 3 4 5 6", "a 1 2:3 / / rw - t s o", "1 b 2:3 / / rw - t s o"} {
		if _, err := parseMountinfo([]byte(bad)); err == nil {
			t.Errorf("%q is not refused", bad)
		}
	}
	below := mountsBelow([]Mount{{Point: "/k"}, {Point: "/k/a", ID: 1}, {Point: "/ka"}, {Point: "/k/a/b"}, {Point: "/k/a", ID: 2}, {Point: "/k/c/d/e"}}, "/k")
	var order []string
	for _, m := range below {
		order = append(order, fmt.Sprint(m.Point, m.ID))
	}
	if diff := cmp.Diff([]string{"/k/c/d/e0", "/k/a/b0", "/k/a2", "/k/a1"}, order); diff != "" {
		t.Error(diff)
	}
}

func TestUsers(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(dir + "/open")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	users := Root("/").Users(dir)
	if len(users) != 1 || users[0].ID != os.Getpid() || users[0].Name == "" {
		t.Errorf("users of a file that we hold open: %v", users)
	}
}
