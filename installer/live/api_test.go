package live

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
	"github.com/tectonic-worker/tectonic-worker/installer/machine/api"
)

// world is the provisioner's real store and API, and a machine that is declared there.
type world struct {
	*host
	*provisionerDouble // for its images and its Live
	store              *machine.Store
	lose               atomic.Pointer[string] // the path whose next answer is lost after it was given
	disk               string
}

func newWorld(t *testing.T) *world {
	w := &world{host: newHost(t), provisionerDouble: newProvisionerDouble(t)}
	store, err := machine.Open(t.TempDir(), machine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w.store = store
	handler := api.Handler(store, api.Options{})
	w.server = httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if lose := w.lose.Load(); lose != nil && *lose == r.URL.Path && w.lose.CompareAndSwap(lose, nil) {
			handler.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
		handler.ServeHTTP(rw, r)
	}))
	t.Cleanup(func() {
		w.server.Close()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	w.disk = w.host.disk("vda", 40*gib, nil)
	_, err = store.Put(t.Context(), machine.Definition{Name: "node1", Cluster: "c", MACs: []string{testMAC}, Role: "worker", Minimum: w.order.Minimum, Image: w.order.Image,
		Config: json.RawMessage(`{"ignition":{"version":"3.3.0"}}`), Files: []machine.File{{Path: "/etc/secret", Mode: 0o600, Content: []byte("top-secret")}}}, "test")
	if err != nil {
		t.Fatal(err)
	}
	w.program("flatcar-install", `echo ran >>`+w.path("/ran")+`; while [ $# -gt 1 ]; do [ "$1" = -i ] && cp "`+w.root+`$2" `+w.path("/ignition")+`; shift; done`)
	return w
}

// boot arms the machine and boots it from the network.
func (w *world) boot(t *testing.T, action machine.Action) *Live {
	t.Helper()
	if _, err := w.store.Arm(t.Context(), "node1", machine.ArmRequest{Action: action, Force: true}); err != nil {
		t.Fatal(err)
	}
	d, err := w.store.Boot(t.Context(), testMAC)
	if err != nil || !d.Install {
		t.Fatalf("%+v %v", d, err)
	}
	l := w.live(w.host)
	w.write("/proc/cmdline", strings.Join(machine.KernelArgs(w.server.URL, d.Token, testMAC), " "))
	return l
}

func (w *world) expect(t *testing.T, state machine.State, runs int) machine.Status {
	t.Helper()
	status, err := w.store.Status("node1")
	if err != nil || status.State != state {
		t.Errorf("the machine is %s (%s) and not %s: %v", status.State, status.Reason, state, err)
	}
	ran, _ := os.ReadFile(w.path("/ran"))
	if got := strings.Count(string(ran), "ran"); got != runs {
		t.Errorf("the installer ran %d times and not %d", got, runs)
	}
	return status
}

// From armed to ready, with the token that the installed system finds in its Ignition; also where any one answer is
// lost on the way.
func TestWithTheRealAPI(t *testing.T) {
	for _, lost := range []string{"", machine.PathHello, machine.PathChecks, machine.PathClaim, machine.PathProgress, machine.PathInstalled} {
		t.Run("lost "+lost, func(t *testing.T) {
			w := newWorld(t)
			l := w.boot(t, machine.ActionInstall)
			w.lose.Store(&lost)
			if err := l.Install(t.Context()); err != nil {
				t.Fatal(err)
			}
			status := w.expect(t, machine.Installed, 1)
			if status.Inventory == nil || len(status.Inventory.Disks) != 1 || status.Inventory.Memory != 8<<30 {
				t.Errorf("its inventory is %+v", status.Inventory)
			}
			var config struct {
				Storage struct {
					Files []struct {
						Path     string
						Contents struct{ Source string }
					}
				}
			}
			if err := json.Unmarshal([]byte(content(t, w.path("/ignition"))), &config); err != nil {
				t.Fatal(err)
			}
			for _, f := range config.Storage.Files {
				if f.Path == PathReady {
					if err := w.store.Ready(t.Context(), strings.TrimSpace(decoded(t, f.Contents.Source))); err != nil {
						t.Error(err)
					}
				}
			}
			w.expect(t, machine.Ready, 1)
		})
	}
}

// The same kernel arguments a second time: the installer does not run again, before and after the first one is done.
func TestSecondBootWithTheSameToken(t *testing.T) {
	w := newWorld(t)
	l := w.boot(t, machine.ActionInstall)
	if err := l.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.Install(t.Context()); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "arm the machine again") {
		t.Errorf("the second time: %v", err)
	}
	w.expect(t, machine.Installed, 1)

	// Armed again, it is installed again.
	if err := w.boot(t, machine.ActionInstall).Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.expect(t, machine.Installed, 2)
}

// Two live systems with one token: one of them writes.
func TestTwoAtOnce(t *testing.T) {
	w := newWorld(t)
	l := w.boot(t, machine.ActionInstall)
	errs := make(chan error, 2)
	for range 2 {
		go func() {
			one := *l
			errs <- one.Install(t.Context())
		}()
	}
	first, second := <-errs, <-errs
	if (first == nil) == (second == nil) {
		t.Errorf("one must be refused: %v, %v", first, second)
	}
	ran := content(t, w.path("/ran"))
	if strings.Count(ran, "ran") != 1 {
		t.Errorf("the installer ran:\n%s", ran)
	}
}

func TestFailuresReachTheRealAPI(t *testing.T) {
	t.Run("checks", func(t *testing.T) {
		w := newWorld(t)
		l := w.boot(t, machine.ActionInstall)
		w.host.disk("vdb", 40*gib, nil)
		if err := l.Install(t.Context()); err == nil {
			t.Error("installed on one of two disks")
		}
		if s := w.expect(t, machine.Failed, 0); !strings.Contains(s.Reason, "2 disks fit and one must be meant") {
			t.Errorf("the reason is %s", s.Reason)
		}
	})
	t.Run("installer", func(t *testing.T) {
		w := newWorld(t)
		l := w.boot(t, machine.ActionInstall)
		w.program("flatcar-install", "echo no space; exit 1")
		if err := l.Install(t.Context()); err == nil {
			t.Error("installed")
		}
		if s := w.expect(t, machine.Failed, 0); !strings.Contains(s.Reason, "write: cannot install on vda") || !strings.Contains(s.Reason, "no space") {
			t.Errorf("the reason is %s", s.Reason)
		}
	})
	t.Run("wiped", func(t *testing.T) {
		w := newWorld(t)
		if err := w.boot(t, machine.ActionWipe).Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.expect(t, machine.Accepted, 0)
		if strings.Join(w.ends, " ") != "poweroff" {
			t.Errorf("ended %v", w.ends)
		}
	})
}
