package machine

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"regexp"
)

// Kinds of tokens; the kind is the token's prefix, so that one that turns up in a log or a file is recognised.
const (
	tokenOnce    = "once"    // in the install profile's kernel arguments: hello, checks, claim, failed
	tokenSession = "session" // from claim until installed or failed
	tokenReady   = "ready"   // for the installed system's first report
)

// tokenShape finds a token of ours in any text.
var tokenShape = regexp.MustCompile(`tectonic-(once|session|ready)-[A-Za-z0-9_-]{43}`)

// digest is a token as it is kept: its SHA-256. The token has 256 random bits, so no salt and no slow hash is needed.
type digest [sha256.Size]byte

func newToken(kind string) (string, digest) {
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails: it ends the program where the kernel has no randomness
	token := "tectonic-" + kind + "-" + base64.RawURLEncoding.EncodeToString(raw[:])
	return token, digestOf(token)
}

func digestOf(token string) digest { return sha256.Sum256([]byte(token)) }

func (d digest) is(other digest) bool {
	return !d.none() && subtle.ConstantTimeCompare(d[:], other[:]) == 1
}

func (d digest) none() bool { return d == digest{} }

func (d digest) MarshalText() ([]byte, error) {
	if d.none() {
		return nil, nil
	}
	return base64.RawURLEncoding.AppendEncode(nil, d[:]), nil
}

func (d *digest) UnmarshalText(text []byte) error {
	*d = digest{}
	if len(text) == 0 {
		return nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(string(text))
	if err != nil || len(raw) != len(d) {
		return refuse(ErrInvalid, "a token's digest of %d characters is not one of ours", len(text))
	}
	copy(d[:], raw)
	return nil
}
