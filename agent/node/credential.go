package node

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd/api"
)

// A credential is the secret part of a Kubeconfig.
type credential struct {
	pair  *tls.Certificate                 // the client certificate as it was when the kubeconfig was parsed
	token string                           // a bearer token
	again func() (*tls.Certificate, error) // reads the certificate anew; nil where it is inside the kubeconfig
}

type validity struct {
	subject             string
	notBefore, notAfter time.Time
}

func certificateValidity(der []byte) (validity, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return validity{}, err
	}
	return validity{clean(c.Subject.String()), c.NotBefore, c.NotAfter}, nil
}

// bootstrapToken is the form of a bootstrap token, https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/.
var bootstrapToken = regexp.MustCompile(`^([a-z0-9]{6})\.[a-z0-9]{16}$`)

const (
	nodePrefix         = "system:node:"
	bootstrappers      = "system:bootstrappers"
	anotherCredential  = "use a kubeconfig with a client certificate or a bootstrap token"
	encryptedKeyRemedy = `write it without a passphrase: "openssl pkey -in KEY -out KEY.plain"`
)

func (k *Kubeconfig) credentials(a *api.AuthInfo, read reader, ps *Problems) {
	who := fmt.Sprintf("user %q", k.User)
	if a.Exec != nil {
		ps.add(Refused, anotherCredential, "%s gets its credential from an exec plugin (%s), which a node does not have", who, clean(a.Exec.Command))
	}
	if a.AuthProvider != nil {
		ps.add(Refused, anotherCredential, "%s gets its credential from the auth-provider %q, which a node does not have", who, clean(a.AuthProvider.Name))
	}
	if a.Username != "" || a.Password != "" {
		ps.add(Refused, anotherCredential, "%s has a user name and password, which no API server accepts since Kubernetes 1.19", who)
	}
	if a.Impersonate != "" || a.ImpersonateUID != "" || len(a.ImpersonateGroups) > 0 {
		ps.add(Refused, anotherCredential, "%s impersonates another user, which the kubelet does not", who)
	}
	refused := len(*ps)
	k.cred.token = strings.TrimSpace(a.Token)
	if k.cred.token == "" && a.TokenFile != "" {
		if read == nil {
			ps.add(Refused, "put the token itself under the key token", "tokenFile of %s is a reference to a file (%s), which need not exist on this host", who, clean(a.TokenFile))
		} else {
			k.cred.token = strings.TrimSpace(string(k.file("tokenFile of "+who, a.TokenFile, read, ps)))
		}
	}
	certificate := k.certificate(a, who, read, ps)
	switch {
	case certificate: // the API server looks at the certificate first
		k.Kind = ClientCertificate
	case k.cred.token != "":
		k.bearer()
		if strings.ContainsFunc(k.cred.token, func(r rune) bool { return r <= ' ' || r > '~' }) {
			ps.add(Malformed, "copy it again", "the token of %s has white space or control characters in it", who)
		}
	case len(*ps) == 0 && refused == 0:
		ps.add(Incomplete, anotherCredential, "%s has no credential: no client certificate and no token", who)
	}
}

// certificate reports whether the user means to authenticate by certificate; what is wrong with it goes to ps.
func (k *Kubeconfig) certificate(a *api.AuthInfo, who string, read reader, ps *Problems) bool {
	certPEM, keyPEM := a.ClientCertificateData, a.ClientKeyData
	before := len(*ps)
	if len(certPEM) == 0 && a.ClientCertificate != "" {
		certPEM = k.file("client-certificate of "+who, a.ClientCertificate, read, ps)
	}
	if len(keyPEM) == 0 && a.ClientKey != "" {
		keyPEM = k.file("client-key of "+who, a.ClientKey, read, ps)
	}
	switch {
	case len(*ps) > before:
		return true
	case len(certPEM) == 0 && len(keyPEM) == 0:
		return false
	case len(keyPEM) == 0:
		ps.add(Incomplete, "add client-key-data", "%s has a client certificate without its key", who)
		return true
	case len(certPEM) == 0:
		ps.add(Incomplete, "add client-certificate-data", "%s has a client key without its certificate", who)
		return true
	}
	pair, leaf := keyPair(certPEM, keyPEM, who, ps)
	if pair == nil {
		return true
	}
	k.cred.pair = pair
	k.NotBefore, k.NotAfter = leaf.NotBefore, leaf.NotAfter
	k.Subject = clean(leaf.Subject.String())
	if name, ok := strings.CutPrefix(leaf.Subject.CommonName, nodePrefix); ok {
		k.NodeName = clean(name)
	}
	k.Bootstrap = k.NodeName == "" && slices.ContainsFunc(leaf.Subject.Organization, func(o string) bool {
		return o == bootstrappers || strings.HasPrefix(o, bootstrappers+":")
	})
	k.Shared = k.NodeName == "" && !k.Bootstrap
	if usages := leaf.ExtKeyUsage; len(usages) > 0 && !slices.Contains(usages, x509.ExtKeyUsageClientAuth) && !slices.Contains(usages, x509.ExtKeyUsageAny) {
		ps.add(Refused, anotherCredential, "the certificate %s of %s is not made for clients (no clientAuth among its extended key usages)", k.Subject, who)
	}
	if read != nil && a.ClientCertificate != "" {
		k.cred.again = func() (*tls.Certificate, error) {
			var ps Problems
			cert := k.file("client-certificate", a.ClientCertificate, read, &ps)
			key := keyPEM
			if a.ClientKey != "" {
				key = k.file("client-key", a.ClientKey, read, &ps)
			}
			if len(ps) > 0 {
				return nil, ps
			}
			pair, _ := keyPair(cert, key, who, &ps)
			return pair, ps.err()
		}
	}
	return true
}

// keyPair puts a certificate and its key together, or says why they do not fit.
func keyPair(certPEM, keyPEM []byte, who string, ps *Problems) (*tls.Certificate, *x509.Certificate) {
	block, _ := pem.Decode(keyPEM)
	switch {
	case block == nil:
		ps.add(Malformed, "copy the kubeconfig again", "the client key of %s is not PEM", who)
		return nil, nil
	case block.Type == "ENCRYPTED PRIVATE KEY", block.Headers["DEK-Info"] != "":
		ps.add(Refused, encryptedKeyRemedy, "the client key of %s is protected by a passphrase", who)
		return nil, nil
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		// The package's messages are fixed texts, but the reason is told best by looking again.
		if strings.Contains(err.Error(), "does not match") {
			ps.add(Mismatch, "take both from the same place", "the client certificate and the client key of %s do not belong together", who)
		} else {
			ps.add(Malformed, "copy the kubeconfig again", "the client certificate and key of %s cannot be read", who)
		}
		return nil, nil
	}
	leaf := pair.Leaf
	if leaf == nil {
		if leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			ps.add(Malformed, "copy the kubeconfig again", "the client certificate of %s cannot be read", who)
			return nil, nil
		}
	}
	return &pair, leaf
}

// bearer tells a bootstrap token from others, and reads the claims of a JWT. They are shown and never trusted: only the
// server can check the signature.
func (k *Kubeconfig) bearer() {
	k.Kind, k.Shared = Token, true
	if m := bootstrapToken.FindStringSubmatch(k.cred.token); m != nil {
		k.Kind, k.Subject, k.Shared, k.Bootstrap = BootstrapToken, "system:bootstrap:"+m[1], false, true
		return
	}
	parts := strings.Split(k.cred.token, ".")
	if len(parts) != 3 {
		return
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return
	}
	var claims struct {
		Subject   string  `json:"sub"`
		NotBefore float64 `json:"nbf"`
		Expires   float64 `json:"exp"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return
	}
	k.Subject = clean(claims.Subject)
	if claims.NotBefore > 0 && claims.NotBefore < 1<<40 {
		k.NotBefore = time.Unix(int64(claims.NotBefore), 0)
	}
	if claims.Expires > 0 && claims.Expires < 1<<40 {
		k.NotAfter = time.Unix(int64(claims.Expires), 0)
	}
}

// Validate checks every date in the kubeconfig against now. The error, if any, is Problems.
func (k *Kubeconfig) Validate(now time.Time) error {
	var ps Problems
	ps.dates("the "+string(k.Kind)+" of user "+fmt.Sprintf("%q", k.User), k.NotBefore, k.NotAfter, now)
	// One CA that is valid is enough: a bundle keeps the old one during a rotation.
	var cas Problems
	for _, ca := range k.cas {
		var one Problems
		one.dates("the CA certificate "+ca.subject, ca.notBefore, ca.notAfter, now)
		if len(one) == 0 {
			cas = nil
			break
		}
		cas = append(cas, one...)
	}
	return append(ps, cas...).err()
}

func (ps *Problems) dates(what string, notBefore, notAfter, now time.Time) {
	stamp := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	switch {
	case !notAfter.IsZero() && now.After(notAfter):
		*ps = append(*ps, Problem{Cause: Expired, At: notAfter,
			What:   fmt.Sprintf("%s expired at %s, and this host's clock says %s", what, stamp(notAfter), stamp(now)),
			Remedy: "get a new kubeconfig, or set the clock if it is wrong"})
	case !notBefore.IsZero() && now.Before(notBefore):
		*ps = append(*ps, Problem{Cause: NotYetValid, At: notBefore,
			What:   fmt.Sprintf("%s is not valid before %s, and this host's clock says %s", what, stamp(notBefore), stamp(now)),
			Remedy: `set the clock ("chronyc makestep"), it is probably behind`})
	}
}
