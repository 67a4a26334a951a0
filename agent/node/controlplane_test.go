package node

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd/api"
)

// A controlPlane is a real etcd and a real kube-apiserver on loopback, started once for all tests of this package that ask for
// it, and stopped by TestMain.
type controlPlane struct {
	dir    string
	ca     *authority
	server string
	admin  *Client
	procs  []*exec.Cmd
	gone   <-chan struct{} // closed when kube-apiserver has ended
	err    error
}

var (
	shared     controlPlane
	sharedOnce sync.Once
)

func TestMain(m *testing.M) {
	code := m.Run()
	shared.stop()
	os.Exit(code)
}

// startControlPlane skips, or fails in CI, where the binaries are missing.
func startControlPlane(t *testing.T) *controlPlane {
	t.Helper()
	etcd := needTool(t, "etcd")
	cache := os.Getenv("TECTONIC_LAB_CACHE")
	if cache == "" {
		cache = "/var/cache/tectonic-worker-lab"
	}
	apiserver := filepath.Join(cache, "kubernetes", "v1.36.3", "kube-apiserver")
	// The lab keeps each build in a directory of its own.
	if built, _ := filepath.Glob(filepath.Join(cache, "kubernetes", "v1.36.3", "kube-apiserver-*", "kube-apiserver")); len(built) > 0 {
		apiserver = built[len(built)-1]
	}
	needTool(t, apiserver)
	sharedOnce.Do(func() { shared.err = shared.start(t, etcd, apiserver) })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return &shared
}

func (p *controlPlane) start(t *testing.T, etcd, apiserver string) (err error) {
	if p.dir, err = os.MkdirTemp("", "node-test-"); err != nil {
		return err
	}
	p.ca = newAuthority(t, "kube-ca")
	write := func(name string, data ...[]byte) string {
		path := filepath.Join(p.dir, name)
		if e := os.WriteFile(path, bytes.Join(data, nil), 0o600); e != nil && err == nil {
			err = e
		}
		return path
	}
	pair := p.ca.server(t, leaf{})
	der, e := x509.MarshalECPrivateKey(pair.PrivateKey.(*ecdsa.PrivateKey)) // the form that --service-account-key-file takes
	if e != nil {
		return e
	}
	cert := write("server.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}))
	key := write("server.key", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	ca := write("ca.crt", p.ca.pem)
	if err != nil {
		return err
	}
	ports, err := freePorts(3)
	if err != nil {
		return err
	}
	client, peer := "http://127.0.0.1:"+ports[0], "http://127.0.0.1:"+ports[1]
	if err := p.run(etcd, "--name=lab", "--data-dir="+filepath.Join(p.dir, "etcd"), "--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=lab="+peer, "--unsafe-no-fsync"); err != nil {
		return err
	}
	p.server = "https://127.0.0.1:" + ports[2]
	if err := p.run(apiserver, "--etcd-servers="+client, "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--secure-port="+ports[2],
		"--tls-cert-file="+cert, "--tls-private-key-file="+key, "--client-ca-file="+ca,
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+key, "--service-account-signing-key-file="+key,
		"--service-cluster-ip-range=10.3.0.0/16", "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--enable-bootstrap-token-auth=true", "--endpoint-reconciler-type=none"); err != nil {
		return err
	}
	user := certUser(t, p.ca, leaf{cn: "admin", orgs: []string{"system:masters"}})
	k, err := Parse(config(t, p.server, p.ca.pem, user, nil))
	if err != nil {
		return err
	}
	if p.admin, err = NewClient(k, Options{}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	gone := make(chan struct{})
	last := p.procs[len(p.procs)-1]
	go func() { last.Wait(); close(gone) }()
	p.gone = gone
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		_, _, err := p.admin.raw(ctx, "start", p.admin.rest.Get().AbsPath("/readyz"))
		if err == nil {
			// The range of Services is written a moment after.
			if _, _, err = p.admin.raw(ctx, "start", p.admin.rest.Get().AbsPath("/apis/networking.k8s.io/v1/servicecidrs/kubernetes")); err == nil {
				return nil
			}
		}
		select {
		case <-tick.C:
			continue
		case <-gone:
		case <-ctx.Done():
		}
		log, _ := os.ReadFile(filepath.Join(p.dir, "kube-apiserver.log"))
		return fmt.Errorf("kube-apiserver does not become ready: %w\n%s", err, log[max(0, len(log)-4000):])
	}
}

func (p *controlPlane) run(program string, args ...string) error {
	log, err := os.Create(filepath.Join(p.dir, filepath.Base(program)+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	p.procs = append(p.procs, cmd)
	return nil
}

func (p *controlPlane) stop() {
	for i := len(p.procs) - 1; i >= 0; i-- {
		p.procs[i].Process.Kill()
		if p.gone != nil && i == len(p.procs)-1 {
			<-p.gone
			continue
		}
		p.procs[i].Wait()
	}
	if p.dir != "" {
		os.RemoveAll(p.dir)
	}
}

func freePorts(n int) (ports []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return nil, err
		}
		ports = append(ports, port)
	}
	return ports, nil
}

// client is one with the given credential.
func (p *controlPlane) client(t *testing.T, user api.AuthInfo) *Client {
	t.Helper()
	return client(t, p.server, p.ca.pem, user, Options{Limits: DefaultLimits})
}

func (p *controlPlane) cert(t *testing.T, cn string, orgs ...string) *Client {
	t.Helper()
	return p.client(t, certUser(t, p.ca, leaf{cn: cn, orgs: orgs}))
}

// apply sends an object as it is written in a manifest; what it makes is deleted by the administrator when the test ends.
func (p *controlPlane) apply(t *testing.T, as *Client, path string, object map[string]any) {
	t.Helper()
	body, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := as.raw(t.Context(), "make "+path, as.rest.Post().AbsPath(path).SetHeader("Content-Type", "application/json").Body(body)); err != nil {
		t.Error(err)
		return
	}
	name := object["metadata"].(map[string]any)["name"].(string)
	t.Cleanup(func() {
		_, _, err := p.admin.raw(context.Background(), "delete "+path, p.admin.rest.Delete().AbsPath(path, name))
		if err != nil && !IsReason(err, NotFound) {
			t.Error(err)
		}
	})
}

func (c *Client) patchStatus(t *testing.T, node string, status map[string]any) {
	t.Helper()
	body, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.raw(context.Background(), "patch", c.rest.Patch("application/strategic-merge-patch+json").AbsPath("/api/v1/nodes", node, "status").Body(body)); err != nil {
		t.Error(err)
	}
}

func object(kind, version, name string, more map[string]any) map[string]any {
	o := map[string]any{"kind": kind, "apiVersion": version, "metadata": map[string]any{"name": name}}
	for k, v := range more {
		o[k] = v
	}
	return o
}

// bootstrapToken makes one as kubeadm does, and binds its group to the right to ask for a certificate.
func (p *controlPlane) bootstrapToken(t *testing.T, id string, bind bool) api.AuthInfo {
	t.Helper()
	p.apply(t, p.admin, "/api/v1/namespaces/kube-system/secrets", object("Secret", "v1", "bootstrap-token-"+id, map[string]any{
		"type": "bootstrap.kubernetes.io/token",
		"stringData": map[string]string{"token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
			"expiration": time.Now().Add(time.Hour).UTC().Format(time.RFC3339)},
	}))
	if bind {
		for _, role := range []string{"system:node-bootstrapper", "system:certificates.k8s.io:certificatesigningrequests:nodeclient"} {
			p.apply(t, p.admin, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", object("ClusterRoleBinding", "rbac.authorization.k8s.io/v1", id+"-"+role, map[string]any{
				"roleRef":  map[string]string{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
				"subjects": []any{map[string]string{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:bootstrappers"}},
			}))
		}
	}
	return api.AuthInfo{Token: id + ".0123456789abcdef"}
}

// The secret becomes known to the API server's informer a moment after it is written.
func (c *Client) untilAuthenticated(t *testing.T) (Server, error) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for tick := time.NewTicker(50 * time.Millisecond); ; <-tick.C {
		s, err := c.Reach(t.Context())
		if !IsReason(err, Unauthorized) || time.Now().After(deadline) {
			tick.Stop()
			return s, err
		}
	}
}
