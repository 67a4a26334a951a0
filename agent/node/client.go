package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/net/http/httpproxy"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
)

// Proxy is the proxy settings of the host, with the meaning of the environment variables of the same names. A proxy-url in
// the kubeconfig goes before them, as with the kubelet.
type Proxy struct{ HTTP, HTTPS, No string }

// Options are what a Client needs beside the kubeconfig. The zero value is good for use.
type Options struct {
	Proxy     Proxy
	UserAgent string           // "tectonic-worker/1.0"
	Resolver  *net.Resolver    // nil: the host's
	Now       func() time.Time // nil: time.Now
	Limits    Limits
	// Quiet sends no pings on an idle connection: for FollowNode, whose process is not to be woken. A peer that died in silence
	// is found by the kernel's keepalives (Go's default: 15 s idle, then nine probes), or at the end of the watch.
	Quiet bool
}

// Limits are the deadlines of a conversation with the API server. A zero field takes the value of DefaultLimits.
type Limits struct {
	Connect time.Duration // to resolve the name and open a TCP connection
	TLS     time.Duration // for the handshake
	Header  time.Duration // from the request to the first byte of the answer
	Call    time.Duration // for one call with all its retries
}

// DefaultLimits suit a worker in the same data centre as well as one behind a slow link.
var DefaultLimits = Limits{Connect: 10 * time.Second, TLS: 10 * time.Second, Header: 15 * time.Second, Call: 45 * time.Second}

// A Client talks to the API server of one kubeconfig. It may be used by several goroutines.
type Client struct {
	k      *Kubeconfig
	limits Limits
	now    func() time.Time
	wire   *wire
	rest   *rest.RESTClient
	roots  *x509.CertPool
	proxy  func(*url.URL) (*url.URL, error)
	opts   Options
}

// codecs and parameters know the core types and nothing else; see the package comment.
var codecs, parameters = func() (serializer.CodecFactory, runtime.ParameterCodec) {
	s := runtime.NewScheme()
	if err := corev1.AddToScheme(s); err != nil {
		panic(err) // a programming error in generated code
	}
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	return serializer.NewCodecFactory(s), runtime.NewParameterCodec(s)
}()

// NewClient prepares a client. Nothing is sent yet.
func NewClient(k *Kubeconfig, o Options) (*Client, error) {
	c := &Client{k: k, limits: o.Limits, now: o.Now, roots: x509.NewCertPool(), opts: o}
	if c.now == nil {
		c.now = time.Now
	}
	for field, fallback := range map[*time.Duration]time.Duration{
		&c.limits.Connect: DefaultLimits.Connect, &c.limits.TLS: DefaultLimits.TLS,
		&c.limits.Header: DefaultLimits.Header, &c.limits.Call: DefaultLimits.Call,
	} {
		if *field <= 0 {
			*field = fallback
		}
	}
	if !c.roots.AppendCertsFromPEM(k.CA) {
		return nil, fmt.Errorf("cannot prepare a client for %s: the kubeconfig has no CA certificate", k.Server)
	}
	c.proxy = (&httpproxy.Config{HTTPProxy: o.Proxy.HTTP, HTTPSProxy: o.Proxy.HTTPS, NoProxy: o.Proxy.No}).ProxyFunc()
	if k.ProxyURL != "" {
		u, err := url.Parse(k.ProxyURL)
		if err != nil {
			return nil, fmt.Errorf("cannot prepare a client for %s: the kubeconfig's proxy-url is not a URL", k.Server)
		}
		c.proxy = func(*url.URL) (*url.URL, error) { return u, nil }
	}
	tlsConfig := c.tlsConfig()
	// Always offer the certificate: by default crypto/tls withholds it when the server's list of CAs does not name its
	// issuer, and the request would quietly be an anonymous one.
	if k.cred.pair != nil {
		tlsConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if k.cred.again == nil {
				return k.cred.pair, nil
			}
			pair, err := k.cred.again()
			if err != nil {
				return nil, &clientCertError{err}
			}
			return pair, nil
		}
	}
	c.wire = &wire{base: c.transport(tlsConfig), token: k.cred.token, agent: o.UserAgent}
	client, err := rest.RESTClientForConfigAndClient(&rest.Config{
		Host:    k.Server,
		APIPath: "/api",
		QPS:     -1, // a worker asks a handful of questions; the server's own flow control is the limit
		ContentConfig: rest.ContentConfig{
			GroupVersion:         &schema.GroupVersion{Version: "v1"},
			NegotiatedSerializer: codecs.WithoutConversion(),
			ContentType:          runtime.ContentTypeJSON,
		},
		WarningHandler: rest.NoWarnings{},
	}, &http.Client{
		Transport: c.wire,
		// An API server does not redirect; whoever does would be handed the credential.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	})
	if err != nil {
		return nil, fmt.Errorf("cannot prepare a client for %s: %s", k.Server, clean(err.Error()))
	}
	c.rest = client
	return c, nil
}

// Close ends idle connections.
func (c *Client) Close() { c.wire.base.CloseIdleConnections() }

func (c *Client) tlsConfig() *tls.Config {
	return &tls.Config{RootCAs: c.roots, ServerName: c.k.ServerName, MinVersion: tls.VersionTLS12, Time: c.now}
}

// transport has a deadline for every phase. The HTTP/2 pings find a connection that died in silence under a watch.
func (c *Client) transport(config *tls.Config) *http.Transport {
	dialer := &net.Dialer{Timeout: c.limits.Connect, Resolver: c.opts.Resolver}
	pings := &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second}
	if c.opts.Quiet {
		pings = nil
	}
	return &http.Transport{
		Proxy:                  func(r *http.Request) (*url.URL, error) { return c.proxy(r.URL) },
		DialContext:            dialer.DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    c.limits.TLS,
		ResponseHeaderTimeout:  c.limits.Header,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		ForceAttemptHTTP2:      true,
		HTTP2:                  pings,
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
			if answer.StatusCode != http.StatusOK {
				return &proxyAnswer{answer.StatusCode}
			}
			return nil
		},
	}
}

type clientCertError struct{ err error }

func (e *clientCertError) Error() string { return e.err.Error() }

type proxyAnswer struct{ status int }

func (e *proxyAnswer) Error() string {
	return fmt.Sprintf("the proxy answered %d %s", e.status, http.StatusText(e.status))
}
