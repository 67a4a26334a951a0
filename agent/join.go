package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/host"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
	"github.com/tectonic-worker/tectonic-worker/agent/selinux"
	"github.com/tectonic-worker/tectonic-worker/agent/systemd"
	"github.com/tectonic-worker/tectonic-worker/firewall"
	"github.com/tectonic-worker/tectonic-worker/sysconfig"
)

const (
	// RunDir holds what lasts until the next boot: the lock, rkt's uuid file.
	RunDir   = "/run/tectonic-worker"
	lockPath = RunDir + "/lock"
)

// lockWait is how long a second join waits for the first one's end.
const lockWait = 5 * time.Second

// JoinOptions is how join goes about it.
type JoinOptions struct {
	Inputs
	DryRun     bool
	NoWait     bool // do not wait for the image, the kubelet and the Node
	NoRollback bool // leave what was done in place after a failure
	// Skip names checks that join does without.
	Skip    []string
	Timeout time.Duration
}

// JoinResult is what join did, also where it failed. Its JSON is the document
// of "join -o json"; names are stable within an apiVersion.
type JoinResult struct {
	APIVersion     string        `json:"apiVersion"`
	Command        string        `json:"command"`
	DryRun         bool          `json:"dryRun"`
	Node           string        `json:"node"`
	Server         string        `json:"server,omitempty"`
	ServerVersion  string        `json:"serverVersion,omitempty"`
	KubeletVersion string        `json:"kubeletVersion,omitempty"`
	Image          string        `json:"image,omitempty"`
	Runtime        string        `json:"runtime,omitempty"`
	Credential     string        `json:"credential,omitempty"`
	Shared         bool          `json:"credentialShared"`
	Changed        bool          `json:"changed"`
	Ready          bool          `json:"ready"`
	Seconds        float64       `json:"seconds"`
	Checks         []CheckResult `json:"checks,omitempty"`
	Steps          []StepResult  `json:"steps"`
	RolledBack     []Undone      `json:"rolledBack,omitempty"`
}

// APIVersion is the version of every JSON document that the commands print.
const APIVersion = "tectonic-worker/v1"

// Join makes this host a worker, and waits until its Node is Ready. The result
// is filled as far as it came when there is an error.
func Join(ctx context.Context, sys *System, o JoinOptions, report Reporter) (*JoinResult, error) {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	j := &joiner{
		handles: handles{sys: sys}, o: o, report: report, begin: time.Now(),
		res: &JoinResult{APIVersion: APIVersion, Command: "join", DryRun: o.DryRun, Steps: []StepResult{}},
	}
	defer j.close()
	err := j.run(ctx)
	j.res.Seconds = time.Since(j.begin).Seconds()
	return j.res, err
}

type joiner struct {
	handles
	o      JoinOptions
	report Reporter
	begin  time.Time
	res    *JoinResult
	facts  *Facts
	undo   undoList
	// changes says that the kubelet's unit changed; made when first waited for.
	changes <-chan struct{}
}

func (j *joiner) run(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("cannot change this host: join must run as root; try it with sudo")
	}
	if !j.o.DryRun {
		if _, err := j.sys.Root.MkdirAll(RunDir, 0o700); err != nil {
			return err
		}
		wait, cancel := context.WithTimeout(ctx, lockWait)
		lock, err := j.sys.Root.Acquire(wait, lockPath, "join")
		cancel()
		if err != nil {
			return err
		}
		defer lock.Unlock()
		sweep(j.sys.Root)
	}
	if err := j.gather(ctx); err != nil {
		return err
	}
	steps, err := j.plan(ctx, j.facts, &j.undo)
	if err != nil {
		return err
	}
	if j.o.DryRun {
		return j.preview(ctx, steps)
	}
	ledger, err := OpenLedger(j.sys.Root)
	if err != nil {
		return err
	}
	// The API server has just taken it, whatever was said of it before.
	if err := j.sys.Root.Remove(refusedPath); err != nil {
		return err
	}
	if err = j.apply(ctx, ledger, steps); err == nil {
		err = j.sys.keepAccepted(j.facts.Kubeconfig.Data())
	}
	if err != nil && !j.o.NoRollback {
		// The caller's deadline may be what failed; putting back needs its own.
		back, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
		defer cancel()
		j.res.RolledBack = j.rollBack(back, ledger, &j.undo)
	}
	return err
}

// gather collects the facts, in two lines of output: the cluster and the host.
func (j *joiner) gather(ctx context.Context) error {
	f := &Facts{Now: j.sys.Now()}
	j.facts = f
	g := &gatherer{sys: j.sys, h: &j.handles, f: f}
	if err := g.settings(j.o.Inputs); err != nil {
		return err
	}
	j.res.Node = f.NodeName
	err := j.step("cluster", "Ask the cluster", func(s *StepResult) error {
		if err := g.credential(j.o.Inputs); err != nil {
			return g.clock(ctx, err)
		}
		j.res.Credential, j.res.Shared, j.res.Server = string(f.Kubeconfig.Kind), f.Kubeconfig.Shared, f.Kubeconfig.Server
		j.report.Progress("asking " + f.Kubeconfig.Server)
		if err := g.server(ctx); err != nil {
			return j.explainSilence(ctx, err)
		}
		j.res.ServerVersion = f.Server.Version
		if err := g.dns(ctx); err != nil {
			return err
		}
		if err := g.image(); err != nil {
			return err
		}
		j.res.Image, j.res.KubeletVersion = f.Image, f.Version.String()
		s.Evidence = fmt.Sprintf("%s is %s and takes the %s from %s; cluster DNS %s (%s); kubelet image %s (%s)",
			f.Kubeconfig.Server, f.Server.Version, f.Kubeconfig.Kind, f.KubeconfigFrom, f.DNS, f.DNSFrom, f.Image, f.ImageFrom)
		return nil
	})
	if err != nil {
		return err
	}
	return j.step("host", "Check this host", func(s *StepResult) error { return j.checkHost(ctx, g, s) })
}

func (j *joiner) checkHost(ctx context.Context, g *gatherer, s *StepResult) error {
	f := j.facts
	// The configuration decides about swap and cgroups, and the CRI socket is
	// in it: what can be found out comes before the checks, and what can't is
	// one of their findings.
	x := &examiner{handles: &j.handles, f: f, joining: true}
	x.host(ctx)
	if x.renderErr != nil {
		return x.renderErr
	}
	results := x.run(ctx, joinChecks(), j.o.Skip)
	j.res.Checks = results
	skipped := 0
	for _, r := range results {
		switch r.Severity {
		case SeverityWarn:
			s.Warnings = append(s.Warnings, r.String())
		case SeveritySkipped:
			s.Warnings = append(s.Warnings, r.Name+": skipped, as asked")
			skipped++
		}
	}
	s.Evidence = fmt.Sprintf("%d checks, %d warnings", len(results)-skipped, len(s.Warnings)-skipped)
	if skipped > 0 {
		s.Evidence += fmt.Sprintf(", %d skipped", skipped)
	}
	// Without these two there is nothing to start, whatever is skipped.
	if err := cmp.Or(failures(results), x.runtimeErr, x.endpointErr); err != nil {
		return err
	}
	var err error
	j.res.Runtime = f.Runtime.Name
	if f.SELinuxRuntime, f.SELinuxBoot, f.SELinuxConfig, err = j.sys.selinuxFacts(); err != nil {
		return err
	}
	policy, evidence := selinux.PolicyLoaded(string(j.sys.Root), f.Runtime.Name)
	f.SELinuxPolicy = evidence
	f.SELinuxWant = selinux.Decide(f.Settings.SELinuxMode, f.SELinuxRuntime, f.SELinuxBoot, f.Runtime.Name, policy)
	return g.files()
}

// step runs one part of join that is no list of resources.
func (j *joiner) step(name, title string, do func(*StepResult) error) error {
	j.report.Begin(name, title)
	begin := time.Now()
	s := StepResult{Name: name, Title: title, Status: StatusOK}
	err := do(&s)
	s.Seconds = time.Since(begin).Seconds()
	if err != nil {
		s.Status = StatusFailed
	}
	j.end(s)
	return err
}

func (j *joiner) end(s StepResult) {
	j.res.Steps = append(j.res.Steps, s)
	j.report.End(s)
}

func (j *joiner) preview(ctx context.Context, steps []step) error {
	for _, st := range steps {
		j.report.Begin(st.name, st.title)
		s, err := st.preview(ctx, &j.undo)
		j.end(s)
		if err != nil {
			return err
		}
		j.res.Changed = j.res.Changed || s.Status == StatusWould
	}
	return nil
}

func (j *joiner) apply(ctx context.Context, l *Ledger, steps []step) error {
	for _, st := range steps {
		// The image comes before the units: a kubelet that waits for gigabytes
		// looks like one that hangs.
		if st.name == "units" && !j.o.NoWait {
			if err := j.step("image", "Fetch the kubelet's image", func(s *StepResult) error { return j.fetchImage(ctx, s) }); err != nil {
				return err
			}
		}
		j.report.Begin(st.name, st.title)
		s, err := st.apply(ctx, l, &j.undo)
		j.end(s)
		j.res.Changed = j.res.Changed || s.Status == StatusChanged
		if err != nil {
			return j.explainStart(ctx, st.name, err)
		}
	}
	if err := settle(j.sys.Root, l); err != nil {
		return err
	}
	if j.o.NoWait {
		return nil
	}
	return j.wait(ctx)
}

// proxyEnv hands the proxy settings to a program that fetches.
func proxyEnv(s sysconfig.Settings) []string {
	var env []string
	for k, v := range map[string]string{"HTTP_PROXY": s.HTTPProxy, "HTTPS_PROXY": s.HTTPSProxy, "NO_PROXY": s.NoProxy} {
		if v != "" {
			env = append(env, k+"="+v, strings.ToLower(k)+"="+v)
		}
	}
	return env
}

// ExitCode maps an error to the exit code that the manual page names: 69 not
// reachable, 75 busy, 78 bad configuration, else 1 (sysexits.h).
func ExitCode(err error) int {
	var busy *host.BusyError
	var problems sysconfig.Problems
	var config *ConfigError
	var api *node.APIError
	var drained *DrainError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &drained):
		return drained.exitCode()
	case errors.As(err, &busy):
		return 75
	case errors.As(err, &problems), errors.As(err, &config), errors.Is(err, firewall.ErrInvalidZone):
		return 78
	case errors.Is(err, firewall.ErrNoBus), errors.Is(err, systemd.ErrNoBus), errors.Is(err, ErrNoAgent):
		return 69
	case errors.As(err, &api):
		if api.Layer == node.LayerAuthentication || api.Layer == node.LayerAuthorization {
			return 78
		}
		return 69
	}
	return 1
}
