package node

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// A CSRError is a certificate that was not issued. Request.Name is empty where the request never reached the API server. It
// unwraps to what ended the wait.
type CSRError struct {
	Request CSR
	Err     error
}

func (e *CSRError) Error() string {
	var api *APIError
	if errors.As(e.Err, &api) {
		return e.Request.Why() + " (" + api.Error() + ")"
	}
	return e.Request.Why()
}

func (e *CSRError) Unwrap() error { return e.Err }

// NewKey makes a key for a client certificate: ECDSA P-256, as the kubelet makes its own, in SEC 1 PEM.
func NewKey() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make a key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("cannot encode a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// RequestCertificate asks the cluster for a kubelet's client certificate (CN=system:node:NAME, O=system:nodes) for a key that
// NewKey made, and waits, by a watch, until it is issued, denied or failed, or ctx ends. report, if not nil, gets every state
// that the request passes.
//
// The request's name comes from the key: asking again with the same key finds the request that is there, approved in the
// meantime perhaps, and makes no second one. The certificate, PEM, belongs to the key and is of this node and valid by this
// host's clock, or it is an error. The error is an APIError, or a CSRError once the request was made.
func (c *Client) RequestCertificate(ctx context.Context, node string, keyPEM []byte, report func(CSR)) (certPEM []byte, err error) {
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, errors.New("cannot ask for a certificate: the key is not PEM")
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("cannot ask for a certificate: the key cannot be read")
	}
	w := csrWatch{c: c, node: node, report: report}
	if err := w.create(ctx, key); err != nil {
		return nil, err
	}
	request, err := w.wait(ctx)
	if err != nil {
		return nil, err
	}
	return request.Status.Certificate, c.checkIssued(request, node, keyPEM)
}

// csrWatch is one request on its way.
type csrWatch struct {
	c       *Client
	node    string
	name    string
	version string // of certificates.k8s.io: v1, or v1beta1 before Kubernetes 1.19
	report  func(CSR)
	last    CSR
}

func (w *csrWatch) path() string {
	return "/apis/certificates.k8s.io/" + w.version + "/certificatesigningrequests"
}

func (w *csrWatch) create(ctx context.Context, key *ecdsa.PrivateKey) error {
	op := "ask " + w.c.k.Server + " for a certificate for node " + clean(w.node)
	subject := pkix.Name{CommonName: nodePrefix + w.node, Organization: []string{"system:nodes"}}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject}, key)
	if err != nil {
		return fmt.Errorf("cannot make a certificate signing request: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return fmt.Errorf("cannot make a certificate signing request: %w", err)
	}
	sum := sha256.Sum256(append(public, subject.String()...))
	w.name = "node-csr-" + hex.EncodeToString(sum[:16])
	for _, w.version = range []string{"v1", "v1beta1"} {
		body, err := json.Marshal(map[string]any{
			"apiVersion": "certificates.k8s.io/" + w.version, "kind": "CertificateSigningRequest",
			"metadata": map[string]any{"name": w.name},
			"spec": map[string]any{
				"request":    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
				"signerName": kubeletClient, // a server before 1.18 drops it and signs all the same
				// Every release takes these three; those before 1.27 insist on the second.
				"usages": []string{"digital signature", "key encipherment", "client auth"},
			},
		})
		if err != nil {
			return fmt.Errorf("cannot %s: %w", op, err)
		}
		_, _, err = w.c.raw(ctx, op, w.c.rest.Post().AbsPath(w.path()).SetHeader("Content-Type", "application/json").Body(body))
		switch {
		case err == nil, IsReason(err, Conflict): // there already: made with this key before
			return nil
		case IsReason(err, NotFound) && w.version == "v1":
		default:
			return err
		}
	}
	return nil
}

// wait returns the request when its certificate is issued.
func (w *csrWatch) wait(ctx context.Context) (*signingRequest, error) {
	w.last = CSR{Name: w.name, State: CSRPending}
	var lastErr error
	for failures := 0; ; {
		request, progress, err := w.once(ctx)
		switch {
		case request != nil && w.last.State == CSRIssued:
			return request, nil
		case request != nil: // denied or failed
			return nil, &CSRError{Request: w.last, Err: err}
		case ctx.Err() != nil:
			return nil, &CSRError{Request: w.last, Err: ctxOr(ctx, lastErr)}
		}
		var api *APIError
		if errors.As(err, &api) && final(api) {
			return nil, &CSRError{Request: w.last, Err: err}
		}
		lastErr = err
		if progress {
			failures = 0
		}
		failures++
		select {
		case <-time.After(backoff(failures, 200*time.Millisecond, 15*time.Second)):
		case <-ctx.Done():
			return nil, &CSRError{Request: w.last, Err: ctxOr(ctx, lastErr)}
		}
	}
}

// once reads the request and watches it until the stream ends. It returns the request when it has come to its end.
func (w *csrWatch) once(ctx context.Context) (end *signingRequest, progress bool, err error) {
	op := "watch the certificate signing request " + w.name
	body, _, err := w.c.raw(ctx, op, w.c.rest.Get().AbsPath(w.path(), w.name))
	if err != nil {
		return nil, false, err
	}
	var now signingRequest
	if err := json.Unmarshal(body, &now); err != nil {
		return nil, true, unreadable(op, err)
	}
	if w.observe(&now) {
		return &now, true, nil
	}
	// The server ends the watch by itself; should its end get lost, so do we a little later.
	const life = 5 * time.Minute
	ctx, cancel := context.WithTimeout(ctx, life+30*time.Second)
	defer cancel()
	ctx, ex := withExchange(ctx)
	begun := time.Now()
	stream, err := w.c.rest.Get().AbsPath(w.path()).MaxRetries(0).Param("watch", "true").Param("fieldSelector", "metadata.name="+w.name).
		Param("resourceVersion", now.Metadata.ResourceVersion).Param("timeoutSeconds", strconv.Itoa(int(life/time.Second))).Stream(ctx)
	if err != nil {
		return nil, true, w.c.explain(ctx, op, ex, err)
	}
	defer stream.Close()
	for events := json.NewDecoder(stream); ; {
		var event struct {
			Type   string
			Object json.RawMessage
		}
		if err := events.Decode(&event); err != nil {
			if time.Since(begun) < time.Second {
				return nil, false, &APIError{Layer: LayerHTTP, Reason: ConnectionReset, Op: op, What: "the watch ended at once"}
			}
			return nil, true, nil
		}
		switch event.Type {
		case "ADDED", "MODIFIED":
			var request signingRequest
			if err := json.Unmarshal(event.Object, &request); err != nil {
				return nil, true, unreadable(op, err)
			}
			if request.Metadata.Name == w.name && w.observe(&request) {
				return &request, true, nil
			}
		default: // DELETED and ERROR: reading it again tells
			return nil, true, nil
		}
	}
}

func unreadable(op string, err error) error {
	return &APIError{Layer: LayerAPI, Reason: Unexpected, Op: op, What: "the API server's answer cannot be read", Err: err}
}

// observe tells whether the request has come to its end.
func (w *csrWatch) observe(r *signingRequest) bool {
	now := r.csr()
	if w.report != nil && (now.State != w.last.State || w.last.Requester == "") {
		w.report(now)
	}
	w.last = now
	return now.State == CSRIssued || now.State == CSRDenied || now.State == CSRFailed
}

// checkIssued takes no signer's word for what it signed.
func (c *Client) checkIssued(r *signingRequest, node string, keyPEM []byte) error {
	name := "the certificate that was issued for " + clean(r.Metadata.Name)
	pair, err := tls.X509KeyPair(r.Status.Certificate, keyPEM)
	if err != nil {
		return fmt.Errorf("%s does not belong to the key that it was asked for; look at the cluster's signer (kube-controller-manager)", name)
	}
	leaf := pair.Leaf
	if leaf == nil {
		if leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return fmt.Errorf("%s cannot be read", name)
		}
	}
	now := c.now()
	switch {
	case leaf.Subject.CommonName != nodePrefix+node:
		return fmt.Errorf("%s is for %q and not for node %s; look at the cluster's signer (kube-controller-manager)", name, clean(leaf.Subject.CommonName), clean(node))
	case now.After(leaf.NotAfter):
		return fmt.Errorf("%s expired at %s, and this host's clock says %s; ask again, or set the clock", name, stamp(leaf.NotAfter), stamp(now))
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("%s is not valid before %s, and this host's clock says %s; set the clock (\"chronyc makestep\")", name, stamp(leaf.NotBefore), stamp(now))
	}
	return nil
}

// OwnKubeconfig renders a kubeconfig for the cluster of k that takes certificate and key from the file pemPath, the way the
// kubelet writes /var/lib/kubelet/kubeconfig after its bootstrap.
func (k *Kubeconfig) OwnKubeconfig(pemPath string) ([]byte, error) {
	cluster := map[string]any{"server": k.Server, "certificate-authority-data": k.CA}
	if k.ServerName != "" {
		cluster["tls-server-name"] = k.ServerName
	}
	if k.ProxyURL != "" {
		cluster["proxy-url"] = k.ProxyURL
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out) // JSON is YAML, and has one way only to be written
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "default-context", "preferences": map[string]any{},
		"clusters": []any{map[string]any{"name": "default-cluster", "cluster": cluster}},
		"contexts": []any{map[string]any{"name": "default-context", "context": map[string]any{"cluster": "default-cluster", "namespace": "default", "user": "default-auth"}}},
		"users":    []any{map[string]any{"name": "default-auth", "user": map[string]any{"client-certificate": pemPath, "client-key": pemPath}}},
	})
	return out.Bytes(), err
}

// Rejected reports whether err is the API server saying that it does not know the credential, or does not let it do this:
// another credential may be taken where this one is not.
func Rejected(err error) bool {
	var e *APIError
	return errors.As(err, &e) && (e.Status == http.StatusUnauthorized || e.Reason == Unauthorized || e.Reason == Forbidden)
}
