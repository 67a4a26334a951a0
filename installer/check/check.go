// Package check asks, before anything is changed, whether what the cluster file names is there and fits: credentials,
// names, ports, matchbox, the machines' API, the way out, BMCs. It owns the questions and what to do about each answer.
// It must not change anything anywhere; reading a BMC's power state and a profile of matchbox is the most that it does.
package check

import (
	"context"
	"crypto/x509"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
)

// Level is how bad an answer is.
type Level string

// The levels. Only Failed keeps an installation from working.
const (
	OK      Level = "ok"
	Warning Level = "warning"
	Failed  Level = "failed"
	Skipped Level = "skipped" // not asked; Message says why
)

// Result is one answer.
type Result struct {
	Name    string `json:"name"`   // tls, files, dns, port, matchbox, machines, egress, bmc
	Target  string `json:"target"` // a file, a host name, an address
	Level   Level  `json:"level"`
	Message string `json:"message"`
	Do      string `json:"do,omitempty"`   // what to do about it
	Line    int    `json:"line,omitempty"` // in the cluster file, where one line is meant
}

// Options change what is asked. The zero value asks everything of the real network.
type Options struct {
	Offline bool          // files only
	Timeout time.Duration // bounds each question: 10 s
	// Parallel is how many questions are asked at once: 64.
	Parallel int
	// Resolver looks names up; nil: this machine's.
	Resolver *net.Resolver
	// DNSPort is where the provisioner answers DNS when the cluster file says that it does (network.dns): 53.
	DNSPort int
	// Registries are where machines pull images from: quay.io and gcr.io.
	Registries []string
	// Roots are what registries are verified with; nil: the system's.
	Roots *x509.CertPool
	// BMCAnswer bounds one answer of a BMC: 1 s.
	BMCAnswer time.Duration
	Now       func() time.Time
}

// registries are those that a Tectonic cluster pulls from.
var registries = []string{"quay.io", "gcr.io"}

// run is one Run.
type run struct {
	c *cluster.Cluster
	o Options

	mu    sync.Mutex
	names map[string]*lookup

	// ready are the machines that reported in; known closes when the machines' API was asked.
	known chan struct{}
	ready map[string]bool
}

// question is asked in a goroutine of its own. What it gives is in an order that does not depend on who answers first.
type question struct {
	after <-chan struct{} // it needs what is known then; nil: nothing
	ask   func(context.Context) []Result
}

func ask(one func(context.Context) Result) question {
	return question{ask: func(ctx context.Context) []Result { return []Result{one(ctx)} }}
}

// Run asks everything at once and returns when all has been answered or has run out of time. The order of the results
// is that of the list above and of the cluster file.
func Run(ctx context.Context, c *cluster.Cluster, o Options) []Result {
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Parallel <= 0 {
		o.Parallel = 64
	}
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	if o.DNSPort == 0 {
		o.DNSPort = 53
	}
	if o.Registries == nil {
		o.Registries = registries
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	r := &run{c: c, o: o, names: map[string]*lookup{}, known: make(chan struct{}), ready: map[string]bool{}}
	questions := r.local()
	if !o.Offline {
		questions = append(questions, r.dns()...)
		questions = append(questions, r.provisioner()...)
		questions = append(questions, r.exposed()...)
		questions = append(questions, r.egress()...)
		questions = append(questions, r.bmcs()...)
	}
	answers := make([][]Result, len(questions))
	slots := make(chan struct{}, o.Parallel)
	var wg sync.WaitGroup
	for i, q := range questions {
		wg.Go(func() {
			if q.after != nil {
				<-q.after // closed by a question that waits for nothing
			}
			slots <- struct{}{}
			defer func() { <-slots }()
			limited, cancel := context.WithTimeout(ctx, o.Timeout)
			defer cancel()
			answers[i] = q.ask(limited)
		})
	}
	wg.Wait()
	var results []Result
	for _, a := range answers {
		results = append(results, a...)
	}
	if o.Offline {
		results = append(results, Result{Name: "network", Target: c.Name, Level: Skipped, Message: "names, ports, matchbox and BMCs were not asked: --offline"})
	}
	return results
}

// Worst is the worst level of all: Failed, Warning or OK.
func Worst(results []Result) Level {
	worst := OK
	for _, r := range results {
		if r.Level == Failed || r.Level == Warning && worst == OK {
			worst = r.Level
		}
	}
	return worst
}

// lookup is a name that is asked once.
type lookup struct {
	once      sync.Once
	addresses []netip.Addr
	err       error
}

// resolve asks for a name's addresses; an address is its own.
func (r *run) resolve(ctx context.Context, resolver *net.Resolver, name string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{a}, nil
	}
	key := name
	if resolver != r.o.Resolver {
		key += " at the provisioner"
	}
	r.mu.Lock()
	l := r.names[key]
	if l == nil {
		l = &lookup{}
		r.names[key] = l
	}
	r.mu.Unlock()
	l.once.Do(func() {
		// Others wait for this answer: it must not end with the question that happened to come first.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.o.Timeout)
		defer cancel()
		l.addresses, l.err = resolver.LookupNetIP(ctx, "ip", name)
		for i, a := range l.addresses {
			l.addresses[i] = a.Unmap()
		}
	})
	return l.addresses, l.err
}
