package node

import (
	"errors"
	"time"
)

// A Layer is how far a conversation with the API server came before it failed.
type Layer string

// Layers, from the wire up.
const (
	LayerDNS            Layer = "dns"
	LayerTCP            Layer = "tcp"
	LayerProxy          Layer = "proxy"
	LayerTLS            Layer = "tls"
	LayerHTTP           Layer = "http"
	LayerAuthentication Layer = "authentication" // who are you
	LayerAuthorization  Layer = "authorization"  // may you
	LayerAPI            Layer = "api"            // the server understood and said no, or what it said made no sense
)

// A Reason names one failure within a Layer. The values are stable and fit for scripts.
type Reason string

// Reasons of an APIError.
const (
	NameNotFound          Reason = "name-not-found"         // dns: the name does not exist
	DNSNoAnswer           Reason = "dns-no-answer"          // dns: no server answered, or it failed
	NoRoute               Reason = "no-route"               // tcp: network or host unreachable
	ConnectionRefused     Reason = "connection-refused"     // tcp: nobody listens
	ConnectionBlocked     Reason = "connection-blocked"     // tcp: this host's own firewall or policy said no
	ConnectTimeout        Reason = "connect-timeout"        // tcp: packets are dropped on the way
	ConnectionReset       Reason = "connection-reset"       // tcp, tls, http: cut off
	ProxyRefused          Reason = "proxy-refused"          // proxy: it answered, and would not connect
	TLSSilent             Reason = "tls-silent"             // tls: accepted, then nothing
	WrongCA               Reason = "wrong-ca"               // tls: the server's certificate is not from the kubeconfig's CA
	WrongServerName       Reason = "wrong-server-name"      // tls: right CA, other name
	ServerCertExpired     Reason = "server-cert-expired"    // tls
	ServerCertNotYetValid Reason = "server-cert-not-yet"    // tls: nearly always this host's clock
	TLSFailed             Reason = "tls-failed"             // tls: any other alert
	PlainHTTP             Reason = "plain-http"             // tls: the port speaks HTTP without TLS
	NotTLS                Reason = "not-tls"                // tls: the port speaks something else
	HTTPSilent            Reason = "http-silent"            // http: the request went out, nothing came back in time
	NotKubernetes         Reason = "not-kubernetes"         // http: something answers, but it is no API server
	Unauthorized          Reason = "unauthorized"           // authentication: 401
	Forbidden             Reason = "forbidden"              // authorization: 403, or a review that says no
	NotFound              Reason = "not-found"              // api: 404
	Conflict              Reason = "conflict"               // api: 409
	Throttled             Reason = "throttled"              // api: 429 for longer than the budget
	ServerFailed          Reason = "server-failed"          // api: 5xx for longer than the budget
	Unexpected            Reason = "unexpected"             // api: any other answer
	Interrupted           Reason = "interrupted"            // the caller gave up
	NoService             Reason = "no-service"             // api: no Service tells the DNS address
	ClientCertUnreadable  Reason = "client-cert-unreadable" // tls: the certificate file that the kubeconfig names
)

// An APIError is a conversation with the API server that failed. It reads as one sentence with a remedy.
type APIError struct {
	Layer      Layer
	Reason     Reason
	Op         string        // what could not be done: "reach the API server https://…", "delete node w1"
	What       string        // why
	Remedy     string        // what to do about it, where there is something
	Status     int           // HTTP status, 0 where none came
	RetryAfter time.Duration // what the server asked for, 0 where it did not
	Err        error         // the cause, for errors.Is; its text is not part of the sentence
}

func (e *APIError) Error() string {
	s := "cannot " + e.Op + ": " + e.What
	if e.Remedy != "" {
		s += "; " + e.Remedy
	}
	return s
}

func (e *APIError) Unwrap() error { return e.Err }

// Retry reports whether the same call may well succeed later with nothing changed on this host. It is false for everything
// that hammering only makes worse: a rejected credential, a missing right, a server that is not the one expected.
func (e *APIError) Retry() bool {
	switch e.Reason {
	case DNSNoAnswer, NoRoute, ConnectionRefused, ConnectTimeout, ConnectionReset, ProxyRefused, TLSSilent, HTTPSilent, Throttled, ServerFailed:
		return true
	}
	return false
}

// IsReason reports whether err is, or wraps, an APIError for that reason.
func IsReason(err error, r Reason) bool {
	var e *APIError
	return errors.As(err, &e) && e.Reason == r
}
