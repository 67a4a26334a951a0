package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
	"github.com/tectonic-worker/tectonic-worker/agent/selinux"
	"github.com/tectonic-worker/tectonic-worker/agent/systemd"
	"github.com/tectonic-worker/tectonic-worker/firewall"
	"github.com/tectonic-worker/tectonic-worker/sysconfig"
	"github.com/tectonic-worker/tectonic-worker/units"
)

const (
	// lookInterval is the safety net: a reload of firewalld that fails sends no
	// signal, and a unit's enablement has none.
	lookInterval = 5 * time.Minute
	// coalesce bounds how long an event waits for others like it; a fleet that
	// was told the same thing at once does not act at once.
	coalesce = time.Second
	// busyRetry is how soon a round is tried again that met join or leave at
	// work. A lock that falls free has no event.
	busyRetry = 2 * time.Second
	// roundTimeout bounds a round: calls queue behind a reload, which can take
	// minutes (firewalld #1227).
	roundTimeout = 6 * time.Minute
	// calm is how long nothing has happened when memory is given back.
	calm = 10 * time.Second
	// readyTimeout is how long being ready waits for a bus that is not there.
	readyTimeout = 20 * time.Second
	// stopTimeout is what a round may take to end when the agent is stopped.
	stopTimeout = 12 * time.Second
)

// causeReload is the cause of the round that a reload of firewalld leads to.
const causeReload = "firewalld was reloaded"

// DaemonOptions is how the agent runs.
type DaemonOptions struct {
	Environ []string
	Version string
	// Notify tells the service manager how we are (sd_notify(3)); nil: systemd.
	Notify func(state string) error
	// Slim gives memory back that waiting does not need; nil: it is kept.
	Slim func()
}

// Run keeps this host a worker until ctx ends: it watches what a worker needs,
// and repairs or reports what drifts. The error says why it cannot begin.
func Run(ctx context.Context, sys *System, o DaemonOptions) error {
	if os.Geteuid() != 0 {
		return errors.New("cannot keep this host: the agent must run as root; start it with \"systemctl start tectonic-worker\"")
	}
	d := newDaemon(sys, o)
	defer d.keeper.close()
	if _, err := sys.Root.MkdirAll(RunDir, 0o700); err != nil {
		return err
	}
	stop, err := d.serve(ctx)
	if err != nil {
		return err
	}
	defer stop()
	d.loop(ctx)
	return nil
}

// daemon is the agent's one loop. It alone decides what is done when; the
// rounds, the API server and the socket have goroutines of their own, so that
// none of them can hold up the others.
type daemon struct {
	sys    *System
	o      DaemonOptions
	keeper *keeper
	herald *herald
	status *board
	said   map[Key]ResourceState // what was logged of each resource last

	pending scope
	cause   string
	due     time.Time // when pending is to be done
	running bool
	begun   time.Time
	done    chan *round

	plan        *kept
	follow      string // digest of the credential that the Node is followed with
	unfollow    context.CancelFunc
	node        node.NodeState
	cluster     Cluster // what the Node is followed with; nil: nothing
	news        chan nodeNews
	restored    chan []string // what came of restarting others' pods
	recheck     time.Duration // when the kubelet is asked again, growing; 0: not
	unhealthy   time.Time     // since when the kubelet has not been healthy
	active      string        // the kubelet unit's state when it was last looked at
	drift       node.Condition
	adoption    Adoption
	notice      string // of the certificate's end, as said last
	lastStatus  string
	lastProblem string
}

func newDaemon(sys *System, o DaemonOptions) *daemon {
	if o.Notify == nil {
		o.Notify = systemd.Notify
	}
	d := &daemon{
		sys: sys, o: o, said: map[Key]ResourceState{}, done: make(chan *round, 1), news: make(chan nodeNews, 16), restored: make(chan []string, 1),
		keeper: &keeper{
			handles: handles{sys: sys}, o: o, route: localAddress,
			health: func(ctx context.Context) (bool, string) { return healthz(ctx, healthzURL) },
		},
	}
	d.herald = newHerald(sys)
	d.status = newBoard(sys.Now(), o.Version)
	return d
}

// watchedFiles is what a round reads, and what it writes: a change of any of
// them is a reason to look.
var watchedFiles = []string{
	sysconfig.Path, sysconfig.KubeletEnvPath, kubelet.KubeconfigPath, kubelet.CAPath, kubelet.ConfigPath, kubelet.DropInDir,
	kubelet.NodeKubeconfigPath, selinux.ConfigPath,
	// Enabling a unit is a link, and no signal of systemd's.
	"/etc/systemd/system/multi-user.target.wants/" + units.Kubelet,
	"/etc/systemd/system/multi-user.target.wants/" + units.KubeletPath,
}

// loop runs until ctx ends.
func (d *daemon) loop(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var helpers sync.WaitGroup
	// A stop is quick: what still talks to a dead network is not waited for.
	defer helpers.Wait()
	defer cancel()
	bus := d.sys.WatchFirewall(ctx)
	files, filesUp := keepOpen(ctx, &helpers, d.sys, func(ctx context.Context) (<-chan string, error) { return d.sys.WatchFiles(ctx, watchedFiles) })
	unit, unitUp := keepOpen(ctx, &helpers, d.sys, func(ctx context.Context) (<-chan struct{}, error) {
		return d.sys.WatchUnits(ctx, units.Kubelet, units.KubeletPath)
	})
	helpers.Go(func() { d.herald.run(ctx) })

	net := time.NewTicker(lookInterval)
	defer net.Stop()
	var alive <-chan time.Time
	if every := systemd.WatchdogInterval(); every > 0 {
		t := time.NewTicker(every / 2)
		defer t.Stop()
		alive = t.C
	}
	due := time.NewTimer(0)
	defer due.Stop()
	again := time.NewTimer(time.Hour)
	again.Stop()
	defer again.Stop()
	slim := time.NewTimer(calm)
	defer slim.Stop()
	patience := time.After(readyTimeout)
	waitFor := map[string]bool{"bus": true, "files": true, "units": true}
	ready := func(what string) {
		if len(waitFor) == 0 {
			return
		}
		if delete(waitFor, what); what == "" {
			clear(waitFor)
		}
		if len(waitFor) == 0 {
			d.tell(systemd.Ready)
			d.sys.Log.Info("the agent watches this host", "version", d.o.Version)
		}
	}
	d.want(scopeAll|scopeAdopt|scopeForeign, 0, "start")
	for {
		if !d.running && d.pending != 0 {
			due.Reset(max(0, d.due.Sub(d.sys.Now())))
		}
		select {
		case <-ctx.Done():
			_ = d.o.Notify(systemd.Stopping)
			d.finish(stopTimeout)
			return
		case <-patience:
			ready("")
		case e, ok := <-bus:
			if !ok {
				bus = nil // only at the end of ctx
				continue
			}
			if e.Kind == firewall.Connected {
				ready("bus")
			}
			d.heard(e)
		case <-filesUp:
			ready("files")
			d.want(scopeAll, coalesce, "files are watched")
		case p := <-files:
			d.changed(p)
		case <-unitUp:
			ready("units")
			d.want(scopeAll|scopeBus, coalesce, "systemd is watched")
		case <-unit:
			d.want(scopeAll, coalesce, "a unit changed")
		case n := <-d.news:
			d.nodeSaid(n)
			slim.Reset(calm)
		case <-slim.C:
			if d.o.Slim != nil {
				d.o.Slim()
			}
		case notes := <-d.restored:
			d.sayNotes(notes)
		case <-net.C:
			what := scopeAll | scopeForeign
			if d.adoption.State == AdoptWaiting {
				what |= scopeAdopt
			}
			d.want(what, 0, "timer")
		case <-again.C:
			d.want(scopeKubelet, 0, "the kubelet was not healthy")
		case <-alive:
			// A round that hangs beyond every deadline is what the watchdog is for.
			if !d.running || d.sys.Now().Sub(d.begun) < roundTimeout+time.Minute {
				_ = d.o.Notify(systemd.Alive)
			}
		case <-due.C:
			d.start(ctx, &helpers)
		case r := <-d.done:
			d.running = false
			d.took(ctx, &helpers, r)
			slim.Reset(calm)
			if d.recheck > 0 {
				again.Reset(d.recheck)
			} else {
				again.Stop()
			}
		}
		d.tell("")
	}
}

// want asks for a round within at most delay.
func (d *daemon) want(what scope, delay time.Duration, cause string) {
	if delay > 0 {
		delay = rand.N(delay)
	}
	at := d.sys.Now().Add(delay)
	if d.pending == 0 || at.Before(d.due) {
		d.due = at
	}
	if d.pending == 0 || what&scopeReload != 0 {
		d.cause = cause
	}
	d.pending |= what
}

// start begins the round that is due; one that runs already is let end first.
func (d *daemon) start(ctx context.Context, helpers *sync.WaitGroup) {
	if d.running || d.pending == 0 || d.sys.Now().Before(d.due) {
		return
	}
	what, cause := d.pending, d.cause
	d.pending, d.cause, d.running, d.begun = 0, "", true, d.sys.Now()
	helpers.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, roundTimeout)
		defer cancel()
		d.done <- d.keeper.run(ctx, what, cause)
	})
}

// finish lets the round end that runs.
func (d *daemon) finish(limit time.Duration) {
	if !d.running {
		return
	}
	select {
	case <-d.done:
	case <-time.After(limit):
	}
}

// heard turns firewalld's signals into rounds.
func (d *daemon) heard(e firewall.Event) {
	d.status.heard(e.Kind)
	switch e.Kind {
	case firewall.Reloaded:
		d.want(scopeReload, 0, causeReload)
	case firewall.Back:
		d.want(scopeReload, 0, "firewalld is back")
	case firewall.Connected:
		d.want(scopeAll|scopeBus, coalesce, "the system bus is there")
	case firewall.Lost:
		// Nothing can be asked now; Connected follows.
	case firewall.PortAdded:
		if d.status.wrong(KindPort) {
			d.want(scopeAll, coalesce, "a port was opened")
		}
	default:
		d.want(scopeAll, coalesce, "firewalld: "+string(e.Kind))
	}
}

// changed turns a changed file into a round.
func (d *daemon) changed(path string) {
	what := scopeAll
	if path == kubelet.KubeconfigPath {
		what |= scopeAdopt
	}
	d.want(what, coalesce, path+" changed")
}

// keepOpen keeps a watch open: it is opened, forwarded, and opened again, with
// a growing pause, when it breaks. up gets a value whenever it is open anew.
func keepOpen[T any](ctx context.Context, helpers *sync.WaitGroup, sys *System, open func(context.Context) (<-chan T, error)) (out <-chan T, up <-chan struct{}) {
	to, opened := make(chan T), make(chan struct{}, 1)
	helpers.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			from, err := open(ctx)
			if err != nil {
				if n == 0 {
					sys.Log.Warn("trying again until it works", "error", err)
				}
			} else {
				n = 0
				select {
				case opened <- struct{}{}:
				default:
				}
				forward(ctx, from, to)
			}
			sleep(ctx, pause(n, 250*time.Millisecond, time.Minute))
		}
	})
	return to, opened
}

func forward[T any](ctx context.Context, from <-chan T, to chan<- T) {
	for {
		select {
		case v, ok := <-from:
			if !ok {
				return
			}
			select {
			case to <- v:
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// pause is exponential, with jitter: from the half to the whole of first·2ⁿ,
// at most limit.
func pause(n int, first, limit time.Duration) time.Duration {
	d := limit
	if n < 16 {
		d = min(first<<n, limit)
	}
	return d/2 + rand.N(d/2+1)
}

// sleep waits, and is cut short by ctx.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
