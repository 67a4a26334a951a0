package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/host"
	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
)

// DrainPath is the program that cordons and drains; see agent/drain.
const DrainPath = "/usr/libexec/tectonic-worker/drain"

// withoutCluster is what to do about a cluster that can't be asked.
const withoutCluster = "nothing was changed; run \"tectonic-worker leave\" again with --force to go on without the cluster's consent, or with --local not to ask it at all"

// ask finds the Node that is to go. Where there is none, or none is to be
// asked for, the steps that need it are skipped.
func (l *leaver) ask(ctx context.Context, s *StepResult) error {
	if l.o.Local {
		l.noNode = "not asked for (--local)"
		s.Status, s.Evidence = StatusSkipped, l.noNode
		return nil
	}
	err := l.find(ctx)
	if err != nil && !l.o.Force {
		return fmt.Errorf("%w; %s", err, withoutCluster)
	}
	if err != nil {
		l.node, l.noNode = nil, "the cluster did not answer"
		s.Warnings = append(s.Warnings, err.Error())
	}
	if l.node == nil {
		s.Status, s.Evidence = StatusSkipped, l.noNode
		return nil
	}
	s.Status, s.Evidence = StatusOK, fmt.Sprintf("%s has node %s", l.res.Server, l.node.Name)
	return nil
}

func (l *leaver) find(ctx context.Context) error {
	g := &gatherer{sys: l.sys, h: &l.handles, f: l.facts}
	if err := g.settings(Inputs{Environ: l.o.Environ}); err != nil {
		return fmt.Errorf("cannot tell this Node's name: %w", err)
	}
	l.res.Node = l.facts.NodeName
	if !l.sys.Root.Exists(kubelet.KubeconfigPath) {
		l.noNode = "there is no kubeconfig, so there is no cluster to leave"
		return nil
	}
	if err := l.connect(g); err != nil || l.cluster == nil {
		return err
	}
	l.report.Progress("asking " + l.res.Server)
	st, err := l.cluster.Node(ctx, l.facts.NodeName)
	if node.IsReason(err, node.NotFound) {
		l.noNode = "node " + l.facts.NodeName + " does not exist (any more)"
		return nil
	}
	if err != nil {
		return err
	}
	if mine := l.machineID(); mine != "" && st.MachineID != "" && st.MachineID != mine {
		l.noNode = fmt.Sprintf("node %s belongs to another machine (machine ID %s, this host's is %s): it is left alone", st.Name, st.MachineID, mine)
		return nil
	}
	l.node = st
	return nil
}

// connect prepares the conversation, by the credential that the kubelet uses.
func (l *leaver) connect(g *gatherer) error {
	data, err := l.sys.Root.ReadFile(kubelet.KubeconfigPath)
	if err != nil {
		return err
	}
	k, err := node.Parse(data)
	if err != nil {
		return badConfig(fmt.Errorf("cannot use the kubeconfig %s: %w", kubelet.KubeconfigPath, err))
	}
	l.res.Server, l.credential = k.Server, kubelet.KubeconfigPath
	if !k.Bootstrap {
		l.cluster, err = l.sys.Cluster(k, g.proxy())
		return err
	}
	l.credential = kubelet.NodeKubeconfigPath
	l.cluster, err = l.sys.OwnCluster(g.proxy())
	if errors.Is(err, fs.ErrNotExist) {
		l.cluster, l.noNode = nil, "the kubelet never got a credential of its own, so it has no Node"
		return nil
	}
	return err
}

func (l *leaver) machineID() string {
	data, err := l.sys.Root.ReadFile("/etc/machine-id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// DrainError is a node that could not be drained.
type DrainError struct {
	Code int // of the drain program
	Err  error
}

func (e *DrainError) Error() string { return e.Err.Error() }
func (e *DrainError) Unwrap() error { return e.Err }

func (l *leaver) drain(ctx context.Context, s *StepResult) error {
	if l.node == nil {
		s.Status, s.Evidence = StatusSkipped, l.noNode
		return nil
	}
	if l.o.DryRun {
		s.Status = l.changed()
		would(s, Key{"node", l.node.Name}, "cordon and drain node "+l.node.Name)
		return nil
	}
	deadline, _ := ctx.Deadline()
	limit := time.Until(deadline)
	limit -= min(limit/4, time.Minute)
	argv := []string{DrainPath, "--kubeconfig", l.sys.Root.Path(l.credential), "--node", l.node.Name, "--timeout", limit.Round(time.Second).String()}
	if l.o.Force {
		argv = append(argv, "--force")
	}
	if !l.kubeletRan {
		argv = append(argv, "--no-wait")
	}
	out := &lineWriter{see: l.report.Progress}
	res, err := l.sys.Root.RunTo(ctx, proxyEnv(l.facts.Settings), out, argv...)
	s.Status, s.Evidence = l.changed(), out.last
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return err
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("cannot drain: %s is missing; install the tectonic-worker package again (dnf reinstall tectonic-worker)", DrainPath)
	case host.LastLine(res.Stderr) != "":
		err = errors.New(strings.TrimSpace(res.Stderr))
	}
	if l.o.Force {
		s.Warnings = append(s.Warnings, err.Error())
		return nil
	}
	return &DrainError{res.Code, fmt.Errorf("%w; node %s is cordoned and still a worker: run \"tectonic-worker leave\" again when its pods may go, or with --force (\"kubectl uncordon %s\" takes it back)", err, l.node.Name, l.node.Name)}
}

// lineWriter shows each line that a program prints.
type lineWriter struct {
	see  func(string)
	last string
	rest []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for {
		line, rest, whole := bytes.Cut(w.rest, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		w.last, w.rest = string(line), rest
		w.see(w.last)
	}
}

// deleteNode deletes the Node that was found at the start, and no other of its
// name. A node's own credential may not, which is no failure: the cluster's
// administrator does it.
func (l *leaver) deleteNode(ctx context.Context, s *StepResult) error {
	switch {
	case l.node == nil:
		s.Status, s.Evidence = StatusSkipped, l.noNode
		return nil
	case l.o.KeepNode:
		s.Status, s.Evidence = StatusSkipped, "node "+l.node.Name+" stays, cordoned (--keep-node)"
		return nil
	case l.o.DryRun:
		s.Status = l.changed()
		would(s, Key{"node", l.node.Name}, "delete node "+l.node.Name)
		return nil
	}
	err := l.cluster.DeleteNodeUID(ctx, l.node.Name, l.node.UID)
	remedy := fmt.Sprintf("run \"kubectl delete node %s\" as an administrator of the cluster", l.node.Name)
	switch {
	case err == nil:
		s.Status, s.Evidence = l.changed(), "node "+l.node.Name
	case node.IsReason(err, node.Conflict):
		s.Evidence = "node " + l.node.Name + " was registered anew by another machine and is left alone"
	case node.IsReason(err, node.Forbidden):
		s.Status, s.Evidence = StatusSkipped, "node "+l.node.Name+" stays"
		s.Warnings = append(s.Warnings, "this host's credential may not delete its Node: "+remedy)
	case l.o.Force:
		s.Status, s.Evidence = StatusSkipped, "node "+l.node.Name+" stays"
		s.Warnings = append(s.Warnings, err.Error()+"; "+remedy)
	default:
		return fmt.Errorf("%w; the kubelet is stopped: run \"tectonic-worker leave\" again, with --local to leave without the cluster", err)
	}
	return nil
}

// exitCode passes on what the drain program says of the cluster and of the
// kubeconfig.
func (e *DrainError) exitCode() int {
	if e.Code == 69 || e.Code == 78 {
		return e.Code
	}
	return 1
}
