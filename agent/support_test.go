package agent

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/systemd"
	"github.com/tectonic-worker/tectonic-worker/sysconfig"
)

// unpack reads an archive that support wrote: entry by name, without the
// directory.
func unpack(t *testing.T, data []byte) map[string]string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Mode != 0o600 {
			t.Errorf("%s has mode %o", h.Name, h.Mode)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		_, name, _ := strings.Cut(h.Name, "/")
		out[name] = string(body)
	}
}

// planted is one secret in every shape that it can have on a host; each has a
// part that must not be found.
var planted = struct{ password, token, bootstrap, key, jwt, env string }{
	password: "PlantedPassword1", token: "PlantedBearer2PlantedBearer2", bootstrap: "0123456planted33",
	key: "PlantedKey4PlantedKey4PlantedKey4PlantedKey4", jwt: "UGxhbnRlZDVQbGFudGVkNQ", env: "PlantedEnv6",
}

func pemOf(secret string) string {
	return "-----BEGIN RSA PRIVATE KEY-----\n" + secret + "\n" + secret + "\n-----END RSA PRIVATE KEY-----\n"
}

// No secret leaves the host, wherever it lies and whatever shows it.
func TestSupportHasNoSecrets(t *testing.T) {
	d := newDoubles(t)
	p := planted
	jwt := "eyJhbGciOiJSUzI1NiJ9." + p.jwt + ".c2ln"
	keyData := base64.StdEncoding.EncodeToString([]byte(pemOf(p.key)))
	all := fmt.Sprintf("password=%s\nAuthorization: Bearer %s\njoin abcdef.%s\n%s\nclient-key-data: %s\njwt %s\nproxy http://u:%s@proxy:3128\n",
		p.password, p.token, p.bootstrap, pemOf(p.key), keyData, jwt, p.password)
	proxy := "HTTPS_PROXY=http://user:" + p.password + "@proxy.example:3128\n"

	write(t, d.root, sysconfig.Path, proxy+"KUBERNETES_DNS_SERVICE_IP=10.3.0.10\nKUBELET_EXTRA_ARGS=--token="+p.token+"\n# abcdef."+p.bootstrap+"\n", 0o644)
	write(t, d.root, sysconfig.KubeletEnvPath, "RKT_RUN_ARGS=--set-env=API_TOKEN="+p.token+"\n", 0o644)
	write(t, d.root, kubelet.KubeconfigPath, kubeconfigText("https://api.example:6443", jwt), 0o600)
	write(t, d.root, kubelet.NodeKubeconfigPath, "users:\n- user:\n    client-key-data: "+keyData+"\n    token: "+p.token+"\n", 0o600)
	write(t, d.root, kubelet.ConfigPath, "authentication: {}\nstaticPodURLHeader:\n  Authorization: [\"Bearer "+p.token+"\"]\n"+all, 0o600)
	write(t, d.root, kubelet.DropInDir+"/10-a.yaml", "staticPodURL: https://u:"+p.password+"@h/x\n"+all, 0o644)
	write(t, d.root, "/etc/systemd/system/kubelet.service.d/10-env.conf", "[Service]\nEnvironment=ANY="+p.env+" \"OTHER="+p.env+" x\"\n"+all, 0o644)
	for _, f := range []string{"/etc/containerd/config.toml", "/etc/cni/net.d/10-calico.conflist", "/etc/hosts", "/proc/self/mountinfo", "/proc/cmdline", "/etc/os-release", "/etc/resolv.conf"} {
		write(t, d.root, f, all, 0o644)
	}
	write(t, d.root, "/proc/77/comm", "kubelet\n", 0o444)
	write(t, d.root, "/proc/77/cmdline", "kubelet\x00--token\x00"+p.token+"\x00--bootstrap-kubeconfig=/x\x00--x=http://u:"+p.password+"@h\x00", 0o444)
	// What the ledger keeps of a file is its former content.
	l := must[*Ledger](t)(OpenLedger(d.root))
	before, _ := json.Marshal(fileState{Exists: true, Content: []byte(all)})
	if err := l.Intend(Key{KindFile, kubelet.KubeconfigPath}, before, before); err != nil {
		t.Fatal(err)
	}
	// Every program answers with all the secrets, on both streams.
	for _, c := range supportCommands {
		write(t, d.root, "/usr/bin/"+c.argv[0], "#!/bin/sh\ncat <<'END'\nEnvironment=ANY="+p.env+"\n"+all+"END\ncat >&2 <<'END'\n"+all+"END\nexit 3\n", 0o755)
	}
	// Errors and statuses repeat what others said.
	d.cluster.nodeErr = fmt.Errorf("cannot ask: proxy http://u:%s@proxy answers: Authorization: Bearer %s", p.password, p.token)
	d.cluster.reachErr = d.cluster.nodeErr
	d.units.set("kubelet.service", func(st *systemd.State) { st.Active, st.StatusText = "active", "token="+p.token })

	var b bytes.Buffer
	o := SupportOptions{Environ: []string{strings.TrimSpace(proxy), "SECRET_TOKEN=" + p.env}, Version: "v1", Prefix: "x"}
	if err := Support(t.Context(), d.system(), o, &b); err != nil {
		t.Fatal(err)
	}
	entries := unpack(t, b.Bytes())
	for name, body := range entries {
		for _, secret := range []string{p.password, p.token, p.bootstrap, p.key, p.jwt, p.env, keyData, keyData[40:80],
			base64.StdEncoding.EncodeToString([]byte(all))[:60], plainToken} {
			if strings.Contains(body, secret) {
				t.Errorf("%s shows %q:\n%s", name, secret, body)
			}
		}
	}
	// It is not empty either.
	for name, want := range map[string]string{
		"files" + sysconfig.Path: "KUBERNETES_DNS_SERVICE_IP=10.3.0.10", "kubelet/arguments.txt": "--bootstrap-kubeconfig=/x",
		"ledger.txt": kubelet.KubeconfigPath, "credentials.txt": "https://api.example:6443", "firewall/runtime.txt": "firewall-cmd --list-all-zones",
		"systemd/kubelet.service.cat.txt": "ANY=", "journal/kubelet.service.txt": "abcdef.", "index.txt": "FAILED",
		"files/etc/systemd/system/kubelet.service.d/10-env.conf": "[Service]",
	} {
		if !strings.Contains(entries[name], want) {
			t.Errorf("%s has no %q:\n%s", name, want, entries[name])
		}
	}
	for _, name := range []string{"status.json", "doctor.json"} {
		if !json.Valid([]byte(entries[name])) {
			t.Errorf("%s is no JSON:\n%s", name, entries[name])
		}
	}
}

// A host on which nothing works gives an archive that says so.
func TestSupportOnBrokenHost(t *testing.T) {
	d := newDoubles(t)
	sys := d.system()
	sys.Units = func(context.Context) (Units, error) { return nil, errors.New("no systemd") }
	sys.Firewall = func(context.Context) (Firewall, error) { return nil, errors.New("no bus") }
	write(t, d.root, LedgerPath, "not JSON\nat all\n", 0o600)
	var b bytes.Buffer
	if err := Support(t.Context(), sys, SupportOptions{Prefix: "x"}, &b); err != nil {
		t.Fatal(err)
	}
	entries := unpack(t, b.Bytes())
	for _, want := range []string{"ledger.txt", "FAILED: cannot read the ledger", "FAILED: cannot find nft"} {
		if !strings.Contains(entries["index.txt"], want) {
			t.Errorf("the index does not say %q:\n%s", want, entries["index.txt"])
		}
	}
	if len(entries) < 30 {
		t.Errorf("%d entries", len(entries))
	}
}

// A collector that hangs, or writes without end, costs its own entry alone.
func TestCollectorIsBounded(t *testing.T) {
	hang := collector{name: "hangs", limit: 50 * time.Millisecond, write: func(ctx context.Context, w io.Writer) error {
		fmt.Fprintln(w, "begun")
		select {}
	}}
	begin := time.Now()
	e := hang.collect(t.Context())
	if e.err == nil || string(e.data) != "begun\n" || time.Since(begin) > 10*time.Second {
		t.Errorf("%q, %v after %v", e.data, e.err, time.Since(begin))
	}
	flood := collector{name: "floods", write: func(_ context.Context, w io.Writer) error {
		for range 2 * maxEntry / 64 {
			if _, err := io.WriteString(w, strings.Repeat("y", 63)+"\n"); err != nil {
				return err
			}
		}
		return nil
	}}
	if e := flood.collect(t.Context()); len(e.data) > maxEntry+100 || !strings.HasSuffix(string(e.data), "[cut off here]\n") {
		t.Errorf("%d bytes", len(e.data))
	}
}
