package lab

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// Kubeconfig renders one, with either a client certificate or a token.
type Kubeconfig struct {
	Server string
	CA     []byte // PEM
	Client Pair
	Token  string
}

// YAML renders it in the shape that the Tectonic Installer and kubeadm write: everything inline.
func (k Kubeconfig) YAML() []byte {
	b64 := base64.StdEncoding.EncodeToString
	user := "    token: " + k.Token + "\n"
	if k.Token == "" {
		user = "    client-certificate-data: " + b64(k.Client.Cert) + "\n    client-key-data: " + b64(k.Client.Key) + "\n"
	}
	return []byte(`apiVersion: v1
kind: Config
clusters:
- name: lab
  cluster:
    server: ` + k.Server + `
    certificate-authority-data: ` + b64(k.CA) + `
users:
- name: kubelet
  user:
` + user + `contexts:
- name: lab
  context:
    cluster: lab
    user: kubelet
current-context: lab
`)
}

// SharedKubeconfig is what the Tectonic Installer leaves: one client certificate for all kubelets, CN=kubelet,
// O=system:masters.
func (cp *ControlPlane) SharedKubeconfig() ([]byte, error) {
	return cp.ClientKubeconfig(Subject{Name: "kubelet", Organizations: []string{"system:masters"}})
}

// ClientKubeconfig has a client certificate for s, signed by the cluster's CA. A NotAfter in the past gives an
// expired one; no organization gives a user that the server knows and forbids everything (403).
func (cp *ControlPlane) ClientKubeconfig(s Subject) ([]byte, error) {
	pair, err := cp.CA.Issue(s)
	if err != nil {
		return nil, err
	}
	return Kubeconfig{Server: cp.Server, CA: cp.CA.Cert, Client: pair}.YAML(), nil
}

// ExpiredKubeconfig has a shared certificate whose validity ended an hour ago.
func (cp *ControlPlane) ExpiredKubeconfig() ([]byte, error) {
	return cp.ClientKubeconfig(Subject{
		Name: "kubelet", Organizations: []string{"system:masters"},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(-time.Hour),
	})
}

// ForbiddenKubeconfig has a user with no rights: 403.
func (cp *ControlPlane) ForbiddenKubeconfig() ([]byte, error) {
	return cp.ClientKubeconfig(Subject{Name: "nobody"})
}

// UnauthorizedKubeconfig has a client certificate of a CA that the server does not know, which it answers with 401.
func (cp *ControlPlane) UnauthorizedKubeconfig() ([]byte, error) {
	stranger, err := NewAuthority("stranger-ca")
	if err != nil {
		return nil, err
	}
	pair, err := stranger.Issue(Subject{Name: "kubelet", Organizations: []string{"system:masters"}})
	if err != nil {
		return nil, err
	}
	return Kubeconfig{Server: cp.Server, CA: cp.CA.Cert, Client: pair}.YAML(), nil
}

// WrongCAKubeconfig trusts another CA than the server's.
func (cp *ControlPlane) WrongCAKubeconfig() ([]byte, error) {
	other, err := NewAuthority("kube-ca")
	if err != nil {
		return nil, err
	}
	pair, err := cp.CA.Issue(Subject{Name: "kubelet", Organizations: []string{"system:masters"}})
	if err != nil {
		return nil, err
	}
	return Kubeconfig{Server: cp.Server, CA: other.Cert, Client: pair}.YAML(), nil
}

// BootstrapKubeconfig has a new bootstrap token that is valid for ttl.
func (cp *ControlPlane) BootstrapKubeconfig(ctx context.Context, ttl time.Duration) ([]byte, error) {
	var random [11]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, fmt.Errorf("cannot make a token: %w", err)
	}
	text := hex.EncodeToString(random[:])
	id, secret := text[:6], text[6:]
	err := cp.Apply(ctx, `apiVersion: v1
kind: Secret
metadata: {name: bootstrap-token-`+id+`, namespace: kube-system}
type: bootstrap.kubernetes.io/token
stringData:
  token-id: "`+id+`"
  token-secret: "`+secret+`"
  usage-bootstrap-authentication: "true"
  usage-bootstrap-signing: "true"
  expiration: "`+time.Now().Add(ttl).UTC().Format(time.RFC3339)+`"
`)
	if err != nil {
		return nil, err
	}
	return Kubeconfig{Server: cp.Server, CA: cp.CA.Cert, Token: id + "." + secret}.YAML(), nil
}

// WithServer points a kubeconfig of this control plane to another server, a proxy for instance.
func (cp *ControlPlane) WithServer(kubeconfig []byte, server string) []byte {
	return []byte(strings.Replace(string(kubeconfig), "server: "+cp.Server+"\n", "server: "+server+"\n", 1))
}
