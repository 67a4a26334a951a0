package node

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"k8s.io/client-go/tools/clientcmd/api"
)

// short makes the deadlines fit for a test.
var short = Limits{Connect: 300 * time.Millisecond, TLS: 400 * time.Millisecond, Header: 500 * time.Millisecond, Call: 5 * time.Second}

// A double is an API server that fails as it is told. It counts what it is asked.
type double struct {
	*httptest.Server
	ca       *authority
	requests atomic.Int32
	mu       sync.Mutex
	auth     []string // the Authorization headers that it saw
}

func (d *double) authorizations() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.auth, " ")
}

func newDouble(t *testing.T, serving leaf, handle http.HandlerFunc) *double {
	t.Helper()
	d := &double{ca: newAuthority(t, "kube-ca")}
	d.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.requests.Add(1)
		d.mu.Lock()
		d.auth = append(d.auth, r.Header.Get("Authorization"))
		d.mu.Unlock()
		handle(w, r)
	}))
	d.EnableHTTP2 = true
	d.TLS = &tls.Config{Certificates: []tls.Certificate{d.ca.server(t, serving)}, ClientAuth: tls.RequestClientCert}
	d.Config.ErrorLog = quiet
	d.StartTLS()
	t.Cleanup(func() { d.CloseClientConnections(); d.Close() })
	return d
}

// healthy answers what Reach asks.
func healthy(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	switch {
	case r.Method == http.MethodGet && r.URL.Path == "/version":
		io.WriteString(w, `{"major":"1","minor":"34","gitVersion":"v1.34.4"}`)
	case r.Method == http.MethodPost && r.URL.Path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews":
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, `{"kind":"SelfSubjectAccessReview","apiVersion":"authorization.k8s.io/v1","status":{"allowed":true}}`)
	default:
		http.Error(w, "not expected", http.StatusTeapot)
	}
}

// status writes an error the way an API server does.
func status(w http.ResponseWriter, code int, reason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message})
}

func client(t *testing.T, server string, ca []byte, user api.AuthInfo, o Options) *Client {
	t.Helper()
	if o.Limits == (Limits{}) {
		o.Limits = short
	}
	c, err := NewClient(mustParse(t, config(t, server, ca, user, nil)), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// raw is a TCP server on loopback that treats each connection as told, until the test ends.
func rawServer(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var open sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	open.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			open.Go(func() { handle(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		open.Wait()
	})
	return l.Addr().String()
}

func hold(c net.Conn) { io.Copy(io.Discard, c) }

func reset(c net.Conn) {
	c.Read(make([]byte, 1))
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

// nameServer is a DNS server on loopback that gives one answer to everything; below zero it gives none.
func nameServer(t *testing.T, code int) *net.Resolver {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if code < 0 || m.Unpack(buf[:n]) != nil {
				continue
			}
			m.Response, m.RCode, m.Additionals = true, dnsmessage.RCode(code), nil
			if out, err := m.Pack(); err == nil {
				pc.WriteTo(out, from)
			}
		}
	}()
	t.Cleanup(func() { pc.Close(); <-done })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", pc.LocalAddr().String())
	}}
}

// proxy is a CONNECT proxy. refuse, when not zero, is its answer to everybody.
func connectProxy(t *testing.T, refuse int) (addr string, connects *atomic.Int32) {
	t.Helper()
	connects = &atomic.Int32{}
	return rawServer(t, func(c net.Conn) {
		in := bufio.NewReader(c)
		req, err := http.ReadRequest(in)
		if err != nil || req.Method != http.MethodConnect {
			c.Close()
			return
		}
		connects.Add(1)
		if refuse != 0 {
			fmt.Fprintf(c, "HTTP/1.1 %d %s\r\nContent-Length: 0\r\n\r\n", refuse, http.StatusText(refuse))
			c.Close()
			return
		}
		to, err := net.Dial("tcp", req.Host)
		if err != nil {
			c.Close()
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { io.Copy(to, in); to.Close() }()
		io.Copy(c, to)
		c.Close()
	}), connects
}
