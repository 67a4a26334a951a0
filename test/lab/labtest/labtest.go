// Package labtest gives Go tests the lab: one for each test binary, opened by the first test that asks and closed by
// Main, and hosts that end with their test. It owns skipping (with a reason), failing and what is logged of a host
// whose test failed. It must not know how the lab works.
package labtest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

// commandTimeout bounds a command on a host that has no other deadline.
const commandTimeout = 3 * time.Minute

var shared struct {
	once   sync.Once
	lab    *lab.Lab
	err    error
	reason string // to skip
}

// Main runs the tests and closes the lab: func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }.
func Main(m *testing.M) int {
	code := m.Run()
	if shared.lab != nil {
		if err := shared.lab.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "lab:", err)
			return 1
		}
	}
	return code
}

// Lab gives the test binary's lab. Without root or without the lab's cache the test is skipped; with CI=true it fails
// instead.
func Lab(t testing.TB) *lab.Lab {
	t.Helper()
	shared.once.Do(func() {
		cache := &lab.Cache{Dir: lab.DefaultCacheDir()}
		switch missing := lab.MissingTools(); {
		case os.Geteuid() != 0:
			shared.reason = "not root: the lab makes namespaces and mounts"
		case len(missing) > 0:
			shared.reason = strings.Join(missing, ", ") + " not installed: run \"make lab\""
		case cache.Missing() != "":
			shared.reason = cache.Missing() + " not in the lab's cache: run \"make lab\""
		default:
			start := time.Now()
			shared.lab, shared.err = lab.Open(context.Background(), cache.Dir, func(format string, args ...any) {
				fmt.Fprintf(os.Stderr, "lab %6.1fs  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
			})
		}
	})
	if shared.reason != "" {
		if os.Getenv("CI") == "true" {
			t.Fatalf("CI has to have the lab: %s", shared.reason)
		}
		t.Skip(shared.reason)
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.lab
}

// Plane is the test binary's control plane. Its methods that need one fail the test they were asked for in.
type Plane struct {
	*lab.ControlPlane
	t testing.TB
}

// ControlPlane gives the shared control plane, started by the first test that asks (about three seconds).
func ControlPlane(t testing.TB) *Plane {
	t.Helper()
	cp, err := Lab(t).ControlPlane(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return &Plane{ControlPlane: cp, t: t}
}

// Make fails the test when making a kubeconfig failed: cp.Make(cp.SharedKubeconfig()).
func (p *Plane) Make(kubeconfig []byte, err error) []byte {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
	return kubeconfig
}

// Bootstrap gives a kubeconfig with a fresh bootstrap token.
func (p *Plane) Bootstrap() []byte {
	p.t.Helper()
	return p.Make(p.BootstrapKubeconfig(p.t.Context(), time.Hour))
}

// Assets gives what the Tectonic Installer would leave for this cluster: the shared client certificate and the DNS
// Service's address.
func (p *Plane) Assets() lab.Assets {
	p.t.Helper()
	return lab.Assets{Kubeconfig: p.Make(p.SharedKubeconfig()), DNSServiceIP: lab.DNSServiceIP, ServiceCIDR: "10.3.0.0/16"}
}

// Kubectl runs kubectl as the administrator and gives what it printed.
func (p *Plane) Kubectl(args ...string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	out, err := p.ControlPlane.Kubectl(ctx, args...)
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.TrimRight(out, "\n")
}

// Proxy starts a proxy to the API server that can break, and ends it with the test.
func (p *Plane) Proxy() *lab.Proxy {
	p.t.Helper()
	proxy, err := p.ControlPlane.Proxy(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { proxy.Close() })
	return proxy
}

// Host is a worker that ends with its test.
type Host struct {
	*lab.Host
	t testing.TB
}

// Worker boots a worker host (about a second). Without options it is the zero WorkerOptions. When the test failed, the
// end of its journal is logged.
func Worker(t testing.TB, options ...lab.WorkerOptions) *Host {
	t.Helper()
	var o lab.WorkerOptions
	if len(options) > 0 {
		o = options[0]
	}
	h, err := Lab(t).Worker(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if t.Failed() {
			t.Logf("journal of %s:\n%s", h.Name, h.Journal(ctx, "", 60))
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return &Host{Host: h, t: t}
}

// Run runs a command on the host; another exit code than 0 fails the test.
func (h *Host) Run(argv ...string) lab.Result {
	h.t.Helper()
	r := h.Try(argv...)
	if r.Code != 0 {
		h.t.Fatalf("on %s: %s", h.Name, r)
	}
	return r
}

// Try runs a command on the host, whatever its exit code.
func (h *Host) Try(argv ...string) lab.Result {
	h.t.Helper()
	return h.TryCommand(lab.Command{Args: argv})
}

// TryCommand is Try for a command with an environment or an input.
func (h *Host) TryCommand(c lab.Command) lab.Result {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), commandTimeout)
	defer cancel()
	r, err := h.Command(ctx, c)
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

// Sh runs a shell script on the host and gives its standard output, without the last newline.
func (h *Host) Sh(script string) string {
	h.t.Helper()
	return strings.TrimRight(h.Run("/bin/sh", "-euc", script).Stdout, "\n")
}

// Write writes a file on the host; Mode 0644 when zero.
func (h *Host) Write(path, content string, mode os.FileMode) {
	h.t.Helper()
	if mode == 0 {
		mode = 0o644
	}
	if err := h.WriteFile(path, []byte(content), mode); err != nil {
		h.t.Fatal(err)
	}
}

// Read reads a file of the host.
func (h *Host) Read(path string) string {
	h.t.Helper()
	data, err := h.ReadFile(path)
	if err != nil {
		h.t.Fatalf("cannot read %s on %s: %v", path, h.Name, err)
	}
	return string(data)
}

// InstallRPM installs a package of ours with its dependencies checked.
func (h *Host) InstallRPM(path string) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), commandTimeout)
	defer cancel()
	if err := h.Host.InstallRPM(ctx, path); err != nil {
		h.t.Fatal(err)
	}
}

// PutAssets writes an asset directory on the host.
func (h *Host) PutAssets(dir string, a lab.Assets) {
	h.t.Helper()
	if err := h.Host.PutAssets(dir, a); err != nil {
		h.t.Fatal(err)
	}
}
