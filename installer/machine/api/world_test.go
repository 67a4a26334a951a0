package api

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

const mac = "52:54:00:a1:9c:ae"

// authority is a CA and what it signed.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	a.cert, a.key = a.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) sign(t testing.TB, c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber, c.NotBefore = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour)
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(time.Hour)
	}
	parent, by := a.cert, a.key
	if parent == nil {
		parent, by = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (a *authority) pair(t testing.TB, c *x509.Certificate) tls.Certificate {
	t.Helper()
	cert, key := a.sign(t, c)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

func (a *authority) operator(t testing.TB, name string) *tls.Config {
	t.Helper()
	return &tls.Config{RootCAs: a.pool, Certificates: []tls.Certificate{a.pair(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})}}
}

// lockedBuffer is a log that several goroutines write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// world is a provisioner's machines' API on a loopback port, with real TLS.
type world struct {
	t       testing.TB
	store   *machine.Store
	ca      *authority
	server  *httptest.Server
	client  *Client
	log     *lockedBuffer
	machine *http.Client // without a certificate
	clock   func() time.Time
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, ca: newAuthority(t), log: &lockedBuffer{}, clock: time.Now}
	store, err := machine.Open(t.TempDir(), machine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w.store = store
	log := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.server = httptest.NewUnstartedServer(Handler(store, Options{
		Log: log, Now: func() time.Time { return w.clock() },
		Answers: map[string]func(url.Values) any{"programs": func(q url.Values) any { return map[string]string{"asked": q.Get("for")} }},
	}))
	w.server.TLS = &tls.Config{
		MinVersion: tls.VersionTLS12, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: w.ca.pool,
		Certificates: []tls.Certificate{w.ca.pair(t, &x509.Certificate{Subject: pkix.Name{CommonName: "provisioner"}, DNSNames: []string{"example.com"}})},
	}
	w.server.Config.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	w.server.EnableHTTP2 = true
	w.server.StartTLS()
	w.client = w.connect(w.ca.operator(t, "alice"))
	w.machine = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.ca.pool, ServerName: "example.com"}}, Timeout: 20 * time.Second}
	t.Cleanup(func() {
		w.client.Close()
		w.machine.CloseIdleConnections()
		_ = store.Close()
		w.server.Close()
	})
	return w
}

func (w *world) connect(c *tls.Config) *Client {
	c.ServerName = "example.com"
	return NewClient(strings.TrimPrefix(w.server.URL, "https://"), c)
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// says is a machine's call.
func (w *world) says(path, token string, in, out any) (status int, text string) {
	w.t.Helper()
	body, err := json.Marshal(in)
	w.ok(err)
	return w.post(path, token, body, out)
}

func (w *world) post(path, token string, body []byte, out any) (status int, text string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.server.URL+path, bytes.NewReader(body))
	w.ok(err)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := w.machine.Do(req)
	w.ok(err)
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	w.ok(err)
	if res.StatusCode != http.StatusOK {
		var e errorBody
		if err := json.Unmarshal(answer, &e); err != nil || e.Error == "" {
			w.t.Fatalf("%s answers %d %q", path, res.StatusCode, answer)
		}
		return res.StatusCode, e.Error
	}
	if out != nil {
		w.ok(json.Unmarshal(answer, out))
	}
	return res.StatusCode, ""
}

func (w *world) well(status int, text string) {
	w.t.Helper()
	if status != http.StatusOK {
		w.t.Fatalf("answered %d: %s", status, text)
	}
}

func definition(name string, macs ...string) machine.Definition {
	return machine.Definition{
		Name: name, Cluster: "lab", MACs: macs, Role: "worker", Image: machine.Image{OS: "flatcar", Version: "1.2.3", Arch: "x86_64"},
		Config: []byte(`{"ignition":{"version":"3.3.0"}}`), Files: []machine.File{{Path: "/etc/secret", Mode: 0o600, Content: []byte("hunter2")}},
	}
}

// booted arms a machine and boots it from the network.
func (w *world) booted(name, mac string) (token string) {
	w.t.Helper()
	ctx := w.t.Context()
	_, err := w.client.Put(ctx, definition(name, mac))
	w.ok(err)
	_, err = w.client.Arm(ctx, name, machine.ArmRequest{Action: machine.ActionInstall, Force: true})
	w.ok(err)
	d, err := w.store.Boot(ctx, mac)
	w.ok(err)
	if !d.Install {
		w.t.Fatalf("not installed: %s", d.Reason)
	}
	return d.Token
}
