package matchbox_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/matchbox"
)

// What stands between client and server has a name, and it is known which of them trying again may help with.
func TestDialTLS(t *testing.T) {
	ca, other := newAuthority(t, "site authority"), newAuthority(t, "another authority")
	operator := func(roots *authority, certificates ...tls.Certificate) *tls.Config {
		return &tls.Config{RootCAs: roots.pool(), Certificates: certificates}
	}
	// As credentials.LoadClient does: sent whatever the server asks for.
	insist := func(roots *authority, certificate tls.Certificate) *tls.Config {
		return &tls.Config{RootCAs: roots.pool(), GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil }}
	}
	max12 := func(c *tls.Config) *tls.Config { c.MaxVersion = tls.VersionTLS12; return c }

	tests := []struct {
		name   string
		server func(*x509.Certificate) // nil: right
		client *tls.Config
		want   []string // all in the error
	}{
		{"wrong CA of the server", nil, operator(other, ca.client(t, nil)), []string{`signed by "CN=site authority"`, "not in the CA file"}},
		{"server expired", expired, ca.operator(t), []string{"its certificate has expired on "}},
		{"server not valid yet", notYet, ca.operator(t), []string{"not valid before", "clocks"}},
		{"wrong SAN", otherNames, ca.operator(t), []string{"its certificate is for matchbox.example.com, 192.0.2.7, not for 127.0.0.1"}},
		{"no SAN", func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, nil }, ca.operator(t), []string{"no name at all"}},
		{"a client's certificate as the server's", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, ca.operator(t), []string{"not made for a server"}},
		{"no client certificate", nil, operator(ca), []string{"wants a client certificate and was given none"}},
		{"no client certificate, TLS 1.2", nil, max12(operator(ca)), []string{"was given none"}},
		{"client's CA unknown to the server", nil, insist(ca, other.client(t, nil)), []string{"it does not accept this client's certificate", `signed by "CN=another authority"`}},
		{"client's CA unknown to the server, TLS 1.2", nil, max12(insist(ca, other.client(t, nil))), []string{"it does not accept this client's certificate"}},
		{"client's CA not one that the server asks for", nil, operator(ca, other.client(t, nil)), []string{"it does not accept this client's certificate", "another CA"}},
		{"client expired", nil, operator(ca, ca.client(t, expired)), []string{"it does not accept this client's certificate", "expired"}},
		{"a server's certificate as the client's", nil, operator(ca, ca.server(t, nil)), []string{"it does not accept this client's certificate"}},
	}
	for _, target := range targets(t) {
		for _, tt := range tests {
			t.Run(target.name+"/"+tt.name, func(t *testing.T) {
				run := target.start(t, setting{data: dataDir(t), ca: ca, pair: ca.server(t, tt.server)})
				begun := time.Now()
				c, err := matchbox.Dial(t.Context(), matchbox.Options{Endpoint: run.endpoint, TLS: tt.client})
				if err == nil {
					c.Close()
					t.Fatal("connected")
				}
				checkError(t, err, matchbox.ErrUntrusted, append(tt.want, run.endpoint))
				if took := time.Since(begun); took > 5*time.Second {
					t.Errorf("took %s; nothing here needs waiting for", took)
				}
			})
		}
		// The right ones, over both versions.
		for _, config := range []*tls.Config{ca.operator(t), max12(ca.operator(t))} {
			run := target.start(t, setting{data: dataDir(t), ca: ca, pair: ca.server(t, nil)})
			c, err := matchbox.Dial(t.Context(), matchbox.Options{Endpoint: run.endpoint, TLS: config})
			if err != nil {
				t.Errorf("%s: %v", target.name, err)
				continue
			}
			if _, err := c.GroupList(t.Context()); err != nil {
				t.Errorf("%s: %v", target.name, err)
			}
			c.Close()
		}
	}
}

func checkError(t *testing.T, err, kind error, want []string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("error is not of kind %q: %v", kind, err)
	}
	for _, part := range want {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error does not say %q: %v", part, err)
		}
	}
	if strings.Contains(err.Error(), "context deadline exceeded") {
		t.Errorf("error says what happened to us, not what is wrong: %v", err)
	}
}

// listen answers each connection with a function, until the test ends.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() { l.Close(); serving.Wait() })
	return l.Addr().String()
}

func reset(conn net.Conn) {
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}

func TestDialNetwork(t *testing.T) {
	ca := newAuthority(t, "site authority")
	pair := ca.server(t, nil)
	silent := make(chan struct{})
	// Before the listeners are waited for.
	hang := listenAfter(t, silent, func(net.Conn) { <-silent })
	closed := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	secureHTTP := httptest.NewUnstartedServer(http.NotFoundHandler())
	secureHTTP.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	secureHTTP.StartTLS()
	t.Cleanup(secureHTTP.Close)

	tests := []struct {
		name, endpoint string
		kind           error
		want           string
	}{
		{"down", closed(), matchbox.ErrUnreachable, "connection refused"},
		{"name does not resolve", "matchbox.invalid:8081", matchbox.ErrUnreachable, "matchbox.invalid"},
		{"RST", listen(t, reset), matchbox.ErrUnreachable, "closed the connection before it answered"},
		{"RST in the handshake", listen(t, func(conn net.Conn) { io.ReadFull(conn, make([]byte, 20)); reset(conn) }), matchbox.ErrUnreachable, "closed the connection before it answered"},
		{"end of file", listen(t, func(net.Conn) {}), matchbox.ErrUnreachable, "closed the connection before it answered"},
		{"says nothing", hang, matchbox.ErrUnreachable, "no answer in time"},
		{"says nothing after the handshake", listenAfter(t, silent, func(conn net.Conn) {
			tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"}}).Handshake()
			<-silent
		}), matchbox.ErrUnreachable, "no answer in time"},
		{"HTTP", plain.Listener.Addr().String(), matchbox.ErrUntrusted, "does not speak TLS"},
		{"HTTPS without HTTP/2", secureHTTP.Listener.Addr().String(), matchbox.ErrUntrusted, "not gRPC"},
		{"TLS 1.1", listen(t, func(conn net.Conn) {
			tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}).Handshake()
		}), matchbox.ErrUntrusted, "TLS 1.1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			begun := time.Now()
			c, err := matchbox.Dial(t.Context(), matchbox.Options{Endpoint: tt.endpoint, TLS: ca.operator(t), Timeout: 500 * time.Millisecond})
			if err == nil {
				c.Close()
				t.Fatal("connected")
			}
			checkError(t, err, tt.kind, []string{tt.want, tt.endpoint})
			if took := time.Since(begun); took > 5*time.Second {
				t.Errorf("took %s with a timeout of 0.5 s", took)
			}
		})
	}

	t.Run("the caller gives up", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		if _, err := matchbox.Dial(ctx, matchbox.Options{Endpoint: hang, TLS: ca.operator(t)}); !errors.Is(err, context.Canceled) {
			t.Errorf("error is not the caller's: %v", err)
		}
	})
}

// listenAfter is listen; the connections end with the channel, which is closed when the test ends.
func listenAfter(t *testing.T, silent chan struct{}, serve func(net.Conn)) string {
	t.Helper()
	address := listen(t, serve)
	t.Cleanup(sync.OnceFunc(func() {
		select {
		case <-silent:
		default:
			close(silent)
		}
	}))
	return address
}

func TestEndpoints(t *testing.T) {
	ca := newAuthority(t, "site authority")
	for endpoint, want := range map[string]string{
		"https://matchbox.example.com:8081/": `write "matchbox.example.com:8081"`,
		"matchbox.example.com":               "host:port",
		":8081":                              "host:port",
		"matchbox.example.com:":              "host:port",
		"":                                   "host:port",
	} {
		if _, err := matchbox.Dial(t.Context(), matchbox.Options{Endpoint: endpoint, TLS: ca.operator(t)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("endpoint %q: %v, want %q", endpoint, err, want)
		}
	}
	if _, err := matchbox.Dial(t.Context(), matchbox.Options{Endpoint: "127.0.0.1:8081"}); err == nil || !strings.Contains(err.Error(), "client certificate") {
		t.Errorf("without TLS: %v", err)
	}
}
