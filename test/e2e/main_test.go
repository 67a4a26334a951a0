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
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/packaging"
	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

// The world that all tests share: one control plane, and the package.
var (
	theLab *lab.Lab
	plane  *lab.ControlPlane
	rpms   = map[string]string{} // path by file name
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if why := cannotRun(); why != "" {
		if os.Getenv("CI") == "true" {
			fmt.Fprintln(os.Stderr, "the end-to-end tests can't run here:", why)
			return 1
		}
		fmt.Println("skipping the end-to-end tests:", why)
		return 0
	}
	dir, err := os.MkdirTemp("", "tectonic-worker-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := buildPackages(ctx, dir); err != nil {
		fmt.Fprintln(os.Stderr, "cannot build the package:", err)
		return 1
	}
	theLab, err = lab.Open(ctx, lab.DefaultCacheDir(), func(format string, args ...any) {
		fmt.Printf("lab: "+format+"\n", args...)
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer theLab.Close()
	if plane, err = theLab.ControlPlane(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func cannotRun() string {
	if os.Geteuid() != 0 {
		return "they boot machines, which needs root"
	}
	if missing := lab.MissingTools(); len(missing) > 0 {
		return "missing " + strings.Join(missing, ", ") + "; run \"make lab\""
	}
	if missing := (&lab.Cache{Dir: lab.DefaultCacheDir()}).Missing(); missing != "" {
		return "the lab lacks " + missing + "; run \"make lab\""
	}
	return ""
}

// buildPackages makes the package as `make rpm` does, and one that stands for
// the distribution: the lab's hosts have systemd and podman from Debian, which
// rpm's database does not know.
func buildPackages(ctx context.Context, dir string) error {
	repo := "../.."
	binary := filepath.Join(dir, "tectonic-worker")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=v0.1.0", "-o", binary, "./cmd/tectonic-worker")
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
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	worker, err := packaging.Build(packaging.Options{
		Binary: binary, Completions: dir, Source: repo, Version: "v0.1.0", Arch: arch, Dist: "el9", Time: time.Unix(1700000000, 0),
	})
	if err != nil {
		return err
	}
	for name, p := range map[string]*packaging.Package{"worker": worker, "distribution": distribution(arch)} {
		data, err := packaging.Encode(p)
		if err != nil {
			return err
		}
		rpms[name] = filepath.Join(dir, p.FileName())
		if err := os.WriteFile(rpms[name], data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func distribution(arch string) *packaging.Package {
	p := &packaging.Package{
		Name: "lab-distribution", Version: "1", Release: "1", Arch: arch, License: "Apache-2.0", Time: time.Unix(1700000000, 0),
		Summary:     "What the lab's hosts have from Debian",
		Description: "Nothing but Provides.",
		Files:       []packaging.File{{Path: "/usr/share/lab-distribution", Mode: 0o755, Kind: packaging.Dir}},
	}
	for _, name := range []string{"podman", "/bin/sh", "config(tectonic-worker)"} {
		p.Provides = append(p.Provides, packaging.Relation{Name: name})
	}
	p.Provides = append(p.Provides, packaging.Relation{Name: "systemd", Op: "=", Version: "252"})
	return p
}

// worker boots a host with the package installed.
func worker(t *testing.T, o lab.WorkerOptions) *host {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	h, err := theLab.Worker(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("journal of the kubelet on %s:\n%s", h.Name, h.Journal(context.Background(), "kubelet", 40))
		}
		if err := h.Close(); err != nil {
			t.Errorf("closing %s: %v", h.Name, err)
		}
		kubectl(t, "delete", "node", h.Name, "--ignore-not-found")
	})
	w := &host{t: t, Host: h}
	for _, name := range []string{"distribution", "worker"} {
		to := "/root/" + filepath.Base(rpms[name])
		if err := h.CopyIn(rpms[name], to); err != nil {
			t.Fatal(err)
		}
		w.must("rpm", "-i", to)
	}
	return w
}

// host is a lab host in a test: what can't fail ends the test.
type host struct {
	*lab.Host
	t *testing.T
}

// run runs argv, whatever its exit code.
func (h *host) run(argv ...string) lab.Result {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
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
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := plane.Kubectl(ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}
