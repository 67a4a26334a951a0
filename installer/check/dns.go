package check

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
)

// dns asks for every name that machines and operators need, and whether the answers agree with the cluster file.
func (r *run) dns() []question {
	var questions []question
	for _, host := range r.provisionerHosts() {
		questions = append(questions, ask(func(ctx context.Context) Result { return r.provisionerName(ctx, host) }))
	}
	resolver := r.machinesResolver()
	questions = append(questions,
		ask(func(ctx context.Context) Result {
			return r.roleName(ctx, resolver, "dns.controller", r.c.DNS.Controller, cluster.Controller)
		}),
		ask(func(ctx context.Context) Result {
			return r.roleName(ctx, resolver, "dns.ingress", r.c.DNS.Ingress, cluster.Worker)
		}))
	for i, m := range r.c.Machines {
		questions = append(questions, ask(func(ctx context.Context) Result {
			return r.machineName(ctx, resolver, m, r.c.Line(fmt.Sprintf("machines[%d].dnsName", i)))
		}))
	}
	return questions
}

// provisionerHosts are the hosts that the cluster file calls the provisioner by, each once.
func (r *run) provisionerHosts() []string {
	var hosts []string
	if u, err := url.Parse(r.c.Matchbox.HTTP); err == nil {
		hosts = append(hosts, u.Hostname())
	}
	for _, address := range []string{r.c.Matchbox.RPC, r.c.Matchbox.Machines} {
		if host, _, err := net.SplitHostPort(address); err == nil && !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// machinesResolver asks whom the machines will ask: the provisioner where it answers DNS, else as this machine does.
func (r *run) machinesResolver() *net.Resolver {
	hosts := r.provisionerHosts()
	if !r.c.Network.DNS || len(hosts) == 0 {
		return r.o.Resolver
	}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		addresses, err := r.resolve(ctx, r.o.Resolver, hosts[0])
		if err != nil {
			return nil, err
		}
		return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(addresses[0].String(), strconv.Itoa(r.o.DNSPort)))
	}}
}

func (r *run) provisionerName(ctx context.Context, host string) Result {
	addresses, err := r.resolve(ctx, r.o.Resolver, host)
	if err != nil {
		return r.unresolved(host, err, "add a record for the provisioner to the site's DNS, or correct matchbox in the cluster file", r.c.Line("matchbox"))
	}
	return Result{Name: "dns", Target: host, Level: OK, Message: "is " + list(addresses)}
}

// addressesOf are the addresses of the machines of a role, by the cluster file or else by their names.
func (r *run) addressesOf(ctx context.Context, resolver *net.Resolver, role string) []netip.Addr {
	var all []netip.Addr
	for _, m := range r.c.InRole(role) {
		if m.Address.IsValid() {
			all = append(all, m.Address.Unmap())
		} else if addresses, err := r.resolve(ctx, resolver, m.DNSName); err == nil {
			all = append(all, addresses...)
		}
	}
	return all
}

// roleName asks whether a name of the cluster leads to machines of a role.
func (r *run) roleName(ctx context.Context, resolver *net.Resolver, field, name, role string) Result {
	line := r.c.Line(field)
	do := fmt.Sprintf("add a record for it with the address of a %s", role)
	addresses, err := r.resolve(ctx, resolver, name)
	if err != nil {
		return r.unresolved(name, err, do, line)
	}
	machines := r.addressesOf(ctx, resolver, role)
	result := Result{Name: "dns", Target: name, Level: OK, Message: fmt.Sprintf("is %s, of %ss", list(addresses), role)}
	var others []netip.Addr
	for _, a := range addresses {
		if !slices.Contains(machines, a) {
			others = append(others, a)
		}
	}
	if len(others) > 0 {
		result.Level, result.Line = Warning, line
		result.Message = fmt.Sprintf("is %s, and %s is no %s's address", list(addresses), list(others), role)
		result.Do = "leave it when that is a load balancer in front of them; else correct the record"
	}
	return result
}

// machineName asks whether a machine's name is its address, and nobody else's.
func (r *run) machineName(ctx context.Context, resolver *net.Resolver, m cluster.Machine, line int) Result {
	do := "add a record for " + m.Name + " to the site's DNS: its name must stay what it is when the machine is installed again"
	if m.Address.IsValid() {
		do = fmt.Sprintf("add a record with %s, as the cluster file has it", m.Address)
	}
	addresses, err := r.resolve(ctx, resolver, m.DNSName)
	if err != nil {
		return r.unresolved(m.DNSName, err, do, line)
	}
	result := Result{Name: "dns", Target: m.DNSName, Level: Failed, Line: line}
	if m.Address.IsValid() && !slices.Contains(addresses, m.Address.Unmap()) {
		result.Message = fmt.Sprintf("is %s, and the cluster file gives %s the address %s", list(addresses), m.Name, m.Address)
		result.Do = "correct the record, or machines.address"
		return result
	}
	for _, other := range r.c.Machines {
		if other.Name == m.Name {
			continue
		}
		theirs, err := r.resolve(ctx, resolver, other.DNSName)
		if err != nil {
			continue
		}
		for _, a := range addresses {
			if slices.Contains(theirs, a) {
				result.Message = fmt.Sprintf("is %s, and so is %s", a, other.DNSName)
				result.Do = "give each machine an address of its own"
				return result
			}
		}
	}
	return Result{Name: "dns", Target: m.DNSName, Level: OK, Message: "is " + list(addresses)}
}

// unresolved tells a name that is not there from a server that does not answer.
func (r *run) unresolved(name string, err error, do string, line int) Result {
	result := Result{Name: "dns", Target: name, Level: Failed, Line: line, Do: do}
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		result.Message = "does not resolve"
	case r.c.Network.DNS && !slices.Contains(r.provisionerHosts(), name):
		result.Level = Warning
		result.Message = fmt.Sprintf("cannot be asked for: the provisioner does not answer DNS on port %d", r.o.DNSPort)
		result.Do = "start \"tectonic-installer netboot run\" there, and check again"
	default:
		result.Message = "cannot be asked for: the DNS server does not answer (" + oneLine(err) + ")"
		result.Do = "look at this machine's DNS servers (/etc/resolv.conf)"
	}
	return result
}

func list(addresses []netip.Addr) string {
	var text []string
	for _, a := range addresses {
		text = append(text, a.String())
	}
	return strings.Join(text, " and ")
}
