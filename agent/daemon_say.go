package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/node"
)

const (
	// unhealthyGrace is how long a kubelet may take to become healthy after its
	// start before that is worth telling the cluster.
	unhealthyGrace = time.Minute
	// recheckFirst and recheckLast are how soon a kubelet that is not healthy is
	// asked again: it sends no signal when it becomes so.
	recheckFirst = 2 * time.Second
	recheckLast  = time.Minute
	// maxSentence bounds what is said in a Node's condition and in STATUS=.
	maxSentence = 900
)

// DriftCondition is the type of the Node's condition that the agent keeps: True
// while something on the host is not as wanted and is not repaired.
const DriftCondition = "TectonicWorkerDrift"

// Reasons of Events on the Node and of its condition. They are stable.
const (
	reasonRepaired    = "TectonicWorkerRepaired"
	reasonDrift       = "TectonicWorkerDrift"
	reasonReload      = "TectonicWorkerFirewallReload"
	reasonKubeconfig  = "TectonicWorkerKubeconfig"
	reasonCertificate = "TectonicWorkerCertificate"
	reasonAsWanted    = "AsWanted"
	reasonNotRepaired = "NotRepaired"
	reasonFought      = "RepairsAreUndone"
	reasonKubelet     = "KubeletNotHealthy"
)

// took takes in what a round found.
func (d *daemon) took(ctx context.Context, helpers *sync.WaitGroup, r *round) {
	d.status.took(r)
	if r.busy {
		d.sys.Log.Debug("join or leave is at work; looking again when it has ended")
		d.want(r.what|scopeAll, 0, r.cause)
		d.due = d.sys.Now().Add(busyRetry)
	}
	d.sayRepairs(r)
	if !r.busy {
		d.sayDrift(r)
	}
	d.sayNotes(r.notes)
	if r.adoption != nil {
		d.adopted(*r.adoption)
	}
	if r.plan != nil {
		d.plan = r.plan
		d.credential(ctx, helpers)
		d.sayCertificate(r)
	}
	d.lost(ctx, helpers, r)
	if r.what != scopeKubelet && !r.busy {
		problem := ""
		if r.err != nil {
			problem = r.err.Error()
		} else if r.plan != nil {
			problem = strings.Join(r.plan.problems, "; ")
		}
		if d.adoption.Reason != "" && r.err == nil {
			problem = strings.TrimPrefix(problem+"; "+d.adoption.Reason, "; ")
		}
		if steady(problem) != steady(d.lastProblem) && problem != "" {
			d.sys.Log.Warn("cannot keep all of this host", "why", problem)
		}
		d.lastProblem = problem
	}
	d.judgeKubelet(r)
	d.judge()
}

func (d *daemon) sayNotes(notes []string) {
	for _, n := range notes {
		d.sys.Log.Warn(n)
		d.herald.event(d.nodeName(), reasonReload, n, true)
	}
}

// lost says whose packet filter rules are gone, and has the pods restarted
// that write them, where a reload took them and the settings say so.
func (d *daemon) lost(ctx context.Context, helpers *sync.WaitGroup, r *round) {
	if len(r.losses) == 0 {
		return
	}
	if r.what&scopeReload != 0 && d.plan.facts.Settings.FirewallRestore && d.cluster != nil {
		c, name := d.cluster, d.nodeName()
		// It waits for their owners first, longer than a round may be held up.
		helpers.Go(func() {
			notes, err := d.sys.RestoreForeign(ctx, c, name, r.losses)
			if err != nil {
				notes = append(notes, err.Error())
			}
			select {
			case d.restored <- notes:
			case <-ctx.Done():
			}
		})
		return
	}
	var notes []string
	for _, l := range r.losses {
		notes = append(notes, l.String())
	}
	d.sayNotes(notes)
}

// adopted says what became of a kubeconfig that was replaced; the journal has
// its lines from where it was done.
func (d *daemon) adopted(a Adoption) {
	if a.News && a.State != AdoptDone {
		d.herald.event(d.nodeName(), reasonKubeconfig, a.Reason, true)
	} else if a.News {
		d.herald.event(d.nodeName(), reasonKubeconfig, "the kubeconfig on disk was replaced by a good one; the kubelet uses it", false)
	}
	d.adoption = a
}

// sayCertificate says when the credential's end comes near, once a day.
func (d *daemon) sayCertificate(r *round) {
	severity, notice := CertificateNotice(r.plan.notAfter, r.end)
	if notice == d.notice {
		return
	}
	d.notice = notice
	if notice != "" {
		d.sys.Log.Warn(notice)
		d.herald.event(d.nodeName(), reasonCertificate, notice, severity != SeverityNote)
	}
}

// sayRepairs says each repair once: in the journal, and as an Event for each
// kind of thing.
func (d *daemon) sayRepairs(r *round) {
	byKind := map[Kind][]string{}
	var kinds []Kind
	for _, p := range r.repairs {
		d.sys.Log.Info("repaired", "resource", p.Key.String(), "evidence", p.Evidence, "cause", p.Cause)
		if byKind[p.Key.Kind] == nil {
			kinds = append(kinds, p.Key.Kind)
		}
		byKind[p.Key.Kind] = append(byKind[p.Key.Kind], p.Evidence)
	}
	for _, k := range kinds {
		d.herald.event(d.nodeName(), reasonRepaired, fmt.Sprintf("%s was not as wanted any more and was repaired: %s", k, strings.Join(byKind[k], ", ")), false)
	}
}

// sayDrift says, once each, what is not as wanted and stays so.
func (d *daemon) sayDrift(r *round) {
	for _, s := range r.resources {
		if d.said[s.Key] == s.State {
			continue
		}
		before := d.said[s.Key]
		d.said[s.Key] = s.State
		switch {
		case s.State == StatePending:
			d.sys.Log.Info("waits for the kubelet's next start", "resource", s.Key.String(), "why", s.Why)
		case s.State.wrong():
			d.sys.Log.Warn("not as wanted", "resource", s.Key.String(), "state", string(s.State), "why", s.Why)
			if s.State != StateUnknown {
				d.herald.event(d.nodeName(), reasonDrift, fmt.Sprintf("%s is not as wanted (%s): %s", s.Key, s.State, s.Why), true)
			}
		case before != "" && before.wrong():
			d.sys.Log.Info("as wanted again", "resource", s.Key.String())
		}
	}
}

// judgeKubelet follows a kubelet that is not healthy until it is.
func (d *daemon) judgeKubelet(r *round) {
	k := r.kubelet
	if k.Missing {
		return
	}
	if k.Healthy {
		d.active = k.Active
		if !d.unhealthy.IsZero() && d.sys.Now().Sub(d.unhealthy) > unhealthyGrace {
			d.sys.Log.Info("the kubelet is healthy again")
		}
		d.unhealthy, d.recheck = time.Time{}, 0
		return
	}
	anew := k.Active != d.active // one that was just started is given its time again
	d.active = k.Active
	if d.unhealthy.IsZero() || anew {
		d.unhealthy = d.sys.Now()
		d.recheck = recheckFirst
		return
	}
	if d.recheck < recheckLast {
		d.recheck = min(2*d.recheck, recheckLast)
		return
	}
	d.recheck = 0 // the timer looks every five minutes
}

// kubeletTrouble is what to tell of the kubelet, or nothing. One that only just
// started is given its time.
func (d *daemon) kubeletTrouble() string {
	k := d.status.kubelet()
	if k.Healthy || k.Missing || d.unhealthy.IsZero() || errors.Is(d.status.problem(), errNotJoined) {
		return ""
	}
	if k.Active != "active" && k.Active != "activating" || d.sys.Now().Sub(d.unhealthy) >= unhealthyGrace {
		return k.Why
	}
	return ""
}

// judge makes the Node's condition from all that is known, and has it written
// where it differs from the one before.
func (d *daemon) judge() {
	c := node.Condition{Type: DriftCondition, Status: "False", Reason: reasonAsWanted, Message: "everything that the agent keeps on this host is as wanted"}
	var what []string
	for _, s := range d.status.resources() {
		if !s.State.wrong() {
			continue
		}
		if s.State == StateFought {
			c.Reason = reasonFought
		} else if c.Reason != reasonFought {
			c.Reason = reasonNotRepaired
		}
		what = append(what, fmt.Sprintf("%s: %s", s.Key, s.Why))
	}
	if d.lastProblem != "" && !errors.Is(d.status.problem(), errNotJoined) {
		what = append(what, d.lastProblem)
		if c.Reason == reasonAsWanted {
			c.Reason = reasonNotRepaired
		}
	}
	if t := d.kubeletTrouble(); t != "" {
		what = append(what, t)
		if c.Reason == reasonAsWanted {
			c.Reason = reasonKubelet
		}
	}
	if len(what) > 0 {
		c.Status, c.Message = "True", shorten(strings.Join(what, "; "))
	}
	// A message that names the time is another one at every look; that is no news.
	if c.Status == d.drift.Status && c.Reason == d.drift.Reason && steady(c.Message) == steady(d.drift.Message) {
		return
	}
	c.Since = d.drift.Since
	if c.Status != d.drift.Status {
		c.Since = d.sys.Now()
	}
	d.drift = c
	d.status.judged(c)
	if d.plan != nil {
		d.herald.condition(d.nodeName(), c)
	}
}

// steady is a text without what changes from look to look: its numbers.
func steady(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, s)
}

func shorten(s string) string {
	if len(s) <= maxSentence {
		return s
	}
	return strings.ToValidUTF8(s[:maxSentence], "") + "…"
}

func (d *daemon) nodeName() string {
	if d.plan == nil {
		return ""
	}
	return d.plan.facts.NodeName
}

// tell sends a message and the one line for people to the service manager,
// where there is something new to say.
func (d *daemon) tell(message string) {
	line := d.line()
	if message == "" && steady(line) == steady(d.lastStatus) {
		return
	}
	d.lastStatus = line
	if message != "" {
		message += "\n"
	}
	_ = d.o.Notify(message + "STATUS=" + line)
}

// line is how the worker is, in one line.
func (d *daemon) line() string {
	switch {
	case errors.Is(d.status.problem(), errNotJoined):
		return "not joined: waiting for a kubeconfig"
	case d.plan == nil && d.status.problem() != nil:
		return "nothing can be kept: " + shorten(firstLine(d.status.problem().Error()))
	case d.plan == nil:
		return "starting"
	}
	n := "node " + d.nodeName() + ": " + d.status.api()
	if d.node.Registered {
		n = strings.TrimPrefix(d.node.Why(), "")
	}
	if d.drift.Status == "True" {
		return shorten("DRIFT: " + d.drift.Message + " (" + n + ")")
	}
	return fmt.Sprintf("%d things as wanted; %s", len(d.status.resources()), n)
}

// nodeNews is what the API server says of the Node, or why it says nothing.
type nodeNews struct {
	state *node.NodeState
	err   error
}

// nodeSaid takes in what the API server says of our Node.
func (d *daemon) nodeSaid(n nodeNews) {
	if n.err != nil {
		if d.status.lostAPI(n.err) {
			d.sys.Log.Warn("the API server can't be watched; trying again until it can", "error", n.err)
		}
		return
	}
	if d.status.heardAPI(*n.state) {
		d.sys.Log.Info("the API server is watched", "node", n.state.Why())
	}
	if n.state.Ready != d.node.Ready && d.node.Registered {
		// The node controller, or the kubelet itself, says that something happened to it.
		d.want(scopeKubelet, coalesce, "the Node's Ready condition changed")
	}
	d.node = *n.state
	if !n.state.Registered || d.drift.Type == "" {
		return
	}
	i := slices.IndexFunc(n.state.Conditions, func(c node.Condition) bool { return c.Type == DriftCondition })
	if i < 0 || n.state.Conditions[i].Status != d.drift.Status || n.state.Conditions[i].Reason != d.drift.Reason {
		d.herald.condition(d.nodeName(), d.drift)
	}
	d.herald.retry()
}

// credential follows the Node with the credential that the host has now.
func (d *daemon) credential(ctx context.Context, helpers *sync.WaitGroup) {
	f := d.plan.facts
	// OwnCluster's certificate is read again by itself when the kubelet renews it.
	now := digest(f.KubeconfigData) + digest(d.plan.own) + f.NodeName
	if now == d.follow {
		return
	}
	if d.unfollow != nil {
		d.unfollow()
	}
	ctx, d.unfollow = context.WithCancel(ctx)
	d.follow = now
	g := gatherer{sys: d.sys, f: f}
	proxy, kubeconfig, name := g.proxy(), f.Kubeconfig, f.NodeName
	var c Cluster
	var err error
	if kubeconfig.Bootstrap {
		c, err = d.sys.OwnCluster(proxy)
	} else {
		c, err = d.sys.Cluster(kubeconfig, proxy)
	}
	d.herald.use(c)
	d.cluster = c
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = errors.New("the kubelet has no certificate of its own yet")
		}
		d.status.lostAPI(err)
		return // the file that is missing is watched
	}
	helpers.Go(func() {
		d.followNode(ctx, c, name)
		if closer, ok := c.(interface{ Close() }); ok {
			closer.Close()
		}
	})
}

// followNode watches the Node until ctx ends. A credential that is refused is
// tried again too, rarely: rights come and go on the other side.
func (d *daemon) followNode(ctx context.Context, c Cluster, name string) {
	tell := func(n nodeNews) {
		select {
		case d.news <- n:
		case <-ctx.Done():
		}
	}
	for n := 0; ctx.Err() == nil; n++ {
		err := c.FollowNode(ctx, name,
			func(s node.NodeState) { n = 0; tell(nodeNews{state: &s}) },
			func(err error) { tell(nodeNews{err: err}) })
		if ctx.Err() != nil {
			return
		}
		tell(nodeNews{err: err})
		sleep(ctx, pause(n, time.Minute, 15*time.Minute))
	}
}
