package images

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
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

func TestMain(m *testing.M) {
	backoff = func(int) time.Duration { return time.Millisecond }
	if run := os.Getenv("IMAGES_TEST_SYNC"); run != "" {
		os.Exit(syncChild(run))
	}
	os.Exit(m.Run())
}

func needTool(t *testing.T, program, debian string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed (Debian: %s)", program, debian)
		}
		t.Skipf("%s is not installed (Debian: %s)", program, debian)
	}
}

// noise is content that no compression and no off-by-one makes look right.
func noise(seed uint64, n int) []byte {
	r := rand.NewChaCha8(sha256.Sum256(fmt.Appendf(nil, "%d", seed)))
	b := make([]byte, n)
	r.Read(b)
	return b
}

func write(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// gnupg signs with the real gpg and keys of its own.
type gnupg struct {
	t    *testing.T
	home string
	Key  string // the exported public key
}

// newGPG makes an Ed25519 key; newRSA an RSA key that only certifies, with a subkey that signs and ends, as the projects
// have them.
func newGPG(t *testing.T) *gnupg { return newKey(t, false, "ed25519", "sign") }
func newRSA(t *testing.T) *gnupg { return newKey(t, true, "rsa2048", "cert") }

func newKey(t *testing.T, subkey bool, algorithm, usage string) *gnupg {
	t.Helper()
	needTool(t, "gpg", "gpg")
	// The agent's socket must fit into 108 bytes.
	home, err := os.MkdirTemp("", "gpg")
	if err != nil {
		t.Fatal(err)
	}
	g := &gnupg{t: t, home: home, Key: filepath.Join(t.TempDir(), "key.asc")}
	t.Cleanup(func() {
		exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
		os.RemoveAll(home)
	})
	g.gpg("--passphrase", "", "--quick-generate-key", "images@example.com", algorithm, usage, "never")
	if subkey {
		out, err := exec.Command("gpg", "--homedir", home, "--batch", "--with-colons", "--list-keys").Output()
		_, rest, found := strings.Cut(string(out), "\nfpr:::::::::")
		fingerprint, _, _ := strings.Cut(rest, ":")
		if err != nil || !found {
			t.Fatalf("gpg --list-keys: %v\n%s", err, out)
		}
		g.gpg("--passphrase", "", "--quick-add-key", fingerprint, "rsa2048", "sign", "1y")
	}
	g.gpg("--armor", "--output", g.Key, "--export")
	return g
}

func (g *gnupg) gpg(arg ...string) {
	g.t.Helper()
	cmd := exec.Command("gpg", append([]string{"--homedir", g.home, "--batch", "--yes", "--pinentry-mode", "loopback"}, arg...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		g.t.Fatalf("gpg %s: %v\n%s", strings.Join(arg, " "), err, out)
	}
}

func (g *gnupg) sign(name string, option ...string) {
	g.t.Helper()
	g.gpg(append(option, "--output", name+".sig", "--detach-sign", name)...)
}

const flatcarTestVersion = "3975.2.2"

// flatcarMirror makes a tree as the release servers have it, each file signed, and gives its directory.
func flatcarMirror(t *testing.T, g *gnupg, versions ...string) string {
	t.Helper()
	dir := t.TempDir()
	if len(versions) == 0 {
		versions = []string{flatcarTestVersion}
	}
	for v, version := range versions {
		for i, name := range flatcarFiles {
			path := filepath.Join(dir, "amd64-usr", version, name)
			content := noise(uint64(100*v+i), 300_000+1000*i+v)
			write(t, path, content)
			s := sha512.Sum512(content)
			write(t, path+".DIGESTS", fmt.Appendf(nil, "# MD5 HASH\n%032x  %s\n# SHA512 HASH\n%s  %s\n", 1, name, hex.EncodeToString(s[:]), name))
			if g != nil {
				g.sign(path)
			}
		}
	}
	current := filepath.Join(dir, "amd64-usr/current/version.txt")
	write(t, current, fmt.Appendf(nil, "FLATCAR_BUILD=1\nFLATCAR_VERSION=%s\nFLATCAR_VERSION_ID=x\n", versions[len(versions)-1]))
	if g != nil {
		g.sign(current)
	}
	return dir
}

// mirror serves a directory and fails as it is told to.
type mirror struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string // "GET path range"
	sent     map[string]int64
	// fault may answer a request itself.
	fault func(w http.ResponseWriter, r *http.Request, n int) bool
}

func serve(t *testing.T, dir string, fault func(w http.ResponseWriter, r *http.Request, n int) bool) *mirror {
	t.Helper()
	m := &mirror{fault: fault, sent: map[string]int64{}}
	files := http.FileServer(http.Dir(dir))
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		m.requests = append(m.requests, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+r.Header.Get("Range")))
		n := len(m.requests)
		m.mu.Unlock()
		c := &countingWriter{ResponseWriter: w}
		defer func() {
			m.mu.Lock()
			m.sent[r.URL.Path] += c.n
			m.mu.Unlock()
		}()
		if content, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(r.URL.Path))); err == nil {
			c.Header().Set("ETag", `"`+sum(content).value[:16]+`"`)
		}
		if m.fault != nil && m.fault(c, r, n) {
			return
		}
		files.ServeHTTP(c, r)
	}))
	t.Cleanup(m.Close)
	return m
}

func (m *mirror) seen() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.requests...)
}

func (m *mirror) bytes(path string) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sent[path]
}

type countingWriter struct {
	http.ResponseWriter
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n += int64(n)
	return n, err
}

func (c *countingWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// coreOSMirror makes metadata and artifacts as builds.coreos.fedoraproject.org has them.
func coreOSMirror(t *testing.T, g *gnupg, version string, arches ...string) string {
	t.Helper()
	dir := t.TempDir()
	type artifact map[string]string
	streamArches, releaseArches := map[string]any{}, map[string]any{}
	for a, arch := range arches {
		make := func(name string, seed int) artifact {
			path := fmt.Sprintf("prod/streams/stable/builds/%s/%s/fedora-coreos-%s-%s", version, arch, version, name)
			content := noise(uint64(1000*a+seed), 120_000+seed)
			write(t, filepath.Join(dir, path), content)
			g.sign(filepath.Join(dir, path))
			url := "https://builds.coreos.fedoraproject.org/" + path
			return artifact{"location": url, "signature": url + ".sig", "sha256": sum(content).value}
		}
		formats := map[string]any{
			"pxe": map[string]artifact{
				"kernel":    make("live-kernel-"+arch, 1), // the name before 2025
				"initramfs": make("live-initramfs."+arch+".img", 2),
				"rootfs":    make("live-rootfs."+arch+".img", 3),
			},
			"raw.xz": map[string]artifact{"disk": make("metal."+arch+".raw.xz", 4)},
		}
		streamArches[arch] = map[string]any{"artifacts": map[string]any{"metal": map[string]any{"release": version, "formats": formats}}}
		releaseArches[arch] = map[string]any{"commit": "x", "media": map[string]any{"metal": map[string]any{"artifacts": formats}}}
	}
	put := func(name string, v any) {
		var b bytes.Buffer
		if err := json.NewEncoder(&b).Encode(v); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), b.Bytes())
	}
	put("streams/stable.json", map[string]any{"stream": "stable", "architectures": streamArches})
	put("prod/streams/stable/builds/"+version+"/release.json", map[string]any{"release": version, "stream": "stable", "architectures": releaseArches})
	return dir
}
