package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/host"
	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
	"github.com/tectonic-worker/tectonic-worker/units"
)

// renewKeyPath keeps the key of a request that nobody has answered yet: the
// next run finds the request again by it.
const renewKeyPath = StateDir + "/renew.key"

// RenewOptions is how renew goes about it.
type RenewOptions struct {
	Kubeconfig     []byte // a credential for the time when the node's own is not valid any more
	KubeconfigFrom string
	Environ        []string
	DryRun         bool
	Timeout        time.Duration
}

// RenewResult is what renew did, also where it failed. Its JSON is the document
// of "renew -o json"; names are stable within an apiVersion.
type RenewResult struct {
	APIVersion  string       `json:"apiVersion"`
	Command     string       `json:"command"`
	DryRun      bool         `json:"dryRun"`
	Node        string       `json:"node"`
	Server      string       `json:"server,omitempty"`
	Credential  string       `json:"credential,omitempty"` // what the request was made with
	Request     string       `json:"request,omitempty"`    // the CertificateSigningRequest's name
	OldSerial   string       `json:"oldSerial,omitempty"`
	OldNotAfter *time.Time   `json:"oldNotAfter,omitempty"`
	Serial      string       `json:"serial,omitempty"` // hexadecimal, as openssl prints it
	NotAfter    *time.Time   `json:"notAfter,omitempty"`
	File        string       `json:"file,omitempty"`
	Changed     bool         `json:"changed"`
	Restarted   bool         `json:"restarted"` // the kubelet
	Ready       bool         `json:"ready"`     // the Node, reported by the kubelet with the new certificate
	Seconds     float64      `json:"seconds"`
	Steps       []StepResult `json:"steps"`
}

// Renew gets the kubelet a new client certificate of its own and waits until
// the Node is Ready with it. The files that it writes are the kubelet's own,
// written as the kubelet would: they are no change of this project's, and the
// ledger does not have them. The old certificate stays beside the new one.
func Renew(ctx context.Context, sys *System, o RenewOptions, report Reporter) (*RenewResult, error) {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	r := &renewer{
		joiner: joiner{handles: handles{sys: sys}, report: report, begin: time.Now(), facts: &Facts{Now: sys.Now()}, res: &JoinResult{Steps: []StepResult{}}},
		o:      o,
		out:    &RenewResult{APIVersion: APIVersion, Command: "renew", DryRun: o.DryRun},
	}
	defer r.close()
	err := r.run(ctx)
	r.out.Steps, r.out.Seconds = r.res.Steps, time.Since(r.begin).Seconds()
	return r.out, err
}

// renewer waits for the kubelet and the Node as join does.
type renewer struct {
	joiner
	o   RenewOptions
	out *RenewResult

	host  *node.Kubeconfig   // the one in /etc/kubernetes
	with  []*node.Kubeconfig // to ask with, the best first
	from  map[*node.Kubeconfig]string
	notes []string
}

func (r *renewer) run(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("cannot renew the certificate: renew must run as root; try it with sudo")
	}
	if !r.o.DryRun {
		lock, err := r.sys.lock(ctx, "renew")
		if err != nil {
			return err
		}
		defer lock.Unlock()
		r.sys.Root.Sweep(kubelet.PKIDir)
	}
	g := &gatherer{sys: r.sys, h: &r.handles, f: r.facts}
	if err := g.settings(Inputs{Environ: r.o.Environ}); err != nil {
		return err
	}
	r.out.Node = r.facts.NodeName
	if err := r.step("credential", "Find a credential to ask with", r.credentials); err != nil {
		return err
	}
	var key, cert []byte
	err := r.step("request", "Ask for a certificate", func(s *StepResult) (err error) {
		key, cert, err = r.request(ctx, g, s)
		return err
	})
	if err != nil || r.o.DryRun {
		return err
	}
	if err := r.step("install", "Put it where the kubelet keeps it", func(s *StepResult) error { return r.install(s, key, cert) }); err != nil {
		return err
	}
	return r.restart(ctx, g)
}

// lock takes the lock that all who change the host take.
func (s *System) lock(ctx context.Context, who string) (*host.Lock, error) {
	if _, err := s.Root.MkdirAll(RunDir, 0o700); err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	return s.Root.Acquire(wait, lockPath, who)
}

// credentials lists what can be asked with: the node's own certificate while
// it is valid, then what was given, then the host's bootstrap credential.
func (r *renewer) credentials(s *StepResult) error {
	defer func() { s.Warnings = r.notes }()
	data, err := r.sys.Root.ReadFile(kubelet.KubeconfigPath)
	if errors.Is(err, fs.ErrNotExist) {
		return badConfig(fmt.Errorf("cannot renew the certificate: this host has no %s, so it has not joined a cluster; run \"tectonic-worker join\"", kubelet.KubeconfigPath))
	}
	if err != nil {
		return badConfig(err)
	}
	if r.host, err = node.Parse(data); err != nil {
		return badConfig(fmt.Errorf("cannot use %s: %w", kubelet.KubeconfigPath, err))
	}
	r.out.Server, r.from = r.host.Server, map[*node.Kubeconfig]string{}
	if r.host.Shared {
		return badConfig(fmt.Errorf("this node has no certificate of its own to renew: its kubelet uses the %s in %s, which is shared with other workers; before that ends, put a new kubeconfig there, or give this node a certificate of its own: tectonic-worker join --kubeconfig FILE, with a bootstrap token (kubeadm token create)",
			joinSpace("shared "+string(r.host.Kind), r.host.Subject), kubelet.KubeconfigPath))
	}
	missing := r.own()
	if err := r.given(); err != nil {
		return err
	}
	if r.host.Bootstrap {
		if err := r.host.Validate(r.facts.Now); err == nil {
			r.candidate(r.host, kubelet.KubeconfigPath)
		} else {
			missing = append(missing, err.Error())
		}
	}
	if len(r.with) == 0 {
		text := "cannot renew the certificate: there is no valid credential to ask with"
		for _, m := range missing {
			text += "\n  " + m
		}
		return badConfig(errors.New(text + "\ngive one with --kubeconfig FILE: a kubeconfig with a bootstrap token (kubeadm token create)"))
	}
	s.Evidence = fmt.Sprintf("%s from %s", r.with[0], r.from[r.with[0]])
	return nil
}

func (r *renewer) candidate(k *node.Kubeconfig, from string) {
	r.with = append(r.with, k)
	r.from[k] = from
}

// own looks at the node's own certificate, and says why it is of no use.
func (r *renewer) own() (missing []string) {
	leaf, err := r.sys.ownCertificate()
	k, from := r.host, kubelet.KubeconfigPath
	switch {
	case err == nil:
		r.out.OldSerial, r.out.OldNotAfter = fmt.Sprintf("%X", leaf.SerialNumber), &leaf.NotAfter
		if k, err = r.ownKubeconfig(); err != nil {
			return []string{"the certificate in " + currentCertificate + " cannot be used: " + err.Error()}
		}
		from = currentCertificate
	case !errors.Is(err, fs.ErrNotExist):
		return []string{err.Error()}
	case r.host.NodeName == "":
		return []string{"the kubelet has got none of its own yet (" + currentCertificate + ")"}
	default:
		r.out.OldNotAfter = &r.host.NotAfter
	}
	if k.NodeName != r.facts.NodeName {
		return []string{fmt.Sprintf("the certificate in %s is for node %s, and this node's name is %s", from, k.NodeName, r.facts.NodeName)}
	}
	if err := k.Validate(r.facts.Now); err != nil {
		return []string{err.Error()}
	}
	r.candidate(k, from)
	return nil
}

// ownKubeconfig is the host's cluster with the kubelet's own certificate.
func (r *renewer) ownKubeconfig() (*node.Kubeconfig, error) {
	data, err := r.host.OwnKubeconfig(currentCertificate)
	if err != nil {
		return nil, err
	}
	return node.ParseFiles(data, kubelet.RootDir, r.sys.Root.ReadFile)
}

// given looks at --kubeconfig. It must be of the same cluster: the kubelet
// would trust the one in /etc/kubernetes still.
func (r *renewer) given() error {
	if r.o.Kubeconfig == nil {
		return nil
	}
	k, err := node.Parse(r.o.Kubeconfig)
	if err == nil {
		err = k.Validate(r.facts.Now)
	}
	if err != nil {
		return badConfig(fmt.Errorf("cannot use the kubeconfig from %s: %w", r.o.KubeconfigFrom, err))
	}
	if !bytes.Equal(k.CA, r.host.CA) {
		return badConfig(fmt.Errorf("cannot use the kubeconfig from %s: its CA is not that of %s, so it is of another cluster or the cluster's CA was replaced; run \"tectonic-worker join --kubeconfig %s\"",
			r.o.KubeconfigFrom, kubelet.KubeconfigPath, r.o.KubeconfigFrom))
	}
	r.candidate(k, r.o.KubeconfigFrom)
	return nil
}

// request asks with one credential after the other, where the API server does
// not take one.
func (r *renewer) request(ctx context.Context, g *gatherer, s *StepResult) (key, cert []byte, err error) {
	var c Cluster
	for i, k := range r.with {
		r.report.Progress("asking " + k.Server)
		if c, err = r.sys.Cluster(k, g.proxy()); err == nil {
			_, err = c.Reach(ctx)
		}
		if err == nil {
			r.out.Credential = k.String()
			break
		}
		if !node.Rejected(err) || i == len(r.with)-1 {
			return nil, nil, r.explainSilence(ctx, err)
		}
		s.Warnings = append(s.Warnings, err.Error()+"; trying the one from "+r.from[r.with[i+1]])
	}
	if r.o.DryRun {
		s.Status = StatusWould
		s.Evidence = fmt.Sprintf("for system:node:%s, with the %s; then %s would be replaced and %s restarted", r.out.Node, r.out.Credential, currentCertificate, units.Kubelet)
		return nil, nil, nil
	}
	signer, ok := c.(Signer)
	if !ok {
		return nil, nil, errors.New("cannot ask for a certificate: this client can't") // a test's double alone
	}
	// A request that was denied, or whose certificate is of no use any more,
	// is in the way of its key only.
	for fresh := false; ; {
		if key, fresh, err = r.key(); err != nil {
			return nil, nil, err
		}
		cert, err = signer.RequestCertificate(ctx, r.out.Node, key, func(csr node.CSR) {
			r.out.Request = csr.Name
			r.report.Progress(csr.Why())
		})
		var refused *node.CSRError
		over := err != nil && (!errors.As(err, &refused) && !isAPIError(err) || refused != nil && (refused.Request.State == node.CSRDenied || refused.Request.State == node.CSRFailed))
		if over {
			if rerr := r.sys.Root.Remove(renewKeyPath); rerr != nil {
				return nil, nil, rerr
			}
		}
		if over && !fresh {
			continue
		}
		break
	}
	if err != nil {
		return nil, nil, r.notIssued(err)
	}
	s.Status, s.Evidence = StatusChanged, r.out.Request+" approved and issued"
	return key, cert, nil
}

func isAPIError(err error) bool {
	var api *node.APIError
	return errors.As(err, &api)
}

// key is the one of a request that is still waiting, or a new one, on disk
// before anything is asked with it.
func (r *renewer) key() (key []byte, fresh bool, err error) {
	if key, err = r.sys.Root.ReadFile(renewKeyPath); err == nil {
		return key, false, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, false, err
	}
	if key, err = node.NewKey(); err != nil {
		return nil, false, err
	}
	if _, err := r.sys.Root.MkdirAll(StateDir, 0o700); err != nil {
		return nil, false, err
	}
	return key, true, r.sys.Root.WriteFile(renewKeyPath, key, host.File{Mode: 0o600})
}

// notIssued names the request and what is to be done about it.
func (r *renewer) notIssued(err error) error {
	var csr *node.CSRError
	if !errors.As(err, &csr) {
		return err
	}
	if isAPIError(err) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	e := &StageError{Stage: StageCSR, What: "cannot renew the certificate of node " + r.out.Node + ": " + csr.Request.Why(), Err: err}
	switch csr.Request.State {
	case node.CSRPending, node.CSRApproved:
		e.What = "cannot renew the certificate of node " + r.out.Node + " in time: " + csr.Request.Why()
		e.Remedy = "then run \"tectonic-worker renew\" again, which goes on with this request; the certificate in use is as it was"
	default:
		e.Remedy = "ask the cluster's administrator, then run \"tectonic-worker renew\" again, which makes a new request"
	}
	return e
}

// restart makes the kubelet use the new certificate. It has to be restarted:
// its certificate manager reads the file at its start only and renews what it
// has in memory.
func (r *renewer) restart(ctx context.Context, g *gatherer) error {
	us, err := r.units(ctx)
	if err != nil {
		return err
	}
	st, err := us.Unit(ctx, units.Kubelet)
	if err != nil {
		return err
	}
	own, err := r.ownKubeconfig()
	if err != nil {
		return err
	}
	c, err := r.sys.Cluster(own, g.proxy())
	if err != nil {
		return err
	}
	if st.Active == "inactive" {
		return r.step("restart", "Restart the kubelet", func(s *StepResult) error {
			s.Status, s.Evidence = StatusSkipped, units.Kubelet+" is stopped; it takes the new certificate when it starts"
			return nil
		})
	}
	var before time.Time
	err = r.step("restart", "Restart the kubelet", func(s *StepResult) error {
		if now, err := c.Node(ctx, r.out.Node); err == nil {
			before = now.Heartbeat
		} else if !node.IsReason(err, node.NotFound) {
			return fmt.Errorf("the new certificate is in place but %w", err)
		}
		// Heartbeats count in seconds: in the same one as the old kubelet's
		// last, the new kubelet's first could not be told from it.
		select {
		case <-time.After(min(before.Add(2*time.Second).Sub(r.sys.Now()), 2*time.Second)):
		case <-ctx.Done():
			return ctx.Err()
		}
		r.out.Restarted = true
		s.Status, s.Evidence = StatusChanged, "it reads its certificate at its start"
		return us.Restart(ctx, units.Kubelet)
	})
	if err != nil {
		return r.explainStart(ctx, "units", err)
	}
	if err := r.step("kubelet", "Wait for the kubelet", func(s *StepResult) error { return r.waitHealthy(ctx, s) }); err != nil {
		return err
	}
	return r.step("ready", "Wait for the node to be Ready", func(s *StepResult) error {
		n, err := r.waitNode(ctx, c, StageReady, func(n node.NodeState) bool { return n.Ready && n.Heartbeat.After(before) })
		if err != nil {
			return err
		}
		r.out.Ready = true
		s.Evidence = fmt.Sprintf("kubelet %s reported at %s", n.KubeletVersion, n.Heartbeat.UTC().Format(time.RFC3339))
		return nil
	})
}

func joinSpace(a, b string) string {
	if b == "" {
		return a
	}
	return a + " " + b
}
