package faults

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
	"github.com/tectonic-worker/tectonic-worker/test/lab/labtest"
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "tectonic-worker-faults-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	build := func(version string) func() (string, error) {
		return sync.OnceValues(func() (string, error) {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			return BuildPackage(ctx, repository, dir, version)
		})
	}
	thisVersion, nextVersion = build("v0.1.0"), build("v0.2.0")
	code := labtest.Main(m)
	os.RemoveAll(dir)
	os.Exit(code)
}

// The package, and one of a later version with the same content; built when the first test wants them.
var thisVersion, nextVersion func() (path string, err error)

// must fails the test on an error in what it needs.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// worker boots a host with the package installed and the assets in place.
func worker(t *testing.T, o lab.WorkerOptions) (*labtest.Host, *labtest.Plane) {
	t.Helper()
	plane := labtest.ControlPlane(t)
	rpm := must[string](t)(thisVersion())
	h := labtest.Worker(t, o)
	h.InstallRPM(rpm)
	t.Cleanup(func() {
		// The test's own context ends before its cleanups.
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if _, err := plane.ControlPlane.Kubectl(ctx, "delete", "node", h.Name, "--ignore-not-found"); err != nil {
			t.Error(err)
		}
	})
	return h, plane
}

// shared is the host that most tests inject their faults into, one after the other.
var shared *Target

// target gives the shared host, as one that never joined. The lab takes it away in the end.
func target(t *testing.T) *Target {
	t.Helper()
	if shared == nil {
		plane := labtest.ControlPlane(t)
		rpm := must[string](t)(thisVersion())
		h := must[*lab.Host](t)(labtest.Lab(t).Worker(context.Background(), lab.WorkerOptions{}))
		if err := h.InstallRPM(t.Context(), rpm); err != nil {
			t.Fatal(err)
		}
		shared = must[*Target](t)(Prepare(context.Background(), h, plane.ControlPlane))
	}
	tg := shared
	t.Cleanup(func() {
		if t.Failed() {
			// The test's own context ends before its cleanups.
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			t.Logf("journal of %s:\n%s", tg.Host.Name, tg.Host.Journal(ctx, "", 40))
		}
	})
	if err := tg.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	return tg
}

// labHost is a host in a test: what can't fail ends the test.
type labHost struct {
	*lab.Host
	t *testing.T
}

// try runs argv, whatever its exit code.
func (h *labHost) try(argv ...string) lab.Result {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 3*time.Minute)
	defer cancel()
	r, err := h.Exec(ctx, argv...)
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

// sh runs a script, which has to succeed, and gives what it printed.
func (h *labHost) sh(script string) string {
	h.t.Helper()
	r := h.try("/bin/sh", "-euc", script)
	if r.Code != 0 {
		h.t.Fatalf("on %s: %s", h.Name, r)
	}
	return strings.TrimRight(r.Stdout, "\n")
}
