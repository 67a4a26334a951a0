package server

import (
	"context"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// keyring writes a secret keyring and its public part.
func keyring(t *testing.T, passphrase string, armoured bool) (secret, public string) {
	t.Helper()
	config := &packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048}
	key, err := openpgp.NewEntity("provisioner", "", "provisioner@example.com", config)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	secret, public = filepath.Join(dir, "secret.gpg"), filepath.Join(dir, "public.gpg")
	var b strings.Builder
	if err := key.Serialize(&b); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(public, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	if passphrase != "" {
		if err := key.EncryptPrivateKeys([]byte(passphrase), config); err != nil {
			t.Fatal(err)
		}
	}
	b.Reset()
	if armoured {
		w, err := armor.Encode(&b, openpgp.PrivateKeyType, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err = key.SerializePrivateWithoutSigning(w, nil); err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	} else if err := key.SerializePrivateWithoutSigning(&b, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(secret, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return secret, public
}

// TestSignatures has GnuPG check the signatures, of matchbox as well.
func TestSignatures(t *testing.T) {
	if _, err := exec.LookPath("gpg"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("gpg is not installed")
		}
		t.Skip("gpg is not installed")
	}
	secret, public := keyring(t, "", false)
	locked, lockedPublic := keyring(t, "open sesame", true)
	dir := writeData(t, protocolData)
	for _, c := range []struct {
		name, public string
		options      Options
	}{
		{"a binary keyring", public, Options{KeyRingPath: secret}},
		{"an armoured one with a passphrase", lockedPublic, Options{KeyRingPath: locked, Passphrase: "open sesame"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.options.DataPath = dir
			h := httptest.NewServer(start(t, c.options).HTTP())
			defer h.Close()
			checkSignatures(t, h.Listener.Addr().String(), c.public, []string{"/boot.ipxe", "/boot.ipxe.0", "/ipxe", "/grub", "/ignition", "/generic", "/cloud", "/metadata"})
			for _, lost := range []string{"/ipxe.sig?case=missing", "/generic.asc?case=tmpl", "/.sig", "/assets/hello.txt.sig"} {
				if got := ask(t, h.Listener.Addr().String(), lost, ""); got.status != 404 {
					t.Errorf("%s answers %d", lost, got.status)
				}
			}
		})
	}
	t.Run("the gate", func(t *testing.T) {
		gate := &double{next: []Decision{{Install: true}}}
		h := httptest.NewServer(start(t, Options{DataPath: writeData(t, gateData), KeyRingPath: secret, Gate: gate}).HTTP())
		defer h.Close()
		at := h.Listener.Addr().String()
		for _, path := range []string{"/ipxe.sig", "/ipxe.asc", "/grub.sig", "/grub.asc"} {
			if got := ask(t, at, path+"?mac=52:54:00:00:00:01", ""); got.status != 404 || len(gate.asked) > 0 {
				t.Errorf("%s answers %d and asked the gate %d times: a signature must not spend what was armed", path, got.status, len(gate.asked))
			}
		}
		checkSignatures(t, at, public, []string{"/boot.ipxe"})
	})
	t.Run("matchbox", func(t *testing.T) {
		for _, program := range realMatchboxes(t) {
			// Its lines of metadata are in another order each time.
			checkSignatures(t, runMatchbox(t, program, dir, "-key-ring-path", secret), public, []string{"/boot.ipxe", "/ipxe", "/grub", "/generic", "/cloud"})
		}
	})
}

func checkSignatures(t *testing.T, at, public string, paths []string) {
	t.Helper()
	const query = "?mac=52-54-00-b7-00-01"
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	home := t.TempDir()
	gpg := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "gpg", append([]string{"--batch", "--no-tty", "--homedir", home, "--no-autostart", "--trust-model", "always"}, args...)...)
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := gpg("--import", public); err != nil {
		t.Fatalf("gpg --import: %v\n%s", err, out)
	}
	for _, path := range paths {
		for suffix, kind := range map[string]string{".sig": "application/octet-stream", ".asc": textPlain} {
			signature := ask(t, at, path+suffix+query, "")
			if signature.status != 200 || signature.contentType != kind {
				t.Errorf("%s%s answers %d, %s; want 200, %s", path, suffix, signature.status, signature.contentType, kind)
				continue
			}
			writeFile(t, home, "body", ask(t, at, path+query, "").body)
			writeFile(t, home, "signature", signature.body)
			if out, err := gpg("--verify", filepath.Join(home, "signature"), filepath.Join(home, "body")); err != nil || !strings.Contains(out, "Good signature") {
				// The signed query differs for /generic and /metadata: not in what they show of it.
				t.Errorf("%s%s: %v\n%s", path, suffix, err, out)
			}
		}
	}
}

func TestSignerRefuses(t *testing.T) {
	locked, public := keyring(t, "open sesame", false)
	empty := filepath.Join(t.TempDir(), "empty")
	writeFile(t, filepath.Dir(empty), "empty", "no keyring")
	for _, c := range []struct{ name, path, passphrase, want string }{
		{"not there", "/does/not/exist", "", "no such file"},
		{"no keyring", empty, "", "cannot sign: " + empty},
		{"no secret key", public, "", "no secret key"},
		{"no passphrase", locked, "", "MATCHBOX_PASSPHRASE"},
		{"the wrong one", locked, "hush", "does not open"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := New(Options{DataPath: writeData(t, nil), KeyRingPath: c.path, Passphrase: c.passphrase})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("the error is %v, want %q", err, c.want)
			}
			if c.passphrase != "" && strings.Contains(err.Error(), c.passphrase) {
				t.Errorf("the passphrase is in the error: %v", err)
			}
		})
	}
}
