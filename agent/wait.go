package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/host"
	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
	"github.com/tectonic-worker/tectonic-worker/agent/systemd"
	"github.com/tectonic-worker/tectonic-worker/units"
)

// maxExits is how often the kubelet may end while join waits before that is
// the answer: systemd starts it again every ten seconds, and the first exits
// can come from a container runtime that is still starting.
const maxExits = 3

// wait follows the kubelet from its start to a Ready node.
func (j *joiner) wait(ctx context.Context) error {
	if err := j.step("kubelet", "Wait for the kubelet", func(s *StepResult) error { return j.waitHealthy(ctx, s) }); err != nil {
		return err
	}
	var c Cluster
	err := j.step("registered", "Wait for the node to register", func(s *StepResult) error {
		var err error
		if c, err = j.cluster(ctx); err != nil {
			return err
		}
		st, err := j.waitNode(ctx, c, StageRegistered, func(n node.NodeState) bool { return n.Registered })
		s.Evidence = "node " + st.Name
		return err
	})
	if err != nil {
		return err
	}
	return j.step("ready", "Wait for the node to be Ready", func(s *StepResult) error {
		st, err := j.waitNode(ctx, c, StageReady, func(n node.NodeState) bool { return n.Ready })
		if err != nil {
			return err
		}
		j.res.Ready, j.res.KubeletVersion = true, st.KubeletVersion
		s.Evidence = fmt.Sprintf("kubelet %s, %s", st.KubeletVersion, st.ContainerRuntime)
		return nil
	})
}

// watched calls look at once, then whenever systemd says that the kubelet's
// unit changed, whenever wake says so, and every interval, until it is done,
// fails, or ctx ends. A kubelet that ends again and again ends the wait.
func (j *joiner) watched(ctx context.Context, interval time.Duration, wake <-chan struct{}, look func() (done bool, err error)) error {
	us, err := j.units(ctx)
	if err != nil {
		return err
	}
	if j.changes == nil {
		if j.changes, err = us.Changes(ctx, units.Kubelet); err != nil {
			return err
		}
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	exits, wasUp := 0, false
	for {
		st, err := us.Unit(ctx, units.Kubelet)
		if err != nil {
			return err
		}
		if wasUp && !st.Running() {
			exits++
		}
		wasUp = st.Running()
		if st.Active == "failed" || (st.Active == "inactive" && !st.Condition) || exits >= maxExits {
			return j.kubeletEnded(st, exits)
		}
		if done, err := look(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-j.changes:
		case <-wake:
		case <-tick.C:
		}
	}
}

// healthzURL is where every kubelet that we configure says how it is.
const healthzURL = "http://127.0.0.1:10248/healthz"

// waitHealthy waits until the kubelet says on loopback that it is healthy.
func (j *joiner) waitHealthy(ctx context.Context, s *StepResult) error {
	last := "nothing answers at " + healthzURL
	err := j.watched(ctx, 100*time.Millisecond, nil, func() (bool, error) {
		ok, what := healthz(ctx, healthzURL)
		if !ok {
			last = what
			j.report.Progress(what)
			return false, nil
		}
		s.Evidence = "healthy on 127.0.0.1:10248"
		return true, nil
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return j.stage(StageKubelet, "the kubelet runs but did not become healthy in time: "+last,
			"read its log: journalctl -u "+units.Kubelet, err)
	}
	return err
}

func healthz(ctx context.Context, url string) (ok bool, what string) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false, err.Error()
	}
	resp, err := loopback.Do(req)
	if err != nil {
		return false, "nothing answers at " + url
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
	if resp.StatusCode != http.StatusOK {
		return false, fmt.Sprintf("%s answers %s: %s", url, resp.Status, strings.TrimSpace(string(body)))
	}
	return true, ""
}

// loopback never goes through a proxy, whatever the environment says.
var loopback = &http.Client{Transport: &http.Transport{Proxy: nil, DisableKeepAlives: true}}

// cluster gives the client to watch the Node with: the kubeconfig's, or, where
// that is good for asking for a certificate only, the node's own once it is
// there.
func (j *joiner) cluster(ctx context.Context) (Cluster, error) {
	g := gatherer{sys: j.sys, f: j.facts}
	if !j.facts.Kubeconfig.Bootstrap {
		return j.sys.Cluster(j.facts.Kubeconfig, g.proxy())
	}
	j.report.Progress("the kubelet asks the cluster for its certificate")
	var c Cluster
	var unusable error
	// The kubelet writes its kubeconfig in two steps of its own, and in place:
	// what can't be read yet may be whole at the next look. One every half
	// second is simpler than two watches and costs nothing.
	err := j.watched(ctx, 500*time.Millisecond, nil, func() (bool, error) {
		c, unusable = j.sys.OwnCluster(g.proxy())
		return unusable == nil, nil
	})
	if errors.Is(err, context.DeadlineExceeded) && unusable != nil && !errors.Is(unusable, fs.ErrNotExist) {
		return nil, j.stage(StageCSR, "cannot use the credential that the kubelet wrote for itself: "+unusable.Error(),
			"read the kubelet's log: journalctl -u "+units.Kubelet, err)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, j.stage(StageCSR, "the cluster did not sign the node's certificate in time"+j.whyUnsigned(ctx),
			"look for it with \"kubectl get csr\" and approve it with \"kubectl certificate approve NAME\", or bind system:bootstrappers to the ClusterRole system:certificates.k8s.io:certificatesigningrequests:nodeclient", err)
	}
	return c, err
}

// whyUnsigned says where the node's signing request stands, as far as a
// bootstrap credential may see it.
func (j *joiner) whyUnsigned(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	g := gatherer{sys: j.sys, f: j.facts}
	c, err := j.sys.Cluster(j.facts.Kubeconfig, g.proxy())
	if err != nil {
		return ""
	}
	requests, err := c.CSRs(ctx, j.facts.NodeName)
	if err != nil || len(requests) == 0 {
		return ""
	}
	return ": " + requests[0].Why()
}

// waitNode waits until the Node is as wanted.
func (j *joiner) waitNode(ctx context.Context, c Cluster, stage Stage, wanted func(node.NodeState) bool) (node.NodeState, error) {
	watch, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	last := node.NodeState{Name: j.facts.NodeName}
	var ended error
	wake := make(chan struct{}, 1)
	tell := func(set func()) {
		mu.Lock()
		set()
		mu.Unlock()
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	go func() {
		err := c.WatchNode(watch, j.facts.NodeName, func(s node.NodeState) bool {
			tell(func() { last = s })
			return wanted(s)
		})
		if err != nil {
			tell(func() { ended = err })
		}
	}()
	err := j.watched(ctx, 2*time.Second, wake, func() (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		if wanted(last) {
			return true, nil
		}
		j.report.Progress(last.Why())
		return false, ended
	})
	mu.Lock()
	defer mu.Unlock()
	if !errors.Is(err, context.DeadlineExceeded) {
		return last, err
	}
	if last.CNIMissing() {
		return last, j.stage(StageCNI, last.Why(), "the cluster's network plugin has not come up on this node: look at its DaemonSet (kubectl get pods -n kube-system -o wide --field-selector spec.nodeName="+last.Name+")", err)
	}
	remedy := "read the kubelet's log: journalctl -u " + units.Kubelet
	return last, j.stage(stage, last.Why()+" in time", remedy, err)
}

// stage makes a StageError with the kubelet's last lines.
func (j *joiner) stage(s Stage, what, remedy string, err error) error {
	return &StageError{Stage: s, What: what, Remedy: remedy, Log: j.kubeletLog(), Err: err}
}

// kubeletEnded says why the kubelet's unit does not stay up.
func (j *joiner) kubeletEnded(st systemd.State, exits int) error {
	what := fmt.Sprintf("the kubelet ended with exit code %d", st.ExitCode)
	switch {
	case !st.Condition:
		what = "systemd did not start the kubelet: " + kubelet.KubeconfigPath + " is gone"
	case st.Result == "signal" || st.Result == "core-dump":
		what = fmt.Sprintf("the kubelet was ended by signal %d", st.ExitCode)
	case exits > 1:
		what += fmt.Sprintf(", %d times", exits)
	}
	return j.stage(StageKubelet, what, "its whole log: journalctl -u "+units.Kubelet, nil)
}

// explainStart adds the launcher's own words to a unit that did not start.
func (j *joiner) explainStart(ctx context.Context, step string, err error) error {
	if step != "units" || ctx.Err() != nil {
		return err
	}
	return j.stage(StageKubelet, err.Error(), "its whole log: journalctl -u "+units.Kubelet, err)
}

// kubeletLog is the end of the kubelet's journal since join began, or nothing
// where it can't be had.
func (j *joiner) kubeletLog() []string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	since := fmt.Sprintf("@%d", j.begin.Unix())
	res, err := j.sys.Root.Run(ctx, nil, "journalctl", "--unit="+units.Kubelet, "--since="+since, "--lines=60", "--output=cat", "--no-pager", "--quiet")
	if err != nil {
		return nil
	}
	return logTail(res.Stdout, 8)
}

// logTail picks the n lines that tell most: klog's errors and fatals where
// there are some, else the last ones.
func logTail(log string, n int) []string {
	var all, errs []string
	for _, l := range strings.Split(log, "\n") {
		l = printable(strings.TrimSpace(l))
		if l == "" || strings.HasPrefix(l, "Stopp") || strings.HasPrefix(l, "Start") {
			continue
		}
		all = append(all, l)
		if len(l) > 5 && (l[0] == 'E' || l[0] == 'F') && l[1] >= '0' && l[1] <= '9' || strings.HasPrefix(l, "Error") || strings.HasPrefix(l, "cannot ") {
			errs = append(errs, l)
		}
	}
	if len(errs) > 0 {
		all = errs
	}
	return all[max(0, len(all)-n):]
}

// printable keeps control characters of somebody else's text from a terminal,
// and bounds the line.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return -1
		}
		return r
	}, s)
	const most = 400
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}

// last is the end of what a program said when it failed.
func last(res host.Result) string {
	if l := host.LastLine(res.Stderr); l != "" {
		return printable(l)
	}
	return printable(host.LastLine(res.Stdout))
}
