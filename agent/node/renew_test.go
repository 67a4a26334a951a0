package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd/api"
)

// A csrServer answers for certificates.k8s.io of one version, and signs what it approves.
type csrServer struct {
	t        *testing.T
	ca       *authority
	version  string
	template func(*x509.Certificate) // changes what is signed
	onWatch  func(s *csrServer, send func(kind string))

	mu      sync.Mutex
	request map[string]any // as it was created
	status  map[string]any
	creates int
	paths   []string
}

func (s *csrServer) object() []byte {
	o := map[string]any{"apiVersion": "certificates.k8s.io/" + s.version, "kind": "CertificateSigningRequest", "spec": s.request["spec"], "status": s.status}
	meta := map[string]any{"resourceVersion": "7"}
	for k, v := range s.request["metadata"].(map[string]any) {
		meta[k] = v
	}
	o["metadata"] = meta
	data, err := json.Marshal(o)
	if err != nil {
		s.t.Error(err)
	}
	return data
}

// sign approves and issues.
func (s *csrServer) sign() {
	var spec struct{ Spec struct{ Request []byte } }
	data, _ := json.Marshal(s.request)
	if err := json.Unmarshal(data, &spec); err != nil {
		s.t.Error(err)
	}
	block, _ := pem.Decode(spec.Spec.Request)
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil {
		s.t.Errorf("the request: %v", err)
		return
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial(s.t), Subject: csr.Subject, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	public := csr.PublicKey
	if s.template != nil {
		s.template(tmpl)
		if tmpl.PublicKey != nil {
			public = tmpl.PublicKey
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, s.ca.cert, public, s.ca.key)
	if err != nil {
		s.t.Error(err)
	}
	s.status = map[string]any{
		"certificate": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		"conditions":  []any{map[string]any{"type": "Approved", "status": "True"}},
	}
}

func (s *csrServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paths = append(s.paths, r.Method+" "+r.URL.Path)
	base := "/apis/certificates.k8s.io/" + s.version + "/certificatesigningrequests"
	w.Header().Set("Content-Type", "application/json")
	switch {
	case r.Method == http.MethodPost && r.URL.Path == base:
		s.creates++
		if s.request != nil {
			status(w, http.StatusConflict, "AlreadyExists", "it is there")
			return
		}
		if err := json.NewDecoder(r.Body).Decode(&s.request); err != nil {
			s.t.Error(err)
		}
		w.WriteHeader(http.StatusCreated)
		w.Write(s.object())
	case r.Method == http.MethodGet && r.URL.Query().Get("watch") == "true" && r.URL.Path == base:
		if r.URL.Query().Get("resourceVersion") != "7" || !strings.HasPrefix(r.URL.Query().Get("fieldSelector"), "metadata.name=node-csr-") {
			s.t.Errorf("the watch asks for %s", r.URL.RawQuery)
		}
		w.(http.Flusher).Flush() // an API server answers at once
		send := func(kind string) {
			fmt.Fprintf(w, "{\"type\":%q,\"object\":%s}\n", kind, s.object())
			w.(http.Flusher).Flush()
		}
		if s.onWatch != nil {
			s.onWatch(s, send)
			return
		}
		s.mu.Unlock()
		<-r.Context().Done()
		s.mu.Lock()
	case r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, base+"/"):
		w.Write(s.object())
	default:
		status(w, http.StatusNotFound, "NotFound", "the server could not find the requested resource")
	}
}

func newCSRServer(t *testing.T, s *csrServer) (*csrServer, *Client) {
	t.Helper()
	s.t = t
	if s.version == "" {
		s.version = "v1"
	}
	d := newDouble(t, leaf{}, s.ServeHTTP)
	s.ca = d.ca
	return s, client(t, d.URL, d.ca.pem, api.AuthInfo{Token: "abcdef.0123456789abcdef"}, Options{})
}

func signOnWatch(s *csrServer, send func(string)) {
	s.sign()
	send("MODIFIED")
}

func TestRequestCertificate(t *testing.T) {
	for _, version := range []string{"v1", "v1beta1"} {
		t.Run(version, func(t *testing.T) {
			s, c := newCSRServer(t, &csrServer{version: version, onWatch: signOnWatch})
			key, err := NewKey()
			if err != nil {
				t.Fatal(err)
			}
			var states []CSRState
			cert, err := c.RequestCertificate(t.Context(), "w1", key, func(r CSR) { states = append(states, r.State) })
			if err != nil {
				t.Fatal(err)
			}
			if fmt.Sprint(states) != "[pending issued]" {
				t.Errorf("reported %v", states)
			}
			block, _ := pem.Decode(cert)
			got, err := x509.ParseCertificate(block.Bytes)
			if err != nil || got.Subject.String() != "CN=system:node:w1,O=system:nodes" {
				t.Errorf("%v %v", got.Subject, err)
			}
			if k, ok := got.PublicKey.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
				t.Error("the key is not ECDSA P-256")
			}
			spec := s.request["spec"].(map[string]any)
			if spec["signerName"] != kubeletClient || fmt.Sprint(spec["usages"]) != "[digital signature key encipherment client auth]" || s.request["apiVersion"] != "certificates.k8s.io/"+version {
				t.Errorf("asked for %v", s.request)
			}
			// The same key finds the same request, and makes no second one.
			if again, err := c.RequestCertificate(t.Context(), "w1", key, nil); err != nil || string(again) != string(cert) {
				t.Errorf("the second time: %v", err)
			}
		})
	}
}

func TestRequestCertificateRefused(t *testing.T) {
	set := func(kind, message string) func(*csrServer, func(string)) {
		return func(s *csrServer, send func(string)) {
			s.status = map[string]any{"conditions": []any{map[string]any{"type": kind, "status": "True", "message": message}}}
			send("MODIFIED")
		}
	}
	for _, tt := range []struct {
		name     string
		onWatch  func(*csrServer, func(string))
		template func(*x509.Certificate)
		state    CSRState
		says     string
	}{
		{name: "denied", onWatch: set("Denied", "not this one"), state: CSRDenied, says: "was denied: not this one"},
		{name: "failed", onWatch: set("Failed", "no usage"), state: CSRFailed, says: "failed: no usage"},
		{name: "for another node", onWatch: signOnWatch, template: func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "system:node:w2"} }, says: "not for node w1"},
		{name: "expired", onWatch: signOnWatch, template: func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }, says: "expired at"},
		{name: "not yet valid", onWatch: signOnWatch, template: func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, says: "set the clock"},
		{name: "for another key", onWatch: signOnWatch, template: func(c *x509.Certificate) {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				panic(err)
			}
			c.PublicKey = &key.PublicKey
		}, says: "does not belong to the key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, c := newCSRServer(t, &csrServer{onWatch: tt.onWatch, template: tt.template})
			key, err := NewKey()
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.RequestCertificate(t.Context(), "w1", key, nil)
			var refused *CSRError
			if err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "PRIVATE") {
				t.Errorf("%v", err)
			}
			if errors.As(err, &refused) != (tt.state != "") || refused != nil && refused.Request.State != tt.state {
				t.Errorf("%#v", err)
			}
		})
	}
}

// Nobody approves: the wait ends with ctx and names the request. It is one watch, not a poll; one that breaks is made again.
func TestRequestCertificatePending(t *testing.T) {
	s, c := newCSRServer(t, &csrServer{})
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	_, err = c.RequestCertificate(ctx, "w1", key, nil)
	var refused *CSRError
	if !errors.As(err, &refused) || refused.Request.State != CSRPending || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "kubectl certificate approve node-csr-") {
		t.Errorf("%v", err)
	}
	s.mu.Lock()
	if len(s.paths) != 3 { // create, read, watch
		t.Errorf("asked %q", s.paths)
	}
	s.mu.Unlock()

	watches := 0
	s, c = newCSRServer(t, &csrServer{onWatch: func(s *csrServer, send func(string)) {
		if watches++; watches < 3 {
			return // the stream ends
		}
		signOnWatch(s, send)
	}})
	if _, err := c.RequestCertificate(t.Context(), "w1", key, nil); err != nil || watches != 3 || s.creates != 1 {
		t.Errorf("%v after %d watches, %d requests", err, watches, s.creates)
	}
}

func TestRequestCertificateUnauthorized(t *testing.T) {
	d := newDouble(t, leaf{}, func(w http.ResponseWriter, _ *http.Request) {
		status(w, http.StatusUnauthorized, "Unauthorized", "Unauthorized")
	})
	c := client(t, d.URL, d.ca.pem, api.AuthInfo{Token: "abcdef.0123456789abcdef"}, Options{})
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.RequestCertificate(t.Context(), "w1", key, nil); !IsReason(err, Unauthorized) || !Rejected(err) || d.requests.Load() != 1 {
		t.Errorf("%v after %d requests", err, d.requests.Load())
	}
	if Rejected(io.EOF) || Rejected(&APIError{Reason: ConnectionRefused}) {
		t.Error("what is not the credential's is called so")
	}
	if _, err := c.RequestCertificate(t.Context(), "w1", []byte("garbage"), nil); err == nil {
		t.Error("a key that is none is taken")
	}
}

// The kubeconfig that is written for the kubelet is one, and leads to the same cluster.
func TestOwnKubeconfig(t *testing.T) {
	ca := newAuthority(t, "kube-ca")
	k := mustParse(t, config(t, "https://192.0.2.1:6443", ca.pem, api.AuthInfo{Token: "abcdef.0123456789abcdef"}, func(c *api.Config) {
		for _, cluster := range c.Clusters {
			cluster.TLSServerName, cluster.ProxyURL = "api.example", "http://proxy.example:3128"
		}
	}))
	data, err := k.OwnKubeconfig("/pki/current.pem")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(data), "abcdef") {
		t.Error("the bootstrap token is in it")
	}
	cert, key := ca.issue(t, leaf{cn: "system:node:w1", orgs: []string{"system:nodes"}})
	own, err := ParseFiles(data, "/", func(name string) ([]byte, error) {
		if filepath.Clean(name) != "/pki/current.pem" {
			t.Errorf("it names %s", name)
		}
		return append(cert, key...), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if own.Server != k.Server || own.ServerName != k.ServerName || own.ProxyURL != k.ProxyURL || string(own.CA) != string(k.CA) || own.NodeName != "w1" {
		t.Errorf("%v", own)
	}
}
