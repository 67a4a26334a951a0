package agent

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
)

// currentCertificate is where the kubelet keeps the client certificate that it
// got for itself: a link to kubelet-client-<date>.pem, which holds certificate
// and key (k8s.io/client-go/util/certificate, FileStore).
const currentCertificate = kubelet.PKIDir + "/kubelet-client-current.pem"

// CertificateNotice says what a certificate's end means now: a warning from 30
// days before, a stronger one from 7, a failure from one day before and after
// the end. The text is a sentence without its subject's name, empty with
// SeverityOK. A zero notAfter, a credential without an end, is fine.
//
// Whoever repeats it says it again only when the severity or the text changes:
// the text changes once a day.
func CertificateNotice(notAfter, now time.Time) (Severity, string) {
	const day = 24 * time.Hour
	if notAfter.IsZero() {
		return SeverityOK, ""
	}
	at := notAfter.UTC().Format("2006-01-02 15:04 MST")
	left := notAfter.Sub(now)
	switch {
	case left <= 0:
		return SeverityFail, fmt.Sprintf("the kubelet's client certificate expired at %s: the API server refuses this node; run \"tectonic-worker renew --kubeconfig FILE\" with a bootstrap token", at)
	case left <= day:
		return SeverityFail, fmt.Sprintf("the kubelet's client certificate expires within a day, at %s; run \"tectonic-worker renew\" now", at)
	case left <= 7*day:
		return SeverityWarn, fmt.Sprintf("the kubelet's client certificate expires in %s, at %s; run \"tectonic-worker renew\"", days(left), at)
	case left <= 30*day:
		return SeverityNote, fmt.Sprintf("the kubelet's client certificate expires in %s, at %s", days(left), at)
	}
	return SeverityOK, ""
}

func days(d time.Duration) string {
	if n := int(d / (24 * time.Hour)); n != 1 {
		return fmt.Sprintf("%d days", n)
	}
	return "1 day"
}

// Certificate tells of the credential that the kubelet shows to the API server:
// the certificate that it got for itself, where it has and uses one, else the
// kubeconfig's. source is the file it is in. notAfter is zero for a token that
// does not say. The error is fs.ErrNotExist on a host without a kubeconfig.
func (s *System) Certificate() (subject string, notAfter time.Time, source string, err error) {
	data, err := s.Root.ReadFile(kubelet.KubeconfigPath)
	if err != nil {
		return "", time.Time{}, kubelet.KubeconfigPath, err
	}
	k, err := node.Parse(data)
	// A kubeconfig that can't be read says nothing of a certificate that the
	// running kubelet has already; a shared one is never exchanged for one.
	if err != nil || !k.Shared {
		leaf, ownErr := s.ownCertificate()
		if ownErr == nil {
			return leaf.Subject.String(), leaf.NotAfter, currentCertificate, nil
		}
		if err == nil && !errors.Is(ownErr, fs.ErrNotExist) {
			err = ownErr
		}
	}
	if err != nil {
		return "", time.Time{}, kubelet.KubeconfigPath, err
	}
	return k.Subject, k.NotAfter, kubelet.KubeconfigPath, nil
}

// ownCertificate is the client certificate that the kubelet got for itself.
func (s *System) ownCertificate() (*x509.Certificate, error) {
	data, err := s.Root.ReadFile(currentCertificate)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("cannot read the certificate in %s: it is damaged; run \"tectonic-worker renew\"", currentCertificate)
		}
		return leaf, nil
	}
	return nil, fmt.Errorf("cannot read %s: it holds no certificate; run \"tectonic-worker renew\"", currentCertificate)
}
