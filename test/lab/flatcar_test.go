package lab

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
)

// TestFlatcarInstallIsStrict runs the double with what the real one would refuse, and with what it would do and the double
// does not: each ends it before it looks at a disk.
func TestFlatcarInstallIsStrict(t *testing.T) {
	config := filepath.Join(t.TempDir(), "config.ign")
	if err := os.WriteFile(config, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, want string }{
		{"", "-d is required"},
		{"-V 1.2.3 -b http://127.0.0.1:1", "-d is required"},
		{"-d /dev/null -q", "Usage:"},
		{"--device /dev/null", "Usage:"},
		{"-d /dev/null somewhere", "no arguments are expected"},
		{"-s -V 1.2.3", "does not do -s"},
		{"-d /dev/null -f image.bin", "does not do -f"},
		{"-d /dev/null -c cloud.yaml", "does not do -c"},
		{"-d /dev/null -n", "does not do -n"},
		{"-d " + config + " -V 1.2.3 -b http://127.0.0.1:1", "is not a whole disk"},
		{"-d /dev/null -V 1.2.3 -b http://127.0.0.1:1", "is not a whole disk"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		out, err := exec.CommandContext(ctx, "sh", append([]string{"metal/flatcar-install.sh"}, strings.Fields(c.args)...)...).CombinedOutput()
		cancel()
		if err == nil || !strings.Contains(string(out), c.want) {
			t.Errorf("flatcar-install %s: %v, %q; want %q", c.args, err, out, c.want)
		}
	}
}

// TestFlatcarSignatures: every file of the lab's release has a signature that the published key made.
func TestFlatcarSignatures(t *testing.T) {
	cache := &Cache{Dir: DefaultCacheDir()}
	path, err := cache.flatcarPath()
	if err != nil {
		t.Fatal(err)
	}
	if !exists(path) {
		t.Skip("the machines' operating system is not in the lab's cache: run \"make lab\"")
	}
	f, err := cache.Flatcar(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	armored, err := os.Open(f.Key)
	if err != nil {
		t.Fatal(err)
	}
	defer armored.Close()
	keys, err := openpgp.ReadArmoredKeyRing(armored)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(f.Dir, "amd64-usr", FlatcarVersion, "*.sig"))
	if err != nil || len(files) != 4 {
		t.Fatalf("signatures: %v, %v", files, err)
	}
	for _, signature := range files {
		s, err := os.Open(signature)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := os.Open(strings.TrimSuffix(signature, ".sig"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := openpgp.CheckDetachedSignature(keys, signed, s, nil); err != nil {
			t.Errorf("%s: %v", filepath.Base(signature), err)
		}
		s.Close()
		signed.Close()
	}
}
