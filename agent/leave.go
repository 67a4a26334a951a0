package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/host"
	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
	"github.com/tectonic-worker/tectonic-worker/units"
)

// LeaveOptions is how leave goes about it.
type LeaveOptions struct {
	Environ  []string
	Timeout  time.Duration // for the whole; the last quarter, at most a minute, is the host's own
	Force    bool          // go on where the cluster fails, and delete pods that nothing makes again
	Local    bool          // do not talk to the cluster
	KeepNode bool          // leave the Node, cordoned
	DryRun   bool
}

// LeaveResult is what leave did, also where it failed. Its JSON is the document
// of "leave -o json"; names are stable within an apiVersion.
type LeaveResult struct {
	APIVersion string       `json:"apiVersion"`
	Command    string       `json:"command"`
	DryRun     bool         `json:"dryRun"`
	Node       string       `json:"node"`
	Server     string       `json:"server,omitempty"`
	Changed    bool         `json:"changed"` // false: there was nothing to leave
	Left       bool         `json:"left"`    // nothing of ours is left to put back
	Seconds    float64      `json:"seconds"`
	Steps      []StepResult `json:"steps"`
	PutBack    []Undone     `json:"putBack,omitempty"`
}

// Leave takes this host out of its cluster and puts back what join found.
// Killed at any point and run again, it goes on where it was. The result is
// filled as far as it came when there is an error.
func Leave(ctx context.Context, sys *System, o LeaveOptions, report Reporter) (*LeaveResult, error) {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	l := &leaver{
		handles: handles{sys: sys}, o: o, report: report, begin: time.Now(), facts: &Facts{Now: sys.Now()},
		res: &LeaveResult{APIVersion: APIVersion, Command: "leave", DryRun: o.DryRun, Steps: []StepResult{}},
	}
	defer l.close()
	err := l.run(ctx)
	l.res.Seconds = time.Since(l.begin).Seconds()
	return l.res, err
}

type leaver struct {
	handles
	o      LeaveOptions
	report Reporter
	begin  time.Time
	res    *LeaveResult
	facts  *Facts
	ledger *Ledger

	node   *node.NodeState // what is to be drained and deleted; nil where that is not to be
	noNode string          // why it is nil
	// credential is the kubeconfig that the cluster is spoken to with.
	credential string
	cluster    Cluster
}

func (l *leaver) run(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("cannot change this host: leave must run as root; try it with sudo")
	}
	if !l.o.DryRun {
		if _, err := l.sys.Root.MkdirAll(RunDir, 0o700); err != nil {
			return err
		}
		wait, cancel := context.WithTimeout(ctx, lockWait)
		lock, err := l.sys.Root.Acquire(wait, lockPath, "leave")
		cancel()
		if err != nil {
			return err
		}
		defer lock.Unlock()
		sweep(l.sys.Root)
	}
	var err error
	if l.ledger, err = OpenLedger(l.sys.Root); err != nil {
		return err
	}
	running, err := l.unitsInUse(ctx)
	if err != nil {
		return err
	}
	if len(l.ledger.Entries()) == 0 && len(running) == 0 && len(l.kubeletsFiles()) == 0 {
		l.res.Left = true
		return l.discard(ctx)
	}
	l.res.Changed = true
	for _, s := range []struct {
		name, title string
		do          func(context.Context, *StepResult) error
	}{
		{"cluster", "Ask the cluster", l.ask},
		{"drain", "Drain the node", l.drain},
		{"units", "Stop the kubelet", l.stopUnits},
		// After the kubelet: one that is started again in between would
		// register the Node anew.
		{"node", "Delete the Node", l.deleteNode},
		{"mounts", "Unmount the pods' volumes", l.unmountVolumes},
		{"kubelet-files", "Remove what the kubelet wrote", l.removeKubeletsFiles},
		{"changes", "Put back what was changed", l.putBack},
	} {
		if err := l.step(ctx, s.name, s.title, s.do); err != nil {
			return err
		}
	}
	if l.o.DryRun {
		return nil
	}
	l.res.Left = true
	return l.discard(ctx)
}

// discard deletes all that we keep about this host, the ledger last: it has no
// entries left.
func (l *leaver) discard(ctx context.Context) error {
	if l.o.DryRun {
		return nil
	}
	if err := l.sys.forgetCredentials(); err != nil {
		return err
	}
	entries, err := os.ReadDir(l.sys.Root.Path(StateDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot empty %s: %w", StateDir, err)
	}
	for _, e := range entries {
		if path := StateDir + "/" + e.Name(); path != LedgerPath {
			if err := l.sys.Root.RemoveTree(ctx, path); err != nil {
				return err
			}
		}
	}
	return l.ledger.Discard()
}

func (l *leaver) step(ctx context.Context, name, title string, do func(context.Context, *StepResult) error) error {
	l.report.Begin(name, title)
	begin := time.Now()
	s := StepResult{Name: name, Title: title, Status: StatusUnchanged}
	err := do(ctx, &s)
	s.Seconds = time.Since(begin).Seconds()
	if err != nil {
		s.Status = StatusFailed
	}
	l.res.Steps = append(l.res.Steps, s)
	l.report.End(s)
	return err
}

// changed is the status of a step that did something, or would.
func (l *leaver) changed() StepStatus {
	if l.o.DryRun {
		return StatusWould
	}
	return StatusChanged
}

// would adds lines to what a dry run shows.
func would(s *StepResult, k Key, diff string) {
	s.Resources = append(s.Resources, Outcome{Key: k, Changed: true, Diff: diff + "\n"})
}

// stopOrder lists our units in the order in which they are stopped: those that
// start others first. Instances of a template end by themselves.
func stopOrder() []string {
	last := []string{units.KubeletPath, units.Kubeconfig, units.Kubelet, units.WaitForDNS}
	var order []string
	for _, n := range units.Names() {
		if !slices.Contains(last, n) && !strings.Contains(n, "@.") {
			order = append(order, n)
		}
	}
	return append(order, last...)
}

// unitsInUse lists those of our units that run or start at boot. Without a
// running systemd there are none.
func (l *leaver) unitsInUse(ctx context.Context) ([]string, error) {
	if !l.sys.Root.Exists("/run/systemd/system") {
		return nil, nil
	}
	us, err := l.units(ctx)
	if err != nil {
		return nil, err
	}
	var in []string
	for _, name := range stopOrder() {
		st, err := us.Unit(ctx, name)
		if err != nil {
			return nil, err
		}
		l.kubeletRan = l.kubeletRan || name == units.Kubelet && st.Running()
		if st.Load != "not-found" && (st.Enabled() || st.Active != "inactive" && st.Active != "failed") {
			in = append(in, name)
		}
	}
	return in, nil
}

// stopUnits stops our units and makes them not start at boot, whoever enabled
// them: a host that left is no worker after its next boot either.
func (l *leaver) stopUnits(ctx context.Context, s *StepResult) error {
	in, err := l.unitsInUse(ctx)
	if err != nil {
		return err
	}
	if len(in) == 0 {
		s.Evidence = "no unit of ours runs or starts at boot"
	} else {
		s.Status, s.Evidence = l.changed(), strings.Join(in, ", ")+" stopped and disabled"
	}
	for _, name := range in {
		if l.o.DryRun {
			would(s, Key{KindStarted, name}, "stop and disable "+name)
			continue
		}
		l.report.Progress("stopping " + name)
		if err := l.us.Disable(ctx, name); err != nil {
			return err
		}
		if err := l.us.Stop(ctx, name); err != nil {
			return fmt.Errorf("%w; nothing was removed: read \"journalctl -u %s\", then run \"tectonic-worker leave\" again", err, name)
		}
	}
	if l.o.DryRun {
		return nil
	}
	// Also where the kubelet was killed with its unit, or never ran.
	return Cleanup(ctx, l.sys)
}

func (l *leaver) unmountVolumes(ctx context.Context, s *StepResult) error {
	if l.o.DryRun {
		below, err := l.sys.Root.MountsBelow(kubelet.RootDir)
		for _, m := range below {
			s.Status = l.changed()
			would(s, Key{KindFile, m.Point}, "unmount "+m.Point)
		}
		return err
	}
	done, err := unmountBelow(ctx, l.sys.Root, kubelet.RootDir)
	s.Evidence = "nothing is mounted below " + kubelet.RootDir
	if len(done) > 0 {
		s.Status, s.Evidence = l.changed(), fmt.Sprintf("%d mounts below %s", len(done), kubelet.RootDir)
	}
	return err
}

// kubeletsNames is what kubelets 1.8 to 1.36 make in their directory: each
// name from the sources of the releases (pkg/kubelet/config/defaults.go,
// kubelet_getters.go, cm, and the callers of NewCheckpointManager).
var kubeletsNames = []string{
	"pods", "plugins", "plugins_registry", "plugin-containers", "containers", "device-plugins", "pod-resources", "checkpoints",
	"pki", "image_manager", "cpu_manager_state", "memory_manager_state", "dra_manager_state", "dra_health_state",
	"pod_status_manager_state", "allocated_pods_state", "actuated_pods_state", "graceful_node_shutdown_state", "health_checkpoint",
	"kubeconfig", "usernamespaces", "internal",
}

// kubeletsFiles lists those of them that are there.
func (h *handles) kubeletsFiles() []string {
	var there []string
	for _, n := range kubeletsNames {
		if _, err := h.sys.Root.Stat(kubelet.RootDir + "/" + n); err == nil {
			there = append(there, kubelet.RootDir+"/"+n)
		}
	}
	return there
}

func (l *leaver) removeKubeletsFiles(ctx context.Context, s *StepResult) error {
	files := l.kubeletsFiles()
	s.Evidence = "nothing is left in " + kubelet.RootDir
	if len(files) > 0 {
		s.Status, s.Evidence = l.changed(), fmt.Sprintf("%d names in %s", len(files), kubelet.RootDir)
	}
	for _, f := range files {
		if l.o.DryRun {
			would(s, Key{KindFile, f}, "remove "+f)
			continue
		}
		l.report.Progress("removing " + f)
		if err := l.sys.Root.RemoveTree(ctx, f); err != nil {
			var m *host.MountError
			if errors.As(err, &m) {
				err = fmt.Errorf("%w; what was found before it is gone, nothing behind it was touched", err)
			}
			return err
		}
	}
	return nil
}
