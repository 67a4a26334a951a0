package agent

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
	"github.com/tectonic-worker/tectonic-worker/agent/systemd"
	"github.com/tectonic-worker/tectonic-worker/firewall"
	"github.com/tectonic-worker/tectonic-worker/sysconfig"
	"github.com/tectonic-worker/tectonic-worker/units"
)

const tcp10250 = "runtime/public/10250/tcp"

// watched is an agent in a bubble of time, on a joined host of doubles.
type watched struct {
	*doubles
	t      *testing.T
	daemon *daemon
	bus    chan firewall.Event
	files  chan string
	unit   chan struct{}
	told   []string // to the service manager
}

// watching runs test beside an agent that has looked once and found all well.
// Everything in it that waits, waits in fake time.
func watching(t *testing.T, test func(w *watched)) {
	d, _ := running(t)
	d.units.set(units.Kubelet, func(st *systemd.State) { st.File = "enabled" })
	d.units.set(units.KubeletPath, func(st *systemd.State) { st.File, st.Active = "enabled", "active" })
	for _, layer := range firewall.Layers() {
		for _, p := range []string{"10250/tcp", "4789/udp"} {
			d.fw.open[string(layer)+"/public/"+p] = true
		}
	}
	real := time.Now()
	synctest.Test(t, func(t *testing.T) {
		ahead := time.Until(real) // certificates are of the real time
		w := &watched{doubles: d, t: t, bus: make(chan firewall.Event, 256), files: make(chan string, 256), unit: make(chan struct{}, 1)}
		d.cluster.states, d.cluster.breaks = make(chan node.NodeState), make(chan error)
		sys := d.system()
		sys.Now = func() time.Time { return time.Now().Add(ahead) }
		sys.WatchFirewall = func(context.Context) <-chan firewall.Event { return w.bus }
		sys.WatchFiles = func(context.Context, []string) (<-chan string, error) { return w.files, nil }
		sys.WatchUnits = func(context.Context, ...string) (<-chan struct{}, error) { return w.unit, nil }
		w.daemon = newDaemon(sys, DaemonOptions{Version: "v1", Notify: func(s string) error { w.told = append(w.told, s); return nil }})
		w.daemon.keeper.route = func(context.Context, string) netip.Addr { return netip.Addr{} }
		w.daemon.keeper.health = func(context.Context) (bool, string) { return true, "" }
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { w.daemon.loop(ctx); close(ended) }()
		w.bus <- firewall.Event{Kind: firewall.Connected}
		w.pass(10 * time.Second)
		test(w)
		cancel()
		<-ended
		w.daemon.keeper.close()
	})
}

// pass lets time go by, and everything happen that is due.
func (w *watched) pass(d time.Duration) {
	time.Sleep(d) // of the bubble: no real time goes by
	synctest.Wait()
}

func (w *watched) status() *AgentStatus { return w.daemon.status.snapshot(w.daemon.herald.lost()) }

func (w *watched) state(key string) ResourceState {
	for _, r := range w.status().Resources {
		if r.Key.String() == key {
			return r.State
		}
	}
	return ""
}

func (w *watched) shut(key string, e firewall.Event) {
	w.fw.mu.Lock()
	delete(w.fw.open, key)
	w.fw.mu.Unlock()
	w.bus <- e
}

func (w *watched) open(key string) bool {
	w.fw.mu.Lock()
	defer w.fw.mu.Unlock()
	return w.fw.open[key]
}

// say makes the API server take reports, or not.
func (w *watched) say(err error) {
	w.cluster.mu.Lock()
	defer w.cluster.mu.Unlock()
	w.cluster.sayErr = err
}

func (w *watched) repairs(name string) int {
	n := 0
	for _, r := range w.status().Repairs {
		if r.Key.Name == name {
			n++
		}
	}
	return n
}

func TestAgentBeginsAsWanted(t *testing.T) {
	watching(t, func(w *watched) {
		s := w.status()
		if !s.Joined || s.Drift || len(s.Repairs) > 0 || len(s.Problems) > 0 || len(s.Resources) < 8 {
			t.Errorf("%+v", s)
		}
		if i := slices.IndexFunc(w.told, func(m string) bool { return strings.HasPrefix(m, systemd.Ready+"\n") }); i < 0 {
			t.Errorf("the service manager was told %q", w.told)
		}
		if c := w.cluster.conditions; len(c) != 1 || c[0].Status != "False" || c[0].Type != DriftCondition {
			t.Errorf("conditions %+v", c)
		}
	})
}

// After a reload the ports come first and at once; a storm of other signals is
// one look.
func TestAgentCoalesces(t *testing.T) {
	watching(t, func(w *watched) {
		before := w.status().LastLook.Looks
		w.shut(tcp10250, firewall.Event{Kind: firewall.Reloaded})
		synctest.Wait() // and no time goes by
		if !w.open(tcp10250) {
			t.Error("a reload's loss waits")
		}
		if n := w.status().LastLook.Looks - before; n != 1 {
			t.Errorf("%d looks for one reload", n)
		}
		w.pass(time.Minute)
		before = w.status().LastLook.Looks
		for range 100 {
			w.bus <- firewall.Event{Kind: firewall.PortRemoved, Zone: "public"}
			w.files <- kubelet.ConfigPath
		}
		w.pass(2 * time.Second)
		if n := w.status().LastLook.Looks - before; n < 1 || n > 2 {
			t.Errorf("%d looks for 200 signals at once", n)
		}
	})
}

// An idle host is looked at every five minutes, and nobody is spoken to.
func TestAgentIdle(t *testing.T) {
	watching(t, func(w *watched) {
		looks, told, calls := w.status().LastLook.Looks, len(w.told), len(w.fw.calls)+len(w.units.calls)
		w.pass(45 * time.Minute)
		if n := w.status().LastLook.Looks - looks; n != 9 {
			t.Errorf("%d looks in 45 minutes, want 9", n)
		}
		if len(w.told) != told || len(w.fw.calls)+len(w.units.calls) != calls || len(w.cluster.events) != 0 || len(w.cluster.conditions) != 1 {
			t.Errorf("told %q, firewalld %q, systemd %q, %d Events, %d conditions", w.told[told:], w.fw.calls, w.units.calls, len(w.cluster.events), len(w.cluster.conditions))
		}
	})
}

// A repair is said once; what is undone a third time within ten minutes is left
// alone, until it is as wanted, or an hour has passed.
func TestAgentDoesNotFight(t *testing.T) {
	removed := firewall.Event{Kind: firewall.PortRemoved, Zone: "public"}
	watching(t, func(w *watched) {
		for i := 1; i <= 3; i++ {
			w.shut(tcp10250, removed)
			w.pass(2 * time.Second)
			if !w.open(tcp10250) || w.repairs(tcp10250) != i {
				t.Fatalf("removal %d: open %v, %d repairs", i, w.open(tcp10250), w.repairs(tcp10250))
			}
		}
		if e := w.cluster.events; len(e) != 3 || e[2].Count != 3 || e[2].Name != e[0].Name || e[0].Warning {
			t.Errorf("Events %+v", e)
		}
		w.shut(tcp10250, removed)
		w.pass(30 * time.Minute)
		if w.open(tcp10250) || w.state("port "+tcp10250) != StateFought {
			t.Errorf("the fourth time: open %v, %s", w.open(tcp10250), w.state("port "+tcp10250))
		}
		last := w.cluster.conditions[len(w.cluster.conditions)-1]
		if last.Status != "True" || last.Reason != reasonFought || !strings.Contains(last.Message, "undone each time") {
			t.Errorf("condition %+v", last)
		}
		if e := w.cluster.events; len(e) != 4 || !e[3].Warning {
			t.Errorf("Events %+v", e)
		}
		// A reload is nobody's will: it is made good all the same.
		w.bus <- firewall.Event{Kind: firewall.Reloaded}
		w.pass(2 * time.Second)
		if !w.open(tcp10250) {
			t.Error("not open after a reload")
		}
		w.pass(time.Minute)
		w.bus <- firewall.Event{Kind: firewall.ZoneUpdated}
		w.pass(2 * time.Second)
		if last := w.cluster.conditions[len(w.cluster.conditions)-1]; last.Status != "False" {
			t.Errorf("condition %+v", last)
		}
	})
	watching(t, func(w *watched) {
		for range 4 {
			w.shut(tcp10250, removed)
			w.pass(2 * time.Second)
		}
		w.pass(time.Hour + 10*time.Minute)
		if !w.open(tcp10250) {
			t.Error("after an hour it is not tried again")
		}
	})
}

// DRIFT=report looks and tells, for one kind or all.
func TestAgentReports(t *testing.T) {
	watching(t, func(w *watched) {
		text := read(t, w.root, sysconfig.Path)
		write(t, w.root, sysconfig.Path, text+"\nDRIFT=report\nDRIFT_FILES=repair\n", 0o644)
		w.files <- sysconfig.Path
		w.pass(2 * time.Second)
		wanted := read(t, w.root, kubelet.ConfigPath)
		write(t, w.root, kubelet.ConfigPath, "mine: 1\n", 0o600)
		w.files <- kubelet.ConfigPath
		w.shut(tcp10250, firewall.Event{Kind: firewall.Reloaded})
		w.units.set(units.Kubelet, func(st *systemd.State) { st.File = "disabled" })
		w.pass(10 * time.Minute)
		if w.open(tcp10250) || slices.Contains(w.units.calls, "enable "+units.Kubelet) {
			t.Errorf("DRIFT=report changes the host: %q %q", w.fw.calls, w.units.calls)
		}
		if got := read(t, w.root, kubelet.ConfigPath); got != wanted {
			t.Errorf("DRIFT_FILES=repair leaves %q", got)
		}
		if w.state("port "+tcp10250) != StateDrifted || w.state("unit-enabled "+units.Kubelet) != StateDrifted || !w.status().Drift {
			t.Errorf("%+v", w.status())
		}
		warnings := 0
		for _, e := range w.cluster.events {
			if e.Warning {
				warnings += e.Count
			}
		}
		if warnings != 2 {
			t.Errorf("two things drifted, and %d warnings were posted: %+v", warnings, w.cluster.events)
		}
	})
}

// A kubelet that ends is told of when systemd says so, never started; one that
// starts is given a minute.
func TestAgentWatchesKubelet(t *testing.T) {
	watching(t, func(w *watched) {
		w.units.set(units.Kubelet, func(st *systemd.State) { st.Active, st.Result, st.ExitCode = "failed", "exit-code", 1 })
		w.unit <- struct{}{}
		w.pass(5 * time.Second)
		last := w.cluster.conditions[len(w.cluster.conditions)-1]
		if last.Reason != reasonKubelet || !strings.Contains(last.Message, "exit code 1") {
			t.Errorf("condition %+v", last)
		}
		w.pass(30 * time.Minute)
		for _, c := range w.units.calls {
			if strings.HasSuffix(c, " "+units.Kubelet) {
				t.Errorf("the agent did %q", c)
			}
		}
		var healthy atomic.Bool
		w.daemon.keeper.health = func(context.Context) (bool, string) { return healthy.Load(), "connection refused" }
		w.units.set(units.Kubelet, func(st *systemd.State) { st.Active = "active" })
		w.unit <- struct{}{}
		w.pass(5 * time.Second)
		healthy.Store(true)
		w.pass(time.Minute)
		if last := w.cluster.conditions[len(w.cluster.conditions)-1]; last.Status != "False" || !w.status().Kubelet.Healthy {
			t.Errorf("condition %+v, kubelet %+v", last, w.status().Kubelet)
		}
	})
}

// While join or leave is at work nothing is touched; when it ended, all is.
func TestAgentWaitsForJoin(t *testing.T) {
	watching(t, func(w *watched) {
		lock, err := w.root.Acquire(t.Context(), lockPath, "join")
		if err != nil {
			t.Fatal(err)
		}
		w.shut(tcp10250, firewall.Event{Kind: firewall.Reloaded})
		w.pass(time.Minute)
		if w.open(tcp10250) || !w.status().LastLook.Waits || w.status().Drift {
			t.Errorf("under join's lock: open %v, %+v", w.open(tcp10250), w.status().LastLook)
		}
		lock.Unlock()
		w.pass(3 * time.Second)
		if !w.open(tcp10250) {
			t.Error("after join ended the port stays shut")
		}
	})
}

// The cluster's packets come in by another zone: the ports follow, and what is
// ours in the old one is shut.
func TestAgentFollowsZone(t *testing.T) {
	watching(t, func(w *watched) {
		for _, key := range []string{tcp10250, "permanent/public/10250/tcp"} { // now the ports are ours
			w.shut(key, firewall.Event{Kind: firewall.PortRemoved, Zone: "public"})
		}
		w.pass(2 * time.Second)
		write(t, w.root, sysconfig.Path, read(t, w.root, sysconfig.Path)+"\nFIREWALL_ZONE=internal\n", 0o644)
		w.files <- sysconfig.Path
		w.pass(2 * time.Second)
		for key, want := range map[string]bool{
			"runtime/internal/10250/tcp": true, "permanent/internal/10250/tcp": true, "runtime/internal/4789/udp": true,
			tcp10250: false, "permanent/public/10250/tcp": false,
			"runtime/public/4789/udp": true, // an administrator's
		} {
			if w.open(key) != want {
				t.Errorf("%s: open %v", key, w.open(key))
			}
		}
	})
}

// What the API server can't be told of waits, up to a bound, and what is too
// much is counted; the loop goes on.
func TestAgentWithoutAPIServer(t *testing.T) {
	watching(t, func(w *watched) {
		w.cluster.breaks <- &node.APIError{Reason: node.ConnectTimeout, Op: "watch node w1", What: "no answer"}
		w.say(&node.APIError{Reason: node.ConnectTimeout, Op: "post", What: "no answer"})
		w.shut(tcp10250, firewall.Event{Kind: firewall.PortRemoved})
		w.pass(time.Minute)
		if !w.open(tcp10250) || w.status().API.Connected {
			t.Errorf("open %v, %+v", w.open(tcp10250), w.status().API)
		}
		for range 2 * maxEvents {
			w.daemon.herald.event("w1", "R", "m", false)
		}
		if got := w.status().API.EventsDropped; got != maxEvents+1 {
			t.Errorf("%d dropped, want %d", got, maxEvents+1)
		}
		w.say(nil)
		w.cluster.states <- node.NodeState{Name: "w1", Registered: true, Ready: true}
		w.pass(10 * time.Second)
		if len(w.cluster.events) != maxEvents || !w.status().API.Connected {
			t.Errorf("%d Events arrived, want %d; %+v", len(w.cluster.events), maxEvents, w.status().API)
		}
	})
}

// The credential may not report: said once, not tried again and again.
func TestAgentMayNotReport(t *testing.T) {
	watching(t, func(w *watched) {
		w.say(&node.APIError{Reason: node.Forbidden, Op: "report the event R on node w1", What: "403"})
		for range 3 {
			w.shut(tcp10250, firewall.Event{Kind: firewall.PortRemoved})
			w.pass(2 * time.Second)
		}
		w.pass(time.Hour)
		if n := strings.Count(w.log.String(), "the API server takes no reports"); n != 1 {
			t.Errorf("said %d times", n)
		}
	})
}

// Settings that are wrong keep what was known from being thrown away, and are
// told.
func TestAgentWrongSettings(t *testing.T) {
	watching(t, func(w *watched) {
		good := read(t, w.root, sysconfig.Path)
		write(t, w.root, sysconfig.Path, good+"\nDRIFT=perhaps\n", 0o644)
		w.files <- sysconfig.Path
		w.pass(2 * time.Second)
		if !w.status().Drift || !strings.Contains(w.status().Why, "DRIFT=perhaps") {
			t.Errorf("%+v", w.status())
		}
		write(t, w.root, sysconfig.Path, good, 0o644)
		w.files <- sysconfig.Path
		w.pass(2 * time.Second)
		if w.status().Drift {
			t.Errorf("%+v", w.status())
		}
	})
}

func TestAgentNeedsRoot(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("runs as root")
	}
	if err := Run(t.Context(), newDoubles(t).system(), DaemonOptions{}); err == nil || !strings.Contains(err.Error(), "root") {
		t.Errorf("%v", err)
	}
}
