package images

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// digest is an algorithm, sha256 or sha512, and its value in lower-case hex.
type digest struct{ algorithm, value string }

func newDigest(algorithm, value string) (digest, error) {
	d := digest{strings.ToLower(algorithm), strings.ToLower(value)}
	sizes := map[string]int{"sha256": sha256.Size, "sha512": sha512.Size}
	raw, err := hex.DecodeString(d.value)
	if size, ok := sizes[d.algorithm]; !ok || err != nil || len(raw) != size {
		return digest{}, fmt.Errorf("%s:%s is no SHA-256 or SHA-512 digest", algorithm, value)
	}
	return d, nil
}

func (d digest) hash() hash.Hash {
	if d.algorithm == "sha512" {
		return sha512.New()
	}
	return sha256.New()
}

func sum(content []byte) digest {
	d := sha256.Sum256(content)
	return digest{"sha256", hex.EncodeToString(d[:])}
}

// readKeys reads public keys, armoured or not.
func readKeys(files []string) (openpgp.EntityList, error) {
	var keys openpgp.EntityList
	for _, name := range files {
		content, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("cannot read the signing key: %w", err)
		}
		var list openpgp.EntityList
		if bytes.Contains(content, []byte("-----BEGIN PGP")) {
			list, err = openpgp.ReadArmoredKeyRing(bytes.NewReader(content))
		} else {
			list, err = openpgp.ReadKeyRing(bytes.NewReader(content))
		}
		if err != nil || len(list) == 0 {
			return nil, fmt.Errorf("%s holds no OpenPGP public key: %w", name, errors.Join(err, errors.New("export it with \"gpg --export\"")))
		}
		keys = append(keys, list...)
	}
	return keys, nil
}

// checkSignature verifies a detached signature and gives the fingerprint of the primary key that made it. A signature
// that was made while its key was valid stays good after the key's end, as it does for gpg: signing keys of these
// projects change every year, images stay. note says so.
func checkSignature(keys openpgp.KeyRing, signed io.ReadSeeker, signature []byte, now time.Time) (fingerprint, note string, err error) {
	if block, err := armor.Decode(bytes.NewReader(signature)); err == nil {
		if signature, err = io.ReadAll(io.LimitReader(block.Body, 1<<20)); err != nil {
			return "", "", fmt.Errorf("the signature is damaged: %w", err)
		}
	}
	check := func(at time.Time) (*openpgp.Entity, error) {
		if _, err := signed.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		return openpgp.CheckDetachedSignature(keys, signed, bytes.NewReader(signature), &packet.Config{Time: func() time.Time { return at }})
	}
	signer, err := check(now)
	if errors.Is(err, pgperrors.ErrKeyExpired) {
		if made := signedAt(signature); !made.IsZero() && made.Before(now) {
			if signer, err = check(made); err == nil {
				note = "the signing key has expired since it signed"
			}
		}
	}
	switch {
	case err == nil:
		return strings.ToUpper(hex.EncodeToString(signer.PrimaryKey.Fingerprint)), note, nil
	case errors.Is(err, pgperrors.ErrUnknownIssuer):
		return "", "", fmt.Errorf("it is signed by the key %s, which is not among yours; if that is the project's new key, add it with --key", issuer(signature))
	case errors.Is(err, pgperrors.ErrKeyExpired):
		return "", "", errors.New("it was signed with a key that had expired by then")
	}
	return "", "", fmt.Errorf("its signature is not right: %w", err)
}

func packets(signature []byte) *packet.Signature {
	p, err := packet.NewReader(bytes.NewReader(signature)).Next()
	if s, ok := p.(*packet.Signature); ok && err == nil {
		return s
	}
	return nil
}

func signedAt(signature []byte) time.Time {
	if s := packets(signature); s != nil {
		return s.CreationTime
	}
	return time.Time{}
}

func issuer(signature []byte) string {
	if s := packets(signature); s != nil && s.IssuerKeyId != nil {
		return fmt.Sprintf("%016X", *s.IssuerKeyId)
	}
	return "of an unknown id"
}

// verified is what was found of a file that is right.
type verified struct {
	sha256      string
	size        int64
	fingerprint string
	note        string
}

// verify checks a file on disk against all that is known of it. The error says what is wrong with it, not its name.
func (s *syncer) verify(f file, name string, signature []byte) (verified, error) {
	in, err := os.Open(name)
	if err != nil {
		return verified{}, err
	}
	defer in.Close()
	wanted := slices.Clone(f.digests)
	hashes := []hash.Hash{sha256.New()}
	writers := []io.Writer{hashes[0]}
	for _, d := range wanted {
		h := d.hash()
		hashes, writers = append(hashes, h), append(writers, h)
	}
	v := verified{}
	if v.size, err = io.Copy(io.MultiWriter(writers...), in); err != nil {
		return verified{}, err
	}
	v.sha256 = hex.EncodeToString(hashes[0].Sum(nil))
	if f.size >= 0 && v.size != f.size {
		return verified{}, fmt.Errorf("it has %d bytes, not %d", v.size, f.size)
	}
	for i, d := range wanted {
		if got := hex.EncodeToString(hashes[i+1].Sum(nil)); got != d.value {
			return verified{}, fmt.Errorf("its %s is %s, not %s", d.algorithm, got, d.value)
		}
	}
	if f.signature != "" && !s.spec.SkipSignatures {
		if v.fingerprint, v.note, err = checkSignature(s.keys, in, signature, s.now()); err != nil {
			return verified{}, err
		}
	}
	return v, nil
}
