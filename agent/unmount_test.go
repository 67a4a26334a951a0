package agent

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tectonic-worker/tectonic-worker/agent/host"
)

// inMountNamespace runs the calling test again in a process with mounts of its
// own, and tells whether this is that process.
func inMountNamespace(t *testing.T) bool {
	t.Helper()
	const key = "TECTONIC_WORKER_TEST_NAMESPACE"
	if os.Getenv(key) == t.Name() {
		return true
	}
	needRoot(t)
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

func mountAt(t *testing.T, source, target, kind string, flags uintptr) {
	t.Helper()
	if err := os.MkdirAll(target, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(source, target, kind, flags, ""); err != nil {
		t.Fatalf("mount %s at %s: %v", source, target, err)
	}
}

func mounted(t *testing.T, p string) bool {
	t.Helper()
	below, err := host.Root("/").MountsBelow(filepath.Dir(p))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range below {
		if m.Point == p {
			return true
		}
	}
	return false
}

// What is mounted below a bind mount of a shared tree goes there, and stays
// where it came from.
func TestUnmountBelowSharedTree(t *testing.T) {
	if !inMountNamespace(t) {
		return
	}
	dir := t.TempDir()
	mountAt(t, "tmpfs", dir, "tmpfs", 0)
	defer unix.Unmount(dir, unix.MNT_DETACH)
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	origin, kubelet := dir+"/origin", dir+"/kubelet"
	mountAt(t, "tmpfs", origin, "tmpfs", 0)
	mountAt(t, "tmpfs", origin+"/proc", "tmpfs", 0)
	mountAt(t, "tmpfs", origin+"/proc/deep", "tmpfs", 0)
	mountAt(t, origin, kubelet+"/pods/a b/root", "", unix.MS_BIND|unix.MS_REC)
	mountAt(t, origin, kubelet+"/plain", "", unix.MS_BIND)
	mountAt(t, "tmpfs", origin+"/later", "tmpfs", 0) // propagates to both
	mountAt(t, "tmpfs", kubelet+"/twice", "tmpfs", 0)
	mountAt(t, "tmpfs", kubelet+"/twice/below", "tmpfs", 0)
	mountAt(t, "tmpfs", kubelet+"/twice", "tmpfs", 0)
	if !mounted(t, kubelet+"/plain/later") {
		t.Fatal("the tree is not shared: the test proves nothing")
	}
	done, err := unmountBelow(t.Context(), "/", kubelet)
	if err != nil {
		t.Fatal(err)
	}
	if len(done) < 8 {
		t.Errorf("unmounted: %q", done)
	}
	if below, _ := host.Root("/").MountsBelow(kubelet); len(below) > 0 {
		t.Errorf("still mounted: %v", below)
	}
	for _, p := range []string{"", "/proc", "/proc/deep", "/later"} {
		if !mounted(t, origin+p) {
			t.Errorf("%s was unmounted with its copy", origin+p)
		}
	}
	if done, err := unmountBelow(t.Context(), "/", kubelet); err != nil || len(done) > 0 {
		t.Errorf("the second time: %q %v", done, err)
	}
}

// A mount in use is named, with its user; tmpfs holds no data and goes.
func TestUnmountBelowInUse(t *testing.T) {
	if !inMountNamespace(t) {
		return
	}
	dir := t.TempDir()
	busy, memory := dir+"/kubelet/busy", dir+"/kubelet/memory"
	if err := os.MkdirAll(dir+"/canary", 0o755); err != nil {
		t.Fatal(err)
	}
	mountAt(t, dir+"/canary", busy, "", unix.MS_BIND)
	mountAt(t, "tmpfs", memory, "tmpfs", 0)
	// On a tmpfs the bind mount would be one too.
	if below, err := host.Root("/").MountsBelow(dir + "/kubelet"); err != nil || len(below) != 2 || below[1].Type == "tmpfs" && below[0].Type == "tmpfs" {
		t.Skipf("the temporary directory is a tmpfs: %v %v", below, err)
	}
	var files []*os.File
	for _, p := range []string{busy + "/open", memory + "/open"} {
		f, err := os.Create(p)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	done, err := unmountBelow(t.Context(), "/", dir+"/kubelet")
	var still *StillMounted
	if !errors.As(err, &still) || still.Point != busy || len(still.Users) != 1 || still.Users[0].ID != os.Getpid() || !strings.Contains(err.Error(), "nothing was removed") {
		t.Errorf("error %v, want one that names %s and this process", err, busy)
	}
	if len(done) != 1 || done[0] != memory {
		t.Errorf("unmounted %q, want %s", done, memory)
	}
	for _, f := range files {
		f.Close()
	}
	if _, err := unmountBelow(t.Context(), "/", dir+"/kubelet"); err != nil {
		t.Errorf("once it is free: %v", err)
	}
	if !host.Root("/").Exists(dir + "/canary/open") {
		t.Error("the canary is dead")
	}
}
