package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/host"
	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/firewall"
	"github.com/tectonic-worker/tectonic-worker/units"
)

// scope is what a round looks at.
type scope uint8

const (
	scopeAll     scope = 1 << iota // everything that must hold
	scopeReload                    // firewalld was reloaded: the runtime ports before all else
	scopeKubelet                   // the kubelet's unit and its health alone
	scopeBus                       // the bus was lost: the connections over it are dead
	scopeAdopt                     // the kubeconfig on disk is another one, perhaps
	scopeForeign                   // what others have in the packet filter
)

// ResourceState is how one resource is. The values are stable, for scripts.
type ResourceState string

const (
	StateAsWanted ResourceState = "as-wanted"
	StatePending  ResourceState = "pending" // the settings want it otherwise from the kubelet's next start on
	StateDrifted  ResourceState = "drifted" // not as wanted, and DRIFT=report
	StateFought   ResourceState = "fought"  // not as wanted, and somebody undoes every repair
	StateFailed   ResourceState = "failed"  // not as wanted, and could not be repaired
	StateUnknown  ResourceState = "unknown" // could not be looked at
)

// wrong tells whether the state is one to tell the cluster of.
func (s ResourceState) wrong() bool { return s != StateAsWanted && s != StatePending }

// ResourceStatus is one resource that the agent keeps.
type ResourceStatus struct {
	Key
	State    ResourceState `json:"state"`
	Drift    Drift         `json:"drift"` // what the settings say is done about drift
	Evidence string        `json:"evidence,omitempty"`
	Why      string        `json:"why,omitempty"` // why it is not as wanted, and stays so
	Since    time.Time     `json:"since"`         // when it came into this state
}

// Repair is a resource that had drifted and was made as wanted again.
type Repair struct {
	Time     time.Time `json:"time"`
	Key      Key       `json:"resource"`
	Evidence string    `json:"evidence"`
	Cause    string    `json:"cause"` // what made the agent look
}

// keeper looks at what must hold and repairs it. All its methods run in one
// round at a time.
type keeper struct {
	handles
	o      DaemonOptions
	fights fights
	last   *kept
	route  func(ctx context.Context, server string) (local netip.Addr)
	health func(ctx context.Context) (ok bool, why string)
	// foreign is what others had in the packet filter when that was last
	// counted; nil before the first time.
	foreign Foreign
}

// round is one look at the host, and what came of it.
type round struct {
	what  scope
	cause string

	begin, end time.Time
	plan       *kept // nil where nothing can be kept; then err says why
	err        error
	busy       bool // join or leave is at work: nothing was looked at to the end
	resources  []ResourceStatus
	repairs    []Repair
	notes      []string
	losses     []Loss // of others' packet filter rules
	kubelet    KubeletHealth
	adoption   *Adoption     // nil: not looked
	restored   time.Duration // from the round's begin until the runtime ports stood again
}

// KubeletHealth is the kubelet as systemd and its healthz port have it.
type KubeletHealth struct {
	Active  string    `json:"active"`          // systemd's ActiveState
	Healthy bool      `json:"healthy"`         // 127.0.0.1:10248/healthz
	Why     string    `json:"why,omitempty"`   // why not
	Since   time.Time `json:"since,omitzero"`  // when the unit came into its state
	Looked  time.Time `json:"looked,omitzero"` // when healthz was asked
	Missing bool      `json:"-"`               // systemd could not be asked
}

// run does a round. It never blocks for longer than its calls' own deadlines.
func (k *keeper) run(ctx context.Context, what scope, cause string) *round {
	r := &round{what: what, cause: cause, begin: k.sys.Now()}
	if what&scopeBus != 0 {
		k.dropUnits()
	}
	if what&scopeReload != 0 && k.last != nil {
		// Not a word to the API server, no file and no other zone is looked at
		// before the ports are open again.
		k.reopen(ctx, r, runtimePorts(k.last.resources))
		r.restored = k.sys.Now().Sub(r.begin)
	}
	if what&scopeAdopt != 0 && !r.busy {
		k.adopt(ctx, r)
	}
	if what&(scopeAll|scopeReload|scopeBus|scopeAdopt) != 0 && !r.busy {
		k.all(ctx, r)
	}
	r.kubelet = k.kubelet(ctx)
	if what&(scopeReload|scopeForeign) != 0 && r.plan != nil && !r.busy {
		k.onReload(ctx, r)
	}
	r.end = k.sys.Now()
	return r
}

// reopen opens the runtime ports that are in the ledger already: for them one
// call is enough, and nothing need be written before it. What is left is kept
// like everything else.
func (k *keeper) reopen(ctx context.Context, r *round, rs []Resource) {
	lock, err := k.lock()
	if err != nil {
		r.busy = true
		return
	}
	var rest []Resource
	l, err := OpenLedger(k.sys.Root)
	for _, res := range rs {
		p := res.(*port)
		if err != nil || k.policy(p.Key()) != DriftRepair || !said(l, p) {
			rest = append(rest, res)
			continue
		}
		a, err := p.Apply(ctx)
		if err != nil || a.After != nil {
			rest = append(rest, res)
			continue
		}
		what := fmt.Sprintf("%s in zone %s (%s)", p.port, p.zone, p.layer)
		k.note(r, res, StateAsWanted, what, "")
		if a.Changed {
			r.repairs = append(r.repairs, Repair{Time: k.sys.Now(), Key: p.Key(), Evidence: what, Cause: r.cause})
		}
	}
	lock.Unlock()
	k.keep(ctx, r, rest)
}

// said tells whether the ledger has a port as one that is ours to shut.
func said(l *Ledger, p *port) bool {
	e, known := l.Find(p.Key())
	var before, after portState
	return known && e.Done && decode(e, &before, &after) == nil && len(after.Ports) == 1 && after.Ports[0] == p.port
}

// onReload counts what others have in the packet filter, and what they lost
// since it was last counted: to a reload, mostly.
func (k *keeper) onReload(ctx context.Context, r *round) {
	now, err := k.sys.Foreign(ctx)
	if err != nil {
		k.sys.Log.Debug("not all packet filter rules could be counted", "error", err)
	}
	if k.foreign != nil {
		r.losses = Lost(k.foreign, now)
	}
	k.foreign = now
}

// adopt takes over a kubeconfig that was replaced on disk.
func (k *keeper) adopt(ctx context.Context, r *round) {
	if !k.sys.Root.Exists(kubelet.KubeconfigPath) && k.last == nil {
		return // not joined
	}
	a, err := k.sys.Adopt(ctx, k.o.Environ)
	var busy *host.BusyError
	switch {
	case errors.As(err, &busy):
		r.busy = true
	case err != nil:
		r.adoption = &Adoption{State: AdoptWaiting, Reason: fmt.Sprintf("cannot tell whether the kubeconfig on disk is another one: %v", err)}
	default:
		r.adoption = &a
	}
}

func (k *keeper) all(ctx context.Context, r *round) {
	plan, err := k.gather(ctx)
	if err != nil {
		r.err = err
		return
	}
	k.last, r.plan = plan, plan
	k.keep(ctx, r, plan.resources)
	if !r.busy {
		k.leaveOldZone(ctx, r, plan)
	}
}

func runtimePorts(rs []Resource) []Resource {
	return slices.DeleteFunc(slices.Clone(rs), func(r Resource) bool {
		p, ok := r.(*port)
		return !ok || p.layer != firewall.Runtime
	})
}

// keep looks at resources, and repairs those that are to be repaired, under
// the lock that join and leave take too.
func (k *keeper) keep(ctx context.Context, r *round, rs []Resource) {
	type drifted struct {
		Resource
		found Finding
	}
	var wrong []drifted
	for _, res := range rs {
		f, err := res.Check(ctx)
		switch {
		case err != nil:
			if res.Key().Kind == KindEnabled || res.Key().Kind == KindStarted {
				k.dropUnits()
			}
			k.note(r, res, StateUnknown, "", err.Error())
		case f.OK:
			k.fights.asWanted(res.Key())
			k.note(r, res, StateAsWanted, f.Evidence, "")
		default:
			wrong = append(wrong, drifted{res, f})
		}
	}
	if len(wrong) == 0 {
		return
	}
	lock, err := k.lock()
	var busy *host.BusyError
	if errors.As(err, &busy) {
		r.busy = true
		return
	}
	var l *Ledger
	if err == nil {
		defer lock.Unlock()
		l, err = OpenLedger(k.sys.Root)
	}
	for _, d := range wrong {
		if err != nil {
			k.note(r, d.Resource, StateFailed, d.found.Evidence, err.Error())
			continue
		}
		k.repair(ctx, r, l, d.Resource, d.found)
	}
}

// lock takes the host's lock if it is free.
func (k *keeper) lock() (*host.Lock, error) {
	if _, err := k.sys.Root.MkdirAll(RunDir, 0o700); err != nil {
		return nil, err
	}
	now, cancel := context.WithCancel(context.Background())
	cancel()
	return k.sys.Root.Acquire(now, lockPath, "agent")
}

// repair makes one resource as wanted, where that is the policy and nobody
// undoes it again and again.
func (k *keeper) repair(ctx context.Context, r *round, l *Ledger, res Resource, f Finding) {
	if p, ok := res.(*knowing); ok && p.pending(l, f) {
		k.note(r, res, StatePending, f.Evidence, "the settings changed; run \"systemctl restart kubelet\" when it suits")
		return
	}
	if k.policy(res.Key()) != DriftRepair {
		k.note(r, res, StateDrifted, f.Evidence, firstLine(f.Diff))
		return
	}
	// What a reload takes away is nobody's will against ours.
	reload := r.what&scopeReload != 0 && res.Key().Kind == KindPort
	if why := k.fights.refuse(res.Key(), k.sys.Now()); why != "" && !reload {
		k.note(r, res, StateFought, f.Evidence, why)
		return
	}
	out, err := ensure(ctx, l, &undoList{}, res)
	if err != nil {
		k.note(r, res, StateFailed, f.Evidence, err.Error())
		return
	}
	k.note(r, res, StateAsWanted, f.Evidence, "")
	if out.Changed {
		now := k.sys.Now()
		if !reload {
			k.fights.repaired(res.Key(), now)
		}
		r.repairs = append(r.repairs, Repair{Time: now, Key: res.Key(), Evidence: f.Evidence, Cause: r.cause})
	}
}

func (k *keeper) policy(key Key) Drift {
	if k.last == nil {
		return DriftReport
	}
	return driftOf(k.last.facts.Settings, key)
}

// note records how a resource is; of two notes in one round the later counts.
func (k *keeper) note(r *round, res Resource, s ResourceState, evidence, why string) {
	st := ResourceStatus{Key: res.Key(), State: s, Drift: k.policy(res.Key()), Evidence: evidence, Why: why, Since: k.sys.Now()}
	for i := range r.resources {
		if r.resources[i].Key == st.Key {
			r.resources[i] = st
			return
		}
	}
	r.resources = append(r.resources, st)
}

// leaveOldZone shuts the ports that we opened in a zone that the cluster's
// packets no longer come in by, once they are open in the new one.
func (k *keeper) leaveOldZone(ctx context.Context, r *round, plan *kept) {
	if plan.zone == "" || k.policy(Key{Kind: KindPort}) != DriftRepair {
		return
	}
	open := map[string]bool{} // layer and port
	for _, s := range r.resources {
		if parts := strings.SplitN(s.Name, "/", 3); s.Kind == KindPort && s.State == StateAsWanted && len(parts) == 3 {
			open[parts[0]+"/"+parts[2]] = true
		}
	}
	l, err := OpenLedger(k.sys.Root)
	if err != nil {
		return // keep has said so
	}
	var stale []Entry
	for _, e := range l.Entries() {
		if parts := strings.SplitN(e.Name, "/", 3); e.Kind == KindPort && len(parts) == 3 && parts[1] != plan.zone && open[parts[0]+"/"+parts[2]] {
			stale = append(stale, e)
		}
	}
	if len(stale) == 0 {
		return
	}
	lock, err := k.lock()
	if err != nil {
		r.busy = true
		return
	}
	defer lock.Unlock()
	for _, e := range stale {
		evidence, err := k.restore(ctx, e)
		if err == nil {
			err = l.Void(e.Key)
		}
		if err != nil {
			r.notes = append(r.notes, fmt.Sprintf("cannot shut %s, which is not needed any more: %v", e.Name, err))
			continue
		}
		r.repairs = append(r.repairs, Repair{Time: k.sys.Now(), Key: e.Key, Evidence: evidence + ": the cluster's packets come in by zone " + plan.zone + " now", Cause: r.cause})
	}
}

// kubelet asks systemd and the kubelet itself how it is. It is never restarted
// here: that is systemd's work.
func (k *keeper) kubelet(ctx context.Context) KubeletHealth {
	us, err := k.units(ctx)
	if err != nil {
		return KubeletHealth{Why: err.Error(), Missing: true}
	}
	st, err := us.Unit(ctx, units.Kubelet)
	if err != nil {
		k.dropUnits()
		return KubeletHealth{Why: err.Error(), Missing: true}
	}
	out := KubeletHealth{Active: st.Active, Since: st.Started}
	switch {
	case st.Load != "loaded":
		out.Why = usable(units.Kubelet, st.Load).Error()
	case st.Running():
		out.Looked = k.sys.Now()
		out.Healthy, out.Why = k.health(ctx)
	case st.Result != "" && st.Result != "success":
		out.Why = fmt.Sprintf("%s is %s (%s, exit code %d); read \"journalctl -u %s\"", units.Kubelet, st.Active, st.Result, st.ExitCode, units.Kubelet)
	default:
		out.Why = fmt.Sprintf("%s is %s", units.Kubelet, st.Active)
	}
	return out
}

// dropUnits forgets the connection to systemd, so that the next question makes
// a new one: a bus that was restarted knows nothing of the old one.
func (k *keeper) dropUnits() {
	if k.us != nil {
		k.us.Close()
		k.us = nil
	}
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return s
}
