package container

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Fingerprints are what the real gpg says, armored or not, with subkeys too.
func TestFingerprint(t *testing.T) {
	if _, err := exec.LookPath("gpg"); err != nil {
		missing(t, "gpg is not installed")
	}
	home, err := os.MkdirTemp("", "gpg") // a short name, for the agent's socket
	if err != nil {
		t.Fatal(err)
	}
	gpg := func(args ...string) []byte {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "gpg", append([]string{"--homedir", home, "--batch", "--quiet", "--pinentry-mode=loopback", "--passphrase="}, args...)...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("gpg %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
		}
		return out
	}
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run() // there may be no agent
		os.RemoveAll(home)
	})
	for _, algo := range []string{"rsa2048", "ed25519"} {
		gpg("--quick-generate-key", algo+"@example.com", algo, "sign", "never")
	}
	var prints []string
	for line := range strings.Lines(string(gpg("--list-keys", "--with-colons"))) {
		if f := strings.Split(line, ":"); f[0] == "fpr" {
			prints = append(prints, strings.ToLower(f[9]))
		}
	}
	if len(prints) != 2 {
		t.Fatalf("gpg lists %q", prints)
	}
	gpg("--quick-add-key", strings.ToUpper(prints[0]), "rsa2048", "encr", "never")
	for _, want := range prints {
		for _, form := range [][]string{{"--export"}, {"--armor", "--export"}, {"--armor", "--comment=a: b", "--export"}} {
			key := gpg(append(form, want)...)
			if got, err := Fingerprint(key); err != nil || got != want {
				t.Errorf("%v: %s, %v; gpg says %s", form, got, err, want)
			}
			if err := CheckTrustedKey(key); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("another key than Quay's is trusted: %v", err)
			}
			for cut := range len(key) { // no half of a key is one, and none panics
				if got, err := Fingerprint(key[:cut]); err == nil && got != want {
					t.Errorf("%d bytes of the key have the fingerprint %s", cut, got)
				}
			}
		}
	}
	for name, key := range map[string][]byte{
		"two keys":         gpg("--export"),
		"two armored keys": append(gpg("--armor", "--export", prints[0]), gpg("--armor", "--export", prints[1])...),
		"a secret key":     gpg("--armor", "--export-secret-keys", prints[0]),
		"nothing":          nil,
		"an HTML page":     []byte("<!DOCTYPE html><html><body>Sign in</body></html>"),
	} {
		if got, err := Fingerprint(key); err == nil {
			t.Errorf("%s has the fingerprint %s", name, got)
		}
	}
}

func FuzzFingerprint(f *testing.F) {
	f.Add([]byte("\x99\x00\x05\x04abcd"))
	f.Add([]byte("\xc6\x05\x04abcd"))
	f.Add([]byte("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQAFBGFiY2Q=\n=abcd\n-----END PGP PUBLIC KEY BLOCK-----\n"))
	f.Fuzz(func(t *testing.T, key []byte) {
		if got, err := Fingerprint(key); err == nil && len(got) != 40 {
			t.Errorf("%q", got)
		}
	})
}
