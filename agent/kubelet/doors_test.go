package kubelet

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"testing"
	"time"
)

// dial connects inside the kubelet's network.
func (k *kubeletProcess) dial(_ context.Context, network, addr string) (conn net.Conn, err error) {
	err = inNetns(k.host.netns, func() (err error) {
		conn, err = net.DialTimeout(network, addr, time.Second)
		return err
	})
	return conn, err
}

// checkDoors looks at what the kubelet really lets in.
func (k *kubeletProcess) checkDoors(t *testing.T) {
	t.Helper()
	for _, closed := range []string{"127.0.0.1:10255", "192.0.2.7:10255", "192.0.2.7:10248"} {
		if conn, err := k.dial(t.Context(), "tcp", closed); err == nil {
			conn.Close()
			t.Errorf("%s is open", closed)
		}
	}
	get := func(config *tls.Config) (int, error) {
		config.InsecureSkipVerify = true // a self-signed certificate; who serves is not the question here
		client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: k.dial, TLSClientConfig: config}}
		res, err := client.Get("https://192.0.2.7:10250/pods")
		if err != nil {
			return 0, err
		}
		res.Body.Close()
		return res.StatusCode, nil
	}
	if code, err := get(&tls.Config{}); err != nil || code != http.StatusUnauthorized {
		t.Errorf("an anonymous caller gets %d, %v; want 401", code, err)
	}
	cert, key := k.host.api.ca.issue(t, "somebody", "")
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	code, err := get(&tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil || code == http.StatusOK || code == http.StatusUnauthorized {
		t.Errorf("a caller with a certificate of the cluster gets %d, %v; want a refusal by the API server", code, err)
	}
	if k.host.api.count(http.MethodPost, "/subjectaccessreviews") == 0 {
		t.Error("the API server was not asked whether the caller may")
	}
	if code, err := get(&tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}); err == nil {
		t.Errorf("TLS 1.1 is accepted (%d)", code)
	}
	weak := &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA}}
	if code, err := get(weak); err == nil {
		t.Errorf("a weak cipher suite is accepted (%d)", code)
	}
	strong := &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}}
	if code, err := get(strong); err != nil {
		t.Errorf("a strong cipher suite is refused (%d): %v", code, err)
	}
}
