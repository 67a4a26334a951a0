package check

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/credentials"
	"github.com/tectonic-worker/tectonic-worker/installer/machine"
	"github.com/tectonic-worker/tectonic-worker/installer/machine/api"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox"
)

// provisioner asks whether the three APIs are there, speak as they should, and take the operator's credentials.
func (r *run) provisioner() []question {
	serve := "start \"tectonic-installer serve\" on the provisioner, and open the port there"
	if r.c.Matchbox.External {
		serve = "start matchbox on the provisioner, and open the port there"
	}
	http := ""
	if u, err := url.Parse(r.c.Matchbox.HTTP); err == nil {
		http = u.Host
		if u.Port() == "" {
			http = net.JoinHostPort(u.Hostname(), map[string]string{"https": "443"}[u.Scheme])
			if u.Scheme != "https" {
				http = net.JoinHostPort(u.Hostname(), "80")
			}
		}
	}
	return []question{
		r.port(http, r.c.Line("matchbox.http"), serve),
		r.port(r.c.Matchbox.RPC, r.c.Line("matchbox.rpc"), serve),
		r.port(r.c.Matchbox.Machines, r.c.Line("matchbox.machines"), "start \"tectonic-installer serve --machine-address\" on the provisioner, and open the port there"),
		ask(r.matchboxHTTP),
		{ask: r.matchboxRPC},
		{ask: r.machinesAPI},
	}
}

// port asks whether a TCP connection comes about.
func (r *run) port(address string, line int, do string) question {
	return ask(func(ctx context.Context) Result {
		result := Result{Name: "port", Target: address, Level: OK, Message: "is open"}
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			result.Level, result.Message, result.Do, result.Line = Failed, dialed(err), do, line
			return result
		}
		conn.Close()
		return result
	})
}

// dialed says why no connection came about.
func dialed(err error) string {
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.As(err, &dns):
		return "its name does not resolve"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "there is no route to it, or a firewall refuses"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "no answer came: a firewall drops it, or the host is off"
	}
	return "cannot be reached: " + oneLine(err)
}

// matchboxHTTP asks for the script that every machine asks for first (matchbox's GET /boot.ipxe).
func (r *run) matchboxHTTP(ctx context.Context) Result {
	const most = 64 << 10
	address := strings.TrimRight(r.c.Matchbox.HTTP, "/") + "/boot.ipxe"
	result := Result{Name: "matchbox", Target: address, Level: Failed, Line: r.c.Line("matchbox.http"),
		Do: "look what listens there: machines need matchbox's HTTP API, without a proxy between"}
	// As machines do: past any proxy of this one's, following nothing.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		result.Message = oneLine(err)
		return result
	}
	response, err := client.Do(request)
	if err != nil {
		result.Message = dialed(err)
		return result
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, most))
	switch {
	case err != nil:
		result.Message = "its answer broke off: " + oneLine(err)
	case response.StatusCode != http.StatusOK:
		result.Message = fmt.Sprintf("answers %d instead of a boot script", response.StatusCode)
	case !bytes.HasPrefix(body, []byte("#!ipxe")):
		result.Message = "answers something that is not a boot script"
	default:
		return Result{Name: "matchbox", Target: address, Level: OK, Message: "serves the boot script"}
	}
	return result
}

// matchboxRPC logs in as the operator and reads one profile, which need not be there.
func (r *run) matchboxRPC(ctx context.Context) []Result {
	result := Result{Name: "matchbox", Target: r.c.Matchbox.RPC, Level: Failed, Line: r.c.Line("matchbox.rpc")}
	config, err := r.operator()
	if err != nil {
		result.Level, result.Message = Skipped, "the operator's credentials cannot be used; see tls"
		return []Result{result}
	}
	client, err := matchbox.Dial(ctx, matchbox.Options{Endpoint: r.c.Matchbox.RPC, TLS: config, Timeout: r.o.Timeout})
	if err == nil {
		defer client.Close()
		if _, err = client.ProfileGet(ctx, r.c.Name+"-install-"+r.c.OS.Arch); errors.Is(err, matchbox.ErrNotFound) {
			err = nil
		}
	}
	if err != nil {
		result.Message = oneLine(err) // the client's errors say what to do themselves
		return []Result{result}
	}
	return []Result{{Name: "matchbox", Target: r.c.Matchbox.RPC, Level: OK, Message: "takes these credentials"}, r.served(ctx, config, r.c.Matchbox.RPC)}
}

// machinesAPI asks for all machines. Which of them are ready decides what is asked of them.
func (r *run) machinesAPI(ctx context.Context) []Result {
	defer close(r.known)
	result := Result{Name: "machines", Target: r.c.Matchbox.Machines, Level: Failed, Line: r.c.Line("matchbox.machines")}
	config, err := r.operator()
	if err != nil {
		result.Level, result.Message = Skipped, "the operator's credentials cannot be used; see tls"
		return []Result{result}
	}
	client := api.NewClient(r.c.Matchbox.Machines, config)
	defer client.Close()
	all, err := client.Machines(ctx)
	if err != nil {
		result.Message = oneLine(err)
		return []Result{result}
	}
	declared := 0
	for _, m := range all.Machines {
		if m.State == machine.Ready {
			r.ready[m.Name] = true
		}
		if m.Name != "" {
			declared++
		}
	}
	return []Result{{Name: "machines", Target: r.c.Matchbox.Machines, Level: OK,
		Message: fmt.Sprintf("takes these credentials; it knows %d machines, %d of them are ready", declared, len(r.ready))}, r.served(ctx, config, r.c.Matchbox.Machines)}
}

func (r *run) operator() (*tls.Config, error) {
	t := r.c.Matchbox.TLS
	return credentials.LoadClient(r.c.Resolve(t.CA), r.c.Resolve(t.Certificate), r.c.Resolve(t.Key))
}

// served looks at the certificate that the server shows. That it fits name and authority was seen before.
func (r *run) served(ctx context.Context, config *tls.Config, address string) Result {
	result := Result{Name: "tls", Target: address, Level: Warning, Do: "\"tectonic-installer certs rotate\" makes a new one; copy it to the provisioner"}
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	if err != nil {
		result.Message = "its certificate cannot be looked at: " + oneLine(err)
		result.Do = "check again"
		return result
	}
	defer conn.Close()
	leaf := conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
	names := append([]string{}, leaf.DNSNames...)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	left := leaf.NotAfter.Sub(r.o.Now())
	if left < credentials.ExpiresSoon {
		result.Message = fmt.Sprintf("its certificate expires in %d days", int(left/(24*time.Hour)))
		return result
	}
	return Result{Name: "tls", Target: address, Level: OK,
		Message: fmt.Sprintf("its certificate is for %s, valid until %s", strings.Join(names, " and "), leaf.NotAfter.Format("2006-01-02"))}
}
