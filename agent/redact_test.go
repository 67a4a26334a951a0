package agent

import (
	"encoding/json"
	"strings"
	"testing"
)

// What is taken out, and what stays readable around it.
func TestRedact(t *testing.T) {
	const key = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIHiddenHiddenHiddenHiddenHiddenHiddenHiddenoAoGCCqGSM49\nAwEHoUQDQgAEhiddenhidden==\n-----END EC PRIVATE KEY-----"
	tests := []struct {
		name, in, secret string
		stays            []string
	}{
		{"PEM", "before\n" + key + "\nafter", "Hidden", []string{"before", "after", "private key"}},
		{"PEM in a journal", "Nov 20 kubelet[1]: " + strings.ReplaceAll(key, "\n", "\nNov 20 kubelet[1]: ") + "\nNov 20 kubelet[1]: next line here", "Hidden", []string{"next line here"}},
		{"PEM cut off", strings.Split(key, "\n-----END")[0] + "\nthe kubelet: what follows stays", "Hidden", []string{"the kubelet: what follows stays"}},
		{"PEM in JSON", `{"key":"` + strings.ReplaceAll(key, "\n", `\n`) + `","name":"w1"}`, "Hidden", []string{`"name":"w1"`}},
		{"key of a kubeconfig", "    client-key-data: SGlkZGVuSGlkZGVu\n    server: https://a", "SGlkZGVu", []string{"server: https://a"}},
		{"base64 of PEM", "data LS0tLS1CRUdJTiBFQyBQUklWQVRFIEtFWS0tLS0tCk1IY0NBUUVFSUhpZGRlbg== end", "QyBQUklWQVRF", []string{"end"}},
		{"token of a kubeconfig", `    token: hidden-hidden`, "hidden-hidden", nil},
		{"bootstrap token", "using abcdef.0123456789hidden to join", "0123456789hidden", []string{"abcdef", "to join"}},
		{"JWT", "got eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJoaWRkZW4ifQ.c2lnbmF0dXJl, expired", "aWRkZW4", []string{", expired"}},
		{"bearer", "Authorization: Bearer hidden-hidden", "hidden-hidden", []string{"Authorization"}},
		{"bearer in curl", `-H "Authorization: Bearer hidden-hidden" -v`, "hidden-hidden", []string{"-v"}},
		{"basic", "Proxy-Authorization: Basic aGlkZGVuOmhpZGRlbg==", "aGlkZGVu", nil},
		{"proxy", "HTTPS_PROXY=http://user:hid/den@proxy.example:3128", "hid/den", []string{"proxy.example:3128"}},
		{"proxy with @", "HTTPS_PROXY=http://user:hid@den@proxy.example:3128", "hid", []string{"proxy.example:3128"}},
		{"flag", "/usr/bin/kubelet --token=hidden1 --password hidden2 --v=2", "hidden", []string{"--v=2"}},
		{"JSON", `{"password":"hid den","auth":"aGlkZGVu","n":1}`, "hid den", []string{`"n":1`}},
		{"registry", `{"auths":{"quay.io":{"auth": "aGlkZGVuOmhpZGRlbg=="}}}`, "aGlkZGVu", []string{"quay.io"}},
		{"unit's environment", `Environment=A=hidden1 "B=hidden 2" C=hidden3`, "hidden", []string{"A=", "B=", "C="}},
		{"cookie", "Cookie: session=hidden", "hidden", nil},
		{"mount", "//nas/x /mnt cifs rw,username=u,password=hidden,uid=0", "hidden", []string{"uid=0"}},
		{"crypt", "root:$6$salt$hiddenhiddenhidden:1:0", "hiddenhidden", nil},
		{"long line", strings.Repeat("x", maxLine+10) + "token=hidden\nnext", "hidden", []string{"next"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := redactAll(tt.in)
			if strings.Contains(got, tt.secret) {
				t.Errorf("%q stays in %q", tt.secret, got)
			}
			for _, s := range tt.stays {
				if !strings.Contains(got, s) {
					t.Errorf("%q is gone from %q", s, got)
				}
			}
			// Written a byte at a time it comes out the same.
			var b strings.Builder
			r := &redactor{w: &b}
			for i := range len(tt.in) {
				if _, err := r.Write([]byte{tt.in[i]}); err != nil {
					t.Fatal(err)
				}
			}
			if err := r.Close(); err != nil || b.String() != got {
				t.Errorf("a byte at a time it is %q (%v)", b.String(), err)
			}
		})
	}
}

// What a reader of a bug report needs stays as it is.
func TestRedactKeeps(t *testing.T) {
	for _, s := range []string{
		"kubelet --config=/etc/kubernetes/kubelet.yaml --authorization-mode=Webhook --authentication-token-webhook=true",
		"authentication:\n  anonymous:\n    enabled: false\nauthorization:\n  mode: Webhook\nserverTLSBootstrap: true",
		"I1120 15:00:00.000000 1 kubelet.go:100] \"Starting\" node=\"worker-1\"",
		"10250/tcp 4789/udp public (active)",
		"-----BEGIN CERTIFICATE-----\nMIIBhTCCASugAwIBAgIQIRi6zePL6mKjOipn+dNuaTAKBggqhkjOPQQDAjASMRAw\n-----END CERTIFICATE-----",
		"tokenAuth: true, tokens: 5, --service-account-private-key-file=/etc/x.pem",
		"quay.io/poseidon/kubelet:v1.34.4 sha256:0123",
		`{"kind":"bootstrap token","subject":"system:bootstrap:abcdef"}`,
	} {
		if got := redactAll(s); got != s {
			t.Errorf("%q became %q", s, got)
		}
	}
	doc := WorkerStatus{Credential: CredentialStatus{Kind: "bootstrap token", Server: "https://a"}, Problems: []string{"the token: \"x\" is bad"}}
	data, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if got := redactAll(string(data)); !json.Valid([]byte(got)) {
		t.Errorf("a status is no JSON any more: %s", got)
	}
}

// Whatever is written, the writer takes it all and never shows a key's lines.
func FuzzRedact(f *testing.F) {
	f.Add("a\n-----BEGIN PRIVATE KEY-----\n", "token: ")
	f.Fuzz(func(t *testing.T, before, between string) {
		const secret = "QWxsSGlkZGVuQWxsSGlkZGVuQWxsSGlkZGVu"
		in := before + "\n-----BEGIN PRIVATE KEY-----\n" + secret + "\n-----END PRIVATE KEY-----\n" + between + "\nBearer " + secret + "\n"
		if got := redactAll(in); !strings.Contains(before+between, "QWxsSG") && strings.Contains(got, secret) {
			t.Errorf("%q shows the secret: %q", in, got)
		}
	})
}
