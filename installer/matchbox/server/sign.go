package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// signer makes detached signatures in OpenPGP's text mode, as matchbox does: "gpg --verify ipxe.sig ipxe" checks them.
type signer struct {
	key    *openpgp.Entity
	config *packet.Config
}

func openSigner(path, passphrase string) (*signer, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot sign: %w; name a secret keyring with --key-ring-path", err)
	}
	read := openpgp.ReadKeyRing
	if bytes.HasPrefix(bytes.TrimSpace(content), []byte("-----BEGIN")) {
		read = openpgp.ReadArmoredKeyRing
	}
	ring, err := read(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("cannot sign: %s is no OpenPGP keyring: %w", path, err)
	}
	s := &signer{config: &packet.Config{}}
	for _, entity := range ring {
		key, usable := entity.SigningKey(time.Now())
		if !usable || key.PrivateKey == nil {
			continue
		}
		if key.PrivateKey.Encrypted {
			if passphrase == "" {
				return nil, fmt.Errorf("cannot sign: the key in %s needs a passphrase; give it in MATCHBOX_PASSPHRASE", path)
			}
			if err := entity.DecryptPrivateKeys([]byte(passphrase)); err != nil {
				return nil, fmt.Errorf("cannot sign: the passphrase does not open the key in %s", path)
			}
		}
		s.key = entity
		break
	}
	if s.key == nil {
		return nil, fmt.Errorf("cannot sign: %s has no secret key that may sign today; \"gpg --export-secret-keys\" makes such a file", path)
	}
	return s, nil
}

func (s *signer) binary(body []byte) (answer, error) {
	return s.sign("application/octet-stream", body, openpgp.DetachSignText)
}

func (s *signer) armoured(body []byte) (answer, error) {
	return s.sign(textPlain, body, openpgp.ArmoredDetachSignText)
}

func (s *signer) sign(contentType string, body []byte, sign func(io.Writer, *openpgp.Entity, io.Reader, *packet.Config) error) (answer, error) {
	var out bytes.Buffer
	if err := sign(&out, s.key, bytes.NewReader(body), s.config); err != nil {
		return answer{}, err
	}
	return ok(contentType, out.Bytes()), nil
}

var errSignedBoot = errors.New("a boot script that the gate decides about has no signature: its answer differs from one request to the next")

// signed answers with the signature of what another endpoint answers.
func (s *Server) signed(base func(*request) answer, sign func([]byte) (answer, error)) func(*request) answer {
	return func(r *request) answer {
		if s.options.Gate != nil && (r.URL.Path[:5] == "/ipxe" || r.URL.Path[:5] == "/grub") {
			return notFound(errSignedBoot)
		}
		a := base(r)
		if a.status != 200 {
			return a
		}
		signature, err := sign(a.body)
		if err != nil {
			return answer{status: 500, contentType: textPlain, body: []byte("cannot sign\n"), err: fmt.Errorf("cannot sign: %w", err)}
		}
		return signature
	}
}
