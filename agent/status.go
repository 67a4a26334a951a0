package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
	"github.com/tectonic-worker/tectonic-worker/units"
)

// Status looks at the worker and changes nothing. It never fails: what can't
// be found out is one of the problems, or, where it takes only root to find it
// out, one of the notes.
func Status(ctx context.Context, sys *System, environ []string) *WorkerStatus {
	s := &statusLook{
		handles: handles{sys: sys},
		out: &WorkerStatus{
			APIVersion: APIVersion, Time: sys.Now().UTC().Truncate(time.Second),
			Changes: []ChangeStatus{}, Problems: []string{}, Notes: []string{}, Drift: []DriftStatus{}, Restart: RestartStatus{Reasons: []string{}},
		},
		facts: &Facts{Now: sys.Now()},
	}
	defer s.close()
	s.look(ctx, environ)
	return s.out
}

type statusLook struct {
	handles
	out    *WorkerStatus
	facts  *Facts
	ledger *Ledger
}

func (s *statusLook) gatherer() *gatherer {
	return &gatherer{sys: s.sys, h: &s.handles, f: s.facts}
}

// problem notes what stands between the worker and its health.
func (s *statusLook) problem(err error) {
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0:
		s.note(err.Error() + "; run status as root to see it")
	default:
		add(&s.out.Problems, redactAll(err.Error()))
	}
}

func (s *statusLook) note(text string) { add(&s.out.Notes, redactAll(text)) }

// add appends what the list does not have: two looks can fail for one reason.
func add(list *[]string, text string) {
	for _, have := range *list {
		if have == text {
			return
		}
	}
	*list = append(*list, text)
}

func (s *statusLook) look(ctx context.Context, environ []string) {
	g := s.gatherer()
	in := Inputs{Environ: environ}
	var err error
	if s.ledger, err = OpenLedger(s.sys.Root); err != nil {
		s.problem(err)
		s.ledger = &Ledger{}
	}
	for _, e := range s.ledger.Entries() {
		s.out.Changes = append(s.out.Changes, ChangeStatus{e.Key, e.Since})
	}
	settings := g.settings(in)
	s.problem(settings)
	s.out.Node.Name = s.facts.NodeName
	_, err = s.sys.Root.Stat(kubelet.KubeconfigPath)
	joined := err == nil || errors.Is(err, fs.ErrPermission)
	if joined {
		s.credential(g, in)
		s.certificate()
		s.kubelet(ctx)
		s.node(ctx, g)
		s.agent(ctx)
	}
	if settings == nil {
		s.firewalld(ctx, joined)
	}
	s.selinux()
	if joined && settings == nil {
		s.drift(ctx)
	}
	switch {
	case !joined:
		s.out.Health = NotJoined
	case len(s.out.Problems) > 0 || !s.out.Node.Ready && s.nodeKnown():
		s.out.Health = Degraded
	default:
		s.out.Health = Healthy
	}
}

// nodeKnown: a user who may not read the kubeconfig is told how the rest is.
func (s *statusLook) nodeKnown() bool {
	return s.facts.Kubeconfig != nil || os.Geteuid() == 0
}

func (s *statusLook) credential(g *gatherer, in Inputs) {
	err := g.credential(in)
	k := s.facts.Kubeconfig
	if k != nil {
		s.out.Credential = CredentialStatus{Kind: string(k.Kind), Subject: k.Subject, Shared: k.Shared, Server: k.Server}
		if !k.NotAfter.IsZero() {
			s.out.Credential.NotAfter = &k.NotAfter
		}
	}
	if errors.Is(err, fs.ErrPermission) {
		s.note(fmt.Sprintf("cannot read %s; run status as root to see the node", kubelet.KubeconfigPath))
		return
	}
	// A bootstrap credential may be over once the kubelet has its own.
	var ps node.Problems
	if k != nil && k.Bootstrap && errors.As(err, &ps) && ps.OnlyTime() && s.sys.Root.Exists(kubelet.NodeKubeconfigPath) {
		return
	}
	s.problem(err)
}

// certificate is about what the kubelet shows the API server.
func (s *statusLook) certificate() {
	c := &s.out.Certificate
	subject, notAfter, source, err := s.sys.Certificate()
	if err != nil {
		if !errors.Is(err, fs.ErrPermission) {
			return // the kubeconfig's problem is told already
		}
		s.problem(err)
		return
	}
	c.Subject, c.Source = subject, source
	if notAfter.IsZero() {
		return
	}
	at := notAfter.UTC()
	c.NotAfter = &at
	days := int(notAfter.Sub(s.facts.Now).Hours() / 24)
	c.Days = &days
	sev, text := CertificateNotice(notAfter, s.facts.Now)
	c.Severity = sev
	switch sev {
	case SeverityNote:
		s.note(text)
	case SeverityWarn, SeverityFail:
		s.problem(errors.New(text))
	}
}

func (s *statusLook) kubelet(ctx context.Context) {
	k := &s.out.Kubelet
	k.Image = s.facts.Settings.Image.Reference()
	// The port answers without root and without D-Bus.
	var why string
	k.Healthy, why = healthz(ctx, healthzURL)
	us, err := s.units(ctx)
	if err != nil {
		s.problem(err)
		return
	}
	st, err := us.Unit(ctx, units.Kubelet)
	if err != nil {
		s.problem(err)
		return
	}
	k.Active, k.Enabled, k.Restarts, k.Says = st.Active, st.Enabled(), int(st.Restarts), printable(st.StatusText)
	if err := usable(units.Kubelet, st.Load); err != nil {
		s.problem(err)
		return
	}
	if !st.Running() {
		s.problem(fmt.Errorf("%s is %s (%s, exit code %d); read \"journalctl -u %s\"", units.Kubelet, st.Active, orWord(st.Result, st.Sub), st.ExitCode, units.Kubelet))
		return
	}
	k.Since = st.Started.UTC().Format(time.RFC3339)
	if s.gatherer().runtime(ctx) == nil {
		k.Runtime = s.facts.Runtime.Name
	}
	if !k.Healthy {
		s.problem(fmt.Errorf("the kubelet is not healthy: %s", why))
	}
	if !k.Enabled {
		s.problem(fmt.Errorf("%s does not start at boot; run \"systemctl enable %s\"", units.Kubelet, units.Kubelet))
	}
	s.restart(st)
}

// nodeTime bounds the question to the API server: an operator waits for it.
const nodeTime = 10 * time.Second

func (s *statusLook) node(ctx context.Context, g *gatherer) {
	n := &s.out.Node
	if s.facts.Kubeconfig == nil {
		n.Why = "not asked: there is no kubeconfig that can be read"
		return
	}
	ctx, cancel := context.WithTimeout(ctx, nodeTime)
	defer cancel()
	var c Cluster
	var err error
	if s.facts.Kubeconfig.Bootstrap {
		if c, err = s.sys.OwnCluster(g.proxy()); errors.Is(err, fs.ErrNotExist) {
			err = errors.New("the kubelet has no certificate of its own yet; look for its request with \"kubectl get csr\"")
		}
	} else {
		c, err = s.sys.Cluster(s.facts.Kubeconfig, g.proxy())
	}
	if err == nil {
		var st *node.NodeState
		if st, err = c.Node(ctx, n.Name); err == nil {
			n.Registered, n.Ready, n.KubeletVersion = st.Registered, st.Ready, st.KubeletVersion
			n.ContainerRuntime, n.Unschedulable = st.ContainerRuntime, st.Unschedulable
			if !st.ReadySince.IsZero() {
				n.Since = st.ReadySince.UTC().Format(time.RFC3339)
			}
			if !st.Ready {
				n.Why = st.Why()
			}
			if st.Unschedulable {
				s.note("the Node is cordoned: no new pods come here; \"kubectl uncordon " + n.Name + "\" ends that")
			}
			return
		}
	}
	err = s.explainSilence(ctx, err)
	n.Why = redactAll(err.Error())
	s.problem(err)
}

func (s *statusLook) selinux() {
	rt, boot, _, err := s.sys.selinuxFacts()
	if err != nil {
		s.problem(err)
		return
	}
	s.out.SELinux = SELinuxStatus{Runtime: string(rt), Boot: string(boot)}
	_, s.out.SELinux.Ours = s.ledger.Find(Key{KindSELinux, "runtime"})
}
