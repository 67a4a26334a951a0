package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
	"github.com/tectonic-worker/tectonic-worker/firewall"
	"github.com/tectonic-worker/tectonic-worker/sysconfig"
	"github.com/tectonic-worker/tectonic-worker/units"
)

// Health is the answer of status in one word.
type Health string

const (
	Healthy   Health = "healthy"
	Degraded  Health = "degraded"
	NotJoined Health = "not-joined"
)

// WorkerStatus is what status shows. Its JSON is the document of
// "status -o json"; names are stable within an apiVersion. What could not be
// found out is left out, and Problems says why.
type WorkerStatus struct {
	APIVersion string           `json:"apiVersion"`
	Health     Health           `json:"health"`
	Problems   []string         `json:"problems,omitempty"`
	Node       NodeStatus       `json:"node"`
	Kubelet    KubeletStatus    `json:"kubelet"`
	Credential CredentialStatus `json:"credential"`
	Firewall   FirewallStatus   `json:"firewall"`
	SELinux    SELinuxStatus    `json:"selinux"`
	Changes    []ChangeStatus   `json:"changes"` // what this project changed on the host
}

// NodeStatus is the Node as the API server has it.
type NodeStatus struct {
	Name           string `json:"name"`
	Registered     bool   `json:"registered"`
	Ready          bool   `json:"ready"`
	Why            string `json:"why,omitempty"` // why not Ready, or why it is not known
	KubeletVersion string `json:"kubeletVersion,omitempty"`
}

// KubeletStatus is kubelet.service and the image it runs.
type KubeletStatus struct {
	Active  string `json:"active"` // systemd's ActiveState
	Enabled bool   `json:"enabled"`
	Healthy bool   `json:"healthy"` // 127.0.0.1:10248/healthz
	Image   string `json:"image,omitempty"`
	Runtime string `json:"runtime,omitempty"`
	Since   string `json:"since,omitempty"` // RFC 3339
}

// CredentialStatus is the kubeconfig.
type CredentialStatus struct {
	Kind     string     `json:"kind,omitempty"`
	Subject  string     `json:"subject,omitempty"`
	Shared   bool       `json:"shared"`
	Server   string     `json:"server,omitempty"`
	NotAfter *time.Time `json:"notAfter,omitempty"`
}

// FirewallStatus is firewalld, and the ports that the worker needs.
type FirewallStatus struct {
	State string       `json:"state"` // "running", "stopped", "not-installed" …
	Zone  string       `json:"zone,omitempty"`
	Ports []PortStatus `json:"ports,omitempty"`
}

// PortStatus is one port in both of firewalld's layers.
type PortStatus struct {
	Port      string `json:"port"`
	Runtime   bool   `json:"runtime"`
	Permanent bool   `json:"permanent"`
	Ours      bool   `json:"ours"` // opened by this project in either layer
}

// SELinuxStatus is the mode now and at the next boot.
type SELinuxStatus struct {
	Runtime string `json:"runtime,omitempty"`
	Boot    string `json:"boot,omitempty"`
}

// ChangeStatus is an entry of the ledger.
type ChangeStatus struct {
	Key
	Since time.Time `json:"since"`
}

// Status looks at the worker and changes nothing. It never fails: what can't
// be found out is one of the problems.
func Status(ctx context.Context, sys *System, environ []string) *WorkerStatus {
	s := &statusLook{
		handles: handles{sys: sys},
		out:     &WorkerStatus{APIVersion: APIVersion, Changes: []ChangeStatus{}},
		facts:   &Facts{Now: sys.Now()},
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

func (s *statusLook) problem(err error) {
	if err != nil {
		s.out.Problems = append(s.out.Problems, err.Error())
	}
}

func (s *statusLook) look(ctx context.Context, environ []string) {
	g := &gatherer{sys: s.sys, h: &s.handles, f: s.facts}
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
	joined := s.sys.Root.Exists(kubelet.KubeconfigPath)
	if joined {
		s.credential(g, in)
		s.kubelet(ctx)
		s.node(ctx, g)
	}
	if settings == nil {
		s.ports(ctx)
	}
	if rt, boot, _, err := s.sys.selinuxFacts(); err == nil {
		s.out.SELinux = SELinuxStatus{string(rt), string(boot)}
	} else {
		s.problem(err)
	}
	switch {
	case !joined:
		s.out.Health = NotJoined
	case len(s.out.Problems) > 0 || !s.out.Node.Ready:
		s.out.Health = Degraded
	default:
		s.out.Health = Healthy
	}
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
		err = fmt.Errorf("cannot read %s: run status as root to see the node", kubelet.KubeconfigPath)
	}
	s.problem(err)
}

func (s *statusLook) kubelet(ctx context.Context) {
	k := &s.out.Kubelet
	k.Image = s.facts.Settings.Image.Reference()
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
	k.Active, k.Enabled = st.Active, st.Enabled()
	if st.Running() {
		k.Since = st.Started.UTC().Format(time.RFC3339)
		g := gatherer{sys: s.sys, f: s.facts}
		if g.runtime(ctx) == nil {
			k.Runtime = s.facts.Runtime.Name
		}
	} else {
		s.problem(fmt.Errorf("%s is %s; read \"journalctl -u %s\"", units.Kubelet, st.Active, units.Kubelet))
		return
	}
	var why string
	if k.Healthy, why = healthz(ctx, healthzURL); !k.Healthy {
		s.problem(fmt.Errorf("the kubelet is not healthy: %s", why))
	}
}

func (s *statusLook) node(ctx context.Context, g *gatherer) {
	n := &s.out.Node
	if s.facts.Kubeconfig == nil {
		n.Why = "not asked: there is no valid kubeconfig"
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
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
			n.Registered, n.Ready, n.KubeletVersion = true, st.Ready, st.KubeletVersion
			if !st.Ready {
				n.Why = st.Why()
			}
			return
		}
	}
	n.Why = err.Error()
	s.problem(err)
}

func (s *statusLook) ports(ctx context.Context) {
	f := &s.out.Firewall
	if s.facts.Settings.Firewall == sysconfig.FirewallLeave {
		f.State = "left alone (FIREWALL=leave)"
		return
	}
	fw, err := s.firewall(ctx)
	if err != nil {
		s.problem(err)
		return
	}
	st, err := fw.State(ctx)
	if err != nil {
		s.problem(err)
		return
	}
	f.State = string(st.Presence)
	if !st.Serves() {
		return
	}
	f.Zone = s.recordedZone(st.DefaultZone)
	for _, p := range s.facts.Settings.FirewallPorts {
		ps, err := s.port(ctx, fw, f.Zone, p)
		if err != nil {
			s.problem(err)
			return
		}
		f.Ports = append(f.Ports, ps)
		if s.out.Credential.Server != "" && !ps.Runtime {
			s.problem(fmt.Errorf("%s is not open in firewalld's zone %s; run \"tectonic-worker join\" again", p, f.Zone))
		}
	}
}

// recordedZone is the zone that join opened ports in: the ledger knows it.
func (s *statusLook) recordedZone(fallback string) string {
	if z := s.facts.Settings.FirewallZone; z != "" {
		return z
	}
	for _, e := range s.ledger.Entries() {
		var before, after portState
		if e.Kind == KindPort && decode(e, &before, &after) == nil {
			return after.Zone
		}
	}
	return fallback
}

func (s *statusLook) port(ctx context.Context, fw Firewall, zone string, p sysconfig.Port) (PortStatus, error) {
	out := PortStatus{Port: p.String()}
	for _, layer := range firewall.Layers() {
		r := port{fw: fw, layer: layer, zone: zone, port: firewall.Port(p)}
		f, err := r.Check(ctx)
		if err != nil {
			return out, err
		}
		if layer == firewall.Runtime {
			out.Runtime = f.OK
		} else {
			out.Permanent = f.OK
		}
		if _, ours := s.ledger.Find(r.Key()); ours {
			out.Ours = true
		}
	}
	return out, nil
}
