package assets

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

// The script that a new system runs, against a TLS server: it tries again until it is heard, gives up when its token is
// not taken, verifies the server, and keeps the token out of every list of processes.
func TestReadyScript(t *testing.T) {
	needTool(t, "curl", "curl")
	const token = "ready-dG9rZW4tdG9rZW4"
	for _, row := range []struct {
		name     string
		answers  []int
		gone, ok bool
	}{
		{"heard at once", []int{200}, true, true},
		{"the second time", []int{503, 200}, true, true},
		{"not its token", []int{401}, true, false},
		{"spent", []int{410}, true, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var calls atomic.Int32
			var problems atomic.Pointer[string]
			server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n := int(calls.Add(1))
				if r.URL.Path != machine.PathReady || r.Method != http.MethodPost || r.Header.Get("Authorization") != "Bearer "+token {
					problem := r.Method + " " + r.URL.Path + " " + r.Header.Get("Authorization")
					problems.Store(&problem)
				}
				if where := shownBy(token); where != "" {
					problem := "the token is on the command line or in the environment of " + where
					problems.Store(&problem)
				}
				w.WriteHeader(row.answers[min(n, len(row.answers))-1])
			}))
			defer server.Close()
			left, stderr, err := runReady(t, server.Listener.Addr().String(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), token)
			if p := problems.Load(); p != nil {
				t.Error(*p)
			}
			if int(calls.Load()) != len(row.answers) || (err == nil) != row.ok || left == row.gone {
				t.Errorf("%d calls, %v, the token is left: %v\n%s", calls.Load(), err, left, stderr)
			}
		})
	}
}

// runReady runs the script below a directory of its own until it ends.
func runReady(t *testing.T, server string, ca []byte, token string) (left bool, stderr string, err error) {
	t.Helper()
	dir := t.TempDir()
	c := parse(t, system(small, cluster.Flatcar, "4230.2.0"))
	c.Matchbox.Machines = server
	script := strings.ReplaceAll(readyText(c), "/etc/tectonic-machine", dir)
	tokenFile := filepath.Join(dir, "ready.token")
	for name, text := range map[string][]byte{"ready.sh": []byte(script), "ca.crt": ca, "ready.token": []byte(token + "\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "/bin/sh", filepath.Join(dir, "ready.sh"))
	var out bytes.Buffer
	cmd.Stderr = &out
	err = cmd.Run()
	_, stat := os.Stat(tokenFile)
	return stat == nil, out.String(), err
}

// shownBy looks for a text in every process's command line and environment (proc(5)).
func shownBy(text string) string {
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	environments, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, name := range append(names, environments...) {
		if content, err := os.ReadFile(name); err == nil && bytes.Contains(content, []byte(text)) {
			return name
		}
	}
	return ""
}

// A system that has no token, because it has reported or was not installed by us, does nothing.
func TestReadyScriptWithoutToken(t *testing.T) {
	dir := t.TempDir()
	script := strings.ReplaceAll(readyScript, "/etc/tectonic-machine", dir)
	if out, err := exec.CommandContext(t.Context(), "/bin/sh", "-c", script).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// A server with another certificate never sees the token.
func TestReadyScriptVerifies(t *testing.T) {
	needTool(t, "curl", "curl")
	var calls atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls.Add(1) }))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes, which fail here
	server.StartTLS()
	defer server.Close()
	dir := t.TempDir()
	c := parse(t, system(small, cluster.Flatcar, "4230.2.0"))
	c.Matchbox.Machines = server.Listener.Addr().String()
	// One round of the loop is enough.
	script := strings.NewReplacer("/etc/tectonic-machine", dir, "sleep 5", "exit 3").Replace(readyText(c))
	for name, text := range map[string][]byte{"ca.crt": authority(t), "ready.token": []byte("x\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.CommandContext(t.Context(), "/bin/sh", "-c", script).CombinedOutput()
	if err == nil || calls.Load() != 0 || !strings.Contains(string(out), "certificate") {
		t.Errorf("%d calls, %v\n%s", calls.Load(), err, out)
	}
}

// authority is a certificate of an authority that nobody knows.
func authority(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "another"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
