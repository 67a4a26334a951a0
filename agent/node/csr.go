package node

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"slices"
	"time"
)

// A CSRState is where a certificate signing request stands.
type CSRState string

// States of a CSR, in the order in which it passes them.
const (
	CSRPending  CSRState = "pending"  // nobody has approved it
	CSRApproved CSRState = "approved" // approved, and no controller has issued the certificate yet
	CSRIssued   CSRState = "issued"
	CSRDenied   CSRState = "denied"
	CSRFailed   CSRState = "failed" // approved, and the signer could not issue it
)

// A CSR is a certificate signing request of a kubelet for its client certificate.
type CSR struct {
	Name      string
	Requester string // the user that sent it: "system:bootstrap:abcdef", "system:node:w1"
	Created   time.Time
	State     CSRState
	Message   string // of the denial or the failure
}

// kubeletClient is the signer of kubelets' client certificates. certificates.k8s.io/v1beta1 knew no signers before 1.18.
const kubeletClient = "kubernetes.io/kube-apiserver-client-kubelet"

// CSRs lists the signing requests for the client certificate of one node, newest first. A bootstrap token may list them
// where it is bound to system:node-bootstrapper.
func (c *Client) CSRs(ctx context.Context, node string) ([]CSR, error) {
	op := "list the certificate signing requests of node " + clean(node)
	get := func(version string, selector bool) ([]byte, error) {
		r := c.rest.Get().AbsPath("/apis/certificates.k8s.io/" + version + "/certificatesigningrequests")
		if selector {
			r = r.Param("fieldSelector", "spec.signerName="+kubeletClient)
		}
		body, _, err := c.raw(ctx, op, r)
		return body, err
	}
	body, err := get("v1", true)
	if IsReason(err, NotFound) { // before 1.19
		body, err = get("v1beta1", false)
	}
	if err != nil {
		return nil, err
	}
	var list struct {
		Items []signingRequest
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, &APIError{Layer: LayerAPI, Reason: Unexpected, Op: op, What: "the API server's answer cannot be read", Err: err}
	}
	var all []CSR
	for _, item := range list.Items {
		if item.isFor(node) {
			all = append(all, item.csr())
		}
	}
	slices.SortFunc(all, func(a, b CSR) int { return b.Created.Compare(a.Created) })
	return all, nil
}

// signingRequest is what v1 and v1beta1 have in common, of what is read here.
type signingRequest struct {
	Metadata struct {
		Name              string
		ResourceVersion   string
		CreationTimestamp time.Time
	}
	Spec struct {
		Request    []byte // PEM
		SignerName string
		Username   string
	}
	Status struct {
		Certificate []byte
		Conditions  []struct{ Type, Status, Reason, Message string }
	}
}

func (r *signingRequest) isFor(node string) bool {
	if r.Spec.SignerName != "" && r.Spec.SignerName != kubeletClient && r.Spec.SignerName != "kubernetes.io/legacy-unknown" {
		return false
	}
	block, _ := pem.Decode(r.Spec.Request)
	if block == nil {
		return false
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	return err == nil && request.Subject.CommonName == nodePrefix+node
}

func (r *signingRequest) csr() CSR {
	c := CSR{Name: clean(r.Metadata.Name), Requester: clean(r.Spec.Username), Created: r.Metadata.CreationTimestamp, State: CSRPending}
	for _, cond := range r.Status.Conditions {
		if cond.Status == "False" || cond.Status == "Unknown" {
			continue
		}
		switch cond.Type {
		case "Approved":
			if c.State == CSRPending {
				c.State = CSRApproved
			}
		case "Denied":
			c.State, c.Message = CSRDenied, clean(cond.Message)
		case "Failed":
			c.State, c.Message = CSRFailed, clean(cond.Message)
		}
	}
	if c.State == CSRApproved && len(r.Status.Certificate) > 0 {
		c.State = CSRIssued
	}
	return c
}

// Why says in one sentence where the request stands and what to do about it.
func (c CSR) Why() string {
	switch c.State {
	case CSRPending:
		return "the certificate signing request " + c.Name + ` waits for approval; approve it with "kubectl certificate approve ` + c.Name + `"`
	case CSRApproved:
		return "the certificate signing request " + c.Name + " is approved, but no certificate was issued; is kube-controller-manager running with --cluster-signing-cert-file?"
	case CSRDenied:
		return "the certificate signing request " + c.Name + " was denied: " + c.Message
	case CSRFailed:
		return "the certificate signing request " + c.Name + " failed: " + c.Message
	}
	return "the certificate of " + c.Name + " is issued"
}
