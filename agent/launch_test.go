package agent

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
)

// Admit never starts a kubelet on what is not whole: empty, garbage, expired or
// still growing (fault 13).
func TestAdmitInvalid(t *testing.T) {
	whole := kubeconfigText("https://192.0.2.1:6443", plainToken)
	for name, text := range map[string]string{
		"empty": "", "login page": "<html><body>Sign in</body></html>", "half": whole[:len(whole)/2], "no newline at all": "apiVersion: v1",
	} {
		t.Run(name, func(t *testing.T) {
			d := newDoubles(t)
			write(t, d.root, kubelet.KubeconfigPath, text, 0o600)
			if err := Admit(within(t, 1200*time.Millisecond), d.system()); err != nil {
				t.Errorf("what is not valid is no failure of the unit: %v", err)
			}
			if len(d.units.calls) != 0 {
				t.Errorf("calls %q", d.units.calls)
			}
			if log := d.log.String(); !strings.Contains(log, "the kubelet is not started: /etc/kubernetes/kubeconfig is not valid") || strings.Contains(log, plainToken) {
				t.Errorf("the log says %q", log)
			}
		})
	}
	t.Run("gone", func(t *testing.T) {
		d := newDoubles(t)
		if err := Admit(within(t, 50*time.Millisecond), d.system()); err != nil || len(d.units.calls) != 0 || !strings.Contains(d.log.String(), "it is gone again") {
			t.Errorf("%v, calls %q, log %q", err, d.units.calls, d.log.String())
		}
	})
}

// A copy that takes its time is waited for: what is started is the whole file,
// seen twice.
func TestAdmitSlowWriter(t *testing.T) {
	d := newDoubles(t)
	whole := kubeconfigText("https://192.0.2.1:6443", plainToken)
	write(t, d.root, kubelet.KubeconfigPath, whole[:40], 0o600)
	sys := d.system()
	var looks atomic.Int32
	sys.Now = func() time.Time { // asked at every look that found a whole kubeconfig, and at no other
		looks.Add(1)
		if len(d.units.calls) != 0 {
			t.Error("started, and still looking")
		}
		return d.now
	}
	growing := make(chan error, 1)
	go func() {
		f, err := os.OpenFile(d.root.Path(kubelet.KubeconfigPath), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			growing <- err
			return
		}
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for rest := []byte(whole[40:]); len(rest) > 0; {
			<-tick.C
			n := min(len(rest), 150)
			if _, err := f.Write(rest[:n]); err != nil {
				growing <- err
				return
			}
			rest = rest[n:]
		}
		growing <- f.Close()
	}()
	if err := Admit(within(t, 20*time.Second), sys); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-growing:
		if err != nil {
			t.Fatal(err)
		}
	default:
		t.Error("started before the copy was over")
	}
	if !slices.Equal(d.units.calls, []string{"queue kubelet.service"}) || looks.Load() < 2 {
		t.Errorf("calls %q after %d looks", d.units.calls, looks.Load())
	}
}

func TestAdmitNeedsSystemd(t *testing.T) {
	d := newDoubles(t)
	write(t, d.root, kubelet.KubeconfigPath, kubeconfigText("https://192.0.2.1:6443", plainToken), 0o600)
	sys, oops := d.system(), errors.New("no bus")
	sys.Units = func(context.Context) (Units, error) { return nil, oops }
	if err := Admit(within(t, 10*time.Second), sys); !errors.Is(err, oops) {
		t.Errorf("error %v", err)
	}
}

func TestWaitForDNS(t *testing.T) {
	for _, c := range []struct {
		name, server, resolv string
		err                  string
	}{
		{"a name that is there", "https://localhost:6443", "", ""},
		{"a name that is not", "https://api.invalid:6443", "nameserver 192.0.2.1\n", "cannot resolve the API server's name"},
		{"an address needs no name", "https://192.0.2.1:6443", "# from DHCP\n  nameserver 10.0.0.2\n", ""},
		{"IPv6", "https://[2001:db8::1]:6443", "nameserver fe80::1\n", ""},
		{"no server yet", "https://192.0.2.1:6443", "search example.com\n#nameserver 10.0.0.2\n", "/etc/resolv.conf names no server"},
		{"no kubeconfig yet", "", "nameserver 10.0.0.2\n", ""},
		{"no resolv.conf", "", "", "cannot read /etc/resolv.conf"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDoubles(t)
			if c.server != "" {
				write(t, d.root, kubelet.KubeconfigPath, kubeconfigText(c.server, plainToken), 0o600)
			}
			if c.resolv != "" {
				write(t, d.root, "/etc/resolv.conf", c.resolv, 0o644)
			}
			err := WaitForDNS(within(t, 500*time.Millisecond), d.system())
			if c.err == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.HasPrefix(err.Error(), "gave up waiting for name resolution: ") || !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v, want %q", err, c.err)
			}
			if n := strings.Count(d.log.String(), "waiting for name resolution"); n != 1 {
				t.Errorf("said %d times what it waits for", n)
			}
		})
	}
}

// prepared is a host on which the launcher has all that it needs.
func prepared(t *testing.T) *doubles {
	d := newDoubles(t)
	write(t, d.root, kubelet.KubeconfigPath, kubeconfigText("https://192.0.2.1:6443", plainToken), 0o600)
	write(t, d.root, "/etc/sysconfig/tectonic-worker", "KUBERNETES_DNS_SERVICE_IP=10.3.0.10\nNODE_NAME=w1\n", 0o644)
	write(t, d.root, "/etc/kubernetes/kubelet.env", "KUBELET_IMAGE=quay.io/poseidon/kubelet:v1.34.4\n", 0o644)
	write(t, d.root, "/run/containerd/containerd.sock", "", 0o600)
	write(t, d.root, "/sys/fs/cgroup/cgroup.controllers", "", 0o444)
	write(t, d.root, "/usr/bin/podman", "#!/bin/sh\n[ \"$1\" = --version ] && echo podman version 5.4.0\n", 0o755)
	return d
}

func TestPrepare(t *testing.T) {
	needRoot(t)
	d := prepared(t)
	d.cluster.reachErr = errors.New("must not be asked")
	l, err := Prepare(within(t, time.Minute), d.system(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if l.Path != d.root.Path("/usr/bin/podman") || l.Argv[0] != "podman" || !slices.Contains(l.Argv, "quay.io/poseidon/kubelet:v1.34.4") {
		t.Errorf("becomes %s %q", l.Path, l.Argv)
	}
	for _, a := range append(slices.Clone(l.Argv), l.Line) {
		if strings.Contains(a, plainToken) {
			t.Errorf("the token is in %q", a)
		}
	}
	if read(t, d.root, kubelet.CAPath) != string(caPEM()) {
		t.Error("ca.crt is not the kubeconfig's")
	}
	if st, err := d.root.Stat(kubelet.ConfigPath); err != nil || st.Mode.Perm() != 0o600 {
		t.Errorf("kubelet.yaml: %+v, %v", st, err)
	}
	// A second start writes nothing.
	before := snapshot(t, d.root)
	if _, err := Prepare(within(t, time.Minute), d.system(), nil); err != nil {
		t.Fatal(err)
	}
	after := snapshot(t, d.root)
	for _, p := range sortedKeys(after) {
		if before[p] != after[p] {
			t.Errorf("%s changed", p)
		}
	}
}

// What trying again does not mend ends the unit for good (exit 78); what may
// come still does not.
func TestPrepareErrors(t *testing.T) {
	needRoot(t)
	for _, c := range []struct {
		name   string
		change func(*testing.T, *doubles)
		want   string
		code   int
	}{
		{"no DNS address", func(t *testing.T, d *doubles) { write(t, d.root, "/etc/sysconfig/tectonic-worker", "", 0o644) }, "KUBERNETES_DNS_SERVICE_IP is not set in /etc/sysconfig/tectonic-worker", 78},
		{"bad DNS address", func(t *testing.T, d *doubles) {
			write(t, d.root, "/etc/sysconfig/tectonic-worker", "KUBERNETES_DNS_SERVICE_IP=a.b\n", 0o644)
		}, "/etc/sysconfig/tectonic-worker:1: KUBERNETES_DNS_SERVICE_IP=a.b", 78},
		{"no kubeconfig", func(t *testing.T, d *doubles) { must[int](t)(0, d.root.Remove(kubelet.KubeconfigPath)) }, "there is no /etc/kubernetes/kubeconfig", 78},
		{"garbage", func(t *testing.T, d *doubles) { write(t, d.root, kubelet.KubeconfigPath, "<html>", 0o600) }, "cannot use the kubeconfig from /etc/kubernetes/kubeconfig", 78},
		{"no runtime", func(t *testing.T, d *doubles) { must[int](t)(0, d.root.Remove("/usr/bin/podman")) }, "neither rkt nor podman is installed", 78},
		{"image without a version", func(t *testing.T, d *doubles) {
			write(t, d.root, "/etc/kubernetes/kubelet.env", "KUBELET_IMAGE=quay.io/poseidon/kubelet:latest\n", 0o644)
		}, "latest", 78},
		{"bad drop-in", func(t *testing.T, d *doubles) { write(t, d.root, kubelet.DropInDir+"/x.yaml", "a: [", 0o644) }, kubelet.DropInDir + "/x.yaml", 78},
		{"containerd still starting", func(t *testing.T, d *doubles) {
			must[int](t)(0, d.root.Remove("/run/containerd/containerd.sock"))
		}, "no container runtime for pods", 1},
		{"image to be asked for, API away", func(t *testing.T, d *doubles) {
			write(t, d.root, "/etc/kubernetes/kubelet.env", "", 0o644)
			d.cluster.reachErr = &node.APIError{Layer: node.LayerTCP, Op: "reach the API server", What: "nobody answers"}
		}, "nobody answers", 69},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := prepared(t)
			c.change(t, d)
			_, err := Prepare(within(t, time.Minute), d.system(), nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want %q", err, c.want)
			}
			if got := ExitCode(err); got != c.code {
				t.Errorf("exit code %d, want %d (%v)", got, c.code, err)
			}
			if d.root.Exists(kubelet.CAPath) || d.root.Exists(LedgerPath) {
				t.Error("something was written")
			}
		})
	}
}

// The image that the API server's version asks for is written down, so that
// the next start needs no API server.
func TestPrepareAsksOnce(t *testing.T) {
	needRoot(t)
	d := prepared(t)
	write(t, d.root, "/etc/kubernetes/kubelet.env", "", 0o644)
	d.cluster.server = node.Server{Version: "v1.34.4"}
	if _, err := Prepare(within(t, time.Minute), d.system(), nil); err != nil {
		t.Fatal(err)
	}
	if got := read(t, d.root, "/etc/kubernetes/kubelet.env"); !strings.Contains(got, "KUBELET_IMAGE=quay.io/poseidon/kubelet:v1.34.4") {
		t.Errorf("kubelet.env is %q", got)
	}
	d.cluster.reachErr = errors.New("must not be asked")
	if _, err := Prepare(within(t, time.Minute), d.system(), nil); err != nil {
		t.Error(err)
	}
}
