package node

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"k8s.io/client-go/tools/clientcmd/api"
)

func expect(t *testing.T, err error, layer Layer, reason Reason, parts ...string) {
	t.Helper()
	e, ok := err.(*APIError)
	if !ok {
		t.Fatalf("got %T: %v", err, err)
	}
	if e.Layer != layer || e.Reason != reason {
		t.Errorf("got %s/%s, want %s/%s: %v\ncause: %v", e.Layer, e.Reason, layer, reason, err, e.Err)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("%q is not in: %v", p, err)
		}
	}
	noSecret(t, err.Error())
	if strings.ContainsAny(err.Error(), "\n\x1b") {
		t.Errorf("not one clean line: %q", err.Error())
	}
}

func TestReachFailures(t *testing.T) {
	ca := newAuthority(t, "kube-ca")
	token := api.AuthInfo{Token: secretToken}
	closed := rawServer(t, hold)
	if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
		closed = l.Addr().String()
		l.Close()
	}
	named := func(r *net.Resolver) *Client {
		return client(t, "https://nix.example.test:6443", ca.pem, token, Options{Resolver: r})
	}
	at := func(addr string) *Client { return client(t, "https://"+addr, ca.pem, token, Options{}) }
	tests := []struct {
		name   string
		client func(t *testing.T) *Client
		layer  Layer
		reason Reason
		parts  []string
	}{
		{"the name does not exist", func(t *testing.T) *Client { return named(nameServer(t, int(dnsmessage.RCodeNameError))) }, LayerDNS, NameNotFound, []string{"cannot reach the API server https://nix.example.test:6443: the name nix.example.test does not exist"}},
		{"DNS fails", func(t *testing.T) *Client { return named(nameServer(t, int(dnsmessage.RCodeServerFailure))) }, LayerDNS, DNSNoAnswer, []string{"DNS gave no answer for the name nix.example.test"}},
		{"DNS is silent", func(t *testing.T) *Client { return named(nameServer(t, -1)) }, LayerDNS, DNSNoAnswer, []string{"nix.example.test", "/etc/resolv.conf"}},
		{"refused", func(*testing.T) *Client { return at(closed) }, LayerTCP, ConnectionRefused, []string{closed + " refused the connection"}},
		{"accepted, then silence", func(t *testing.T) *Client { return at(rawServer(t, hold)) }, LayerTLS, TLSSilent, []string{"accepted the connection and did not answer within 400ms"}},
		{"reset", func(t *testing.T) *Client { return at(rawServer(t, reset)) }, LayerTLS, ConnectionReset, []string{"cut the connection during the TLS handshake"}},
		{"closed", func(t *testing.T) *Client { return at(rawServer(t, func(c net.Conn) { c.Close() })) }, LayerTLS, ConnectionReset, []string{"cut the connection"}},
		{"HTTP without TLS", func(t *testing.T) *Client {
			return at(rawServer(t, func(c net.Conn) {
				io.WriteString(c, "HTTP/1.0 400 Bad Request\r\n\r\n")
				hold(c)
			}))
		}, LayerTLS, PlainHTTP, []string{"speaks HTTP without TLS"}},
		{"SSH", func(t *testing.T) *Client {
			return at(rawServer(t, func(c net.Conn) {
				io.WriteString(c, "SSH-2.0-OpenSSH_9.2\r\n")
				hold(c)
			}))
		}, LayerTLS, NotTLS, []string{"does not speak TLS"}},
		{"another CA", func(t *testing.T) *Client { return at(newDouble(t, leaf{}, healthy).Listener.Addr().String()) }, LayerTLS, WrongCA, []string{"(issued by CN=kube-ca) is not from the CA in the kubeconfig (CN=kube-ca)"}},
		{"another name", func(t *testing.T) *Client {
			d := newDouble(t, leaf{names: []string{"api.other.test", "a\x1b[31m.test"}}, healthy)
			return client(t, d.URL, d.ca.pem, token, Options{})
		}, LayerTLS, WrongServerName, []string{"not for this name: it is for api.other.test"}},
		{"expired certificate", func(t *testing.T) *Client {
			d := newDouble(t, leaf{notBefore: time.Now().AddDate(0, 0, -2), notAfter: time.Now().Add(-time.Hour)}, healthy)
			return client(t, d.URL, d.ca.pem, token, Options{})
		}, LayerTLS, ServerCertExpired, []string{"expired at", "the API server's clock agrees with this host's", "renew it"}},
		{"clock behind", func(t *testing.T) *Client {
			d := newDouble(t, leaf{}, healthy)
			return client(t, d.URL, d.ca.pem, token, Options{Now: func() time.Time { return time.Now().Add(-48 * time.Hour) }})
		}, LayerTLS, ServerCertNotYetValid, []string{"is not valid before", "behind the API server's", "chronyc"}},
		{"clock ahead", func(t *testing.T) *Client {
			d := newDouble(t, leaf{}, healthy)
			return client(t, d.URL, d.ca.pem, token, Options{Now: func() time.Time { return time.Now().Add(48 * time.Hour) }})
		}, LayerTLS, ServerCertExpired, []string{"expired at", "ahead of the API server's", "chronyc"}},
		{"TLS 1.1", func(t *testing.T) *Client {
			d := newDouble(t, leaf{}, healthy)
			d.TLS.MaxVersion, d.TLS.MinVersion = tls.VersionTLS11, tls.VersionTLS10
			return client(t, d.URL, d.ca.pem, token, Options{})
		}, LayerTLS, TLSFailed, []string{"the TLS handshake with", "failed"}},
		{"silence after the request", func(t *testing.T) *Client {
			d := newDouble(t, leaf{}, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
			return client(t, d.URL, d.ca.pem, token, Options{})
		}, LayerHTTP, HTTPSilent, []string{"accepted the request and did not answer within 500ms"}},
		{"half an answer", func(t *testing.T) *Client {
			d := newDouble(t, leaf{}, func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, `{"major":"1",`)
				w.(http.Flusher).Flush()
				<-r.Context().Done()
			})
			return client(t, d.URL, d.ca.pem, token, Options{Limits: Limits{Connect: short.Connect, TLS: short.TLS, Header: short.Header, Call: time.Second}})
		}, LayerHTTP, HTTPSilent, []string{"began to answer and did not finish"}},
		{"an endless answer", func(t *testing.T) *Client {
			d := newDouble(t, leaf{}, func(w http.ResponseWriter, r *http.Request) {
				for chunk := make([]byte, 1<<20); r.Context().Err() == nil; {
					w.Write(chunk)
				}
			})
			return client(t, d.URL, d.ca.pem, token, Options{Limits: Limits{Call: 20 * time.Second}})
		}, LayerHTTP, NotKubernetes, []string{"answers, but not as an API server does"}},
		{"a portal", func(t *testing.T) *Client {
			d := newDouble(t, leaf{}, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>Log in</html>") })
			return client(t, d.URL, d.ca.pem, token, Options{})
		}, LayerHTTP, NotKubernetes, []string{"answers, but not as an API server does"}},
		{"HTML 404", func(t *testing.T) *Client {
			d := newDouble(t, leaf{}, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/html")
				w.WriteHeader(http.StatusNotFound)
				io.WriteString(w, "<html>nginx</html>")
			})
			return client(t, d.URL, d.ca.pem, token, Options{})
		}, LayerHTTP, NotKubernetes, []string{"404 Not Found"}},
		{"401", func(t *testing.T) *Client {
			d := newDouble(t, leaf{}, func(w http.ResponseWriter, _ *http.Request) { status(w, 401, "Unauthorized", "Unauthorized") })
			return client(t, d.URL, d.ca.pem, token, Options{})
		}, LayerAuthentication, Unauthorized, []string{"does not accept the token (401)"}},
		{"401 to an expired certificate", func(t *testing.T) *Client {
			d := newDouble(t, leaf{}, func(w http.ResponseWriter, r *http.Request) {
				if len(r.TLS.PeerCertificates) != 1 {
					t.Error("the client certificate was not offered")
				}
				status(w, 401, "Unauthorized", "Unauthorized")
			})
			return client(t, d.URL, d.ca.pem, certUser(t, ca, leaf{cn: "kubelet", notBefore: time.Now().AddDate(0, 0, -2), notAfter: time.Now().Add(-time.Hour)}), Options{})
		}, LayerAuthentication, Unauthorized, []string{"does not accept the client certificate CN=kubelet: it expired at", "and the API server's clock says"}},
		{"401 to a bootstrap token", func(t *testing.T) *Client {
			d := newDouble(t, leaf{}, func(w http.ResponseWriter, _ *http.Request) { status(w, 401, "Unauthorized", "Unauthorized") })
			return client(t, d.URL, d.ca.pem, api.AuthInfo{Token: bootstrap}, Options{})
		}, LayerAuthentication, Unauthorized, []string{"bootstrap token system:bootstrap:abcdef (401)", "kubeadm token create"}},
		{"403", func(t *testing.T) *Client {
			d := newDouble(t, leaf{}, func(w http.ResponseWriter, _ *http.Request) {
				status(w, 403, "Forbidden", "User \"x\x1b[2J\u202e\" cannot get path \"/version\"\n"+strings.Repeat("y", 1000))
			})
			return client(t, d.URL, d.ca.pem, token, Options{})
		}, LayerAuthorization, Forbidden, []string{`the token has not the right: User "x [2J " cannot get path "/version"`}},
		{"503 for ever", func(t *testing.T) *Client {
			d := newDouble(t, leaf{}, func(w http.ResponseWriter, _ *http.Request) { status(w, 503, "ServiceUnavailable", "etcd is down") })
			return client(t, d.URL, d.ca.pem, token, Options{Limits: Limits{Call: 1500 * time.Millisecond}})
		}, LayerAPI, ServerFailed, []string{"503 Service Unavailable", "etcd is down"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			begun := time.Now()
			_, err := test.client(t).Reach(t.Context())
			expect(t, err, test.layer, test.reason, test.parts...)
			if d := time.Since(begun); d > 10*time.Second {
				t.Errorf("it took %v", d)
			}
		})
	}
}

func TestReachGoodServer(t *testing.T) {
	d := newDouble(t, leaf{}, healthy)
	s, err := client(t, d.URL, d.ca.pem, api.AuthInfo{Token: secretToken}, Options{}).Reach(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Version != "v1.34.4" || s.LocalIP.String() != "127.0.0.1" || s.Skew.Abs() > 2*time.Second || s.ClockNote() != "" || s.Proxied {
		t.Errorf("got %+v", s)
	}
	if d.authorizations() != "Bearer "+secretToken+" Bearer "+secretToken {
		t.Errorf("the token was sent as %q", d.authorizations())
	}
	// 90 seconds off is no hindrance, and is said.
	s, err = client(t, d.URL, d.ca.pem, api.AuthInfo{Token: secretToken}, Options{Now: func() time.Time { return time.Now().Add(90 * time.Second) }}).Reach(t.Context())
	if err != nil || !strings.Contains(s.ClockNote(), "ahead of the API server's") {
		t.Errorf("got %q, %v", s.ClockNote(), err)
	}
}

// What the server calls temporary is tried again as it asks; what it does not is not.
func TestRetries(t *testing.T) {
	begin := func(failures int32, retryAfter string, code int) (*double, *Client) {
		var n atomic.Int32
		d := newDouble(t, leaf{}, func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1) <= failures {
				if retryAfter != "" {
					w.Header().Set("Retry-After", retryAfter)
				}
				status(w, code, "TooManyRequests", "slow down")
				return
			}
			healthy(w, r)
		})
		return d, client(t, d.URL, d.ca.pem, api.AuthInfo{Token: secretToken}, Options{})
	}
	t.Run("Retry-After is honoured", func(t *testing.T) {
		d, c := begin(1, "1", 429)
		begun := time.Now()
		if _, err := c.Reach(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took < time.Second || d.requests.Load() != 3 {
			t.Errorf("%d requests in %v", d.requests.Load(), took)
		}
	})
	t.Run("a burst of failures", func(t *testing.T) {
		for _, code := range []int{500, 502, 503, 504} {
			d, c := begin(2, "", code)
			if _, err := c.Reach(t.Context()); err != nil || d.requests.Load() != 4 {
				t.Errorf("%d: %d requests, %v", code, d.requests.Load(), err)
			}
		}
	})
	t.Run("a wait beyond the budget is not begun", func(t *testing.T) {
		d, c := begin(1000, "3600", 429)
		begun := time.Now()
		_, err := c.Reach(t.Context())
		expect(t, err, LayerAPI, Throttled, "429 Too Many Requests, asks to wait 1h0m0s")
		if e := err.(*APIError); e.RetryAfter != time.Hour || !e.Retry() {
			t.Errorf("got %+v", e)
		}
		if d.requests.Load() != 1 || time.Since(begun) > 2*time.Second {
			t.Errorf("%d requests in %v", d.requests.Load(), time.Since(begun))
		}
	})
	t.Run("a rejection is final", func(t *testing.T) {
		for _, code := range []int{401, 403} {
			d, c := begin(1000, "", code)
			_, err := c.Reach(t.Context())
			if e, ok := err.(*APIError); !ok || e.Retry() || d.requests.Load() != 1 {
				t.Errorf("%d: %d requests, %v", code, d.requests.Load(), err)
			}
		}
	})
	t.Run("the caller's deadline holds", func(t *testing.T) {
		_, c := begin(1000, "", 503)
		ctx, cancel := context.WithTimeout(t.Context(), 600*time.Millisecond)
		defer cancel()
		begun := time.Now()
		_, err := c.Reach(ctx)
		expect(t, err, LayerAPI, ServerFailed)
		if time.Since(begun) > 2*time.Second {
			t.Errorf("it took %v", time.Since(begun))
		}
	})
}

// A redirect is not followed: whoever sends it does not get to see the credential elsewhere.
func TestRedirectGetsNoCredential(t *testing.T) {
	target := newDouble(t, leaf{}, healthy)
	d := newDouble(t, leaf{}, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, target.URL+"/version", http.StatusFound)
	})
	c := client(t, d.URL, append(d.ca.pem, target.ca.pem...), api.AuthInfo{Token: secretToken}, Options{})
	_, err := c.Reach(t.Context())
	expect(t, err, LayerHTTP, NotKubernetes, "302 Found")
	if target.requests.Load() != 0 {
		t.Error("the redirect was followed")
	}
}

// Asking for the time gives the credential to nobody, and asks nobody but the kubeconfig's own cluster.
func TestServerTime(t *testing.T) {
	d := newDouble(t, leaf{}, func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) > 0 {
			t.Error("a client certificate was sent")
		}
		status(w, 401, "Unauthorized", "Unauthorized")
	})
	user := certUser(t, d.ca, leaf{cn: "kubelet"})
	user.Token = secretToken
	for _, off := range []time.Duration{0, -48 * time.Hour, 240 * time.Hour} {
		c := client(t, d.URL, d.ca.pem, user, Options{Now: func() time.Time { return time.Now().Add(off) }})
		got, err := c.ServerTime(t.Context())
		if err != nil || time.Since(got).Abs() > 3*time.Second {
			t.Errorf("%v: got %v, %v", off, got, err)
		}
		stranger := client(t, d.URL, newAuthority(t, "kube-ca").pem, user, Options{Now: func() time.Time { return time.Now().Add(off) }})
		_, err = stranger.ServerTime(t.Context())
		expect(t, err, LayerTLS, WrongCA)
	}
	if strings.TrimSpace(d.authorizations()) != "" {
		t.Errorf("a token was sent: %q", d.authorizations())
	}
}

func TestProxy(t *testing.T) {
	// The process's own environment must not matter.
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	d := newDouble(t, leaf{}, healthy)
	_, port, err := net.SplitHostPort(d.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	// Loopback addresses are never sent to a proxy, so the name is one that only the proxy can find.
	server := "https://api.example.test:" + port
	token := api.AuthInfo{Token: secretToken}
	good, connects := connectProxy(t, 0)
	rewrite := func(addr string) string { return "http://user:" + secretToken + "@" + addr }

	t.Run("direct", func(t *testing.T) {
		s, err := client(t, d.URL, d.ca.pem, token, Options{}).Reach(t.Context())
		if err != nil || s.Proxied {
			t.Errorf("%+v, %v", s, err)
		}
	})
	t.Run("unreachable proxy", func(t *testing.T) {
		_, err := client(t, server, d.ca.pem, token, Options{Proxy: Proxy{HTTPS: rewrite("127.0.0.1:1")}}).Reach(t.Context())
		expect(t, err, LayerTCP, ConnectionRefused, "the proxy 127.0.0.1:1 refused the connection")
	})
	t.Run("proxy wants a password", func(t *testing.T) {
		addr, _ := connectProxy(t, http.StatusProxyAuthRequired)
		_, err := client(t, server, d.ca.pem, token, Options{Proxy: Proxy{HTTPS: "http://" + addr}}).Reach(t.Context())
		expect(t, err, LayerProxy, ProxyRefused, "the proxy "+addr+" would not connect: 407 Proxy Authentication Required", "HTTPS_PROXY")
	})
	t.Run("proxy forbids", func(t *testing.T) {
		addr, _ := connectProxy(t, http.StatusForbidden)
		_, err := client(t, server, d.ca.pem, token, Options{Proxy: Proxy{HTTPS: rewrite(addr)}}).Reach(t.Context())
		expect(t, err, LayerProxy, ProxyRefused, "403 Forbidden", "NO_PROXY")
	})
	t.Run("through the kubeconfig's proxy-url", func(t *testing.T) {
		before := connects.Load()
		data := config(t, d.URL, d.ca.pem, token, func(c *api.Config) { c.Clusters["lab"].ProxyURL = rewrite(good) })
		c, err := NewClient(mustParse(t, data), Options{Limits: short, Proxy: Proxy{HTTPS: "http://127.0.0.1:1", No: "127.0.0.1"}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		s, err := c.Reach(t.Context())
		if err != nil || !s.Proxied || connects.Load() != before+1 {
			t.Errorf("%+v, %v, %d connects", s, err, connects.Load()-before)
		}
	})
	t.Run("NO_PROXY", func(t *testing.T) {
		before := connects.Load()
		_, err := client(t, server, d.ca.pem, token, Options{Resolver: nameServer(t, int(dnsmessage.RCodeNameError)), Proxy: Proxy{HTTPS: "http://" + good, No: ".example.test"}}).Reach(t.Context())
		expect(t, err, LayerDNS, NameNotFound)
		if connects.Load() != before {
			t.Error("the proxy was asked")
		}
	})
}

// TestRoutes runs itself again in a network namespace of its own, where routes lead nowhere in three ways.
func TestRoutes(t *testing.T) {
	if os.Getenv("NODE_TEST_NETNS") == "" {
		needRoot(t)
		needTool(t, "ip")
		cmd := exec.Command(os.Args[0], "-test.run=^TestRoutes$", "-test.v")
		cmd.Env = append(os.Environ(), "NODE_TEST_NETNS=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		out, err := cmd.CombinedOutput()
		if err != nil || strings.Contains(string(out), "SKIP") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	for _, line := range []string{
		"link set lo up", "link add v0 type veth peer name v1", "addr add 192.0.2.2/24 dev v0", "link set v0 up", "link set v1 up",
		"neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev v0 nud permanent",
		"route add unreachable 198.51.100.0/24", "route add prohibit 203.0.113.0/24",
	} {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, out)
		}
	}
	ca := newAuthority(t, "kube-ca")
	for addr, want := range map[string]struct {
		reason Reason
		part   string
	}{
		"10.9.9.9:6443":     {NoRoute, "this host has no route to 10.9.9.9:6443"},
		"198.51.100.1:6443": {NoRoute, "there is no way to 198.51.100.1:6443: no route to host"},
		"203.0.113.1:6443":  {ConnectionBlocked, "this host itself does not permit a connection to 203.0.113.1:6443"},
		"192.0.2.1:6443":    {ConnectTimeout, "192.0.2.1:6443 does not answer: the connection was not accepted within 300ms"},
	} {
		_, err := client(t, "https://"+addr, ca.pem, api.AuthInfo{Token: secretToken}, Options{}).Reach(t.Context())
		expect(t, err, LayerTCP, want.reason, want.part)
	}
}
