package node

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// An authority is a CA made for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func serial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func newAuthority(t testing.TB, name string) *authority {
	return newAuthorityUntil(t, name, time.Now().AddDate(1, 0, 0))
}

func newAuthorityUntil(t testing.TB, name string, notAfter time.Time) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().AddDate(-10, 0, 0), NotAfter: notAfter,
	}, &x509.Certificate{Subject: pkix.Name{CommonName: name}}, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

// A leaf says what to put into a certificate; its zero dates mean from a minute ago for a day.
type leaf struct {
	cn                  string
	orgs, names         []string
	ips                 []net.IP
	notBefore, notAfter time.Time
	usage               x509.ExtKeyUsage
}

func (a *authority) issue(t testing.TB, l leaf) (certPEM, keyPEM []byte) {
	t.Helper()
	if l.notBefore.IsZero() {
		l.notBefore = time.Now().Add(-time.Minute)
	}
	if l.notAfter.IsZero() {
		l.notAfter = l.notBefore.AddDate(0, 0, 1)
	}
	if l.usage == 0 {
		l.usage = x509.ExtKeyUsageClientAuth
	}
	key := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: l.cn, Organization: l.orgs}, DNSNames: l.names, IPAddresses: l.ips,
		NotBefore: l.notBefore, NotAfter: l.notAfter, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{l.usage},
	}, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// server issues a serving certificate for 127.0.0.1 and localhost unless l names others.
func (a *authority) server(t testing.TB, l leaf) tls.Certificate {
	t.Helper()
	if l.names == nil && l.ips == nil {
		l.names, l.ips = []string{"localhost", "api.example.test"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	if l.cn == "" {
		l.cn = "kube-apiserver"
	}
	l.usage = x509.ExtKeyUsageServerAuth
	cert, key := a.issue(t, l)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// config is a kubeconfig with one context; change may spoil it.
func config(t testing.TB, server string, ca []byte, user api.AuthInfo, change func(*api.Config)) []byte {
	t.Helper()
	c := api.NewConfig()
	c.Clusters["lab"] = &api.Cluster{Server: server, CertificateAuthorityData: ca}
	c.AuthInfos["kubelet"] = &user
	c.Contexts["main"] = &api.Context{Cluster: "lab", AuthInfo: "kubelet"}
	c.CurrentContext = "main"
	if change != nil {
		change(c)
	}
	data, err := clientcmd.Write(*c)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func certUser(t testing.TB, a *authority, l leaf) api.AuthInfo {
	t.Helper()
	cert, key := a.issue(t, l)
	return api.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
}

func mustParse(t testing.TB, data []byte) *Kubeconfig {
	t.Helper()
	k, err := Parse(data)
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return k
}

// request is a kubelet's certificate signing request, PEM.
func request(t testing.TB, node string) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: nodePrefix + node, Organization: []string{"system:nodes"}}}, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}
