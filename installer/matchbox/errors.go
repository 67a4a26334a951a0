package matchbox

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var (
	// ErrNotFound says that matchbox has no such group, profile or config, or that none matches.
	ErrNotFound = errors.New("not found")
	// ErrUnreachable says that no connection, or no answer, came about. Trying again may help.
	ErrUnreachable = errors.New("unreachable")
	// ErrUntrusted says that something answered, but it is not matchbox as this client knows it, or it does not accept
	// this client. Trying again does not help.
	ErrUntrusted = errors.New("untrusted")
)

// sentence is an error that reads as one and is of a kind.
type sentence struct {
	text  string
	kind  error
	cause error
}

func (e *sentence) Error() string { return e.text }

func (e *sentence) Unwrap() []error {
	if e.cause == nil {
		return []error{e.kind}
	}
	return []error{e.kind, e.cause}
}

func (c *Client) unreachable(format string, args ...any) error {
	return &sentence{text: fmt.Sprintf("cannot reach matchbox at %s: ", c.endpoint) + fmt.Sprintf(format, args...), kind: ErrUnreachable}
}

func (c *Client) untrusted(err error) error {
	return &sentence{text: fmt.Sprintf("cannot use matchbox at %s: %v", c.endpoint, err), kind: ErrUntrusted, cause: err}
}

// explain says why a connection did not come about.
func (c *Client) explain(ctx context.Context, err error) error {
	if certificate := c.explainCertificate(err); certificate != nil {
		return c.untrusted(certificate)
	}
	var resolve *net.DNSError
	var header tls.RecordHeaderError
	var remote *net.OpError
	host, port, _ := net.SplitHostPort(c.endpoint)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("cannot reach matchbox at %s: %w", c.endpoint, context.Canceled)
	case errors.As(err, &resolve):
		if resolve.IsNotFound {
			return c.unreachable("the name %s does not resolve; add it to the site's DNS, or correct matchbox.rpc in the cluster file", resolve.Name)
		}
		return c.unreachable("the name %s could not be looked up (%s); check this machine's DNS servers", resolve.Name, resolve.Err)
	case errors.As(err, &header):
		return c.untrusted(fmt.Errorf("it does not speak TLS; name matchbox's RPC port (usually 8081, here %s), not the one for machines", port))
	case errors.As(err, &remote) && remote.Op == "remote error":
		return c.untrusted(c.explainAlert(remote.Err.Error()))
	// crypto/tls has no type for it.
	case strings.Contains(err.Error(), "unsupported protocol version"), strings.Contains(err.Error(), "unsupported versions"):
		return c.untrusted(errors.New(oldTLS))
	case errors.Is(err, syscall.ECONNREFUSED):
		return c.unreachable("connection refused; start matchbox there with its gRPC API on (it is off unless -rpc-address or MATCHBOX_RPC_ADDRESS is set), or correct matchbox.rpc in the cluster file")
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return c.unreachable("there is no route to %s, or a firewall rejects it; check this machine's network, and that %s/tcp is open there", host, port)
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return c.unreachable("it closed the connection before it answered; it may be starting or stopping, or something between is in the way: look at its log and try again")
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return c.unreachable("no answer in time; check that the machine is up, that %s/tcp is open there, and that matchbox is not stuck", port)
	}
	return c.unreachable("%v", err)
}

const oldTLS = "it offers nothing newer than TLS 1.1; update it: TLS 1.2 is the least that is safe"

// explainCertificate says what is wrong with the server's certificate; nil when nothing is.
func (c *Client) explainCertificate(err error) error {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		issuer := "an unknown authority"
		if unknown.Cert != nil {
			issuer = fmt.Sprintf("%q", unknown.Cert.Issuer.String())
		}
		return fmt.Errorf("its certificate is signed by %s, which is not in the CA file that this client was given; use the ca.crt of that server (matchbox.tls.ca), and make sure that it is the server you mean", issuer)
	case errors.As(err, &name):
		return fmt.Errorf("its certificate is for %s, not for %s; use one of these names in matchbox.rpc, or renew the server's certificate with this name in it", sans(name.Certificate), name.Host)
	case errors.As(err, &invalid):
		switch {
		case invalid.Reason == x509.Expired && invalid.Cert != nil && strings.Contains(invalid.Detail, "before"):
			return fmt.Errorf("its certificate is not valid before %s; check the clocks here and there", invalid.Cert.NotBefore.UTC().Format("2006-01-02 15:04 MST"))
		case invalid.Reason == x509.Expired && invalid.Cert != nil:
			return fmt.Errorf("its certificate has expired on %s; renew it (\"tectonic-installer certs rotate\") and copy it there, or check this machine's clock", invalid.Cert.NotAfter.UTC().Format("2006-01-02 15:04 MST"))
		case invalid.Reason == x509.IncompatibleUsage:
			return errors.New("its certificate is not made for a server (extended key usage); give it server.crt and server.key")
		}
		return fmt.Errorf("its certificate is not valid: %w", invalid)
	}
	return nil
}

func sans(c *x509.Certificate) string {
	if c == nil {
		return "other names"
	}
	var all []string
	all = append(all, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	if len(all) == 0 {
		return "no name at all (it has no subject alternative name)"
	}
	return strings.Join(all, ", ")
}

// explainAlert says what the server did not like; RFC 8446, 6.2. crypto/tls gives alerts as text only.
func (c *Client) explainAlert(alert string) error {
	leaf := c.ownCertificate()
	if leaf == nil && (strings.Contains(alert, "certificate") || strings.Contains(alert, "handshake failure")) {
		return errors.New("it wants a client certificate and was given none; set matchbox.tls.certificate and matchbox.tls.key")
	}
	own := "this client's certificate"
	if leaf != nil {
		own = fmt.Sprintf("this client's certificate (%q, signed by %q)", leaf.Subject.String(), leaf.Issuer.String())
	}
	switch {
	case strings.Contains(alert, "certificate required"):
		return fmt.Errorf("it does not accept %s: it asks for one of another CA; use a certificate of the CA that matchbox was started with (-ca-file)", own)
	case strings.Contains(alert, "unknown certificate authority"), strings.Contains(alert, "unknown certificate"):
		return fmt.Errorf("it does not accept %s: the authority is not in its CA file; use a certificate of the CA that matchbox was started with (-ca-file)", own)
	case strings.Contains(alert, "expired certificate"):
		return fmt.Errorf("it does not accept %s: expired, by that machine's clock; renew it with \"tectonic-installer certs rotate\", or correct the clock there", own)
	case strings.Contains(alert, "bad certificate"):
		return fmt.Errorf("it does not accept %s; use a client's certificate of the CA that matchbox was started with (-ca-file)", own)
	case strings.Contains(alert, "protocol version not supported"):
		return errors.New(oldTLS)
	case strings.Contains(alert, "no application protocol"):
		return errors.New("it speaks TLS but not gRPC; name matchbox's RPC port, usually 8081")
	}
	return fmt.Errorf("it ended the TLS handshake (%s); its log says more", alert)
}

func (c *Client) ownCertificate() *x509.Certificate {
	var pair *tls.Certificate
	switch {
	case c.tls.GetClientCertificate != nil:
		pair, _ = c.tls.GetClientCertificate(&tls.CertificateRequestInfo{})
	case len(c.tls.Certificates) > 0:
		pair = &c.tls.Certificates[0]
	}
	if pair == nil || len(pair.Certificate) == 0 {
		return nil
	}
	if pair.Leaf != nil {
		return pair.Leaf
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil
	}
	return leaf
}

// describe makes a sentence of what a call answered. doing is "write profile", id may be empty.
func (c *Client) describe(doing, id string, err error) error {
	what := subject(doing, id)
	s, ok := status.FromError(err)
	if !ok {
		return &sentence{text: fmt.Sprintf("cannot %s in matchbox at %s: %v", what, c.endpoint, err), kind: errCall, cause: err}
	}
	say := func(kind error, format string, args ...any) error {
		return &sentence{text: fmt.Sprintf("cannot %s in matchbox at %s: ", what, c.endpoint) + fmt.Sprintf(format, args...), kind: kind, cause: err}
	}
	switch {
	// A file error of a Put is about matchbox's own directories.
	case isNotFound(s) && !strings.HasPrefix(doing, "write "):
		return say(ErrNotFound, "it has none")
	case s.Code() == codes.Unavailable:
		return say(ErrUnreachable, "it cannot be reached (%s); check that it runs", clean(s.Message()))
	case s.Code() == codes.DeadlineExceeded:
		return say(ErrUnreachable, "no answer in time; check its load and its disk")
	case s.Code() == codes.Unimplemented:
		return say(ErrUntrusted, "what answers there does not know this call (%s); it takes matchbox 0.7 or later, or \"tectonic-installer serve\"", clean(s.Message()))
	case tooLarge(s):
		return say(errCall, "it is larger than matchbox takes (%s); matchbox's limit is 4 MiB: put large files among the assets", clean(s.Message()))
	}
	return say(errCall, "%s", clean(s.Message()))
}

func subject(doing, id string) string {
	if id == "" {
		return doing
	}
	return doing + " " + quote(id)
}

// errCall is the kind of what is of no other.
var errCall = errors.New("matchbox refused")

// isNotFound knows NotFound, and matchbox's own way: the bare text of a file error, code Unknown.
func isNotFound(s *status.Status) bool {
	switch s.Code() {
	case codes.NotFound:
		return true
	case codes.Unknown:
		m := s.Message()
		return strings.HasSuffix(m, "no such file or directory") || strings.Contains(m, "matchbox: No matching ")
	}
	return false
}

func tooLarge(s *status.Status) bool {
	return s.Code() == codes.ResourceExhausted && strings.Contains(s.Message(), "larger than max")
}

// retryable says whether the same call may go better later.
func retryable(err error) bool {
	s, ok := status.FromError(err)
	if !ok {
		return false
	}
	switch s.Code() {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Aborted:
		return true
	case codes.ResourceExhausted:
		return !tooLarge(s)
	}
	return false
}

// clean makes one bounded line of what the other side said.
func clean(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || (r >= 0x7f && r < 0xa0) || r == 0x2028 || r == 0x2029 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	if runes := []rune(text); len(runes) > 400 {
		text = string(runes[:400]) + " …"
	}
	return strings.TrimSpace(text)
}

func quote(id string) string { return fmt.Sprintf("%.80q", id) }
