package host

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// expectChange waits for exactly one report of path, and for nothing after it.
func expectChange(t *testing.T, changes <-chan string, what, path string) {
	t.Helper()
	select {
	case got := <-changes:
		if got != path {
			t.Errorf("%s: %s is reported, want %s", what, got, path)
		}
	case <-time.After(5 * time.Second):
		t.Errorf("%s: not seen", what)
		return
	}
	expectQuiet(t, changes, what)
}

func expectQuiet(t *testing.T, changes <-chan string, what string) {
	t.Helper()
	select {
	case got := <-changes:
		t.Errorf("%s: %s is reported as well", what, got)
	case <-time.After(2 * settle):
	}
}

func do(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func write(path, text string) error { return os.WriteFile(path, []byte(text), 0o644) }

func TestWatch(t *testing.T) {
	t.Parallel()
	const file = "/etc/kubernetes/kubeconfig"
	for _, row := range []struct {
		name   string
		path   string // what is watched
		before func(at func(string) string) error
		change func(at func(string) string) error
		silent bool
	}{
		{name: "a write", change: func(at func(string) string) error { return write(at(file), "b") }},
		{name: "an append", change: func(at func(string) string) error {
			f, err := os.OpenFile(at(file), os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			for range 20 {
				if _, err := f.WriteString("x"); err != nil {
					return err
				}
			}
			return f.Close()
		}},
		{name: "another file renamed over it", change: func(at func(string) string) error {
			if err := write(at(file+".new"), "b"); err != nil {
				return err
			}
			return os.Rename(at(file+".new"), at(file))
		}},
		{name: "our own write", change: func(at func(string) string) error {
			return Root(at("/")).WriteFile(file, []byte("b"), File{Mode: 0o600})
		}},
		{name: "a deletion", change: func(at func(string) string) error { return os.Remove(at(file)) }},
		{name: "moved away", change: func(at func(string) string) error { return os.Rename(at(file), at("/etc/elsewhere")) }},
		{name: "another mode", change: func(at func(string) string) error { return os.Chmod(at(file), 0o600) }},
		{name: "another owner", change: func(at func(string) string) error { return os.Chown(at(file), os.Getuid(), os.Getgid()) }},
		{name: "another mode of its directory", change: func(at func(string) string) error { return os.Chmod(at("/etc/kubernetes"), 0o700) }},
		{name: "a creation", path: "/etc/kubernetes/ca.crt", change: func(at func(string) string) error { return write(at("/etc/kubernetes/ca.crt"), "x") }},
		{name: "a directory in its place", change: func(at func(string) string) error {
			if err := os.Remove(at(file)); err != nil {
				return err
			}
			return os.Mkdir(at(file), 0o755)
		}},
		{name: "a link in its place", change: func(at func(string) string) error {
			if err := os.Remove(at(file)); err != nil {
				return err
			}
			return os.Symlink("other", at(file))
		}},
		{name: "its directory deleted", change: func(at func(string) string) error { return os.RemoveAll(at("/etc/kubernetes")) }},
		{name: "its directory renamed", change: func(at func(string) string) error {
			return os.Rename(at("/etc/kubernetes"), at("/etc/old"))
		}},
		{name: "a directory further up renamed", change: func(at func(string) string) error { return os.Rename(at("/etc"), at("/old")) }},
		{name: "its directory made, and it at once", path: "/var/lib/kubelet/pki/x.pem", change: func(at func(string) string) error {
			if err := os.MkdirAll(at("/var/lib/kubelet/pki"), 0o755); err != nil {
				return err
			}
			return write(at("/var/lib/kubelet/pki/x.pem"), "x")
		}},
		{name: "its whole tree moved in", path: "/var/lib/kubelet/kubeconfig", change: func(at func(string) string) error {
			if err := os.MkdirAll(at("/build/lib/kubelet"), 0o755); err != nil {
				return err
			}
			if err := write(at("/build/lib/kubelet/kubeconfig"), "x"); err != nil {
				return err
			}
			return os.Rename(at("/build"), at("/var"))
		}},
		{name: "the target of a link", path: "/etc/sysconfig/selinux",
			before: func(at func(string) string) error {
				return os.Symlink("../selinux/config", at("/etc/sysconfig/selinux"))
			},
			change: func(at func(string) string) error { return write(at("/etc/selinux/config"), "SELINUX=disabled") }},
		{name: "an absolute link", path: "/etc/sysconfig/selinux",
			before: func(at func(string) string) error {
				return os.Symlink("/etc/selinux/config", at("/etc/sysconfig/selinux"))
			},
			change: func(at func(string) string) error { return write(at("/etc/selinux/config"), "SELINUX=disabled") }},
		{name: "a link that points elsewhere now", path: "/etc/sysconfig/selinux",
			before: func(at func(string) string) error {
				return os.Symlink("../selinux/config", at("/etc/sysconfig/selinux"))
			},
			change: func(at func(string) string) error {
				if err := os.Symlink("../kubernetes/kubeconfig", at("/etc/new")); err != nil {
					return err
				}
				return os.Rename(at("/etc/new"), at("/etc/sysconfig/selinux"))
			}},
		{name: "a linked directory that is swapped", path: "/run/now/file",
			before: func(at func(string) string) error {
				if err := os.MkdirAll(at("/run/a"), 0o755); err != nil {
					return err
				}
				return os.Symlink("a", at("/run/now"))
			},
			change: func(at func(string) string) error {
				if err := os.Symlink("../etc/kubernetes", at("/run/new")); err != nil {
					return err
				}
				return os.Rename(at("/run/new"), at("/run/now"))
			}},
		{name: "links in a circle, broken up", path: "/etc/a",
			before: func(at func(string) string) error {
				if err := os.Symlink("b", at("/etc/a")); err != nil {
					return err
				}
				return os.Symlink("a", at("/etc/b"))
			},
			change: func(at func(string) string) error { return os.Remove(at("/etc/b")) }},
		{name: "a file in a watched directory", path: "/etc/kubernetes", change: func(at func(string) string) error { return write(at("/etc/kubernetes/20.yaml"), "x") }},
		{name: "a file beside it", silent: true, change: func(at func(string) string) error { return write(at("/etc/kubernetes/other"), "x") }},
		{name: "a file that is read", silent: true, change: func(at func(string) string) error { _, err := os.ReadFile(at(file)); return err }},
		{name: "its directory's neighbours", silent: true, change: func(at func(string) string) error { return os.MkdirAll(at("/etc/other/kubernetes"), 0o755) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			if strings.Contains(row.name, "owner") && os.Getuid() != 0 {
				t.Log("chown to the same owner, as there is no root")
			}
			root := Root(t.TempDir())
			at := root.Path
			do(t, os.MkdirAll(at("/etc/kubernetes"), 0o755), os.MkdirAll(at("/etc/sysconfig"), 0o755), os.MkdirAll(at("/etc/selinux"), 0o755),
				write(at(file), "a"), write(at("/etc/selinux/config"), "SELINUX=enforcing"))
			if row.before != nil {
				do(t, row.before(at))
			}
			path := row.path
			if path == "" {
				path = file
			}
			changes, err := root.Watch(t.Context(), []string{path, "/nowhere/at/all"})
			do(t, err)
			do(t, row.change(at))
			if row.silent {
				expectQuiet(t, changes, row.name)
				return
			}
			expectChange(t, changes, row.name, path)
		})
	}
}

// A directory that goes and comes again is watched as before, as often as it does.
func TestWatchFollowsDirectories(t *testing.T) {
	t.Parallel()
	root := Root(t.TempDir())
	const dir, file = "/etc/tectonic-worker/kubelet.d", "/etc/tectonic-worker/kubelet.d/10-site.yaml"
	changes, err := root.Watch(t.Context(), []string{file})
	do(t, err)
	for i := range 3 {
		do(t, os.MkdirAll(root.Path(dir), 0o755))
		expectChange(t, changes, "made", file)
		do(t, write(root.Path(file), fmt.Sprint(i)))
		expectChange(t, changes, "written", file)
		do(t, write(root.Path(file), fmt.Sprint(i, "again")))
		expectChange(t, changes, "written again", file)
		if i == 1 {
			do(t, os.Rename(root.Path("/etc/tectonic-worker"), root.Path("/etc/old")))
		} else {
			do(t, os.RemoveAll(root.Path("/etc/tectonic-worker")))
		}
		expectChange(t, changes, "gone", file)
		if i == 1 {
			do(t, write(root.Path("/etc/old/kubelet.d/10-site.yaml"), "where it was moved to"))
			expectQuiet(t, changes, "the old directory")
			do(t, os.RemoveAll(root.Path("/etc/old")))
			expectQuiet(t, changes, "the old directory gone")
		}
	}
}

// Creations race with the setting of the watches; none may be missed.
func TestWatchMissesNothing(t *testing.T) {
	t.Parallel()
	root := Root(t.TempDir())
	const file = "/a/b/c/d/e/file"
	changes, err := root.Watch(t.Context(), []string{file})
	do(t, err)
	for i := range 20 {
		do(t, os.MkdirAll(filepath.Dir(root.Path(file)), 0o755))
		text := fmt.Sprint("round ", i)
		do(t, write(root.Path(file), text))
		deadline := time.After(5 * time.Second)
		for seen := false; !seen; {
			select {
			case <-changes:
				data, err := root.ReadFile(file)
				seen = err == nil && string(data) == text
			case <-deadline:
				t.Fatalf("%s was not seen", text)
			}
		}
		do(t, os.RemoveAll(root.Path("/a")))
	}
}

// A reader that sleeps finds each path once, and nothing is blocked meanwhile.
func TestWatchSlowReader(t *testing.T) {
	t.Parallel()
	root := Root(t.TempDir())
	do(t, os.Mkdir(root.Path("/etc"), 0o755))
	paths := []string{"/etc/a", "/etc/b"}
	changes, err := root.Watch(t.Context(), paths)
	do(t, err)
	for i := range 2000 {
		do(t, write(root.Path(paths[i%2]), fmt.Sprint(i)))
	}
	time.Sleep(2 * settle) // the reader's sleep, which is what the test is about
	got := map[string]int{<-changes: 1}
	got[<-changes]++
	expectQuiet(t, changes, "after both")
	if len(got) != 2 {
		t.Errorf("reported: %v", got)
	}
}

// With the context the channel ends, and the descriptor and the goroutines with it.
func TestWatchEnds(t *testing.T) {
	root := Root(t.TempDir())
	inotify := func() (n int) {
		entries, _ := os.ReadDir("/proc/self/fd")
		for _, e := range entries {
			if to, _ := os.Readlink("/proc/self/fd/" + e.Name()); strings.Contains(to, "inotify") {
				n++
			}
		}
		return n
	}
	before, fds := runtime.NumGoroutine(), inotify()
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		changes, err := root.Watch(ctx, []string{"/etc/x"})
		do(t, err)
		do(t, os.MkdirAll(root.Path("/etc"), 0o755), write(root.Path("/etc/x"), "x"), os.RemoveAll(root.Path("/etc")))
		cancel()
		deadline := time.After(5 * time.Second)
		for open := true; open; {
			select {
			case _, open = <-changes:
			case <-deadline:
				t.Fatal("the channel stays open")
			}
		}
	}
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines before, %d after", before, after)
	}
	if after := inotify(); after > fds {
		t.Errorf("%d inotify descriptors before, %d after", fds, after)
	}
}
