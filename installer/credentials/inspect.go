package credentials

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"
)

// Certificate is what a certificate file says, and what is wrong with it.
type Certificate struct {
	Path      string    `json:"path"`
	Kind      string    `json:"kind"` // ca, server, client
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	SANs      []string  `json:"sans,omitempty"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	// Problems are clauses with the certificate as their subject: "has expired on …".
	Problems []string `json:"problems,omitempty"`
}

// Inspect reads the certificates of a directory as Create makes it: the authority's, which may be two during a rotation,
// the server's and the client's. A machine holds those that it needs; one that is missing is left out. It is an error
// when there is none, or a file cannot be read.
func Inspect(dir string, now time.Time) ([]Certificate, error) {
	var all []Certificate
	var errs []error
	ca := filepath.Join(dir, CACertificate)
	if exists(ca) {
		authorities, err := inspectCA(ca, now)
		all, errs = append(all, authorities...), append(errs, err)
		if key := filepath.Join(dir, CAKey); err == nil && exists(key) {
			if _, err := readAuthority(dir); err != nil {
				all[0].Problems = append(all[0].Problems, err.Error())
			}
		}
	}
	for _, l := range leaves {
		path := filepath.Join(dir, l.certificate)
		if !exists(path) {
			continue
		}
		c, err := inspectLeaf(ca, path, filepath.Join(dir, l.key), l, now)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, c)
	}
	if err := errors.Join(errs...); err != nil {
		return all, err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("cannot show the credentials in %s: there are none; make them with \"tectonic-installer certs\": %w", dir, fs.ErrNotExist)
	}
	return all, nil
}

// InspectClient reads an authority and a client's pair from any files: the authority's certificates first, the client's
// last.
func InspectClient(ca, certificate, key string, now time.Time) ([]Certificate, error) {
	return inspectPair(ca, certificate, key, leaves[1], now)
}

// InspectServer is InspectClient for a server's pair.
func InspectServer(ca, certificate, key string, now time.Time) ([]Certificate, error) {
	return inspectPair(ca, certificate, key, leaves[0], now)
}

func inspectPair(ca, certificate, key string, l leaf, now time.Time) ([]Certificate, error) {
	all, err := inspectCA(ca, now)
	c, leafErr := inspectLeaf(ca, certificate, key, l, now)
	if leafErr == nil {
		all = append(all, c)
	}
	return all, errors.Join(err, leafErr)
}

func inspectCA(path string, now time.Time) ([]Certificate, error) {
	certificates, err := readCertificates(path)
	if err != nil {
		return nil, err
	}
	var all []Certificate
	for _, c := range certificates {
		described := describe(path, "ca", c, now)
		if !c.IsCA {
			described.Problems = append(described.Problems, "is not a certificate authority's")
		}
		all = append(all, described)
	}
	return all, nil
}

func inspectLeaf(ca, path, keyPath string, l leaf, now time.Time) (Certificate, error) {
	certificates, err := readCertificates(path)
	if err != nil {
		return Certificate{}, err
	}
	c := certificates[0]
	described := describe(path, l.what, c, now)
	problem := func(format string, args ...any) {
		described.Problems = append(described.Problems, fmt.Sprintf(format, args...))
	}

	if l.usage == x509.ExtKeyUsageServerAuth && len(described.SANs) == 0 {
		problem("names no host (no subject alternative name); no client will accept it")
	}
	if key, err := readKey(keyPath, l.outside()); err != nil {
		problem("has no usable key: %v", err)
	} else if !belongs(c, key) {
		problem("does not belong to the key %s", keyPath)
	}
	if len(c.ExtKeyUsage) > 0 && !has(c.ExtKeyUsage, l.usage) {
		problem("is not made for a %s (extended key usage)", l.what)
	}
	roots, err := readPool(ca)
	if err != nil {
		problem("cannot be checked: %v", err)
		return described, nil
	}
	intermediates := x509.NewCertPool()
	for _, c := range certificates[1:] {
		intermediates.AddCert(c)
	}
	// Its time is judged by describe; here it is whether the authority signed it.
	at := c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 2)
	var unknown x509.UnknownAuthorityError
	_, err = c.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if errors.As(err, &unknown) {
		problem("is not signed by an authority in %s but by %q", ca, c.Issuer)
	}
	return described, nil
}

func describe(path, kind string, c *x509.Certificate, now time.Time) Certificate {
	return Certificate{
		Path: path, Kind: kind, Subject: c.Subject.String(), Issuer: c.Issuer.String(), SANs: names(c),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, Problems: expiry(c, now),
	}
}

func names(c *x509.Certificate) []string {
	all := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	return all
}

// expiry are the problems of a certificate's time.
func expiry(c *x509.Certificate, now time.Time) []string {
	switch {
	case now.Before(c.NotBefore):
		return []string{fmt.Sprintf("is not valid before %s; check the clock", day(c.NotBefore))}
	case now.After(c.NotAfter):
		return []string{fmt.Sprintf("has expired on %s", day(c.NotAfter))}
	case c.NotAfter.Sub(now) < ExpiresSoon:
		return []string{fmt.Sprintf("expires in %d days, on %s", int(c.NotAfter.Sub(now).Hours()/24), day(c.NotAfter))}
	}
	return nil
}
