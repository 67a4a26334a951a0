package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// where names the other end of the connection in a message.
func (c *Client) where(ex *exchange) string {
	u, err := url.Parse(c.k.Server)
	if err != nil {
		return c.k.Server
	}
	if proxy := c.proxyFor(u); proxy != nil {
		return "the proxy " + clean(proxy.Host)
	}
	if ex.target != "" && ex.target != u.Host {
		return u.Host + " (" + clean(ex.target) + ")"
	}
	return u.Host
}

func (c *Client) proxyFor(u *url.URL) *url.URL {
	proxy, err := c.proxy(u)
	if err != nil {
		return nil
	}
	return proxy
}

// proxyHint is said where a direct connection came to nothing: on a host without a direct way out, that is what it looks like.
func (c *Client) proxyHint(ex *exchange) string {
	if ex.proxied {
		return "check HTTPS_PROXY and NO_PROXY in /etc/sysconfig/tectonic-worker"
	}
	return "check the route and the firewalls on the way; where hosts need a proxy, set HTTPS_PROXY in /etc/sysconfig/tectonic-worker"
}

// explain turns whatever went wrong in one exchange into a sentence. The order is that of the wire.
func (c *Client) explain(ctx context.Context, op string, ex *exchange, err error) *APIError {
	var done *APIError
	if errors.As(err, &done) {
		return done
	}
	ex.mu.Lock()
	defer ex.mu.Unlock()
	fail := func(l Layer, r Reason, remedy, format string, args ...any) *APIError {
		return &APIError{Layer: l, Reason: r, Op: op, What: fmt.Sprintf(format, args...), Remedy: remedy, RetryAfter: ex.retryAfter, Err: err}
	}
	if status, message := statusOf(err, ex); status != 0 {
		e := c.explainStatus(fail, ex, status, message)
		e.Status = status
		return e
	}
	if e := c.explainTLS(fail, ex, err); e != nil {
		return e
	}
	if e := c.explainNetwork(fail, ex, err); e != nil {
		return e
	}
	var timeout net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return c.explainSilence(fail, ex)
	}
	if errors.Is(err, context.Canceled) || ctx.Err() != nil {
		return fail(LayerHTTP, Interrupted, "", "interrupted")
	}
	if ex.connect.done && !ex.handshake.done && !ex.proxied {
		return fail(LayerTLS, TLSFailed, "compare the TLS versions and cipher suites that the API server allows: at least TLS 1.2 is needed",
			"the TLS handshake with %s failed: %s", c.where(ex), clean(withoutURL(err).Error()))
	}
	if ex.status == http.StatusOK {
		return fail(LayerHTTP, NotKubernetes, "check the server in the kubeconfig", "%s answers, but not as an API server does", c.where(ex))
	}
	return fail(LayerHTTP, Unexpected, "", "%s", clean(withoutURL(err).Error()))
}

type failure func(l Layer, r Reason, remedy, format string, args ...any) *APIError

// explainSilence names the phase that did not end.
func (c *Client) explainSilence(fail failure, ex *exchange) *APIError {
	at := c.where(ex)
	switch {
	case ex.status != 0:
		return fail(LayerHTTP, HTTPSilent, "the API server or the network may be overloaded: look at both", "%s began to answer and did not finish", at)
	case ex.handshake.done:
		return fail(LayerHTTP, HTTPSilent, "the API server may be overloaded or hung: look at its load and log",
			"%s accepted the request and did not answer within %v", at, c.limits.Header)
	case ex.connect.done:
		return fail(LayerTLS, TLSSilent, "the API server may be hung, or something else listens there: look at the server",
			"%s accepted the connection and did not answer within %v", at, c.limits.TLS)
	case ex.lookup.begun && !ex.lookup.done:
		return fail(LayerDNS, DNSNoAnswer, "check the name servers in /etc/resolv.conf", "no DNS server answered in time for %s", at)
	}
	if !ex.connect.begun {
		return fail(LayerTCP, Interrupted, "", "the time was up before it was tried")
	}
	return fail(LayerTCP, ConnectTimeout, c.proxyHint(ex), "%s does not answer: the connection was not accepted within %v", at, c.limits.Connect)
}

func (c *Client) explainNetwork(fail failure, ex *exchange, err error) *APIError {
	at := c.where(ex)
	var dns *net.DNSError
	if errors.As(err, &dns) {
		name, server := clean(dns.Name), ""
		if dns.Server != "" {
			server = " (asked " + clean(dns.Server) + ")"
		}
		if dns.IsNotFound {
			return fail(LayerDNS, NameNotFound, "check the server in the kubeconfig, or add the name to DNS or /etc/hosts", "the name %s does not exist%s", name, server)
		}
		return fail(LayerDNS, DNSNoAnswer, "check the name servers in /etc/resolv.conf", "DNS gave no answer for the name %s%s", name, server)
	}
	var proxy *proxyAnswer
	if errors.As(err, &proxy) {
		remedy := "allow the API server in the proxy, or add it to NO_PROXY in /etc/sysconfig/tectonic-worker"
		if proxy.status == http.StatusProxyAuthRequired {
			remedy = "put user and password into HTTPS_PROXY in /etc/sysconfig/tectonic-worker (http://USER:PASSWORD@HOST:PORT)"
		}
		return fail(LayerProxy, ProxyRefused, remedy, "%s would not connect: %d %s", at, proxy.status, http.StatusText(proxy.status))
	}
	switch {
	case errors.Is(err, syscall.ENETUNREACH):
		return fail(LayerTCP, NoRoute, `look at "ip route"; is the network up?`, "this host has no route to %s", at)
	case errors.Is(err, syscall.EHOSTUNREACH):
		return fail(LayerTCP, NoRoute, `look at "ip route get" for it, and at the firewalls there and on the way, which answer the same when they reject`, "there is no way to %s: no route to host", at)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fail(LayerTCP, ConnectionRefused, "is the API server running, and is the port in the kubeconfig right?", "%s refused the connection: nothing listens there, or a firewall rejects", at)
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return fail(LayerTCP, ConnectionBlocked, "look at this host's outgoing firewall rules and its audit log", "this host itself does not permit a connection to %s", at)
	case errors.Is(err, syscall.ETIMEDOUT) && !ex.connect.done:
		return fail(LayerTCP, ConnectTimeout, c.proxyHint(ex), "%s does not answer: the connection was not accepted", at)
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		strings.Contains(err.Error(), "http2: client connection lost"), strings.Contains(err.Error(), "http2: server sent GOAWAY"):
		layer, when := LayerTCP, ""
		switch {
		case ex.handshake.done:
			layer, when = LayerHTTP, " after the request"
		case ex.connect.done:
			layer, when = LayerTLS, " during the TLS handshake"
		}
		return fail(layer, ConnectionReset, "a load balancer without a living API server behind it does this, and a restarting API server", "%s cut the connection%s", at, when)
	}
	return nil
}

func (c *Client) explainTLS(fail failure, ex *exchange, err error) *APIError {
	at := c.where(ex)
	var (
		local     *clientCertError
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		header    tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &local):
		return fail(LayerTLS, ClientCertUnreadable, "is the kubelet running, and has it its certificate?", "%s", clean(local.Error()))
	case errors.As(err, &hostname):
		return fail(LayerTLS, WrongServerName, "use one of these names as the server in the kubeconfig, or set tls-server-name",
			"the certificate of %s is from the right CA but not for this name: it is for %s", at, names(hostname.Certificate))
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil:
		now, cert := c.now(), invalid.Cert
		if now.Before(cert.NotBefore) {
			return fail(LayerTLS, ServerCertNotYetValid, `set the clock ("chronyc makestep")`, "the certificate of %s is not valid before %s, and this host's clock says %s",
				at, stamp(cert.NotBefore), stamp(now))
		}
		return fail(LayerTLS, ServerCertExpired, "renew it on the control plane, or set this host's clock if it is wrong", "the certificate %s of %s expired at %s, and this host's clock says %s",
			clean(cert.Subject.String()), at, stamp(cert.NotAfter), stamp(now))
	case errors.As(err, &authority):
		issuer := "unknown"
		if authority.Cert != nil {
			issuer = clean(authority.Cert.Issuer.String())
		}
		return fail(LayerTLS, WrongCA, "is it the kubeconfig of this cluster? If the cluster's CA was replaced, fetch the kubeconfig again; else something stands between",
			"the certificate of %s (issued by %s) is not from the CA in the kubeconfig (%s)", at, issuer, c.k.caNames())
	case errors.As(err, &invalid):
		return fail(LayerTLS, WrongCA, "look at the control plane's certificates", "the certificate of %s cannot be accepted: %s", at, clean(invalid.Error()))
	case errors.Is(err, http.ErrSchemeMismatch):
		return fail(LayerTLS, PlainHTTP, "take the port of the secure API server (6443 or 443)", "%s speaks HTTP without TLS", at)
	case errors.As(err, &header):
		return fail(LayerTLS, NotTLS, "check host and port of the server in the kubeconfig", "%s does not speak TLS", at)
	}
	var verification *tls.CertificateVerificationError
	if errors.As(err, &verification) {
		return fail(LayerTLS, WrongCA, "look at the control plane's certificates", "the certificate of %s cannot be accepted: %s", at, clean(verification.Error()))
	}
	return nil
}

func (c *Client) explainStatus(fail failure, ex *exchange, status int, message string) *APIError {
	says := func(what string) string {
		if message == "" {
			return what
		}
		return what + ": " + message
	}
	switch {
	case status == http.StatusUnauthorized:
		what, remedy := c.k.rejected(ex.date)
		return fail(LayerAuthentication, Unauthorized, remedy, "the API server does not accept %s", what)
	case status == http.StatusForbidden:
		return fail(LayerAuthorization, Forbidden, "grant the right, or use a credential that has it", "%s", says("the "+string(c.k.Kind)+c.k.subjectOf()+" has not the right"))
	case ex.html, status >= 300 && status < 400:
		return fail(LayerHTTP, NotKubernetes, "check the server in the kubeconfig, and whether a proxy or a portal stands between", "%s answers %d %s with something that is not from an API server", c.where(ex), status, http.StatusText(status))
	case status == http.StatusNotFound:
		return fail(LayerAPI, NotFound, "", "%s", says("there is none"))
	case status == http.StatusConflict:
		return fail(LayerAPI, Conflict, "", "%s", says("it is not the one that was meant"))
	case status == http.StatusTooManyRequests:
		return fail(LayerAPI, Throttled, "wait, then try again", "%s", says("the API server is busy (429 Too Many Requests"+asks(ex.retryAfter)+")"))
	case status >= 500:
		return fail(LayerAPI, ServerFailed, "look at the API server and at etcd, then try again", "%s", says(fmt.Sprintf("the API server fails (%d %s%s)", status, http.StatusText(status), asks(ex.retryAfter))))
	}
	return fail(LayerAPI, Unexpected, "", "%s", says(fmt.Sprintf("the API server answered %d %s", status, http.StatusText(status))))
}

func asks(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return fmt.Sprintf(", asks to wait %v", d)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// names lists for whom a certificate is, at most six.
func names(c *x509.Certificate) string {
	if c == nil {
		return "other names"
	}
	var all []string
	for _, n := range c.DNSNames {
		all = append(all, clean(n))
	}
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	switch {
	case len(all) == 0:
		return "no name at all"
	case len(all) > 6:
		return strings.Join(all[:6], ", ") + fmt.Sprintf(" and %d more", len(all)-6)
	}
	return strings.Join(all, ", ")
}

func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
