package credentials

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestLoadClientRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(t *testing.T, dir string)
		want   string
	}{
		{"mode", func(t *testing.T, dir string) { chmod(t, filepath.Join(dir, ClientKey), 0o644) }, "chmod 0600"},
		{"group may read", func(t *testing.T, dir string) { chmod(t, filepath.Join(dir, ClientKey), 0o640) }, "chmod 0600"},
		{"no pair", func(t *testing.T, dir string) {
			copyFile(t, filepath.Join(dir, ServerKey), filepath.Join(dir, ClientKey))
		}, "the key is not the certificate's"},
		{"the server's", func(t *testing.T, dir string) {
			copyFile(t, filepath.Join(dir, ServerKey), filepath.Join(dir, ClientKey))
			copyFile(t, filepath.Join(dir, ServerCertificate), filepath.Join(dir, ClientCertificate))
		}, "not made for clients"},
		{"no CA", func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, CACertificate)) }, "no such file"},
		{"a key for a CA", func(t *testing.T, dir string) {
			copyFile(t, filepath.Join(dir, CAKey), filepath.Join(dir, CACertificate))
		}, "no PEM certificate"},
		{"a certificate for a key", func(t *testing.T, dir string) {
			copyFile(t, filepath.Join(dir, ClientCertificate), filepath.Join(dir, ClientKey))
		}, "no PEM private key"},
		{"a directory", func(t *testing.T, dir string) {
			os.Remove(filepath.Join(dir, ClientKey))
			os.Mkdir(filepath.Join(dir, ClientKey), 0o700)
		}, "it is not a file"},
		{"passphrase", func(t *testing.T, dir string) {
			text := "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
			if err := os.WriteFile(filepath.Join(dir, ClientKey), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "encrypted with a passphrase"},
		{"not a key", func(t *testing.T, dir string) {
			text := "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
			if err := os.WriteFile(filepath.Join(dir, ClientKey), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "not an ECDSA, RSA or Ed25519 key"},
		{"endless", func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, CACertificate), maxFile+1); err != nil {
				t.Fatal(err)
			}
		}, "larger than a PEM file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := create(t, options())
			tt.change(t, dir)
			_, err := LoadClient(filepath.Join(dir, CACertificate), filepath.Join(dir, ClientCertificate), filepath.Join(dir, ClientKey))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error: %v, want %q", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "c2VjcmV0") {
				t.Errorf("error holds the file: %v", err)
			}
		})
	}
	for name, now := range map[string]time.Time{"has expired on": time.Now().Add(-3 * DefaultValidity), "is not valid before": time.Now().Add(100 * time.Hour)} {
		opts := options()
		opts.Now = func() time.Time { return now }
		dir := create(t, opts)
		if _, err := LoadClient(filepath.Join(dir, CACertificate), filepath.Join(dir, ClientCertificate), filepath.Join(dir, ClientKey)); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("error: %v, want %q", err, name)
		}
	}
}

// Opening a FIFO waits for a writer; a key file that is one must not stop the program.
func TestFIFO(t *testing.T) {
	if _, err := exec.LookPath("mkfifo"); err != nil {
		t.Skip("no mkfifo")
	}
	path := filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("mkfifo", "-m", "600", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := readKey(path, ownerOnly); err == nil || !strings.Contains(err.Error(), "it is not a file") {
		t.Errorf("error: %v", err)
	}
}

// site is a server with ServerConfig over the files of a directory.
type site struct {
	url string
	mu  sync.Mutex
	all []error // warnings
}

func (s *site) warn(err error) { s.mu.Lock(); defer s.mu.Unlock(); s.all = append(s.all, err) }

func (s *site) warnings() []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]error(nil), s.all...)
}

func serve(t *testing.T, dir string, auth tls.ClientAuthType) *site {
	t.Helper()
	s := &site{}
	config, err := ServerConfig(filepath.Join(dir, CACertificate), filepath.Join(dir, ServerCertificate), filepath.Join(dir, ServerKey), ServerOptions{ClientAuth: auth, Warn: s.warn})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := "nobody"
		if len(r.TLS.VerifiedChains) > 0 {
			who = r.TLS.PeerCertificates[0].Subject.String()
		}
		io.WriteString(w, who+" "+r.Proto)
	}))
	listener := tls.NewListener(server.Listener, config)
	server.Listener = listener
	server.Config.TLSConfig = config
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	t.Cleanup(server.Close)
	s.url = "https://" + listener.Addr().String()
	return s
}

// get makes a connection of its own.
func get(url string, config *tls.Config) (body string, serial string, err error) {
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Get(url)
	if err != nil {
		return "", "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return string(text), response.TLS.PeerCertificates[0].SerialNumber.String(), err
}

func client(t *testing.T, dir string) *tls.Config {
	t.Helper()
	config, err := LoadClient(filepath.Join(dir, CACertificate), filepath.Join(dir, ClientCertificate), filepath.Join(dir, ClientKey))
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func TestServerAsksForCertificates(t *testing.T) {
	dir, other := create(t, options("127.0.0.1")), create(t, options("127.0.0.1"))
	pool, err := readPool(filepath.Join(dir, CACertificate))
	if err != nil {
		t.Fatal(err)
	}
	pair := func(dir, certificate, key string) tls.Certificate {
		t.Helper()
		p, err := readPair(filepath.Join(dir, certificate), filepath.Join(dir, key), ownerOnly)
		if err != nil {
			t.Fatal(err)
		}
		return *p
	}
	with := func(p tls.Certificate) *tls.Config {
		return &tls.Config{RootCAs: pool, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &p, nil }}
	}
	required, given := serve(t, dir, 0), serve(t, dir, tls.VerifyClientCertIfGiven)
	tests := []struct {
		name            string
		config          *tls.Config
		required, given string // the body; empty: refused
	}{
		{"ours", client(t, dir), "CN=client,O=c HTTP/2.0", "CN=client,O=c HTTP/2.0"},
		{"none", &tls.Config{RootCAs: pool}, "", "nobody HTTP/2.0"},
		{"another authority's", with(pair(other, ClientCertificate, ClientKey)), "", ""},
		{"the server's own", with(pair(dir, ServerCertificate, ServerKey)), "", ""},
		{"TLS 1.1", &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, "", ""},
	}
	for _, tt := range tests {
		for s, want := range map[*site]string{required: tt.required, given: tt.given} {
			body, _, err := get(s.url, tt.config)
			if body != want || (err != nil) != (want == "") {
				t.Errorf("%s: %q, %v; want %q", tt.name, body, err, want)
			}
		}
	}
	if _, err := ServerConfig("", "", "", ServerOptions{ClientAuth: tls.RequestClientCert}); err == nil || !strings.Contains(err.Error(), "proves nothing") {
		t.Errorf("certificates unverified: %v", err)
	}
}

// The files change under a running server and a client: both use the new ones in the next handshake, and a mistake in
// them is said and changes nothing.
func TestFilesChange(t *testing.T) {
	dir := create(t, options("127.0.0.1"))
	s := serve(t, dir, 0)
	config := client(t, dir)
	config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	_, first, err := get(s.url, config)
	if err != nil {
		t.Fatal(err)
	}

	// The certificate alone, of another pair.
	good := filepath.Join(dir, ServerCertificate)
	saved := filepath.Join(t.TempDir(), "saved")
	copyFile(t, good, saved)
	copyFile(t, filepath.Join(dir, ClientCertificate), good)
	for range 3 {
		if _, serial, err := get(s.url, config); err != nil || serial != first {
			t.Errorf("with a pair that does not fit: %v, the same certificate: %v", err, serial == first)
		}
	}
	if w := s.warnings(); len(w) != 1 || !strings.Contains(w[0].Error(), "the key is not the certificate's") {
		t.Errorf("warnings: %v", w)
	}
	copyFile(t, saved, good)
	if _, serial, err := get(s.url, config); err != nil || serial != first {
		t.Error(err)
	}

	if _, err := Rotate(dir, RotateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, serial, err := get(s.url, config); err != nil || serial == first {
		t.Errorf("after a rotation: %v, the same certificate: %v", err, serial == first)
	}
	// What the client sends is the new one as well.
	sent, err := config.GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	now, err := readCertificates(filepath.Join(dir, ClientCertificate))
	if err != nil {
		t.Fatal(err)
	}
	if !sent.Leaf.Equal(now[0]) {
		t.Error("the client still sends its old certificate")
	}

	// An authority that is taken out of the file is out, sessions from before included.
	fresh := create(t, options("127.0.0.1"))
	copyFile(t, filepath.Join(fresh, CACertificate), filepath.Join(dir, CACertificate))
	if _, _, err := get(s.url, config); err == nil {
		t.Error("a client of an authority that was taken out is served")
	}
	if w := s.warnings(); len(w) != 1 {
		t.Errorf("warnings: %v", w)
	}
}

// Requests without a pause while the files are rotated again and again: none fails, none is warned about.
func TestRotateUnderLoad(t *testing.T) {
	dir := create(t, options("127.0.0.1"))
	s := serve(t, dir, 0)
	stop := make(chan struct{})
	var asking sync.WaitGroup
	served := make([]int, 3)
	for i := range served {
		config := client(t, dir)
		asking.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, _, err := get(s.url, config); err != nil {
					t.Error(err)
					return
				}
				served[i]++
			}
		})
	}
	for range 20 {
		if _, err := Rotate(dir, RotateOptions{}); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	asking.Wait()
	for _, w := range s.warnings() {
		t.Error(w)
	}
	for _, n := range served {
		if n < 3 {
			t.Errorf("served %v; the test does not test", served)
		}
	}
}

// What needs no TLS must not go down with a certificate: an expired one is served, with a warning.
func TestExpiredServer(t *testing.T) {
	opts := options("127.0.0.1")
	opts.Now = func() time.Time { return time.Now().Add(-DefaultValidity - time.Hour) }
	dir := create(t, opts)
	s := serve(t, dir, tls.VerifyClientCertIfGiven)
	if w := s.warnings(); len(w) != 1 || !strings.Contains(w[0].Error(), "has expired on") {
		t.Errorf("warnings: %v", w)
	}
	pool, err := readPool(filepath.Join(dir, CACertificate))
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = get(s.url, &tls.Config{RootCAs: pool})
	var invalid x509.CertificateInvalidError
	if !errors.As(err, &invalid) || invalid.Reason != x509.Expired {
		t.Errorf("a client: %v", err)
	}
	var refused net.Error
	if errors.As(err, &refused) && refused.Timeout() {
		t.Errorf("a client waits for it: %v", err)
	}
}

// needTool skips without a program; CI has all of them.
func needTool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed", name)
	} else if err != nil {
		t.Skipf("%s is not installed", name)
	}
	return path
}

// Other programs judge what is made here more strictly than Go does: OpenSSL by RFC 5280 to the letter, and curl, which
// an installed system reports in with.
func TestOtherPrograms(t *testing.T) {
	dir := create(t, options("127.0.0.1", "provisioner.example.com"))
	file := func(name string) string { return filepath.Join(dir, name) }
	t.Run("openssl", func(t *testing.T) {
		openssl := needTool(t, "openssl")
		for purpose, name := range map[string]string{"sslserver": ServerCertificate, "sslclient": ClientCertificate} {
			out, err := exec.CommandContext(t.Context(), openssl, "verify", "-x509_strict", "-purpose", purpose, "-CAfile", file(CACertificate), file(name)).CombinedOutput()
			if err != nil {
				t.Errorf("%s: %v: %s", name, err, out)
			}
		}
		out, err := exec.CommandContext(t.Context(), openssl, "verify", "-x509_strict", "-verify_hostname", "other.example.com", "-CAfile", file(CACertificate), file(ServerCertificate)).CombinedOutput()
		if err == nil {
			t.Errorf("for another name: %s", out)
		}
	})
	t.Run("curl", func(t *testing.T) {
		curl := needTool(t, "curl")
		s := serve(t, dir, tls.VerifyClientCertIfGiven)
		run := func(args ...string) (string, error) {
			out, err := exec.CommandContext(t.Context(), curl, append([]string{"--silent", "--show-error", "--max-time", "10", "--noproxy", "*", s.url}, args...)...).Output()
			return string(out), err
		}
		for _, version := range []string{"1.2", "1.3"} {
			if out, err := run("--cacert", file(CACertificate), "--tlsv"+version, "--tls-max", version); err != nil || !strings.HasPrefix(out, "nobody") {
				t.Errorf("TLS %s: %q, %v", version, out, err)
			}
			if out, err := run("--cacert", file(CACertificate), "--cert", file(ClientCertificate), "--key", file(ClientKey), "--tlsv"+version, "--tls-max", version); err != nil || !strings.HasPrefix(out, "CN=client") {
				t.Errorf("TLS %s with a certificate: %q, %v", version, out, err)
			}
		}
		if out, err := run(); err == nil {
			t.Errorf("without the authority: %q", out)
		}
	})
}

// Credentials that matchbox's own script made, with OpenSSL: RSA, keys in PKCS #1.
func TestRSA(t *testing.T) {
	openssl := needTool(t, "openssl")
	dir := t.TempDir()
	extensions := `[ca]
basicConstraints=critical,CA:true,pathlen:0
keyUsage=digitalSignature,cRLSign,keyCertSign
[server]
extendedKeyUsage=serverAuth
keyUsage=digitalSignature,keyEncipherment
subjectAltName=IP:127.0.0.1
[client]
extendedKeyUsage=clientAuth
keyUsage=nonRepudiation,digitalSignature,keyEncipherment
`
	if err := os.WriteFile(filepath.Join(dir, "x.cnf"), []byte(extensions), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), openssl, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("openssl %v: %v: %s", args, err, out)
		}
	}
	for _, name := range []string{"ca", "server", "client"} {
		run("genrsa", "-traditional", "-out", name+".key", "2048")
		run("req", "-new", "-key", name+".key", "-subj", "/CN=fake-"+name, "-out", name+".csr")
		sign := []string{"-CA", CACertificate, "-CAkey", CAKey, "-CAcreateserial"}
		if name == "ca" {
			sign = []string{"-signkey", CAKey}
		}
		run(append([]string{"x509", "-req", "-in", name + ".csr", "-days", "365", "-extfile", "x.cnf", "-extensions", name, "-out", name + ".crt"}, sign...)...)
	}
	if text, err := os.ReadFile(filepath.Join(dir, ClientKey)); err != nil || !strings.Contains(string(text), "BEGIN RSA PRIVATE KEY") {
		t.Fatalf("not PKCS #1: %v", err)
	}
	noProblems(t, dir)
	s := serve(t, dir, 0)
	if body, _, err := get(s.url, client(t, dir)); err != nil || !strings.HasPrefix(body, "CN=fake-client") {
		t.Errorf("%q, %v", body, err)
	}
	// Its authority signs what rotation makes.
	if _, err := Rotate(dir, RotateOptions{}); err != nil {
		t.Fatal(err)
	}
	noProblems(t, dir)
	if body, _, err := get(s.url, client(t, dir)); err != nil || !strings.HasPrefix(body, "CN=client") {
		t.Errorf("after a rotation: %q, %v", body, err)
	}
}
