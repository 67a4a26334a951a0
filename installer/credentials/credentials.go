// Package credentials owns the certificates of the provisioner's APIs: it makes and rotates an operator's own
// authority with a server and a client certificate, says what is wrong with certificates of any origin, and turns files
// into TLS configurations. It speaks no protocol and knows no cluster file.
package credentials

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The files of a directory of credentials; the names are matchbox's.
const (
	CACertificate     = "ca.crt"
	CAKey             = "ca.key"
	ServerCertificate = "server.crt"
	ServerKey         = "server.key"
	ClientCertificate = "client.crt"
	ClientKey         = "client.key"
)

const (
	// DefaultValidity is that of server and client certificates. A year, as matchbox's script gives, is over before
	// anyone has noticed.
	DefaultValidity = 2 * 365 * 24 * time.Hour
	// CAValidity is that of an authority.
	CAValidity = 10 * 365 * 24 * time.Hour
	// ExpiresSoon is when a certificate's end becomes a problem to be shown.
	ExpiresSoon = 30 * 24 * time.Hour
	// backdate is how far a machine's clock may be behind: a server that has been in a crate for months boots with the
	// wrong day, and asks for its installation before it asks for the time.
	backdate = 24 * time.Hour
)

// ErrExists says that there is nothing left to create.
var ErrExists = errors.New("the credentials are there already")

// Options say what to make.
type Options struct {
	Cluster string // in the subjects, to tell the authorities of two clusters apart
	// Names are the DNS names and IP addresses by which the server is called: those of matchbox's gRPC API and of the
	// machines' API.
	Names    []string
	Validity time.Duration // of server and client certificate; 0: DefaultValidity
	Now      func() time.Time
}

// Written is a file that was written.
type Written struct {
	Path string
	What string // "certificate authority", "server's key" …
}

// leaf is a certificate and its key.
type leaf struct {
	certificate, key string
	what             string
	usage            x509.ExtKeyUsage
}

// outside are the bits that its key's mode must not have.
func (l leaf) outside() fs.FileMode {
	if l.usage == x509.ExtKeyUsageServerAuth {
		return ownerAndGroup
	}
	return ownerOnly
}

var leaves = []leaf{
	{ServerCertificate, ServerKey, "server", x509.ExtKeyUsageServerAuth},
	{ClientCertificate, ClientKey, "client", x509.ExtKeyUsageClientAuth},
}

// pairs are the authority and the leaves.
var pairs = append([]leaf{{certificate: CACertificate, key: CAKey, what: "authority"}}, leaves...)

// Create makes what a directory lacks: the authority, the server's and the client's certificate. It overwrites nothing
// and is ErrExists when nothing is missing. A directory in which an earlier run was interrupted is completed.
func Create(dir string, opts Options) ([]Written, error) {
	opts = opts.defaults()
	names, err := splitNames(opts.Names)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the credentials: %w", err)
	}
	unlock, err := lock(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := settle(dir); err != nil {
		return nil, err
	}
	if err := refuseForeign(dir); err != nil {
		return nil, err
	}

	var written []Written
	ca, made, err := ensureAuthority(dir, opts)
	written = append(written, made...)
	if err != nil {
		return written, err
	}
	for _, l := range leaves {
		made, err := ensureLeaf(dir, l, ca, names, opts)
		written = append(written, made...)
		if err != nil {
			return written, err
		}
	}
	if len(written) == 0 {
		return nil, fmt.Errorf("cannot make credentials in %s: %w; see them with \"tectonic-installer certs show\", renew them with \"tectonic-installer certs rotate\"", dir, ErrExists)
	}
	return written, nil
}

func (o Options) defaults() Options {
	if o.Cluster == "" {
		o.Cluster = "tectonic"
	}
	if o.Validity == 0 {
		o.Validity = DefaultValidity
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// refuseForeign finds certificates whose key is missing: made elsewhere, or half copied. Completing them is a guess.
func refuseForeign(dir string) error {
	var errs []error
	for _, l := range pairs {
		certificate, key := filepath.Join(dir, l.certificate), filepath.Join(dir, l.key)
		if !exists(certificate) || exists(key) {
			continue
		}
		// An authority without its key can sign nothing, but needs not when both leaves are there.
		if l.certificate == CACertificate && complete(dir) {
			continue
		}
		errs = append(errs, fmt.Errorf("cannot complete the credentials in %s: %s is there without its key %s; put the key beside it, or move the certificate away to have a new one made", dir, l.certificate, l.key))
	}
	for _, l := range leaves {
		if exists(filepath.Join(dir, l.certificate)) && !exists(filepath.Join(dir, CACertificate)) {
			errs = append(errs, fmt.Errorf("cannot complete the credentials in %s: %s is there without %s, the authority that signed it; put that beside it, or move the certificate away to have all made new", dir, l.certificate, CACertificate))
		}
	}
	return errors.Join(errs...)
}

func complete(dir string) bool {
	for _, l := range leaves {
		if !exists(filepath.Join(dir, l.certificate)) || !exists(filepath.Join(dir, l.key)) {
			return false
		}
	}
	return true
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// sans are the names in a server's certificate.
type sans struct {
	dns []string
	ips []net.IP
}

// splitNames tells addresses from names, once each.
func splitNames(names []string) (sans, error) {
	var s sans
	var errs []error
	for _, given := range names {
		name := strings.ToLower(strings.TrimSuffix(strings.TrimSpace(given), "."))
		if ip := net.ParseIP(strings.Trim(name, "[]")); ip != nil {
			if !slices.ContainsFunc(s.ips, ip.Equal) {
				s.ips = append(s.ips, ip)
			}
			continue
		}
		if !validDNSName(name) {
			errs = append(errs, fmt.Errorf("cannot put %q into the server's certificate: it is neither a DNS name nor an IP address; give the host alone, without scheme or port", given))
			continue
		}
		if !slices.Contains(s.dns, name) {
			s.dns = append(s.dns, name)
		}
	}
	if len(errs) == 0 && len(s.dns)+len(s.ips) == 0 {
		errs = append(errs, errors.New("cannot make a server's certificate without a name: give at least one DNS name or IP address by which machines and operators call the provisioner"))
	}
	return s, errors.Join(errs...)
}

// validDNSName is RFC 1123's host name: labels of at most 63, 253 in all.
func validDNSName(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range label {
			if c != '-' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
				return false
			}
		}
	}
	return true
}
