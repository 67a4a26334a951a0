package credentials

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var everything = []string{CACertificate, CAKey, ClientCertificate, ClientKey, ServerCertificate, ServerKey}

func options(names ...string) Options {
	if names == nil {
		names = []string{"provisioner.example.com", "192.0.2.2", "2001:db8::2"}
	}
	return Options{Cluster: "c", Names: names}
}

func create(t *testing.T, opts Options) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tls")
	if _, err := Create(dir, opts); err != nil {
		t.Fatal(err)
	}
	return dir
}

// contents are the files of a directory, without the lock.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range entries {
		if e.Name() == ".lock" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(text)
	}
	return all
}

func fileNames(files map[string]string) []string {
	var all []string
	for name := range files {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

func noProblems(t *testing.T, dir string) []Certificate {
	t.Helper()
	all, err := Inspect(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if len(c.Problems) > 0 {
			t.Errorf("%s: %q", c.Path, c.Problems)
		}
	}
	return all
}

func TestCreate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etc", "matchbox")
	written, err := Create(dir, options("Provisioner.example.com.", "provisioner.example.com", "192.0.2.2", "[2001:db8::2]", "::ffff:192.0.2.2"))
	if err != nil {
		t.Fatal(err)
	}
	if len(written) != 6 {
		t.Errorf("written: %v", written)
	}
	if d := cmp.Diff(everything, fileNames(contents(t, dir))); d != "" {
		t.Error(d)
	}
	all := noProblems(t, dir)
	if len(all) != 3 {
		t.Fatalf("%d certificates", len(all))
	}
	if d := cmp.Diff([]string{"provisioner.example.com", "192.0.2.2", "2001:db8::2"}, all[1].SANs); d != "" {
		t.Error(d)
	}
	for _, name := range []string{CAKey, ServerKey, ClientKey} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if runtime.GOOS != "windows" && info.Mode() != 0o600 {
			t.Errorf("%s: mode %s", name, info.Mode())
		}
		key, err := readKey(filepath.Join(dir, name), ownerOnly)
		if err != nil {
			t.Fatal(err)
		}
		if k, ok := key.(*ecdsa.PrivateKey); !ok || k.Curve != elliptic.P256() {
			t.Errorf("%s: not ECDSA P-256 but %T", name, key)
		}
	}
	// As others judge them: each for its own use alone.
	pool, err := readPool(filepath.Join(dir, CACertificate))
	if err != nil {
		t.Fatal(err)
	}
	for name, usage := range map[string]x509.ExtKeyUsage{ServerCertificate: x509.ExtKeyUsageServerAuth, ClientCertificate: x509.ExtKeyUsageClientAuth} {
		chain, err := readCertificates(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
			_, err := chain[0].Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{u}})
			if (err == nil) != (u == usage) {
				t.Errorf("%s for usage %d: %v", name, u, err)
			}
		}
	}
}

func TestCreateNeverOverwrites(t *testing.T) {
	dir := create(t, options())
	before := contents(t, dir)
	_, err := Create(dir, options("other.example.com"))
	if !errors.Is(err, ErrExists) {
		t.Errorf("a second time: %v", err)
	}
	if d := cmp.Diff(before, contents(t, dir)); d != "" {
		t.Error(d)
	}
}

// Whatever an interrupted run left is completed, and what is there stays as it is.
func TestCreateCompletes(t *testing.T) {
	order := []string{CAKey, CACertificate, ServerKey, ServerCertificate, ClientKey, ClientCertificate}
	for n := range len(order) {
		dir := create(t, options())
		for _, name := range order[n:] {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		before := contents(t, dir)
		written, err := Create(dir, options())
		if err != nil {
			t.Errorf("after %v: %v", order[:n], err)
			continue
		}
		if len(written) != len(order)-n {
			t.Errorf("after %v: %v", order[:n], written)
		}
		after := contents(t, dir)
		for name, text := range before {
			if after[name] != text {
				t.Errorf("after %v: %s was changed", order[:n], name)
			}
		}
		noProblems(t, dir)
	}
}

// What an interrupted run cannot have left is not completed by a guess.
func TestCreateRefuses(t *testing.T) {
	tests := []struct {
		name   string
		remove []string
		want   string
	}{
		{"no key of the authority", []string{CAKey, ClientCertificate, ClientKey}, "ca.crt is there without its key ca.key"},
		{"no key of the server", []string{ServerKey}, "server.crt is there without its key server.key"},
		{"no authority", []string{CACertificate, CAKey}, "server.crt is there without ca.crt"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := create(t, options())
			for _, name := range tt.remove {
				os.Remove(filepath.Join(dir, name))
			}
			before := contents(t, dir)
			if _, err := Create(dir, options()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error: %v, want %q", err, tt.want)
			}
			if d := cmp.Diff(before, contents(t, dir)); d != "" {
				t.Error(d)
			}
		})
	}

	t.Run("another authority's certificate", func(t *testing.T) {
		dir, other := create(t, options()), create(t, options())
		for _, name := range []string{ServerCertificate, ServerKey} {
			copyFile(t, filepath.Join(other, name), filepath.Join(dir, name))
		}
		os.Remove(filepath.Join(dir, ClientCertificate))
		if _, err := Create(dir, options()); err == nil || !strings.Contains(err.Error(), "server.crt is signed by") {
			t.Errorf("error: %v", err)
		}
	})
	// On a machine that only serves, the authority's key has no place; nothing is missing there.
	t.Run("the authority's key elsewhere", func(t *testing.T) {
		dir := create(t, options())
		os.Remove(filepath.Join(dir, CAKey))
		if _, err := Create(dir, options()); !errors.Is(err, ErrExists) {
			t.Errorf("error: %v", err)
		}
	})
	for _, bad := range [][]string{nil, {""}, {"https://x"}, {"x:8443"}, {"a b"}, {"x\n"}, {"-x"}, {"*.example.com"}, {strings.Repeat("a", 64) + ".com"}} {
		dir := filepath.Join(t.TempDir(), "tls")
		if bad == nil {
			bad = []string{}
		}
		_, err := Create(dir, options(bad...))
		if slices.Equal(bad, []string{"x\n"}) {
			if err != nil {
				t.Errorf("a trailing newline is not a name's: %v", err)
			}
			continue
		}
		if err == nil {
			t.Errorf("names %q are taken", bad)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("names %q: something was made", bad)
		}
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	for name := range contents(t, from) {
		copyFile(t, filepath.Join(from, name), filepath.Join(to, name))
	}
	return to
}

func TestTwoRunsAtOnce(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no lock there")
	}
	dir := create(t, options())
	unlock, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Rotate(dir, RotateOptions{Options: options()}); err == nil || !strings.Contains(err.Error(), "another run") {
		t.Errorf("while another run holds the lock: %v", err)
	}
	unlock()
	if _, err := Rotate(dir, RotateOptions{Options: options()}); err != nil {
		t.Error(err)
	}
}

func TestRotate(t *testing.T) {
	dir := create(t, options())
	before := contents(t, dir)
	if err := os.Chmod(filepath.Join(dir, ServerKey), 0o640); err != nil {
		t.Fatal(err)
	}
	written, err := Rotate(dir, RotateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(written) != 4 {
		t.Errorf("written: %v", written)
	}
	after := contents(t, dir)
	if d := cmp.Diff(everything, fileNames(after)); d != "" {
		t.Error(d)
	}
	for _, name := range everything {
		isCA := strings.HasPrefix(name, "ca.")
		if (before[name] == after[name]) != isCA {
			t.Errorf("%s: changed: %v", name, before[name] != after[name])
		}
	}
	if d := cmp.Diff([]string{"provisioner.example.com", "192.0.2.2", "2001:db8::2"}, noProblems(t, dir)[1].SANs); d != "" {
		t.Errorf("names: %s", d)
	}
	// The server's key stays its group's, where it was.
	if info, err := os.Stat(filepath.Join(dir, ServerKey)); err != nil || (runtime.GOOS != "windows" && info.Mode() != 0o640) {
		t.Errorf("mode of the server's key: %v, %v", info.Mode(), err)
	}
	if _, err := Rotate(dir, RotateOptions{Options: options("new.example.com")}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"new.example.com"}, noProblems(t, dir)[1].SANs); d != "" {
		t.Errorf("names: %s", d)
	}

	os.Remove(filepath.Join(dir, CAKey))
	if _, err := Rotate(dir, RotateOptions{}); err == nil || !strings.Contains(err.Error(), "run this where it is kept") {
		t.Errorf("without the authority's key: %v", err)
	}
}

func TestRotateAuthority(t *testing.T) {
	dir := create(t, options())
	first := contents(t, dir)
	begin, leaves, finish := RotateOptions{CA: true}, RotateOptions{}, RotateOptions{Finish: true}
	refused := func(opts RotateOptions, want string) {
		t.Helper()
		before := contents(t, dir)
		if _, err := Rotate(dir, opts); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error: %v, want %q", err, want)
		}
		if d := cmp.Diff(before, contents(t, dir)); d != "" {
			t.Error(d)
		}
	}
	do := func(opts RotateOptions) {
		t.Helper()
		if _, err := Rotate(dir, opts); err != nil {
			t.Fatal(err)
		}
		noProblems(t, dir)
	}
	refused(RotateOptions{CA: true, Finish: true}, "in one run")
	refused(finish, "none is under way")

	do(begin)
	if got := contents(t, dir); got[CACertificate] == first[CACertificate] || !strings.HasSuffix(got[CACertificate], first[CACertificate]) || got[ServerCertificate] != first[ServerCertificate] {
		t.Error("not: the new authority before the old one, and the certificates as they were")
	}
	refused(begin, "under way")
	refused(finish, "server.crt is still signed by it")
	do(leaves)
	do(finish)
	last := contents(t, dir)
	if strings.Contains(last[CACertificate], first[CACertificate]) || bytes.Count([]byte(last[CACertificate]), []byte("BEGIN")) != 1 {
		t.Error("the old authority is still there")
	}
	if d := cmp.Diff(everything, fileNames(last)); d != "" {
		t.Error(d)
	}
}

// A rotation that died between any two of its steps: whoever reads meanwhile gets a pair that fits and verifies, and the
// next run leaves things whole.
func TestRotateInterrupted(t *testing.T) {
	for _, opts := range []RotateOptions{{}, {CA: true}} {
		old := create(t, options())
		fresh := copyDir(t, old)
		if _, err := Rotate(fresh, opts); err != nil {
			t.Fatal(err)
		}
		// The renames and writes of rotateLeaves and rotateAuthority, one by one.
		type step struct{ name, to string }
		var steps []step
		if opts.CA {
			steps = []step{{CAKey, CAKey + next}, {CACertificate, CACertificate + next}, {CACertificate, ""}, {CAKey, ""}}
		} else {
			for _, l := range leaves {
				steps = append(steps, step{l.certificate, l.certificate + next}, step{l.key, l.key + next}, step{l.key, ""}, step{l.certificate, ""})
			}
		}
		for n := range len(steps) + 1 {
			dir := copyDir(t, old)
			for _, s := range steps[:n] {
				if s.to != "" {
					copyFile(t, filepath.Join(fresh, s.name), filepath.Join(dir, s.to))
				} else if err := promote(filepath.Join(dir, s.name)); err != nil {
					t.Fatal(err)
				}
			}
			file := func(name string) string { return filepath.Join(dir, name) }
			if _, err := LoadClient(file(CACertificate), file(ClientCertificate), file(ClientKey)); err != nil {
				t.Errorf("%+v after %d steps: %v", opts, n, err)
			}
			if _, err := ServerConfig(file(CACertificate), file(ServerCertificate), file(ServerKey), ServerOptions{}); err != nil {
				t.Errorf("%+v after %d steps: %v", opts, n, err)
			}
			if _, err := readAuthority(dir); err != nil {
				t.Errorf("%+v after %d steps: %v", opts, n, err)
			}
			// Any run tidies up, also one that has nothing to make.
			if _, err := Create(dir, options()); !errors.Is(err, ErrExists) {
				t.Errorf("%+v after %d steps: %v", opts, n, err)
			}
			noProblems(t, dir)
			if _, err := Rotate(dir, RotateOptions{}); err != nil {
				t.Errorf("%+v after %d steps: %v", opts, n, err)
				continue
			}
			if d := cmp.Diff(everything, fileNames(contents(t, dir))); d != "" {
				t.Errorf("%+v after %d steps: %s", opts, n, d)
			}
			noProblems(t, dir)
		}
	}
}

func TestInspect(t *testing.T) {
	now := time.Now()
	tests := []struct {
		name   string
		change func(t *testing.T, dir string)
		now    time.Time
		file   string
		want   string
	}{
		{"expires soon", nil, now.Add(DefaultValidity - 5*24*time.Hour), ServerCertificate, "expires in 4 days"},
		{"expired", nil, now.Add(DefaultValidity + time.Hour), ClientCertificate, "has expired on "},
		{"not yet valid", nil, now.Add(-48 * time.Hour), CACertificate, "is not valid before"},
		{"key mode", func(t *testing.T, dir string) { chmod(t, filepath.Join(dir, ClientKey), 0o640) }, now, ClientCertificate, "chmod 0600"},
		{"server's key mode", func(t *testing.T, dir string) { chmod(t, filepath.Join(dir, ServerKey), 0o644) }, now, ServerCertificate, "chmod 0640"},
		{"another key", func(t *testing.T, dir string) {
			copyFile(t, filepath.Join(dir, ServerKey), filepath.Join(dir, ClientKey))
		}, now, ClientCertificate, "does not belong to the key"},
		{"another authority", func(t *testing.T, dir string) {
			other := create(t, options())
			copyFile(t, filepath.Join(other, CACertificate), filepath.Join(dir, CACertificate))
			copyFile(t, filepath.Join(other, CAKey), filepath.Join(dir, CAKey))
		}, now, ServerCertificate, "is not signed by an authority in"},
		{"another authority's key", func(t *testing.T, dir string) {
			copyFile(t, filepath.Join(create(t, options()), CAKey), filepath.Join(dir, CAKey))
		}, now, CACertificate, "is not the key of a certificate in"},
		{"server's as client's", func(t *testing.T, dir string) {
			copyFile(t, filepath.Join(dir, ServerKey), filepath.Join(dir, ClientKey))
			copyFile(t, filepath.Join(dir, ServerCertificate), filepath.Join(dir, ClientCertificate))
		}, now, ClientCertificate, "is not made for a client"},
		{"client's as server's", func(t *testing.T, dir string) {
			copyFile(t, filepath.Join(dir, ClientKey), filepath.Join(dir, ServerKey))
			copyFile(t, filepath.Join(dir, ClientCertificate), filepath.Join(dir, ServerCertificate))
		}, now, ServerCertificate, "names no host"},
		{"no key", func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, ClientKey)) }, now, ClientCertificate, "has no usable key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := create(t, options())
			if tt.change != nil {
				tt.change(t, dir)
			}
			all, err := Inspect(dir, tt.now)
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, c := range all {
				if filepath.Base(c.Path) == tt.file && strings.Contains(strings.Join(c.Problems, "\n"), tt.want) {
					found = true
				}
			}
			if !found {
				t.Errorf("%s has no problem %q: %+v", tt.file, tt.want, all)
			}
		})
	}
	if _, err := Inspect(t.TempDir(), now); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty directory: %v", err)
	}
}

func chmod(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("no modes there")
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}
