package kubelet

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// testHost is what a kubelet needs around it: a root directory, a network
// namespace, a containerd, and an API server that says no.
type testHost struct {
	root  string // becomes / for the kubelet
	netns string // path
	api   *testAPI
}

func newTestHost(t *testing.T, kubelet string) *testHost {
	t.Helper()
	dir, err := os.MkdirTemp("", "kubelet") // t.TempDir's name is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	h := &testHost{root: filepath.Join(dir, "root")}
	for _, d := range []string{"proc", "sys", "dev", "tmp", "run/containerd", "usr/bin", "usr/sbin", "lib", "etc", "var/log", "sysctl"} {
		if err := os.MkdirAll(filepath.Join(h.root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(kubelet, filepath.Join(h.root, "usr/bin/kubelet")); err != nil {
		data, err := os.ReadFile(kubelet) // another file system
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(h.root, "usr/bin/kubelet"), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.write(t, "/etc/passwd", []byte("root:x:0:0:root:/root:/bin/sh\n"))
	h.write(t, "/etc/resolv.conf", []byte("nameserver 127.0.0.1\n"))
	h.write(t, "/etc/machine-id", []byte("0123456789abcdef0123456789abcdef\n"))

	name := fmt.Sprintf("kubelet-test-%d-%d", os.Getpid(), time.Now().UnixNano()%1e6)
	h.netns = "/run/netns/" + name
	run(t, "ip", "netns", "add", name)
	t.Cleanup(func() { run(t, "ip", "netns", "del", name) })
	run(t, "ip", "-n", name, "link", "set", "lo", "up")
	// The kubelet looks for the address of the default route.
	run(t, "ip", "-n", name, "link", "add", "up0", "type", "veth", "peer", "name", "down0")
	run(t, "ip", "-n", name, "address", "add", "192.0.2.7/24", "dev", "up0")
	run(t, "ip", "-n", name, "link", "set", "up0", "up")
	run(t, "ip", "-n", name, "link", "set", "down0", "up")
	run(t, "ip", "-n", name, "route", "add", "default", "dev", "up0")

	h.api = newTestAPI(t, h.netns)
	h.write(t, CAPath, h.api.ca.pem)
	cert, key := h.api.ca.issue(t, "kubelet", "system:masters")
	h.write(t, KubeconfigPath, h.api.kubeconfig(string(cert), string(key), ""))
	h.startContainerd(t, dir)
	return h
}

// input is a worker's, with a shared certificate and with what a machine
// without systemd needs: cgroupfs and no cgroups for pods.
func (h *testHost) input(t *testing.T, release string) Input {
	t.Helper()
	cgroups := 1
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		cgroups = 2
	}
	return Input{
		Version:       version(t, release),
		DNS:           []netip.Addr{netip.MustParseAddr("10.3.0.10")},
		Domain:        "cluster.local",
		Endpoint:      "unix:///run/containerd/containerd.sock",
		CgroupVersion: cgroups,
		CgroupDriver:  "cgroupfs",
		Labels:        map[string]string{"rack": "r7"},
		Taints:        []string{"dedicated=gpu:NoSchedule"},
		DropIns:       []DropIn{{DropInDir + "/lab.yaml", []byte("cgroupsPerQOS: false\nenforceNodeAllocatable: []\nfailSwapOn: false\n")}},
	}
}

func (h *testHost) write(t *testing.T, path string, data []byte) {
	t.Helper()
	path = filepath.Join(h.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (h *testHost) startContainerd(t *testing.T, dir string) {
	t.Helper()
	socket := filepath.Join(h.root, "run/containerd/containerd.sock")
	config := filepath.Join(dir, "containerd.toml")
	text := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\n[grpc]\naddress = %q\n[plugins.\"io.containerd.internal.v1.opt\"]\npath = %q\n",
		filepath.Join(dir, "lib"), filepath.Join(dir, "state"), socket, filepath.Join(dir, "opt"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command("nsenter", "--net="+h.netns, "unshare", "--mount", "containerd", "--config", config)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, done := make(chan error), make(chan struct{})
	go func() {
		lockThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // killed below
		}
		close(done)
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
	})
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for {
		if conn, err := net.DialTimeout("unix", socket, time.Second); err == nil {
			conn.Close()
			return
		}
		select {
		case <-tick.C:
		case <-done:
			t.Fatalf("containerd ended:\n%s", log.String())
		case <-deadline:
			t.Fatal("containerd does not answer on its socket")
		}
	}
}

// testAPI is an API server's door: it tells who knocks and for what, and
// refuses everything. TLS and credentials are real.
type testAPI struct {
	ca     *authority
	server string
	mu     sync.Mutex
	calls  []call
}

type call struct {
	method, path, who string
	csr               string // common name asked for
}

func newTestAPI(t *testing.T, netns string) *testAPI {
	t.Helper()
	a := &testAPI{ca: newAuthority(t)}
	cert, key := a.ca.issue(t, "kube-apiserver", "")
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.ca.cert)
	var l net.Listener
	if err := inNetns(netns, func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	a.server = "https://" + l.Addr().String()
	srv := &http.Server{
		Handler:           a,
		ReadHeaderTimeout: 10 * time.Second,
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool, MinVersion: tls.VersionTLS12},
	}
	done := make(chan struct{})
	go func() {
		_ = srv.ServeTLS(l, "", "") // ends with Close
		close(done)
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
	return a
}

func (a *testAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := call{method: r.Method, path: r.URL.Path, who: "nobody"}
	if len(r.TLS.PeerCertificates) > 0 {
		c.who = "cert:" + r.TLS.PeerCertificates[0].Subject.CommonName
	} else if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		id, _, _ := strings.Cut(token, ".")
		c.who = "token:" + id
	}
	if body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20)); err == nil && strings.HasSuffix(c.path, "/certificatesigningrequests") {
		c.csr = commonName(body)
	}
	a.mu.Lock()
	a.calls = append(a.calls, c)
	a.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusForbidden)
	fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403}`)
}

// commonName finds the request for a certificate in a CertificateSigningRequest,
// be it JSON or protobuf: both hold the PEM text, JSON once more in base64.
func commonName(body []byte) string {
	var obj struct{ Spec struct{ Request []byte } }
	if json.Unmarshal(body, &obj) == nil {
		body = obj.Spec.Request
	}
	i := bytes.Index(body, []byte("-----BEGIN CERTIFICATE REQUEST"))
	if i < 0 {
		return ""
	}
	block, _ := pem.Decode(body[i:])
	if block == nil {
		return ""
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return ""
	}
	return req.Subject.CommonName
}

func (a *testAPI) count(method, suffix string) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.calls {
		if c.method == method && strings.HasSuffix(c.path, suffix) {
			n++
		}
	}
	return n
}

func (a *testAPI) requested() (names []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.calls {
		if c.csr != "" {
			names = append(names, c.csr)
		}
	}
	return names
}

// others are the callers that are not the one expected.
func (a *testAPI) others(who string) (all []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.calls) == 0 {
		return []string{"(nobody called at all)"}
	}
	for _, c := range a.calls {
		if c.who != who && !slices.Contains(all, c.who) {
			all = append(all, c.who)
		}
	}
	return all
}

func (a *testAPI) kubeconfig(cert, key, token string) []byte {
	user := map[string]any{}
	if token != "" {
		user["token"] = token
	} else {
		user["client-certificate-data"], user["client-key-data"] = []byte(cert), []byte(key)
	}
	b, err := json.Marshal(map[string]any{ // JSON is YAML
		"apiVersion": "v1", "kind": "Config", "current-context": "c",
		"clusters": []any{map[string]any{"name": "k", "cluster": map[string]any{"server": a.server, "certificate-authority-data": a.ca.pem}}},
		"users":    []any{map[string]any{"name": "u", "user": user}},
		"contexts": []any{map[string]any{"name": "c", "context": map[string]any{"cluster": "k", "user": "u"}}},
	})
	if err != nil {
		panic(err)
	}
	return b
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test-ca"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func (a *authority) issue(t *testing.T, name, group string) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	if group != "" {
		tmpl.Subject.Organization = []string{group}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, k.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
}

// inNetns runs f on a thread in a network namespace; the sockets that f makes
// belong there for ever.
func inNetns(path string, f func() error) error {
	result := make(chan error)
	go func() {
		lockThread() // and never unlock: the thread ends with the goroutine
		ns, err := os.Open(path)
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		result <- err
	}()
	return <-result
}

func lockThread() { runtime.LockOSThread() }

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}
