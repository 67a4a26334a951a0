package check

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
	"github.com/tectonic-worker/tectonic-worker/installer/power"
)

// Ports that a cluster's machines need between each other, by role: HTTPS for both, etcd's clients and peers on
// controllers.
var exposedPorts = map[string][]int{cluster.Controller: {443, 2379, 2380}, cluster.Worker: {443}}

// exposed asks whether the way to the machines' ports is free, of those that are ready: nobody else could answer. That
// nothing listens yet is no fault, that nobody answers is.
func (r *run) exposed() []question {
	var questions []question
	for _, m := range r.c.Machines {
		questions = append(questions, question{after: r.known, ask: func(ctx context.Context) []Result {
			host := m.DNSName
			if m.Address.IsValid() {
				host = m.Address.String()
			}
			if !r.ready[m.Name] {
				return []Result{{Name: "port", Target: host, Level: Skipped, Message: fmt.Sprintf("%s is not ready yet: its ports %s were not asked", m.Name, ports(m.Role))}}
			}
			results := make([]Result, len(exposedPorts[m.Role]))
			var wg sync.WaitGroup
			for i, port := range exposedPorts[m.Role] {
				wg.Go(func() { results[i] = machinePort(ctx, net.JoinHostPort(host, strconv.Itoa(port)), m.Name) })
			}
			wg.Wait()
			return results
		}})
	}
	return questions
}

func machinePort(ctx context.Context, address, name string) Result {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	switch {
	case err == nil:
		conn.Close()
		return Result{Name: "port", Target: address, Level: OK, Message: "is open"}
	case errors.Is(err, syscall.ECONNREFUSED):
		return Result{Name: "port", Target: address, Level: OK, Message: "can be reached; nothing listens there yet"}
	}
	return Result{Name: "port", Target: address, Level: Warning, Message: dialed(err),
		Do: fmt.Sprintf("open it in the firewalls between here and %s; the cluster's machines need it between each other", name)}
}

func ports(role string) string {
	text := ""
	for i, p := range exposedPorts[role] {
		if i > 0 {
			text += ", "
		}
		text += strconv.Itoa(p)
	}
	return text
}

// egress asks for the registries' front doors, through the cluster's proxy where it has one. It is this machine's way
// out that is seen, so that a miss is a warning.
func (r *run) egress() []question {
	var questions []question
	for _, registry := range r.o.Registries {
		questions = append(questions, ask(func(ctx context.Context) Result { return r.registry(ctx, registry) }))
	}
	return questions
}

func (r *run) registry(ctx context.Context, registry string) Result {
	result := Result{Name: "egress", Target: registry, Level: Warning,
		Do: "let the machines reach " + registry + ", directly or by proxy.https in the cluster file; they pull images from there"}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+registry+"/v2/", nil)
	if err != nil {
		result.Message = oneLine(err)
		return result
	}
	client := &http.Client{
		Transport:     &http.Transport{Proxy: proxyOf(r.c), DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: r.o.Roots}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		result.Message = dialed(err) + " (asked from here, not from a machine)"
		return result
	}
	response.Body.Close()
	if response.StatusCode >= http.StatusInternalServerError {
		result.Message = fmt.Sprintf("answers %d", response.StatusCode)
		return result
	}
	// 401 is what a registry says to those who did not log in (OCI distribution specification).
	return Result{Name: "egress", Target: registry, Level: OK, Message: "can be reached from here"}
}

// bmcs logs in at every BMC and reads the power state.
func (r *run) bmcs() []question {
	var questions []question
	for i, m := range r.c.Machines {
		questions = append(questions, ask(func(ctx context.Context) Result {
			if m.Power.Driver != cluster.PowerIPMI {
				return Result{Name: "bmc", Target: m.Name, Level: Skipped, Message: "its power is manual: there is nothing to ask"}
			}
			return r.bmc(ctx, m, r.c.Line(fmt.Sprintf("machines[%d].power", i)))
		}))
	}
	return questions
}

func (r *run) bmc(ctx context.Context, m cluster.Machine, line int) Result {
	result := Result{Name: "bmc", Target: m.Name + " at " + m.Power.Address, Level: Failed, Line: line}
	credentials, err := loadCredentials(r.c, m)
	if err != nil {
		result.Level, result.Message = Skipped, "its credentials cannot be read; see "+credentialsTarget(r.c, m)
		return result
	}
	bmc, err := power.OpenIPMI(ctx, power.IPMI{Address: m.Power.Address, Credentials: credentials, Command: r.o.Timeout, Answer: r.o.BMCAnswer})
	if err != nil {
		result.Message = oneLine(err)
		return result
	}
	defer bmc.Close()
	state, err := bmc.Status(ctx)
	if err != nil {
		result.Message = oneLine(err)
		return result
	}
	return Result{Name: "bmc", Target: result.Target, Level: OK, Message: "answers; the power is " + string(state)}
}
