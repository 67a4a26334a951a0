package agent

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/host"
	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
	"github.com/tectonic-worker/tectonic-worker/agent/systemd"
	"github.com/tectonic-worker/tectonic-worker/units"
)

const (
	goodServer = "https://192.0.2.1:6443"
	newServer  = "https://192.0.2.2:6443"
)

// running is a joined host whose kubelet was launched with its kubeconfig.
func running(t *testing.T) (*doubles, *System) {
	t.Helper()
	needRoot(t)
	d := prepared(t)
	sys := d.system()
	if _, err := Prepare(within(t, time.Minute), sys, nil); err != nil {
		t.Fatal(err)
	}
	d.units.set(units.Kubelet, func(st *systemd.State) { st.Active = "active" })
	if err := sys.keepAccepted([]byte(kubeconfigText(goodServer, plainToken))); err != nil {
		t.Fatal(err)
	}
	return d, sys
}

func adopt(t *testing.T, sys *System) Adoption {
	t.Helper()
	a, err := sys.Adopt(within(t, time.Minute), nil)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(a.Reason, plainToken) {
		t.Errorf("the reason shows the token: %s", a.Reason)
	}
	return a
}

func restarts(d *doubles) int {
	n := 0
	for _, c := range d.units.calls {
		if c == "restart "+units.Kubelet {
			n++
		}
	}
	return n
}

func TestAdoptUnchanged(t *testing.T) {
	t.Parallel()
	d, sys := running(t)
	d.cluster.reachErr = errors.New("must not be asked")
	if a := adopt(t, sys); a.State != AdoptUnchanged || a.News || restarts(d) != 0 {
		t.Errorf("%+v, calls %q", a, d.units.calls)
	}
}

// A good one: the kubelet is restarted once, with the new CA in place, and what
// is kept aside is the new one.
func TestAdoptGood(t *testing.T) {
	t.Parallel()
	d, sys := running(t)
	text := kubeconfigText(newServer, plainToken)
	write(t, d.root, kubelet.KubeconfigPath, text, 0o644)
	write(t, d.root, kubelet.CAPath, "an old CA\n", 0o644)
	if a := adopt(t, sys); a.State != AdoptDone || !a.News || !a.Restarted || a.Reason != "" || restarts(d) != 1 {
		t.Fatalf("%+v, calls %q", a, d.units.calls)
	}
	if read(t, d.root, kubelet.CAPath) != string(caPEM()) || read(t, d.root, acceptedPath) != text {
		t.Error("ca.crt or what is kept aside is not the new one")
	}
	for _, p := range []string{kubelet.KubeconfigPath, acceptedPath} {
		if st := must[host.File](t)(d.root.Stat(p)); st.Mode.Perm() != 0o600 {
			t.Errorf("%s has the mode %04o", p, st.Mode.Perm())
		}
	}
	if _, err := Prepare(within(t, time.Minute), sys, nil); err != nil { // what the restart does
		t.Fatal(err)
	}
	if a := adopt(t, sys); a.State != AdoptUnchanged || restarts(d) != 1 {
		t.Errorf("the second look: %+v, calls %q", a, d.units.calls)
	}
}

// A kubeconfig without a current-context is made whole, as join does; a kubelet
// that was stopped stays so.
func TestAdoptNamesTheContext(t *testing.T) {
	t.Parallel()
	d, sys := running(t)
	d.units.set(units.Kubelet, func(st *systemd.State) { st.Active = "inactive" })
	write(t, d.root, kubelet.KubeconfigPath, strings.Replace(kubeconfigText(newServer, plainToken), "current-context: x\n", "", 1), 0o600)
	if a := adopt(t, sys); a.State != AdoptDone || a.Restarted || len(d.units.calls) != 0 {
		t.Errorf("%+v, calls %q", a, d.units.calls)
	}
	if got := read(t, d.root, kubelet.KubeconfigPath); !strings.Contains(got, "current-context: x") || got != read(t, d.root, acceptedPath) {
		t.Errorf("the context is not named:\n%s", got)
	}
}

// What is no good is said once, left as it is, and the kubelet with it; a
// kubelet that is started again meanwhile gets the last good one.
func TestAdoptRefused(t *testing.T) {
	whole := kubeconfigText(newServer, plainToken)
	for _, tt := range []struct {
		name, text string
		prepare    func(t *testing.T, d *doubles)
		says       string
	}{
		{name: "login page", text: "<!DOCTYPE html><html>Sign in</html>", says: "HTML page"},
		{name: "not secure", text: strings.Replace(whole, "    server:", "    insecure-skip-tls-verify: true\n    server:", 1), says: "insecure-skip-tls-verify"},
		{name: "expired", text: certificateKubeconfig(t, "kubelet", time.Now().Add(-time.Hour)), says: "expired at"},
		{name: "another node's", text: certificateKubeconfig(t, "system:node:w2", time.Now().Add(time.Hour)), says: "for node w2"},
		{name: "not accepted", text: whole, says: "not accepted here", prepare: func(_ *testing.T, d *doubles) {
			d.cluster.reachErr = &node.APIError{Layer: node.LayerAuthentication, Reason: node.Unauthorized, Op: "reach", What: "not accepted here"}
		}},
		{name: "somebody else's file", text: whole, says: "belongs to user 1234", prepare: func(t *testing.T, d *doubles) {
			if err := os.Chown(d.root.Path(kubelet.KubeconfigPath), 1234, 1234); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d, sys := running(t)
			write(t, d.root, kubelet.KubeconfigPath, tt.text, 0o600)
			if tt.prepare != nil {
				tt.prepare(t, d)
			}
			a := adopt(t, sys)
			if a.State != AdoptRefused || !a.News || !strings.Contains(a.Reason, tt.says) || !strings.Contains(a.Reason, acceptedPath) || len(d.units.calls) != 0 {
				t.Errorf("%+v, calls %q", a, d.units.calls)
			}
			said := strings.Count(d.log.String(), "is refused")
			if a := adopt(t, sys); a.State != AdoptRefused || a.News || a.Reason == "" {
				t.Errorf("the second look: %+v", a)
			}
			if n := strings.Count(d.log.String(), "is refused"); said != 1 || n != 1 {
				t.Errorf("it is said %d times:\n%s", n, d.log.String())
			}
			if read(t, d.root, kubelet.KubeconfigPath) != tt.text {
				t.Error("the administrator's file was changed")
			}
			if tt.name == "somebody else's file" {
				return // the launcher reads it: it is whole and valid
			}
			l, err := Prepare(within(t, time.Minute), sys, nil)
			if err != nil {
				t.Fatalf("the kubelet can't be started: %v", err)
			}
			if !slices.Contains(l.Argv, "--kubeconfig="+fallbackPath) || read(t, d.root, fallbackPath) != kubeconfigText(goodServer, plainToken) {
				t.Errorf("the kubelet is not started with the last good one: %q", l.Argv)
			}
			if !strings.Contains(d.log.String(), "LAST GOOD") {
				t.Errorf("nothing loud is said:\n%s", d.log.String())
			}
			if a := adopt(t, sys); a.State != AdoptRefused || a.News || restarts(d) != 0 {
				t.Errorf("after the start: %+v, calls %q", a, d.units.calls)
			}
			// A good one ends all that.
			d.cluster.reachErr = nil
			write(t, d.root, kubelet.KubeconfigPath, kubeconfigText("https://192.0.2.3:6443", plainToken), 0o600)
			if a := adopt(t, sys); a.State != AdoptDone || restarts(d) != 1 {
				t.Errorf("a good one: %+v, calls %q", a, d.units.calls)
			}
			l, err = Prepare(within(t, time.Minute), sys, nil)
			if err != nil || !slices.Contains(l.Argv, "--kubeconfig="+kubelet.KubeconfigPath) || d.root.Exists(fallbackPath) || d.root.Exists(refusedPath) {
				t.Errorf("%v, %q", err, l.Argv)
			}
		})
	}
}

func TestAdoptGoneAndWaiting(t *testing.T) {
	t.Parallel()
	d, sys := running(t)
	if err := d.root.Remove(kubelet.KubeconfigPath); err != nil {
		t.Fatal(err)
	}
	if a := adopt(t, sys); a.State != AdoptGone || !a.News || !strings.Contains(a.Reason, acceptedPath) {
		t.Errorf("%+v", a)
	}
	if a := adopt(t, sys); a.State != AdoptGone || a.News {
		t.Errorf("%+v", a)
	}
	write(t, d.root, kubelet.KubeconfigPath, kubeconfigText(newServer, plainToken), 0o600)
	d.cluster.reachErr = &node.APIError{Layer: node.LayerTCP, Reason: node.ConnectionRefused, Op: "reach", What: "refused"}
	if a := adopt(t, sys); a.State != AdoptWaiting || !a.News || restarts(d) != 0 {
		t.Errorf("%+v", a)
	}
	d.cluster.reachErr = nil
	if a := adopt(t, sys); a.State != AdoptDone || restarts(d) != 1 {
		t.Errorf("%+v, calls %q", a, d.units.calls)
	}
}

func TestAdoptBusy(t *testing.T) {
	d, sys := running(t)
	lock := must[*host.Lock](t)(d.root.Acquire(within(t, time.Second), lockPath, "join"))
	defer lock.Unlock()
	var busy *host.BusyError
	if _, err := sys.Adopt(within(t, 200*time.Millisecond), nil); !errors.As(err, &busy) {
		t.Errorf("%v", err)
	}
}

// Without a last good one, what is wrong is said as before.
func TestLaunchWithoutFallback(t *testing.T) {
	needRoot(t)
	d := prepared(t)
	write(t, d.root, kubelet.KubeconfigPath, "garbage: [", 0o600)
	if _, err := Prepare(within(t, time.Minute), d.system(), nil); ExitCode(err) != 78 {
		t.Errorf("%v", err)
	}
}

// A node certificate in the kubeconfig that has expired is fine where the
// kubelet has renewed it.
func TestLaunchRenewed(t *testing.T) {
	needRoot(t)
	d := prepared(t)
	write(t, d.root, kubelet.KubeconfigPath, certificateKubeconfig(t, "system:node:w1", time.Now().Add(-time.Hour)), 0o600)
	if _, err := Prepare(within(t, time.Minute), d.system(), nil); ExitCode(err) != 78 {
		t.Errorf("expired: %v", err)
	}
	cert, key := pairPEM(t, "system:node:w1", time.Now().Add(time.Hour))
	write(t, d.root, currentCertificate, string(cert)+string(key), 0o600)
	if _, err := Prepare(within(t, time.Minute), d.system(), nil); err != nil {
		t.Errorf("renewed: %v", err)
	}
}
