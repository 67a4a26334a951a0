package live

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

const (
	testMAC   = "52:54:00:a1:9c:ae"
	testToken = "one-time-0123456789"
	gib       = int64(1) << 30
)

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// host is a file system tree as a machine's live system shows it.
type host struct {
	t    *testing.T
	root string
}

func newHost(t *testing.T) *host {
	h := &host{t, t.TempDir()}
	h.write("/proc/meminfo", "MemTotal:        8129020 kB\nMemFree:         7000000 kB\n")
	h.write("/proc/self/mountinfo", "21 1 0:20 / / rw,relatime shared:1 - tmpfs rootfs rw\n")
	h.write("/proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n")
	h.write("/sys/devices/system/memory/block_size_bytes", "8000000\n")
	for i := range 64 {
		h.write(fmt.Sprintf("/sys/devices/system/memory/memory%d/online", i), "1\n")
	}
	for i := range 4 {
		topology := fmt.Sprintf("/sys/devices/system/cpu/cpu%d/topology/", i)
		h.write(topology+"physical_package_id", "0\n")
		h.write(topology+"core_id", fmt.Sprint(i/2, "\n"))
	}
	h.write("/sys/class/net/lo/type", "772\n")
	h.write("/sys/class/net/lo/address", "00:00:00:00:00:00\n")
	h.write("/sys/class/net/eth0/type", "1\n")
	h.write("/sys/class/net/eth0/address", strings.ToUpper(testMAC)+"\n")
	h.program("flatcar-install", "exit 1")
	if err := os.MkdirAll(h.path("/dev"), 0o755); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *host) path(name string) string { return filepath.Join(h.root, name) }

func (h *host) write(name, content string) {
	h.t.Helper()
	write(h.t, h.path(name), content)
}

func (h *host) program(name, script string) {
	h.t.Helper()
	h.write("/usr/bin/"+name, "#!/bin/sh\n"+script+"\n")
	if err := os.Chmod(h.path("/usr/bin/"+name), 0o755); err != nil {
		h.t.Fatal(err)
	}
}

// disk adds a sparse disk of size bytes; attributes are files below /sys/block/NAME.
func (h *host) disk(name string, size int64, attributes map[string]string) string {
	h.t.Helper()
	file := h.path("/dev/" + name)
	write(h.t, file, "")
	if err := os.Truncate(file, size); err != nil {
		h.t.Fatal(err)
	}
	h.sysfs(name, size, attributes)
	return file
}

func (h *host) sysfs(name string, size int64, attributes map[string]string) {
	h.t.Helper()
	dir := "/sys/block/" + name
	n := 0
	for _, c := range name {
		n = n*31 + int(c)
	}
	for key, value := range map[string]string{"size": fmt.Sprint(size / 512), "removable": "0", "ro": "0", "queue/rotational": "0",
		"dev": fmt.Sprintf("8:%d", n%100000), "device/type": "0"} {
		h.write(dir+"/"+key, value+"\n")
	}
	for key, value := range attributes {
		h.write(dir+"/"+key, value+"\n")
	}
}

// provisionerDouble is a double of the machine API: it checks the order of the calls and their tokens, and keeps what
// was said. The real one is tested in TestWithTheRealAPI.
type provisionerDouble struct {
	t      *testing.T
	server *httptest.Server
	images *httptest.Server
	order  machine.Instruction
	claims machine.Claimed

	mu       sync.Mutex
	calls    []string
	hello    machine.Hello
	checks   machine.Checks
	claim    machine.Claim
	progress []machine.Progress
	failure  machine.Failure
	answer   map[string][]int // statuses to give first, by path
	ends     []string
}

func newProvisionerDouble(t *testing.T) *provisionerDouble {
	p := &provisionerDouble{t: t, answer: map[string][]int{}, claims: machine.Claimed{Session: "session-0123456789", Ready: "ready-0123456789"}}
	p.server = httptest.NewTLSServer(p)
	p.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(p.server.Close)
	p.images = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/assets/flatcar/3510.2.0/flatcar_production_image.bin.bz2") {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Length", "1000000")
	}))
	t.Cleanup(p.images.Close)
	p.order = machine.Instruction{Machine: "node1", Action: machine.ActionInstall,
		Minimum: machine.Minimum{Memory: 8e9, Cores: 2, Disk: 30e9},
		Image:   machine.Image{OS: "flatcar", Channel: "stable", Version: "3510.2.0", Arch: arch("amd64"), BaseURL: p.images.URL + "/assets/flatcar/3510.2.0"}}
	if h := arch(os.Getenv("GOARCH")); h != "" {
		p.order.Image.Arch = h
	}
	return p
}

func (p *provisionerDouble) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	name := strings.TrimPrefix(r.URL.Path, machine.APIPath+"machine/")
	p.calls = append(p.calls, name)
	if statuses := p.answer[name]; len(statuses) > 0 {
		p.answer[name] = statuses[1:]
		w.WriteHeader(statuses[0])
		fmt.Fprintf(w, `{"error":"status %d was asked for"}`, statuses[0])
		return
	}
	want, out := testToken, any(machine.Answer{})
	var in any = &machine.Answer{}
	switch r.URL.Path {
	case machine.PathHello:
		in, out = &p.hello, p.order
	case machine.PathChecks:
		in = &p.checks
	case machine.PathClaim:
		in, out = &p.claim, p.claims
	case machine.PathProgress:
		p.progress = append(p.progress, machine.Progress{})
		in, want = &p.progress[len(p.progress)-1], p.claims.Session
	case machine.PathInstalled:
		want = p.claims.Session
	case machine.PathFailed:
		in, want = &p.failure, r.Header.Get("Authorization")[len("Bearer "):]
	default:
		http.NotFound(w, r)
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+want {
		p.t.Errorf("%s came with the wrong token", name)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if err := json.NewDecoder(r.Body).Decode(in); err != nil {
		p.t.Errorf("%s: %v", name, err)
	}
	_ = json.NewEncoder(w).Encode(out)
}

// live is the host's live system, booted with what the double armed it with.
func (p *provisionerDouble) live(h *host) *Live {
	h.write(PathCA, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.server.Certificate().Raw})))
	h.write("/proc/cmdline", fmt.Sprintf("BOOT_IMAGE=vmlinuz console=ttyS0 %s=%s %s=%s %s=%s\n",
		machine.ArgServer, p.server.URL, machine.ArgToken, testToken, machine.ArgMAC, testMAC))
	return &Live{Root: h.root, Out: testOutput{p.t}, patience: 10 * time.Second, End: func(_ context.Context, how string) error {
		p.ends = append(p.ends, how)
		return nil
	}}
}

// said is the sequence of calls, progress left out: its number depends on time.
func (p *provisionerDouble) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []string
	for _, c := range p.calls {
		if c != "progress" {
			all = append(all, c)
		}
	}
	return strings.Join(all, " ")
}

// otherAuthority is a certificate that signed nothing.
func otherAuthority(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	of := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, of, of, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

type testOutput struct{ t *testing.T }

func (o testOutput) Write(line []byte) (int, error) {
	o.t.Log(strings.TrimSpace(string(line)))
	for _, secret := range []string{testToken, "session-0123456789", "ready-0123456789", "top-secret"} {
		if strings.Contains(string(line), secret) {
			o.t.Errorf("a secret is in the output: %s", line)
		}
	}
	return len(line), nil
}
