package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"
)

// A Server is what Reach found out about the API server and the way to it.
type Server struct {
	Version      string        // gitVersion: "v1.34.4", "v1.8.9+coreos.0"
	Major, Minor string        // as the server writes them; the minor may end in "+"
	Date         time.Time     // the server's clock when it answered, to the second; zero where it sent no Date
	Skew         time.Duration // this host's clock minus the server's; positive: this host is ahead
	LocalIP      netip.Addr    // the source address of the connection: its interface is the one that reaches the API server
	Proxied      bool          // LocalIP reached a proxy, not the API server itself
	// AutoApproved: the cluster approves the certificate signing request of this bootstrap credential by itself. False for
	// other credentials, and where the server would not say.
	AutoApproved bool
}

// maxSkew is how far two clocks may be apart before it is worth a word.
const maxSkew = time.Minute

// ClockNote says that the clocks are apart, or nothing where they are not by more than a minute.
func (s Server) ClockNote() string { return clockNote(s.Skew) }

func clockNote(skew time.Duration) string {
	switch d := skew.Abs().Round(time.Second); {
	case skew > maxSkew:
		return fmt.Sprintf("this host's clock is %v ahead of the API server's", d)
	case skew < -maxSkew:
		return fmt.Sprintf("this host's clock is %v behind the API server's", d)
	}
	return ""
}

// Reach proves that the API server can be reached, is the one of the kubeconfig, accepts the credential and lets it do what a
// node must: register itself, or, with a bootstrap credential, ask for a certificate. The error is an APIError.
func (c *Client) Reach(ctx context.Context) (Server, error) {
	op := "reach the API server " + c.k.Server
	body, ex, err := c.raw(ctx, op, c.rest.Get().AbsPath("/version"))
	if err != nil {
		return Server{}, c.explainClock(ctx, err)
	}
	var version struct{ Major, Minor, GitVersion string }
	if err := json.Unmarshal(body, &version); err != nil || version.GitVersion == "" {
		return Server{}, &APIError{Layer: LayerHTTP, Reason: NotKubernetes, Op: op, Status: ex.status,
			What: c.where(ex) + " answers, but not as an API server does", Remedy: "check the server in the kubeconfig, and whether a proxy or a portal stands between"}
	}
	s := Server{Version: clean(version.GitVersion), Major: clean(version.Major), Minor: clean(version.Minor),
		Date: ex.date, LocalIP: ex.local, Proxied: ex.proxied}
	if !s.Date.IsZero() {
		s.Skew = c.now().Add(-time.Since(ex.received)).Sub(s.Date)
	}
	if c.k.Bootstrap {
		err = c.may(ctx, attributes{Group: "certificates.k8s.io", Resource: "certificatesigningrequests", Verb: "create"},
			`grant it with "kubectl create clusterrolebinding kubelet-bootstrap --clusterrole=system:node-bootstrapper --group=system:bootstrappers"`)
		if err == nil {
			s.AutoApproved = c.may(ctx, attributes{Group: "certificates.k8s.io", Resource: "certificatesigningrequests", Subresource: "nodeclient", Verb: "create"}, "") == nil
		}
		return s, err
	}
	return s, c.may(ctx, attributes{Resource: "nodes", Verb: "create", Name: c.k.NodeName}, "bind it to the cluster role system:node")
}

// attributes are those of authorization.k8s.io/v1 ResourceAttributes that are asked for.
type attributes struct {
	Group       string `json:"group,omitempty"`
	Resource    string `json:"resource"`
	Subresource string `json:"subresource,omitempty"`
	Verb        string `json:"verb"`
	Name        string `json:"name,omitempty"`
}

// may asks the API server whether the credential has a right. authorization.k8s.io/v1 is there since Kubernetes 1.6, and
// everyone who is authenticated may ask about himself.
func (c *Client) may(ctx context.Context, a attributes, remedy string) error {
	what := a.Resource
	if a.Subresource != "" {
		what += "/" + a.Subresource
	}
	op := fmt.Sprintf("%s %s at %s", a.Verb, what, c.k.Server)
	type spec struct {
		ResourceAttributes attributes `json:"resourceAttributes"`
	}
	question, err := json.Marshal(struct {
		Kind       string `json:"kind"`
		APIVersion string `json:"apiVersion"`
		Spec       spec   `json:"spec"`
	}{"SelfSubjectAccessReview", "authorization.k8s.io/v1", spec{a}})
	if err != nil {
		return err
	}
	body, _, err := c.raw(ctx, op, c.rest.Post().AbsPath("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews").
		SetHeader("Content-Type", "application/json").Body(question))
	if err != nil {
		return err
	}
	var answer struct {
		Status struct {
			Allowed bool
			Reason  string
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return &APIError{Layer: LayerAPI, Reason: Unexpected, Op: op, What: "the API server's answer to an access review cannot be read", Err: err}
	}
	if answer.Status.Allowed {
		return nil
	}
	why := "the " + string(c.k.Kind) + c.k.subjectOf() + " is accepted but has not the right"
	if r := clean(answer.Status.Reason); r != "" {
		why += " (" + r + ")"
	}
	return &APIError{Layer: LayerAuthorization, Reason: Forbidden, Op: op, What: why, Remedy: remedy, Status: http.StatusForbidden}
}

// explainClock adds what the API server's clock says to an error that a wrong clock may be the cause of.
func (c *Client) explainClock(ctx context.Context, err error) error {
	var e *APIError
	if !errors.As(err, &e) || e.Reason != ServerCertExpired && e.Reason != ServerCertNotYetValid {
		return err
	}
	server, timeErr := c.ServerTime(ctx)
	var other *APIError
	if errors.As(timeErr, &other) && other.Reason == WrongCA {
		other.Op = e.Op
		return other // a clock that is set right would not help
	}
	if timeErr != nil {
		return err
	}
	if note := clockNote(c.now().Sub(server)); note != "" {
		e.What += "; " + note + " (" + stamp(server) + ")"
		e.Remedy = `set the clock ("chronyc makestep"), then try again`
	} else {
		e.What += "; the API server's clock agrees with this host's"
	}
	return e
}

// ServerTime asks for the API server's clock, sending no credential. The server has to prove itself with the kubeconfig's CA
// as always, with one exception: where its certificate fails by its dates alone, the chain is verified as of a moment at which
// the certificate was valid. That is enough to be told the time, and used for nothing else.
func (c *Client) ServerTime(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, c.limits.Call)
	defer cancel()
	config := c.tlsConfig()
	date, err := c.askTime(ctx, config)
	var invalid x509.CertificateInvalidError
	var verification *tls.CertificateVerificationError
	if err != nil && errors.As(err, &invalid) && invalid.Reason == x509.Expired && errors.As(err, &verification) && len(verification.UnverifiedCertificates) > 0 {
		var at time.Time
		if at, err = c.momentOfValidity(verification.UnverifiedCertificates); err == nil {
			config.Time = func() time.Time { return at }
			date, err = c.askTime(ctx, config)
		}
	}
	if err != nil {
		_, ex := withExchange(ctx)
		return time.Time{}, c.explain(ctx, "ask "+c.k.Server+" for its time", ex, err)
	}
	return date, nil
}

func (c *Client) askTime(ctx context.Context, config *tls.Config) (time.Time, error) {
	transport := c.transport(config)
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.k.Server+"/version", nil)
	if err != nil {
		return time.Time{}, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return time.Time{}, err
	}
	resp.Body.Close()
	return http.ParseTime(resp.Header.Get("Date"))
}

// momentOfValidity finds a time at which the chain verifies against the kubeconfig's CA, or says why it never does.
func (c *Client) momentOfValidity(chain []*x509.Certificate) (at time.Time, err error) {
	between := x509.NewCertPool()
	for _, cert := range chain[1:] {
		between.AddCert(cert)
	}
	for _, at = range []time.Time{chain[0].NotBefore.Add(time.Second), chain[0].NotAfter.Add(-time.Second)} {
		if _, err = chain[0].Verify(x509.VerifyOptions{Roots: c.roots, Intermediates: between, CurrentTime: at}); err == nil {
			return at, nil
		}
	}
	return time.Time{}, err
}
