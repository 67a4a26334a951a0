package credentials

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"
)

// LoadClient makes the operator's side of a mutual TLS connection from PEM files. It refuses a key that others may read,
// one that is not the certificate's, and a certificate that is no longer or not yet valid, by name. The pair is read
// again when the files change; the authority is not.
func LoadClient(ca, certificate, key string) (*tls.Config, error) {
	roots, err := readPool(ca)
	pair, pairErr := readPair(certificate, key, ownerOnly)
	if err := errors.Join(err, pairErr); err != nil {
		return nil, err
	}
	if err := usable(certificate, pair.Leaf, time.Now()); err != nil {
		return nil, err
	}
	if usage := pair.Leaf.ExtKeyUsage; len(usage) > 0 && !has(usage, x509.ExtKeyUsageClientAuth) {
		return nil, fmt.Errorf("cannot use %s as a client's certificate: it is not made for clients (its extended key usage lacks clientAuth); name the client's certificate, not the server's", certificate)
	}
	follow := &followed[*tls.Certificate]{
		paths: []string{certificate, key},
		value: pair,
		read:  func() (*tls.Certificate, error) { return readPair(certificate, key, ownerOnly) },
	}
	follow.seen = follow.stamps()
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		RootCAs:    roots,
		// A certificate that the server did not ask for by name is sent all the same: the server then says what is wrong
		// with it, not only that there is none.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return follow.get(), nil },
	}, nil
}

// ServerOptions are what a server may choose.
type ServerOptions struct {
	// ClientAuth is tls.RequireAndVerifyClientCert (also when zero) or tls.VerifyClientCertIfGiven.
	ClientAuth tls.ClientAuthType
	// Warn is told of a certificate that has expired or soon will, and of changed files that could not be taken. Nil:
	// nobody is.
	Warn func(error)
}

// ServerConfig makes the server's side from PEM files: TLS 1.2 at least, clients verified against ca. Every handshake
// uses the files as they are then; files that do not fit together are reported once and the last good ones stay in use.
// An expired certificate is served, with a warning: what needs no TLS must not go down with it.
func ServerConfig(ca, certificate, key string, opts ServerOptions) (*tls.Config, error) {
	switch opts.ClientAuth {
	case 0:
		opts.ClientAuth = tls.RequireAndVerifyClientCert
	case tls.RequireAndVerifyClientCert, tls.VerifyClientCertIfGiven:
	default:
		return nil, fmt.Errorf("cannot serve TLS with client authentication %v: a certificate that is not verified proves nothing", opts.ClientAuth)
	}
	if opts.Warn == nil {
		opts.Warn = func(error) {}
	}
	read := func() (*tls.Config, error) {
		clients, err := readPool(ca)
		pair, pairErr := readPair(certificate, key, ownerAndGroup)
		if err := errors.Join(err, pairErr); err != nil {
			return nil, err
		}
		for _, problem := range expiry(pair.Leaf, time.Now()) {
			opts.Warn(fmt.Errorf("the certificate %s %s; renew it with \"tectonic-installer certs rotate\"", certificate, problem))
		}
		return &tls.Config{
			MinVersion:   tls.VersionTLS12,
			NextProtos:   []string{"h2", "http/1.1"},
			ClientAuth:   opts.ClientAuth,
			ClientCAs:    clients,
			Certificates: []tls.Certificate{*pair},
			// A resumed session would carry the trust of a time before the files changed.
			SessionTicketsDisabled: true,
		}, nil
	}
	follow := &followed[*tls.Config]{paths: []string{ca, certificate, key}, read: read, warn: opts.Warn}
	// Before reading: a change in between is seen by the next handshake.
	follow.seen = follow.stamps()
	config, err := read()
	if err != nil {
		return nil, err
	}
	follow.value = config
	outer := config.Clone()
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return follow.get(), nil }
	return outer, nil
}

// followed is what was made of files, and is made again when they change.
type followed[T any] struct {
	paths []string
	read  func() (T, error)
	warn  func(error)

	mu    sync.Mutex
	seen  []fs.FileInfo
	value T
}

// stamps are the files as they stand; nil for one that cannot be looked at.
func (f *followed[T]) stamps() []fs.FileInfo {
	stamps := make([]fs.FileInfo, len(f.paths))
	for i, path := range f.paths {
		if info, err := os.Stat(path); err == nil {
			stamps[i] = info
		}
	}
	return stamps
}

func sameFile(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size() && a.Mode() == b.Mode()
}

func (f *followed[T]) get() T {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.stamps()
	if slices.EqualFunc(now, f.seen, sameFile) {
		return f.value
	}
	f.seen = now
	value, err := f.read()
	if err != nil {
		if f.warn != nil {
			f.warn(fmt.Errorf("the changed credentials are not used, the ones read before stay: %w", err))
		}
		return f.value
	}
	f.value = value
	return value
}

func readPool(path string) (*x509.CertPool, error) {
	certificates, err := readCertificates(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, c := range certificates {
		pool.AddCert(c)
	}
	return pool, nil
}

// readPair reads a certificate, its chain, and its key.
func readPair(certificatePath, keyPath string, outside fs.FileMode) (*tls.Certificate, error) {
	// A rotation between its two renames, or interrupted there, has the certificate in its staged place; one that ended
	// while this was reading has the pair in place by now.
	for _, path := range []string{certificatePath, certificatePath + next, certificatePath} {
		certificates, err := readCertificates(path)
		if path != certificatePath && err != nil {
			continue
		}
		key, keyErr := readKey(keyPath, outside)
		if err := errors.Join(err, keyErr); err != nil {
			return nil, err
		}
		if belongs(certificates[0], key) {
			return newPair(certificates, key), nil
		}
	}
	return nil, fmt.Errorf("cannot use %s with %s: the key is not the certificate's; name the two files of one pair", certificatePath, keyPath)
}

func newPair(certificates []*x509.Certificate, key crypto.Signer) *tls.Certificate {
	pair := &tls.Certificate{PrivateKey: key, Leaf: certificates[0]}
	for _, c := range certificates {
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	return pair
}

// usable says why a certificate is not valid now.
func usable(path string, c *x509.Certificate, now time.Time) error {
	switch {
	case now.After(c.NotAfter):
		return fmt.Errorf("cannot use %s: the certificate has expired on %s; renew it with \"tectonic-installer certs rotate\", or check this machine's clock", path, day(c.NotAfter))
	case now.Before(c.NotBefore):
		return fmt.Errorf("cannot use %s: the certificate is not valid before %s; check this machine's clock", path, day(c.NotBefore))
	}
	return nil
}

func has(usages []x509.ExtKeyUsage, wanted x509.ExtKeyUsage) bool {
	for _, u := range usages {
		if u == wanted || u == x509.ExtKeyUsageAny {
			return true
		}
	}
	return false
}
