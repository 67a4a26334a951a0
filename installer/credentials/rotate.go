package credentials

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// RotateOptions say what to renew.
type RotateOptions struct {
	Options // Names: nil keeps those of the server's certificate
	// CA makes a new authority and puts it before the old one in ca.crt, so that what either signed is accepted. The
	// server's and client's certificates are left as they are: ca.crt has to reach everyone first.
	CA bool
	// Finish takes the old authority out of ca.crt. It is refused while a certificate here still depends on it.
	Finish bool
}

// Rotate renews credentials without a moment in which they do not work: without CA and Finish, new keys and certificates
// for server and client, signed by the authority there is. An authority is replaced in three runs: CA, then neither,
// then Finish; between them the files are copied to where they are used.
func Rotate(dir string, opts RotateOptions) ([]Written, error) {
	opts.Options = opts.defaults()
	if opts.CA && opts.Finish {
		return nil, errors.New("cannot begin and finish the rotation of the authority in one run: what was signed by the old one would stop working; first --ca, then neither, then --finish")
	}
	unlock, err := lock(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := settle(dir); err != nil {
		return nil, err
	}
	switch {
	case opts.CA:
		return rotateAuthority(dir, opts)
	case opts.Finish:
		return finishAuthority(dir)
	}
	return rotateLeaves(dir, opts)
}

func rotateLeaves(dir string, opts RotateOptions) ([]Written, error) {
	ca, err := readAuthority(dir)
	if err != nil {
		return nil, err
	}
	given := opts.Names
	if given == nil {
		old, err := readCertificates(filepath.Join(dir, ServerCertificate))
		if err != nil {
			return nil, err
		}
		given = names(old[0])
	}
	sans, err := splitNames(given)
	if err != nil {
		return nil, err
	}
	var written []Written
	for _, l := range leaves {
		key, keyText, err := newKey()
		if err != nil {
			return written, err
		}
		text, err := ca.sign(l, key, sans, opts.Options)
		if err != nil {
			return written, err
		}
		certificatePath, keyPath := filepath.Join(dir, l.certificate), filepath.Join(dir, l.key)
		// Both are on disk before either is replaced; whoever reads between the two replacements finds the new
		// certificate in its staged place (readPair), and so does the next run (settle).
		if err := errors.Join(stage(certificatePath, text, 0o644, 0), stage(keyPath, keyText, 0o600, l.outside())); err != nil {
			return written, err
		}
		if err := promote(keyPath); err != nil {
			return written, err
		}
		written = append(written, Written{keyPath, l.what + "'s key"})
		if err := promote(certificatePath); err != nil {
			return written, err
		}
		written = append(written, Written{certificatePath, l.what + "'s certificate"})
	}
	return written, nil
}

func rotateAuthority(dir string, opts RotateOptions) ([]Written, error) {
	certificatePath, keyPath := filepath.Join(dir, CACertificate), filepath.Join(dir, CAKey)
	old, err := readCertificates(certificatePath)
	if err != nil {
		return nil, err
	}
	if len(old) > 1 {
		return nil, fmt.Errorf("cannot begin to rotate the authority in %s: a rotation is under way (ca.crt holds %d authorities); renew the certificates with \"tectonic-installer certs rotate\", then end it with \"tectonic-installer certs rotate --finish\"", dir, len(old))
	}
	key, keyText, err := newKey()
	if err != nil {
		return nil, err
	}
	ca, text, err := newAuthority(key, opts.Options)
	if err != nil {
		return nil, err
	}
	text = append(text, encodeCertificates(old...)...)
	if err := errors.Join(stage(keyPath, keyText, 0o600, ownerOnly), stage(certificatePath, text, 0o644, 0)); err != nil {
		return nil, err
	}
	// The bundle first: it fits the old key as well as the new.
	if err := promote(certificatePath); err != nil {
		return nil, err
	}
	written := []Written{{certificatePath, fmt.Sprintf("certificate authorities %q and, until --finish, %q", ca.certificate.Subject, old[0].Subject)}}
	if err := promote(keyPath); err != nil {
		return written, err
	}
	return append(written, Written{keyPath, "key of the certificate authority"}), nil
}

func finishAuthority(dir string) ([]Written, error) {
	path := filepath.Join(dir, CACertificate)
	certificates, err := readCertificates(path)
	if err != nil {
		return nil, err
	}
	if len(certificates) == 1 {
		return nil, fmt.Errorf("cannot finish a rotation of the authority in %s: none is under way; begin one with \"tectonic-installer certs rotate --ca\"", dir)
	}
	ca, err := readAuthority(dir)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.certificate)
	for _, l := range leaves {
		leafPath := filepath.Join(dir, l.certificate)
		chain, err := readCertificates(leafPath)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := chain[0].CheckSignatureFrom(ca.certificate); err != nil {
			return nil, fmt.Errorf("cannot drop the old authority: %s is still signed by it; run \"tectonic-installer certs rotate\" and copy the new files to where they are used first", leafPath)
		}
	}
	if err := stage(path, encodeCertificates(ca.certificate), 0o644, 0); err != nil {
		return nil, err
	}
	if err := promote(path); err != nil {
		return nil, err
	}
	return []Written{{path, fmt.Sprintf("certificate authority %q", ca.certificate.Subject)}}, nil
}

// settle ends what an interrupted rotation left: a staged file whose other half is in place goes into its place, one
// that nothing depends on goes away.
func settle(dir string) error {
	for _, p := range pairs {
		certificatePath, keyPath := filepath.Join(dir, p.certificate), filepath.Join(dir, p.key)
		if exists(certificatePath+next) && exists(keyPath) {
			current, err := fit(certificatePath, keyPath)
			staged, stagedErr := fit(certificatePath+next, keyPath)
			if err := errors.Join(err, stagedErr); err != nil {
				return err
			}
			if staged && !current {
				if err := promote(certificatePath); err != nil {
					return err
				}
			}
		}
		if exists(keyPath+next) && exists(certificatePath) {
			fits, err := fit(certificatePath, keyPath+next)
			if err != nil {
				return err
			}
			if fits {
				if err := promote(keyPath); err != nil {
					return err
				}
			}
		}
		for _, left := range []string{certificatePath + next, keyPath + next} {
			if err := os.Remove(left); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("cannot remove what an interrupted run left: %w", err)
			}
		}
	}
	return nil
}

// fit says whether a certificate file's first certificate is that of a key, whoever may read it.
func fit(certificatePath, keyPath string) (bool, error) {
	certificates, err := readCertificates(certificatePath)
	key, keyErr := readKey(keyPath, 0)
	if err := errors.Join(err, keyErr); err != nil {
		return false, err
	}
	return belongs(certificates[0], key), nil
}

// Remaining is how long a certificate lasts; negative when it is over.
func (c Certificate) Remaining(now time.Time) time.Duration { return c.NotAfter.Sub(now) }
