package node

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// MaxSize is the largest kubeconfig that Parse looks at, in bytes. etcd's own limit for an object is 1.5 MiB; real
// kubeconfigs have a few KiB.
const MaxSize = 1 << 20

// A Kind is the way in which a kubeconfig authenticates.
type Kind string

// Kinds of a Kubeconfig.
const (
	ClientCertificate Kind = "client certificate" // shared (Tectonic's CN=kubelet) or one node's own (CN=system:node:NAME)
	Token             Kind = "token"              // a bearer token, of a service account for instance
	BootstrapToken    Kind = "bootstrap token"    // good for asking for a certificate, and for nothing else
)

// A Kubeconfig is one context of a kubeconfig file with what the worker needs to know about it. Formatting one, in whatever
// way, shows no secret.
type Kubeconfig struct {
	Context, Cluster, User string // the names in the file; clean enough to print

	Server     string // https URL of the API server
	ServerName string // tls-server-name, empty: the host in Server
	ProxyURL   string `json:"-"` // proxy-url of the cluster; it may hold a password, so it is not for printing

	CA []byte // PEM; CERTIFICATE blocks alone, for /etc/kubernetes/ca.crt

	Kind    Kind
	Subject string // "CN=kubelet,O=system:masters", "system:bootstrap:abcdef", the subject of a JWT, or empty for an opaque token
	// NodeName is the node that the credential belongs to; empty where it belongs to none.
	NodeName string
	// Shared: nothing in the credential is this node's own, so that it cannot be revoked for one node alone. A bootstrap
	// credential is not called shared: the node gets its own in exchange.
	Shared bool
	// Bootstrap: to be given to the kubelet as --bootstrap-kubeconfig. True for a bootstrap token and for a client certificate
	// of the group system:bootstrappers.
	Bootstrap bool
	// NotBefore and NotAfter bound the credential's validity; zero where it does not say.
	NotBefore, NotAfter time.Time

	data []byte // the whole file, as to be written
	cred credential
	cas  []validity
}

// Data is the kubeconfig as to be written to the host: the bytes that were parsed, or, where the file names no
// current-context, the same with its only context named, because the kubelet does not guess.
func (k *Kubeconfig) Data() []byte { return bytes.Clone(k.data) }

// String describes the kubeconfig in one line.
func (k Kubeconfig) String() string {
	s := string(k.Kind)
	switch {
	case k.Shared:
		s = "shared " + s
	case k.NodeName != "":
		s += " of node " + k.NodeName
	}
	if k.Subject != "" {
		s += " " + k.Subject
	}
	return s + " for " + k.Server
}

// Format keeps every verb, %+v and %#v included, from walking into the secrets.
func (k Kubeconfig) Format(f fmt.State, _ rune) { io.WriteString(f, k.String()) }

const flatten = `make it self-contained with "kubectl config view --flatten --minify"`

// Parse reads a kubeconfig that must stand on its own: every certificate, key and token inside the file. The error, if any,
// is Problems with everything that is wrong apart from dates, which are Validate's.
func Parse(data []byte) (*Kubeconfig, error) { return parse(data, nil) }

// ParseFiles reads a kubeconfig whose certificates may be references to files, as the kubelet writes its own to
// /var/lib/kubelet/kubeconfig. read returns the content of the named file; relative names are taken from dir. The client's
// certificate is read again for each new connection, so that the kubelet's rotation is followed.
func ParseFiles(data []byte, dir string, read func(name string) ([]byte, error)) (*Kubeconfig, error) {
	return parse(data, func(name string) ([]byte, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return read(name)
	})
}

type reader func(name string) ([]byte, error)

func parse(data []byte, read reader) (*Kubeconfig, error) {
	var ps Problems
	if p, ok := notKubeconfig(data); ok {
		return nil, append(ps, p)
	}
	config, p := load(data)
	if p != nil {
		return nil, append(ps, *p)
	}
	k := &Kubeconfig{data: bytes.Clone(data)}
	context := k.context(config, &ps)
	if context == nil {
		return nil, ps
	}
	k.cluster(config.Clusters[context.Cluster], read, &ps)
	if context.Cluster == "" || config.Clusters[context.Cluster] == nil {
		ps.add(Incomplete, flatten, "context %q names the cluster %q, which the kubeconfig does not have", k.Context, clean(context.Cluster))
	}
	if context.AuthInfo == "" || config.AuthInfos[context.AuthInfo] == nil {
		ps.add(Incomplete, flatten, "context %q names the user %q, which the kubeconfig does not have", k.Context, clean(context.AuthInfo))
	} else {
		k.credentials(config.AuthInfos[context.AuthInfo], read, &ps)
	}
	if len(ps) > 0 {
		return nil, ps
	}
	return k, nil
}

// context picks the current context, or the only one.
func (k *Kubeconfig) context(config *api.Config, ps *Problems) *api.Context {
	name := config.CurrentContext
	if name == "" && len(config.Contexts) == 1 {
		name = slices.Collect(maps.Keys(config.Contexts))[0]
		config.CurrentContext = name
		data, err := clientcmd.Write(*config)
		if err != nil {
			ps.add(Malformed, flatten, "the kubeconfig cannot be written again with its only context as the current one")
			return nil
		}
		k.data = data
	}
	context := config.Contexts[name]
	switch {
	case len(config.Contexts) == 0:
		ps.add(Incomplete, "if it is still being copied, wait; else fetch it again", "the kubeconfig has no context")
	case name == "":
		ps.add(Incomplete, `choose one with "kubectl config use-context NAME --kubeconfig FILE"`,
			"the kubeconfig has no current-context, and %d contexts to choose from", len(config.Contexts))
	case context == nil:
		ps.add(Incomplete, `choose one with "kubectl config use-context NAME --kubeconfig FILE"`,
			"the current-context %q is not among the kubeconfig's contexts", clean(name))
	default:
		k.Context, k.Cluster, k.User = clean(name), clean(context.Cluster), clean(context.AuthInfo)
	}
	return context
}

func (k *Kubeconfig) cluster(c *api.Cluster, read reader, ps *Problems) {
	if c == nil {
		return
	}
	k.server(c.Server, ps)
	if c.InsecureSkipTLSVerify {
		ps.add(Refused, "remove it and put the cluster's CA into certificate-authority-data",
			"cluster %q sets insecure-skip-tls-verify: whoever answers would get the credential", k.Cluster)
	}
	k.ServerName = clean(c.TLSServerName)
	k.proxy(c.ProxyURL, ps)

	pemData := c.CertificateAuthorityData
	if len(pemData) == 0 && c.CertificateAuthority != "" {
		if pemData = k.file("certificate-authority", c.CertificateAuthority, read, ps); pemData == nil {
			return
		}
	}
	if len(pemData) == 0 {
		ps.add(Incomplete, "add the PEM of the cluster's CA, base64 encoded", "cluster %q has no certificate-authority-data", k.Cluster)
		return
	}
	k.authority(pemData, ps)
}

func (k *Kubeconfig) server(server string, ps *Problems) {
	const remedy = "it must read https://HOST:PORT"
	u, err := url.Parse(server)
	switch {
	case server == "":
		ps.add(Incomplete, remedy, "cluster %q has no server", k.Cluster)
	case err != nil, u.Host == "" && u.Scheme != "http":
		ps.add(Refused, remedy, "the server of cluster %q is not a URL", k.Cluster)
	case u.User != nil:
		ps.add(Refused, remedy, "the server of cluster %q has a user name or password in its URL", k.Cluster)
	case u.Scheme != "https":
		ps.add(Refused, remedy, "the server of cluster %q is %q: without TLS anyone on the way can read the credential", k.Cluster, clean(server))
	default:
		k.Server = clean(server)
	}
}

func (k *Kubeconfig) proxy(proxy string, ps *Problems) {
	if proxy == "" {
		return
	}
	u, err := url.Parse(proxy)
	if err != nil || u.Host == "" || !slices.Contains([]string{"http", "https", "socks5"}, u.Scheme) {
		ps.add(Refused, "it must read http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT", "the proxy-url of cluster %q cannot be used", k.Cluster)
		return
	}
	k.ProxyURL = proxy
}

// authority keeps the certificates alone: what is in CA is written readable for everyone, so a key must not slip through.
func (k *Kubeconfig) authority(data []byte, ps *Problems) {
	where := fmt.Sprintf("certificate-authority-data of cluster %q", k.Cluster)
	var out bytes.Buffer
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			ps.add(Refused, "remove the key and treat it as disclosed", "%s holds a private key beside the certificates", where)
			continue
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		v, err := certificateValidity(block.Bytes)
		if err != nil {
			ps.add(Malformed, "fetch the kubeconfig again", "%s holds a certificate that cannot be read", where)
			continue
		}
		k.cas = append(k.cas, v)
		pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes})
	}
	if out.Len() == 0 {
		ps.add(Malformed, "fetch the kubeconfig again", "%s holds no PEM certificate", where)
	}
	k.CA = out.Bytes()
}

// file resolves a reference to a file, or says why it does not.
func (k *Kubeconfig) file(key, name string, read reader, ps *Problems) []byte {
	if read == nil {
		ps.add(Refused, flatten, "%s is a reference to a file (%s), which need not exist on this host", key, clean(name))
		return nil
	}
	data, err := read(name)
	if err != nil {
		ps.add(Incomplete, "", "%s cannot be read: %s", key, clean(err.Error()))
		return nil
	}
	if len(data) == 0 {
		ps.add(Incomplete, "", "%s: %s is empty", key, clean(name))
		return nil
	}
	return data
}

func (k *Kubeconfig) caNames() string {
	var all []string
	for _, ca := range k.cas {
		all = append(all, ca.subject)
	}
	return cleanTo(strings.Join(all, " and "), maxText)
}

func (k *Kubeconfig) subjectOf() string {
	if k.Subject == "" {
		return ""
	}
	return " " + k.Subject
}

// rejected says what a 401 is about. server is the API server's own time, zero where it is not known: it, and not this
// host's clock, decides whether a certificate is valid.
func (k *Kubeconfig) rejected(server time.Time) (what, remedy string) {
	what = "the " + string(k.Kind) + k.subjectOf()
	switch {
	case !server.IsZero() && !k.NotAfter.IsZero() && server.After(k.NotAfter):
		return what + fmt.Sprintf(": it expired at %s, and the API server's clock says %s", stamp(k.NotAfter), stamp(server)), "get a new kubeconfig"
	case !server.IsZero() && !k.NotBefore.IsZero() && server.Before(k.NotBefore):
		return what + fmt.Sprintf(": it is not valid before %s, and the API server's clock says %s", stamp(k.NotBefore), stamp(server)), "set the API server's clock"
	case k.Kind == BootstrapToken:
		return what + " (401): it expired or was deleted, or the API server runs without --enable-bootstrap-token-auth",
			`make a new one ("kubeadm token create") and put it into the kubeconfig`
	case k.Kind == ClientCertificate:
		return what + " (401): its issuer is not the API server's client CA, or it was revoked", "fetch the kubeconfig of this cluster again"
	}
	return what + " (401): it expired, was revoked, or is of another cluster", "get a new kubeconfig"
}
