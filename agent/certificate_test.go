package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
)

func TestCertificateNotice(t *testing.T) {
	const day = 24 * time.Hour
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		left time.Duration
		sev  Severity
		says string
	}{
		{31 * day, SeverityOK, ""},
		{30*day + time.Second, SeverityOK, ""},
		{30 * day, SeverityNote, "expires in 30 days, at 2026-03-31 12:00 UTC"},
		{7*day + time.Second, SeverityNote, "in 7 days"},
		{7 * day, SeverityWarn, `in 7 days, at 2026-03-08 12:00 UTC; run "tectonic-worker renew"`},
		{day + time.Hour, SeverityWarn, "in 1 day,"},
		{day, SeverityFail, `within a day, at 2026-03-02 12:00 UTC; run "tectonic-worker renew" now`},
		{time.Second, SeverityFail, "within a day"},
		{0, SeverityFail, "expired at 2026-03-01 12:00 UTC"},
		{-400 * day, SeverityFail, `"tectonic-worker renew --kubeconfig FILE" with a bootstrap token`},
	} {
		sev, text := CertificateNotice(now.Add(tt.left), now)
		if sev != tt.sev || !strings.Contains(text, tt.says) || tt.says == "" && text != "" {
			t.Errorf("%s before the end: %s %q, want %s %q", tt.left, sev, text, tt.sev, tt.says)
		}
	}
	if sev, text := CertificateNotice(time.Time{}, now); sev != SeverityOK || text != "" {
		t.Errorf("a credential without an end: %s %q", sev, text)
	}
}

// pairPEM is a client certificate and its key, self-signed.
func pairPEM(t testing.TB, cn string, notAfter time.Time) (cert, key []byte) {
	t.Helper()
	k := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: cn, Organization: []string{"system:nodes"}},
		NotBefore: notAfter.Add(-365 * 24 * time.Hour), NotAfter: notAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k))
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: must[[]byte](t)(x509.MarshalECPrivateKey(k))})
}

// certificateKubeconfig has a client certificate inside.
func certificateKubeconfig(t testing.TB, cn string, notAfter time.Time) string {
	t.Helper()
	cert, key := pairPEM(t, cn, notAfter)
	b64 := base64.StdEncoding.EncodeToString
	return strings.Replace(kubeconfigText("https://192.0.2.1:6443", "x"), "    token: x\n",
		"    client-certificate-data: "+b64(cert)+"\n    client-key-data: "+b64(key)+"\n", 1)
}

func TestCertificate(t *testing.T) {
	end, ownEnd := time.Now().Add(48*time.Hour).Truncate(time.Second), time.Now().Add(72*time.Hour).Truncate(time.Second)
	cert, key := pairPEM(t, "system:node:w1", ownEnd)
	own := string(cert) + string(key)
	bootstrap, shared := kubeconfigText("https://192.0.2.1:6443", bootstrapToken), certificateKubeconfig(t, "kubelet", end)
	for _, tt := range []struct {
		name, kubeconfig, own string
		source                string
		end                   time.Time
		fails                 bool
	}{
		{name: "shared", kubeconfig: shared, source: kubelet.KubeconfigPath, end: end},
		{name: "shared, and one of an earlier cluster", kubeconfig: shared, own: own, source: kubelet.KubeconfigPath, end: end},
		{name: "bootstrapped", kubeconfig: bootstrap, own: own, source: currentCertificate, end: ownEnd},
		{name: "bootstrap not done yet", kubeconfig: bootstrap, source: kubelet.KubeconfigPath},
		{name: "the node's own, not rotated yet", kubeconfig: certificateKubeconfig(t, "system:node:w1", end), source: kubelet.KubeconfigPath, end: end},
		{name: "the node's own, rotated", kubeconfig: certificateKubeconfig(t, "system:node:w1", end), own: own, source: currentCertificate, end: ownEnd},
		{name: "damaged kubeconfig", kubeconfig: "garbage: [", own: own, source: currentCertificate, end: ownEnd},
		{name: "damaged certificate", kubeconfig: bootstrap, own: "garbage", source: kubelet.KubeconfigPath, fails: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDoubles(t)
			write(t, d.root, kubelet.KubeconfigPath, tt.kubeconfig, 0o600)
			if tt.own != "" {
				write(t, d.root, currentCertificate, tt.own, 0o600)
			}
			subject, got, source, err := d.system().Certificate()
			if (err != nil) != tt.fails || source != tt.source || !got.Equal(tt.end) {
				t.Errorf("%q until %s from %s, %v", subject, got, source, err)
			}
		})
	}
	if _, _, _, err := newDoubles(t).system().Certificate(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("not joined: %v", err)
	}
}
