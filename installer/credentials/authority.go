package credentials

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"path/filepath"
	"time"
)

// authority is a CA that can sign.
type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

// ensureAuthority reads the authority of a directory, or makes it. It returns nil when both leaves are there and the
// authority's key is kept elsewhere: then there is nothing to sign.
func ensureAuthority(dir string, opts Options) (*authority, []Written, error) {
	certificatePath, keyPath := filepath.Join(dir, CACertificate), filepath.Join(dir, CAKey)
	if exists(certificatePath) {
		if !exists(keyPath) {
			return nil, nil, nil
		}
		ca, err := readAuthority(dir)
		return ca, nil, err
	}
	var written []Written
	key, made, err := ensureKey(keyPath)
	if err != nil {
		return nil, nil, err
	}
	if made {
		written = append(written, Written{keyPath, "key of the certificate authority"})
	}
	ca, text, err := newAuthority(key, opts)
	if err != nil {
		return nil, written, err
	}
	if err := createFile(certificatePath, text, 0o644); err != nil {
		return nil, written, err
	}
	return ca, append(written, Written{certificatePath, "certificate authority"}), nil
}

// ensureLeaf makes a leaf's key and certificate where they are missing. The key is written first: alone it is nobody's,
// and the next run goes on from it.
func ensureLeaf(dir string, l leaf, ca *authority, names sans, opts Options) ([]Written, error) {
	certificatePath, keyPath := filepath.Join(dir, l.certificate), filepath.Join(dir, l.key)
	if exists(certificatePath) {
		return nil, checkSigned(dir, certificatePath)
	}
	var written []Written
	key, made, err := ensureKey(keyPath)
	if err != nil {
		return nil, err
	}
	if made {
		written = append(written, Written{keyPath, l.what + "'s key"})
	}
	text, err := ca.sign(l, key, names, opts)
	if err != nil {
		return written, err
	}
	if err := createFile(certificatePath, text, 0o644); err != nil {
		return written, err
	}
	return append(written, Written{certificatePath, l.what + "'s certificate"}), nil
}

func ensureKey(path string) (key crypto.Signer, made bool, err error) {
	if exists(path) {
		key, err := readKey(path, ownerOnly)
		return key, false, err
	}
	key, text, err := newKey()
	if err != nil {
		return nil, false, err
	}
	return key, true, createFile(path, text, 0o600)
}

// readAuthority finds the certificate in ca.crt that belongs to ca.key. During a rotation ca.crt holds two.
func readAuthority(dir string) (*authority, error) {
	certificatePath, keyPath := filepath.Join(dir, CACertificate), filepath.Join(dir, CAKey)
	certificates, err := readCertificates(certificatePath)
	if err != nil {
		return nil, err
	}
	key, err := readKey(keyPath, ownerOnly)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot sign anything in %s: the authority's key %s is not there; run this where it is kept: %w", dir, CAKey, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	for _, c := range certificates {
		if belongs(c, key) {
			return &authority{c, key}, nil
		}
	}
	return nil, fmt.Errorf("cannot sign with %s: it is not the key of a certificate in %s; put the right one there, or move both away to start with a new authority", keyPath, certificatePath)
}

func newKey() (crypto.Signer, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot encode a key: %w", err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func newAuthority(key crypto.Signer, opts Options) (*authority, []byte, error) {
	now := opts.Now()
	// The time gives the authorities before and after a rotation two names.
	template, err := newTemplate("authority of "+now.UTC().Format("2006-01-02 15:04:05"), opts, CAValidity)
	if err != nil {
		return nil, nil, err
	}
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	template.IsCA, template.MaxPathLenZero = true, true
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make the certificate authority: %w", err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the certificate authority just made: %w", err)
	}
	return &authority{certificate, key}, encodeCertificates(certificate), nil
}

// sign makes a leaf's certificate, as PEM.
func (ca *authority) sign(l leaf, key crypto.Signer, names sans, opts Options) ([]byte, error) {
	template, err := newTemplate(l.what, opts, opts.Validity)
	if err != nil {
		return nil, err
	}
	// Beyond its authority's end a certificate is worth nothing, whatever it says.
	if template.NotAfter.After(ca.certificate.NotAfter) {
		template.NotAfter = ca.certificate.NotAfter
	}
	if !template.NotAfter.After(opts.Now()) {
		return nil, fmt.Errorf("cannot make the %s's certificate: the certificate authority has expired on %s; make a new one with \"tectonic-installer certs rotate --ca\"", l.what, day(ca.certificate.NotAfter))
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{l.usage}
	if l.usage == x509.ExtKeyUsageServerAuth {
		template.DNSNames, template.IPAddresses = names.dns, names.ips
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.certificate, key.Public(), ca.key)
	if err != nil {
		return nil, fmt.Errorf("cannot make the %s's certificate: %w", l.what, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func newTemplate(name string, opts Options, validity time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("cannot make a serial number: %w", err)
	}
	now := opts.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{opts.Cluster}, CommonName: name},
		NotBefore:    now.Add(-backdate).UTC().Truncate(time.Second),
		NotAfter:     now.Add(validity).UTC().Truncate(time.Second),

		BasicConstraintsValid: true,
	}, nil
}

func encodeCertificates(certificates ...*x509.Certificate) []byte {
	var text []byte
	for _, c := range certificates {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return text
}

// checkSigned refuses a certificate from another authority than the directory's.
func checkSigned(dir, path string) error {
	authorities, err := readCertificates(filepath.Join(dir, CACertificate))
	chain, chainErr := readCertificates(path)
	if err := errors.Join(err, chainErr); err != nil {
		return err
	}
	for _, ca := range authorities {
		if chain[0].CheckSignatureFrom(ca) == nil {
			return nil
		}
	}
	return fmt.Errorf("cannot complete the credentials in %s: %s is signed by %q, which is not in %s; move it and its key away to have them made new", dir, filepath.Base(path), chain[0].Issuer, CACertificate)
}

// belongs says whether a key is that of a certificate.
func belongs(c *x509.Certificate, key crypto.Signer) bool {
	public, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(key.Public())
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }
