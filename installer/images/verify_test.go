package images

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// Keys of these projects expire every year, images stay: the key below was good from 2020 to 2021.
func TestExpiredKey(t *testing.T) {
	at := func(year int) *packet.Config {
		return &packet.Config{Time: func() time.Time { return time.Date(year, 6, 1, 0, 0, 0, 0, time.UTC) }}
	}
	key, err := openpgp.NewEntity("images", "", "images@example.com", at(2020))
	if err != nil {
		t.Fatal(err)
	}
	sign := func(year int) []byte {
		var signature bytes.Buffer
		if err := openpgp.DetachSign(&signature, key, strings.NewReader("image"), at(year)); err != nil {
			t.Fatal(err)
		}
		return signature.Bytes()
	}
	then, later := sign(2020), sign(2023)
	// The same key with an end. Only a forger, who has the key of old, signs with it in 2023.
	year := uint32(365 * 24 * 3600)
	for _, id := range key.Identities {
		id.SelfSignature.KeyLifetimeSecs = &year
	}
	var public bytes.Buffer
	if err := key.SerializePrivate(new(bytes.Buffer), at(2020)); err != nil {
		t.Fatal(err)
	}
	if err := key.Serialize(&public); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "key.gpg")
	write(t, name, public.Bytes())
	keys, err := readKeys([]string{name})
	if err != nil {
		t.Fatal(err)
	}
	fingerprint, note, err := checkSignature(keys, strings.NewReader("image"), then, time.Now())
	if err != nil || !strings.Contains(note, "expired since") || len(fingerprint) != 40 {
		t.Errorf("signed in time: fingerprint %q, note %q, error %v", fingerprint, note, err)
	}
	if _, _, err := checkSignature(keys, strings.NewReader("image"), later, time.Now()); err == nil || !strings.Contains(err.Error(), "expired by then") {
		t.Errorf("signed with an expired key: error %v", err)
	}
	if _, _, err := checkSignature(keys, strings.NewReader("Image"), then, time.Now()); err == nil {
		t.Error("a signature of something else was taken")
	}
}

func TestReadDigests(t *testing.T) {
	sha512 := strings.Repeat("ab", 64)
	for _, test := range []struct {
		name, text string
		want       int
	}{
		{"as Flatcar writes it", "# MD5 HASH\n" + strings.Repeat("0", 32) + "  x\n# SHA1 HASH\n" + strings.Repeat("0", 40) + "  x\n# SHA512 HASH\n" + sha512 + "  x\n", 1},
		{"another file's", sha512 + "  y\n", 0},
		{"clear-signed", "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n" + sha512 + " x\n-----BEGIN PGP SIGNATURE-----\nabc\n", 1},
		{"not hex", strings.Repeat("xy", 64) + "  x\n", 0},
		{"empty", "", 0},
	} {
		if got := readDigests(test.text, "x"); len(got) != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}

func TestContentRange(t *testing.T) {
	for _, test := range []struct {
		text         string
		start, total int64
		ok           bool
	}{
		{"bytes 100-199/200", 100, 200, true},
		{"bytes 0-0/*", 0, -1, true},
		{"bytes */200", 0, 0, false},
		{"100-199/200", 0, 0, false},
		{"bytes 100-199", 0, 0, false},
		{"", 0, 0, false},
	} {
		start, total, ok := contentRange(test.text)
		if ok != test.ok || (ok && (start != test.start || total != test.total)) {
			t.Errorf("%q: %d, %d, %v", test.text, start, total, ok)
		}
	}
}
