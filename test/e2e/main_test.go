// Package e2e joins real hosts to a real control plane with the real package,
// and looks at the other side: the API server's Node, nftables' rules,
// firewalld's files, rpm's database, the kubelet's process.
package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/packaging"
	"github.com/tectonic-worker/tectonic-worker/test/lab"
	"github.com/tectonic-worker/tectonic-worker/test/lab/labtest"
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "tectonic-worker-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	buildPackage = sync.OnceValues(func() (string, error) { return filepath.Join(dir, "tectonic-worker.rpm"), build(dir) })
	code := labtest.Main(m)
	os.RemoveAll(dir)
	os.Exit(code)
}

// buildPackage makes the package as `make rpm` does, once, when the first test
// wants it.
var buildPackage func() (path string, err error)

func build(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	const repo = "../.."
	binary := filepath.Join(dir, "tectonic-worker")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=v0.1.0", "-o", dir+"/", "./cmd/tectonic-worker", "./cmd/tectonic-worker-drain")
	build.Dir, build.Env = repo, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		out, err := exec.CommandContext(ctx, binary, "completion", shell).Output()
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "tectonic-worker."+shell), out, 0o644); err != nil {
			return err
		}
	}
	p, err := packaging.Build(packaging.Options{
		Binary: binary, Completions: dir, Source: repo, Version: "v0.1.0", Dist: "el9", Quick: true, Time: time.Unix(1700000000, 0),
		Arch: map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH],
	})
	if err != nil {
		return err
	}
	data, err := packaging.Encode(p)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "tectonic-worker.rpm"), data, 0o644)
}

// worker boots a host with the package installed.
func worker(t *testing.T, o lab.WorkerOptions) *host {
	t.Helper()
	planeOnce.Do(func() { plane = labtest.ControlPlane(t) })
	rpm, err := buildPackage()
	if err != nil {
		t.Fatalf("cannot build the package: %v", err)
	}
	h := &host{labtest.Worker(t, o).Host, t}
	t.Cleanup(func() {
		// The tests' own context ends before their cleanups.
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if _, err := plane.ControlPlane.Kubectl(ctx, "delete", "node", h.Name, "--ignore-not-found"); err != nil {
			t.Error(err)
		}
	})
	if err := h.InstallRPM(t.Context(), rpm); err != nil {
		t.Fatal(err)
	}
	return h
}

// plane is the control plane that all tests share, from the first worker on.
var (
	planeOnce sync.Once
	plane     *labtest.Plane
)

// host is a lab host in a test: what can't fail ends the test.
type host struct {
	*lab.Host
	t *testing.T
}

// run runs argv, whatever its exit code.
func (h *host) run(argv ...string) lab.Result {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 3*time.Minute)
	defer cancel()
	r, err := h.Exec(ctx, argv...)
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

// must runs argv, which has to succeed, and returns its standard output.
func (h *host) must(argv ...string) string {
	h.t.Helper()
	r := h.run(argv...)
	if r.Code != 0 {
		h.t.Fatalf("on %s: %s", h.Name, r)
	}
	return r.Stdout
}

func (h *host) write(path, content string) {
	h.t.Helper()
	if err := h.WriteFile(path, []byte(content), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) read(path string) string {
	h.t.Helper()
	data, err := h.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(data)
}

// kubectl asks the control plane, as its administrator.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := plane.ControlPlane.Kubectl(ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}
