package agent

import (
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/node"
	"github.com/tectonic-worker/tectonic-worker/firewall"
)

// maxRepairs is how many repairs are remembered for a look; all are counted.
const maxRepairs = 50

// AgentStatus is how the agent is and what it sees: the document that its
// socket serves at /status. Names are stable within an apiVersion.
type AgentStatus struct {
	APIVersion string    `json:"apiVersion"`
	Version    string    `json:"version"`
	GoVersion  string    `json:"goVersion"`
	Started    time.Time `json:"started"`

	Joined    bool             `json:"joined"`
	Drift     bool             `json:"drift"` // something is not as wanted and not repaired
	Why       string           `json:"why,omitempty"`
	Problems  []string         `json:"problems,omitempty"` // what could not be found out
	Resources []ResourceStatus `json:"resources"`
	Repairs   []Repair         `json:"repairs"` // the last ones, oldest first
	Repaired  map[Kind]int     `json:"repaired"`

	LastLook AgentLook        `json:"lastLook"`
	Firewall AgentFirewall    `json:"firewall"`
	Kubelet  KubeletHealth    `json:"kubelet"`
	Node     AgentNode        `json:"node"`
	API      AgentAPI         `json:"api"`
	Cert     AgentCertificate `json:"certificate"`
}

// AgentLook is the last look at the whole host.
type AgentLook struct {
	Time    time.Time `json:"time,omitzero"`
	Seconds float64   `json:"seconds"`
	Cause   string    `json:"cause"`
	Looks   int       `json:"looks"` // since the start, partial ones included
	Waits   bool      `json:"waits"` // for join or leave to end
}

// AgentFirewall is firewalld as the agent knows it.
type AgentFirewall struct {
	State      string  `json:"state"`
	Zone       string  `json:"zone,omitempty"`
	Bus        bool    `json:"bus"` // the system bus is watched
	Reloads    int     `json:"reloads"`
	LastRepair float64 `json:"lastReloadSeconds"` // from the last reload's signal until the runtime ports stood
}

// AgentNode is the Node as the API server last said.
type AgentNode struct {
	Name       string `json:"name"`
	Registered bool   `json:"registered"`
	Ready      bool   `json:"ready"`
	Why        string `json:"why,omitempty"`
}

// AgentAPI is the way to the API server.
type AgentAPI struct {
	Connected     bool   `json:"connected"`
	Why           string `json:"why,omitempty"`
	EventsDropped int    `json:"eventsDropped"`
}

// AgentCertificate is the credential that the node speaks with.
type AgentCertificate struct {
	NotAfter *time.Time `json:"notAfter,omitempty"` // null: it does not end, or is not known
	Notice   string     `json:"notice,omitempty"`
}

// board is what the loop has learned, for whoever asks at the socket.
type board struct {
	mu  sync.Mutex
	s   AgentStatus
	err error // of the last look at everything
}

func newBoard(now time.Time, version string) *board {
	return &board{s: AgentStatus{
		APIVersion: APIVersion, Version: version, GoVersion: runtime.Version(), Started: now,
		Resources: []ResourceStatus{}, Repairs: []Repair{}, Repaired: map[Kind]int{}, API: AgentAPI{Why: "not asked yet"},
	}}
}

// took takes in a round. One that met join at work found nothing out.
func (b *board) took(r *round) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &b.s
	s.LastLook.Looks++
	s.LastLook.Waits = r.busy
	if !r.kubelet.Missing {
		s.Kubelet = r.kubelet
	}
	if r.cause == causeReload && !r.busy {
		s.Firewall.LastRepair = r.restored.Seconds()
	}
	for _, p := range r.repairs {
		s.Repaired[p.Key.Kind]++
		s.Repairs = append(s.Repairs, p)
	}
	if n := len(s.Repairs) - maxRepairs; n > 0 {
		s.Repairs = slices.Clone(s.Repairs[n:])
	}
	if r.busy {
		return
	}
	if r.plan == nil && r.err == nil { // the kubelet alone was looked at
		return
	}
	b.err = r.err
	s.LastLook.Time, s.LastLook.Seconds, s.LastLook.Cause = r.end, r.end.Sub(r.begin).Seconds(), r.cause
	s.Joined = !errors.Is(r.err, errNotJoined)
	s.Problems = nil
	if r.err != nil {
		s.Problems = []string{r.err.Error()}
		if !s.Joined {
			s.Resources = []ResourceStatus{}
		}
		return
	}
	s.Problems = r.plan.problems
	s.Node.Name = r.plan.facts.NodeName
	s.Firewall.State, s.Firewall.Zone = r.plan.firewall, r.plan.zone
	s.Cert = AgentCertificate{}
	if !r.plan.notAfter.IsZero() {
		s.Cert.NotAfter = &r.plan.notAfter
	}
	_, s.Cert.Notice = CertificateNotice(r.plan.notAfter, r.end)
	for i := range r.resources {
		now := &r.resources[i]
		j := slices.IndexFunc(s.Resources, func(old ResourceStatus) bool { return old.Key == now.Key })
		if j >= 0 && s.Resources[j].State == now.State {
			now.Since = s.Resources[j].Since
		}
	}
	s.Resources = r.resources
}

func (b *board) heard(k firewall.EventKind) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch k {
	case firewall.Reloaded:
		b.s.Firewall.Reloads++
	case firewall.Connected:
		b.s.Firewall.Bus = true
	case firewall.Lost:
		b.s.Firewall.Bus = false
	}
}

// heardAPI takes in the Node's state, and tells whether the API server had
// been silent.
func (b *board) heardAPI(n node.NodeState) (anew bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	anew = !b.s.API.Connected
	b.s.API.Connected, b.s.API.Why = true, ""
	b.s.Node = AgentNode{Name: n.Name, Registered: n.Registered, Ready: n.Ready}
	if !n.Ready {
		b.s.Node.Why = n.Why()
	}
	return anew
}

// lostAPI takes in why the Node can't be watched, and tells whether that is
// news.
func (b *board) lostAPI(err error) (news bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	news = b.s.API.Connected || b.s.API.Why != err.Error()
	b.s.API.Connected, b.s.API.Why = false, err.Error()
	return news
}

func (b *board) judged(c node.Condition) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.s.Drift, b.s.Why = c.Status == "True", ""
	if b.s.Drift {
		b.s.Why = c.Message
	}
}

func (b *board) resources() []ResourceStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.s.Resources
}

// wrong tells whether a resource of a kind is not as wanted.
func (b *board) wrong(k Kind) bool {
	return slices.ContainsFunc(b.resources(), func(s ResourceStatus) bool { return s.Kind == k && s.State.wrong() })
}

func (b *board) kubelet() KubeletHealth {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.s.Kubelet
}

func (b *board) problem() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// api is the way to the API server, in words.
func (b *board) api() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.s.API.Connected {
		return "not registered"
	}
	why, _, _ := strings.Cut(b.s.API.Why, ";")
	return why
}

// snapshot is a copy that nobody changes.
func (b *board) snapshot(dropped int) *AgentStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.s
	s.Resources, s.Repairs = slices.Clone(s.Resources), slices.Clone(s.Repairs)
	s.Repaired = map[Kind]int{}
	for k, n := range b.s.Repaired {
		s.Repaired[k] = n
	}
	s.API.EventsDropped = dropped
	return &s
}
