package node

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/tools/clientcmd/api"
)

const (
	server      = "https://api.example.test:6443"
	bootstrap   = "abcdef.0123456789abcdef"
	secretToken = "s3cret-t0ken-never-to-be-shown"
)

func jwt(claims string) string {
	e := base64.RawURLEncoding.EncodeToString
	return e([]byte(`{"alg":"RS256"}`)) + "." + e([]byte(claims)) + "." + e([]byte("signature"))
}

func TestParseKinds(t *testing.T) {
	ca := newAuthority(t, "kube-ca")
	tests := []struct {
		name string
		user api.AuthInfo
		want Kubeconfig
	}{
		{"Tectonic's shared certificate", certUser(t, ca, leaf{cn: "kubelet", orgs: []string{"system:masters"}}),
			Kubeconfig{Kind: ClientCertificate, Subject: "CN=kubelet,O=system:masters", Shared: true}},
		{"a node's own certificate", certUser(t, ca, leaf{cn: "system:node:w1", orgs: []string{"system:nodes"}}),
			Kubeconfig{Kind: ClientCertificate, Subject: "CN=system:node:w1,O=system:nodes", NodeName: "w1"}},
		{"a certificate for bootstrapping", certUser(t, ca, leaf{cn: "installer", orgs: []string{"system:bootstrappers"}}),
			Kubeconfig{Kind: ClientCertificate, Subject: "CN=installer,O=system:bootstrappers", Bootstrap: true}},
		{"a bootstrap token", api.AuthInfo{Token: bootstrap},
			Kubeconfig{Kind: BootstrapToken, Subject: "system:bootstrap:abcdef", Bootstrap: true}},
		{"a bootstrap token with a newline at its end", api.AuthInfo{Token: bootstrap + "\n"},
			Kubeconfig{Kind: BootstrapToken, Subject: "system:bootstrap:abcdef", Bootstrap: true}},
		{"upper case is no bootstrap token", api.AuthInfo{Token: strings.ToUpper(bootstrap)}, Kubeconfig{Kind: Token, Shared: true}},
		{"an opaque token", api.AuthInfo{Token: secretToken}, Kubeconfig{Kind: Token, Shared: true}},
		{"a service account's token", api.AuthInfo{Token: jwt(`{"sub":"system:serviceaccount:kube-system:kubelet","exp":1900000000,"nbf":1500000000}`)},
			Kubeconfig{Kind: Token, Shared: true, Subject: "system:serviceaccount:kube-system:kubelet", NotBefore: time.Unix(1500000000, 0), NotAfter: time.Unix(1900000000, 0)}},
	}
	type view struct {
		Context, Cluster, User, Server, Subject, NodeName string
		Kind                                              Kind
		Shared, Bootstrap                                 bool
		NotBefore, NotAfter                               time.Time
	}
	of := func(k *Kubeconfig) view {
		return view{k.Context, k.Cluster, k.User, k.Server, k.Subject, k.NodeName, k.Kind, k.Shared, k.Bootstrap, k.NotBefore, k.NotAfter}
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			data := config(t, server, ca.pem, test.user, nil)
			got := mustParse(t, data)
			want := test.want
			want.Context, want.Cluster, want.User, want.Server = "main", "lab", "kubelet", server
			if want.Kind == ClientCertificate {
				want.NotBefore, want.NotAfter = got.NotBefore, got.NotAfter
			}
			if diff := cmp.Diff(of(&want), of(got)); diff != "" {
				t.Error(diff)
			}
			if !bytes.Equal(got.CA, ca.pem) {
				t.Error("the CA is not the one of the file")
			}
			if !bytes.Equal(got.Data(), data) {
				t.Error("Data is not the file")
			}
		})
	}
}

// One context without current-context: written with it, because the kubelet takes no guess.
func TestParseOnlyContext(t *testing.T) {
	ca := newAuthority(t, "kube-ca")
	data := config(t, server, ca.pem, api.AuthInfo{Token: bootstrap}, func(c *api.Config) { c.CurrentContext = "" })
	k := mustParse(t, data)
	if bytes.Equal(k.Data(), data) {
		t.Error("the file was kept without a current-context")
	}
	if again := mustParse(t, k.Data()); again.Context != "main" || !bytes.Equal(again.Data(), k.Data()) {
		t.Errorf("the new file has context %q", again.Context)
	}
}

// What stands beside the certificates of the CA is left out: ca.crt is for everyone to read.
func TestParseCABundle(t *testing.T) {
	ca, second := newAuthority(t, "kube-ca"), newAuthority(t, "kube-ca-2")
	bundle := bytes.Join([][]byte{[]byte("# the old one\n"), ca.pem, pem.EncodeToMemory(&pem.Block{Type: "DH PARAMETERS", Bytes: []byte("x")}), second.pem, []byte("trailing")}, nil)
	k := mustParse(t, config(t, server, bundle, api.AuthInfo{Token: bootstrap}, nil))
	if want := append(bytes.Clone(ca.pem), second.pem...); !bytes.Equal(k.CA, want) {
		t.Errorf("got\n%s", k.CA)
	}
}

func TestParseProblems(t *testing.T) {
	ca, other := newAuthority(t, "kube-ca"), newAuthority(t, "other")
	good := certUser(t, ca, leaf{cn: "kubelet", orgs: []string{"system:masters"}})
	stray := certUser(t, other, leaf{cn: "kubelet"})
	serving, servingKey := ca.issue(t, leaf{cn: "kube-apiserver", usage: x509.ExtKeyUsageServerAuth})
	caKey, err := x509.MarshalECPrivateKey(ca.key)
	if err != nil {
		t.Fatal(err)
	}
	change := func(f func(c *api.Cluster, u *api.AuthInfo, all *api.Config)) []byte {
		return config(t, server, ca.pem, good, func(all *api.Config) { f(all.Clusters["lab"], all.AuthInfos["kubelet"], all) })
	}
	whole := string(config(t, server, ca.pem, good, nil))
	tests := []struct {
		name string
		data []byte
		want []string // each a part of one problem, in order: "cause: text"
	}{
		{"empty", nil, []string{"malformed: the kubeconfig is empty"}},
		{"white space", []byte(" \n\t\n"), []string{"malformed: the kubeconfig is empty"}},
		{"login page", []byte("\n<!DOCTYPE html><html><title>Log in</title>"), []string{"malformed: the file is an HTML page"}},
		{"XML", []byte(`<?xml version="1.0"?>`), []string{"malformed: the file is XML or HTML"}},
		{"ZIP", []byte("PK\x03\x04...."), []string{"malformed: the file is an archive"}},
		{"PEM", ca.pem, []string{"malformed: the file is a PEM file"}},
		{"UTF-16", []byte("a\x00p\x00i\x00"), []string{"malformed: the file is not UTF-8 text"}},
		{"too large", bytes.Repeat([]byte("#"), MaxSize+1), []string{"malformed: the file has 1048577 bytes"}},
		{"a Secret", []byte("apiVersion: v1\nkind: Secret\n"), []string{`malformed: the file is of kind "Secret"`}},
		{"plain text", []byte("hello"), []string{"malformed: the file is YAML, but it has not the structure"}},
		{"a list", []byte("- a\n- b\n"), []string{"malformed: the file is YAML, but it has not the structure"}},
		{"bad YAML", []byte("apiVersion: v1\nclusters: [\n  secret: " + secretToken), []string{"malformed: the kubeconfig is not valid YAML at line"}},
		{"cut inside the CA", []byte(whole[:strings.Index(whole, "certificate-authority-data:")+102]), []string{"malformed: certificate-authority-data of a cluster is not complete base64"}},
		{"cut before the contexts", []byte(whole[:strings.Index(whole, "contexts:")]), []string{"incomplete: the kubeconfig has no context"}},
		{"cut after the contexts", []byte(whole[:strings.Index(whole, "users:")]), []string{"incomplete: context \"main\" names the user \"kubelet\""}},
		{"no cluster", change(func(_ *api.Cluster, _ *api.AuthInfo, all *api.Config) { delete(all.Clusters, "lab") }), []string{`incomplete: context "main" names the cluster "lab"`}},
		{"wrong current-context", change(func(_ *api.Cluster, _ *api.AuthInfo, all *api.Config) { all.CurrentContext = "nix" }), []string{`incomplete: the current-context "nix" is not`}},
		{"two contexts, none current", change(func(_ *api.Cluster, _ *api.AuthInfo, all *api.Config) {
			all.CurrentContext, all.Contexts["second"] = "", all.Contexts["main"]
		}), []string{"incomplete: the kubeconfig has no current-context, and 2 contexts"}},
		{"no server", change(func(c *api.Cluster, _ *api.AuthInfo, _ *api.Config) { c.Server = "" }), []string{`incomplete: cluster "lab" has no server`}},
		{"http", change(func(c *api.Cluster, _ *api.AuthInfo, _ *api.Config) { c.Server = "http://api:8080" }), []string{"refused: the server of cluster \"lab\" is \"http://api:8080\": without TLS"}},
		{"no scheme", change(func(c *api.Cluster, _ *api.AuthInfo, _ *api.Config) { c.Server = "api.example.test:6443" }), []string{"refused: the server of cluster \"lab\" is not a URL"}},
		{"password in URL", change(func(c *api.Cluster, _ *api.AuthInfo, _ *api.Config) { c.Server = "https://u:" + secretToken + "@api" }), []string{"refused: the server of cluster \"lab\" has a user name or password"}},
		{"bad proxy", change(func(c *api.Cluster, _ *api.AuthInfo, _ *api.Config) { c.ProxyURL = "ftp://u:" + secretToken + "@p" }), []string{"refused: the proxy-url"}},
		{"insecure", change(func(c *api.Cluster, _ *api.AuthInfo, _ *api.Config) {
			c.InsecureSkipTLSVerify, c.CertificateAuthorityData = true, nil
		}),
			[]string{"refused: cluster \"lab\" sets insecure-skip-tls-verify", "incomplete: cluster \"lab\" has no certificate-authority-data"}},
		{"no CA", change(func(c *api.Cluster, _ *api.AuthInfo, _ *api.Config) { c.CertificateAuthorityData = nil }), []string{"incomplete: cluster \"lab\" has no certificate-authority-data"}},
		{"CA by file", change(func(c *api.Cluster, _ *api.AuthInfo, _ *api.Config) {
			c.CertificateAuthorityData, c.CertificateAuthority = nil, "/home/admin/ca.crt"
		}), []string{"refused: certificate-authority is a reference to a file (/home/admin/ca.crt)"}},
		{"CA is not PEM", change(func(c *api.Cluster, _ *api.AuthInfo, _ *api.Config) { c.CertificateAuthorityData = []byte("nix") }), []string{"malformed: certificate-authority-data of cluster \"lab\" holds no PEM certificate"}},
		{"CA's key beside it", change(func(c *api.Cluster, _ *api.AuthInfo, _ *api.Config) {
			c.CertificateAuthorityData = append(bytes.Clone(ca.pem), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: caKey})...)
		}), []string{"refused: certificate-authority-data of cluster \"lab\" holds a private key"}},
		{"CA is damaged", change(func(c *api.Cluster, _ *api.AuthInfo, _ *api.Config) {
			c.CertificateAuthorityData = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("nix")})
		}), []string{"malformed: certificate-authority-data of cluster \"lab\" holds a certificate that cannot be read", "malformed: certificate-authority-data of cluster \"lab\" holds no PEM certificate"}},
		{"no credential", change(func(_ *api.Cluster, u *api.AuthInfo, _ *api.Config) { *u = api.AuthInfo{} }), []string{"incomplete: user \"kubelet\" has no credential"}},
		{"exec", change(func(_ *api.Cluster, u *api.AuthInfo, _ *api.Config) {
			*u = api.AuthInfo{Exec: &api.ExecConfig{Command: "aws", APIVersion: "client.authentication.k8s.io/v1", InteractiveMode: api.NeverExecInteractiveMode}}
		}), []string{"refused: user \"kubelet\" gets its credential from an exec plugin (aws)"}},
		{"auth-provider", change(func(_ *api.Cluster, u *api.AuthInfo, _ *api.Config) {
			*u = api.AuthInfo{AuthProvider: &api.AuthProviderConfig{Name: "oidc", Config: map[string]string{"id-token": secretToken}}}
		}), []string{"refused: user \"kubelet\" gets its credential from the auth-provider \"oidc\""}},
		{"password", change(func(_ *api.Cluster, u *api.AuthInfo, _ *api.Config) {
			*u = api.AuthInfo{Username: "admin", Password: secretToken}
		}), []string{"refused: user \"kubelet\" has a user name and password"}},
		{"impersonation", change(func(_ *api.Cluster, u *api.AuthInfo, _ *api.Config) { u.Impersonate = "root" }), []string{"refused: user \"kubelet\" impersonates"}},
		{"certificate by file", change(func(_ *api.Cluster, u *api.AuthInfo, _ *api.Config) {
			*u = api.AuthInfo{ClientCertificate: "/root/c.crt", ClientKey: "c.key"}
		}), []string{"refused: client-certificate of user \"kubelet\" is a reference", "refused: client-key of user \"kubelet\" is a reference"}},
		{"token by file", change(func(_ *api.Cluster, u *api.AuthInfo, _ *api.Config) { *u = api.AuthInfo{TokenFile: "/root/token"} }), []string{"refused: tokenFile of user \"kubelet\" is a reference"}},
		{"token with a space", change(func(_ *api.Cluster, u *api.AuthInfo, _ *api.Config) { *u = api.AuthInfo{Token: secretToken + " x"} }), []string{"malformed: the token of user \"kubelet\" has white space"}},
		{"certificate without key", change(func(_ *api.Cluster, u *api.AuthInfo, _ *api.Config) { u.ClientKeyData = nil }), []string{"incomplete: user \"kubelet\" has a client certificate without its key"}},
		{"key without certificate", change(func(_ *api.Cluster, u *api.AuthInfo, _ *api.Config) { u.ClientCertificateData = nil }), []string{"incomplete: user \"kubelet\" has a client key without its certificate"}},
		{"key of another", change(func(_ *api.Cluster, u *api.AuthInfo, _ *api.Config) { u.ClientKeyData = stray.ClientKeyData }), []string{"mismatch: the client certificate and the client key of user \"kubelet\" do not belong together"}},
		{"key is not PEM", change(func(_ *api.Cluster, u *api.AuthInfo, _ *api.Config) { u.ClientKeyData = []byte(secretToken) }), []string{"malformed: the client key of user \"kubelet\" is not PEM"}},
		{"key is cut", change(func(_ *api.Cluster, u *api.AuthInfo, _ *api.Config) {
			u.ClientKeyData = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte(secretToken)})
		}), []string{"malformed: the client certificate and key of user \"kubelet\" cannot be read"}},
		{"key with passphrase", change(func(_ *api.Cluster, u *api.AuthInfo, _ *api.Config) {
			u.ClientKeyData = pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte(secretToken)})
		}), []string{"refused: the client key of user \"kubelet\" is protected by a passphrase"}},
		{"serving certificate", change(func(_ *api.Cluster, u *api.AuthInfo, _ *api.Config) {
			u.ClientCertificateData, u.ClientKeyData = serving, servingKey
		}), []string{"refused: the certificate CN=kube-apiserver of user \"kubelet\" is not made for clients"}},
		{"everything at once", change(func(c *api.Cluster, u *api.AuthInfo, _ *api.Config) {
			c.Server, c.InsecureSkipTLSVerify, u.ClientKeyData = "http://x", true, stray.ClientKeyData
		}), []string{"refused: the server of", "refused: cluster \"lab\" sets insecure", "mismatch: "}},
		{"nested without end", []byte(strings.Repeat("[", MaxSize)), []string{"malformed: the kubeconfig is not valid YAML"}},
		{"aliases without end", []byte("a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\n" +
			"e: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f,*f,*f,*f,*f]\nh: &h [*g,*g,*g,*g,*g,*g,*g,*g]\n"), []string{"malformed: the kubeconfig is not valid YAML"}},
		{"control characters", change(func(_ *api.Cluster, u *api.AuthInfo, all *api.Config) { all.CurrentContext = "a\x1b[31mb\u202ec\nd" }), []string{`incomplete: the current-context "a [31mb c d" is not`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			k, err := Parse(test.data)
			if k != nil {
				t.Fatal("accepted")
			}
			var ps Problems
			if !errors.As(err, &ps) {
				t.Fatalf("%T is not Problems: %v", err, err)
			}
			if len(ps) != len(test.want) {
				t.Fatalf("got %d problems, want %d:\n%v", len(ps), len(test.want), err)
			}
			for i, p := range ps {
				if got := fmt.Sprintf("%s: %s", p.Cause, p.Error()); !strings.HasPrefix(got, test.want[i]) {
					t.Errorf("got  %s\nwant %s", got, test.want[i])
				}
				if p.Remedy == "" {
					t.Errorf("%s: no remedy", p.What)
				}
			}
			noSecret(t, err.Error())
		})
	}
}

// Any cut of a good file is refused, and never a panic: scp writes from the front.
func TestParseEveryCut(t *testing.T) {
	ca := newAuthority(t, "kube-ca")
	whole := config(t, server, ca.pem, certUser(t, ca, leaf{cn: "kubelet"}), nil)
	end := len(bytes.TrimRight(whole, "\n"))
	complete := mustParse(t, whole)
	for n := range end {
		k, err := Parse(whole[:n])
		if err != nil {
			continue
		}
		// The last base64 characters stand for the newline after the key: nothing is missing without them.
		if n < end-4 || !bytes.Equal(k.cred.pair.Certificate[0], complete.cred.pair.Certificate[0]) || !complete.cred.pair.PrivateKey.(*ecdsa.PrivateKey).Equal(k.cred.pair.PrivateKey) {
			t.Fatalf("the first %d of %d bytes were accepted as %v", n, end, k)
		}
	}
}

func noSecret(t testing.TB, text string) {
	t.Helper()
	for _, secret := range []string{secretToken, bootstrap, bootstrap[7:], "PRIVATE KEY"} {
		if strings.Contains(text, secret) {
			t.Errorf("a secret is shown: %s", text)
		}
	}
}

func TestKubeconfigNeverShowsSecrets(t *testing.T) {
	ca := newAuthority(t, "kube-ca")
	user := certUser(t, ca, leaf{cn: "kubelet"})
	key, _ := pem.Decode(user.ClientKeyData)
	for _, user := range []api.AuthInfo{{Token: secretToken}, {Token: bootstrap}, user} {
		k := mustParse(t, config(t, server, ca.pem, user, func(c *api.Config) { c.Clusters["lab"].ProxyURL = "http://u:" + secretToken + "@p:1" }))
		js, err := json.Marshal(k)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{k.String(), fmt.Sprintf("%v %+v %#v %s %d %x", k, k, k, k, k, k), fmt.Sprintf("%v %+v %#v", *k, *k, *k), fmt.Sprint(map[string]any{"k": k}), string(js)} {
			noSecret(t, text)
			if strings.Contains(text, base64.StdEncoding.EncodeToString(key.Bytes)[:40]) || strings.Contains(text, fmt.Sprintf("%x", key.Bytes[:16])) || strings.Contains(text, fmt.Sprint(key.Bytes[:8])[1:20]) {
				t.Error("the key is shown")
			}
		}
	}
}

func TestValidate(t *testing.T) {
	now := time.Now().Truncate(time.Second).UTC()
	ca := newAuthority(t, "kube-ca")
	old := newAuthorityUntil(t, "old-ca", now.Add(-time.Hour))
	user := certUser(t, ca, leaf{cn: "kubelet", notBefore: now, notAfter: now.Add(time.Hour)})
	tests := []struct {
		name string
		ca   []byte
		user api.AuthInfo
		at   time.Time
		want string
	}{
		{"in time", ca.pem, user, now.Add(time.Minute), ""},
		{"at its end", ca.pem, user, now.Add(time.Hour), ""},
		{"expired", ca.pem, user, now.Add(2 * time.Hour), fmt.Sprintf(`the client certificate of user "kubelet" expired at %s, and this host's clock says %s; get a new kubeconfig`, stamp(now.Add(time.Hour)), stamp(now.Add(2*time.Hour)))},
		{"not yet", ca.pem, user, now.Add(-time.Hour), fmt.Sprintf(`the client certificate of user "kubelet" is not valid before %s, and this host's clock says %s; set the clock`, stamp(now), stamp(now.Add(-time.Hour)))},
		{"old CA beside the new", append(bytes.Clone(old.pem), ca.pem...), user, now.Add(time.Minute), ""},
		{"old CA", old.pem, user, now.Add(time.Minute), "the CA certificate CN=old-ca expired at " + stamp(old.cert.NotAfter)},
		{"expired token", ca.pem, api.AuthInfo{Token: jwt(fmt.Sprintf(`{"sub":"s","exp":%d}`, now.Unix()))}, now.Add(time.Hour), `the token of user "kubelet" expired at ` + stamp(now)},
		{"bootstrap token", ca.pem, api.AuthInfo{Token: bootstrap}, now.Add(time.Hour), ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := mustParse(t, config(t, server, test.ca, test.user, nil)).Validate(test.at)
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var ps Problems
			if !errors.As(err, &ps) || len(ps) != 1 || !ps.OnlyTime() || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
		})
	}
}

// The kubelet's own kubeconfig names files; its certificate is replaced by rotation.
func TestParseFiles(t *testing.T) {
	ca := newAuthority(t, "kube-ca")
	dir := t.TempDir()
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first, firstKey := ca.issue(t, leaf{cn: "system:node:w1", orgs: []string{"system:nodes"}})
	write("current.pem", append(first, firstKey...))
	write("ca.crt", ca.pem)
	current := filepath.Join(dir, "current.pem")
	data := config(t, server, nil, api.AuthInfo{ClientCertificate: current, ClientKey: current}, func(c *api.Config) { c.Clusters["lab"].CertificateAuthority = "ca.crt" })
	if _, err := Parse(data); err == nil {
		t.Error("Parse accepted references to files")
	}
	k, err := ParseFiles(data, dir, os.ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	if k.NodeName != "w1" || k.Shared || k.Kind != ClientCertificate {
		t.Errorf("got %v", k)
	}
	second, secondKey := ca.issue(t, leaf{cn: "system:node:w1", orgs: []string{"system:nodes"}})
	write("current.pem", append(second, secondKey...))
	pair, err := k.cred.again()
	if err != nil {
		t.Fatal(err)
	}
	if block, _ := pem.Decode(second); !bytes.Equal(pair.Certificate[0], block.Bytes) {
		t.Error("the rotated certificate is not used")
	}

	// Over the wire: each new connection has the certificate of the moment, and a 401 makes a new connection.
	var names []string
	d := newDouble(t, leaf{}, func(w http.ResponseWriter, r *http.Request) {
		names = append(names, r.TLS.PeerCertificates[0].Subject.CommonName)
		if names[len(names)-1] == "system:node:old" {
			status(w, 401, "Unauthorized", "Unauthorized")
			return
		}
		healthy(w, r)
	})
	write("ca.crt", d.ca.pem)
	old, oldKey := ca.issue(t, leaf{cn: "system:node:old"})
	write("current.pem", append(old, oldKey...))
	if k, err = ParseFiles(bytes.Replace(data, []byte(server), []byte(d.URL), 1), dir, os.ReadFile); err != nil {
		t.Fatal(err)
	}
	c, err := NewClient(k, Options{Limits: short})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Reach(t.Context())
	expect(t, err, LayerAuthentication, Unauthorized, "CN=system:node:old")
	write("current.pem", append(second, secondKey...))
	if _, err = c.Reach(t.Context()); err != nil {
		t.Error(err)
	}
	if got := strings.Join(names, " "); got != "system:node:old system:node:old system:node:old system:node:w1 system:node:w1" {
		t.Errorf("the server saw %s", got)
	}
	if err := os.Remove(current); err != nil {
		t.Fatal(err)
	}
	c.Close()
	_, err = c.Reach(t.Context())
	expect(t, err, LayerTLS, ClientCertUnreadable, "client-certificate cannot be read", "is the kubelet running")
	if _, err := ParseFiles(data, dir, os.ReadFile); err == nil || !strings.Contains(err.Error(), "client-certificate of user \"kubelet\" cannot be read") {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	ca := newAuthority(f, "kube-ca")
	f.Add(config(f, server, ca.pem, certUser(f, ca, leaf{cn: "kubelet"}), nil))
	f.Add(config(f, server, ca.pem, api.AuthInfo{Token: bootstrap}, func(c *api.Config) { c.CurrentContext = "" }))
	f.Add(config(f, "http://x", nil, api.AuthInfo{Exec: &api.ExecConfig{Command: "x"}}, nil))
	f.Add([]byte("apiVersion: v1\nkind: Config\nusers:\n- name: a\n  user: {token: " + secretToken + "}\n"))
	f.Add([]byte("&a [*a, *a]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := Parse(data)
		if err != nil {
			var ps Problems
			if k != nil || !errors.As(err, &ps) || len(ps) == 0 {
				t.Fatalf("got %v, %v", k, err)
			}
			for _, p := range ps {
				if clean(p.What) != p.What && len([]rune(p.What)) <= maxText {
					t.Fatalf("unclean: %q", p.What)
				}
			}
			return
		}
		if k.Server == "" || len(k.CA) == 0 || k.Kind == "" {
			t.Fatalf("accepted without the essentials: %v", k)
		}
		if again, err := Parse(k.Data()); err != nil || again.String() != k.String() {
			t.Fatalf("what would be written reads as %v, %v", again, err)
		}
		k.Validate(time.Now())
		if _, err := NewClient(k, Options{}); err != nil {
			t.Fatal(err)
		}
	})
}
