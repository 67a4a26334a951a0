package node

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

func TestRealReach(t *testing.T) {
	p := startControlPlane(t)
	t.Run("shared client certificate", func(t *testing.T) {
		s, err := p.cert(t, "kubelet", "system:masters").Reach(t.Context())
		if err != nil || !strings.HasPrefix(s.Version, "v1.36") || s.LocalIP.String() != "127.0.0.1" || s.Skew.Abs() > 2*time.Second {
			t.Errorf("%+v, %v", s, err)
		}
	})
	t.Run("a node's own certificate", func(t *testing.T) {
		if s, err := p.cert(t, "system:node:w1", "system:nodes").Reach(t.Context()); err != nil || s.Major != "1" || s.Minor != "36" {
			t.Errorf("%+v, %v", s, err)
		}
	})
	t.Run("certificate without rights", func(t *testing.T) {
		_, err := p.cert(t, "somebody").Reach(t.Context())
		expect(t, err, LayerAuthorization, Forbidden, "cannot create nodes at "+p.server+": the client certificate CN=somebody is accepted but has not the right", "system:node")
	})
	t.Run("certificate of another cluster", func(t *testing.T) {
		user := certUser(t, newAuthority(t, "kube-ca-of-another"), leaf{cn: "kubelet", orgs: []string{"system:masters"}})
		_, err := p.client(t, user).Reach(t.Context())
		expect(t, err, LayerAuthentication, Unauthorized, "does not accept the client certificate CN=kubelet,O=system:masters (401)")
	})
	t.Run("expired certificate", func(t *testing.T) {
		_, err := p.client(t, certUser(t, p.ca, leaf{cn: "kubelet", notBefore: time.Now().AddDate(0, 0, -3)})).Reach(t.Context())
		expect(t, err, LayerAuthentication, Unauthorized, "it expired at", "get a new kubeconfig")
	})
	t.Run("unknown token", func(t *testing.T) {
		_, err := p.client(t, api.AuthInfo{Token: secretToken}).Reach(t.Context())
		expect(t, err, LayerAuthentication, Unauthorized, "does not accept the token (401)")
	})
	t.Run("unknown bootstrap token", func(t *testing.T) {
		_, err := p.client(t, api.AuthInfo{Token: bootstrap}).Reach(t.Context())
		expect(t, err, LayerAuthentication, Unauthorized, "bootstrap token system:bootstrap:abcdef (401)")
	})
	t.Run("bootstrap token without rights", func(t *testing.T) {
		_, err := p.client(t, p.bootstrapToken(t, "aaaaaa", false)).untilAuthenticated(t)
		expect(t, err, LayerAuthorization, Forbidden, "cannot create certificatesigningrequests", "clusterrole=system:node-bootstrapper")
	})
	t.Run("bootstrap token", func(t *testing.T) {
		c := p.client(t, p.bootstrapToken(t, "bbbbbb", true))
		s, err := c.untilAuthenticated(t)
		if err != nil || !s.AutoApproved {
			t.Errorf("%+v, %v", s, err)
		}
		_, _, err = c.DNSServiceIP(t.Context())
		expect(t, err, LayerAuthorization, Forbidden, "cannot find the address of the cluster's DNS Service", "--dns-service-ip")
		_, err = c.Node(t.Context(), "w1")
		expect(t, err, LayerAuthorization, Forbidden, "cannot read node w1")
	})
}

func TestRealDNSServiceIP(t *testing.T) {
	p := startControlPlane(t)
	check := func(t *testing.T, c *Client, ip, how string) {
		t.Helper()
		got, said, err := c.DNSServiceIP(t.Context())
		if err != nil || got.String() != ip || !strings.Contains(said, how) {
			t.Errorf("got %v, %q, %v; want %s, %q", got, said, err, ip, how)
		}
	}
	admin, worker := p.admin, p.cert(t, "system:node:w1", "system:nodes")
	t.Run("no DNS Service, range readable", func(t *testing.T) {
		check(t, admin, "10.3.0.10", "the tenth address of the Services' range 10.3.0.0/16")
	})
	t.Run("no DNS Service, range not readable", func(t *testing.T) {
		check(t, worker, "10.3.0.10", "whose first is that of the Service default/kubernetes (10.3.0.1)")
	})
	service := func(name, ip string, labels map[string]string, port int) map[string]any {
		o := object("Service", "v1", name, map[string]any{"spec": map[string]any{"clusterIP": ip, "ports": []any{map[string]any{"port": port, "protocol": "UDP", "name": "dns"}}}})
		o["metadata"].(map[string]any)["labels"] = labels
		return o
	}
	const services = "/api/v1/namespaces/kube-system/services"
	label := map[string]string{"k8s-app": "kube-dns"}
	p.apply(t, p.admin, services, service("kube-dns-upstream", "10.3.0.77", label, 53))
	p.apply(t, p.admin, services, service("metrics", "10.3.0.78", label, 9153))
	t.Run("others with the label", func(t *testing.T) { check(t, worker, "10.3.0.10", "the tenth address") })
	p.apply(t, p.admin, services, service("rke2-coredns", "10.3.0.55", label, 53))
	t.Run("by label", func(t *testing.T) { check(t, worker, "10.3.0.55", "the Service kube-system/rke2-coredns") })
	p.apply(t, p.admin, services, service("kube-dns", "10.3.0.99", nil, 53))
	t.Run("by name", func(t *testing.T) { check(t, worker, "10.3.0.99", "the Service kube-system/kube-dns") })
}

// condition is the Ready condition as a kubelet writes it.
func condition(status, reason, message string) map[string]any {
	return map[string]any{"type": "Ready", "status": status, "reason": reason, "message": message,
		"lastHeartbeatTime": time.Now().UTC().Format(time.RFC3339), "lastTransitionTime": time.Now().UTC().Format(time.RFC3339)}
}

func TestRealNode(t *testing.T) {
	p := startControlPlane(t)
	worker := p.cert(t, "system:node:w1", "system:nodes")
	if _, err := worker.Node(t.Context(), "w1"); !IsReason(err, NotFound) {
		t.Fatalf("got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	const cni = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:cni plugin not initialized\x1b[31m"
	var seen []string
	err := worker.WaitNode(ctx, "w1", func(s NodeState) {
		seen = append(seen, s.Why())
		switch len(seen) { // each step is taken when the one before was seen
		case 1:
			p.apply(t, worker, "/api/v1/nodes", object("Node", "v1", "w1", map[string]any{"spec": map[string]any{"taints": []any{map[string]string{"key": "a", "value": "b", "effect": "NoSchedule"}}}}))
		case 2:
			worker.patchStatus(t, "w1", map[string]any{"conditions": []any{condition("False", "KubeletNotReady", cni)}, "addresses": []any{map[string]string{"type": "InternalIP", "address": "192.0.2.7"}},
				"nodeInfo": map[string]string{"machineID": "m1", "systemUUID": "", "bootID": "", "kernelVersion": "", "osImage": "RHEL", "containerRuntimeVersion": "containerd://1.7", "kubeletVersion": "v1.36.3", "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64"}})
		case 3:
			if !s.CNIMissing() {
				t.Errorf("not seen as a missing network plugin: %+v", s)
			}
			worker.patchStatus(t, "w1", map[string]any{"conditions": []any{condition("True", "KubeletReady", "kubelet is posting ready status")}})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"node w1 is not registered", "node w1 is registered, its kubelet has not reported a condition yet",
		"node w1 is not Ready: KubeletNotReady: container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:cni plugin not initialized [31m", "node w1 is Ready"}
	if strings.Join(seen, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(seen, "\n"), strings.Join(want, "\n"))
	}
	s, err := worker.Node(t.Context(), "w1")
	if err != nil || !s.Ready || s.MachineID != "m1" || s.UID == "" || len(s.InternalIPs) != 1 || strings.Join(s.Taints, " ") != "a=b:NoSchedule node.kubernetes.io/not-ready:NoSchedule" {
		t.Errorf("%+v, %v", s, err)
	}

	p.apply(t, p.admin, "/api/v1/nodes", object("Node", "v1", "w2", nil))
	t.Run("another's node", func(t *testing.T) {
		p.admin.patchStatus(t, "w2", map[string]any{"nodeInfo": map[string]string{"machineID": "m1", "systemUUID": "", "bootID": "", "kernelVersion": "", "osImage": "", "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "", "operatingSystem": "", "architecture": ""}})
		twins, err := p.admin.NodesOfMachine(t.Context(), "w1", "m1", "", "")
		if err != nil || len(twins) != 1 || twins[0].Name != "w2" {
			t.Errorf("%+v, %v", twins, err)
		}
		_, err = worker.NodesOfMachine(t.Context(), "w1", "m1", "", "")
		expect(t, err, LayerAuthorization, Forbidden, "cannot list nodes")
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		err = worker.WaitNode(ctx, "w2", nil)
		expect(t, err, LayerAuthorization, Forbidden, "cannot watch node w2")
		if ctx.Err() != nil {
			t.Error("it went on trying without the right")
		}
	})
	t.Run("a wait that ends too early", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		err := p.admin.WaitNode(ctx, "w2", nil)
		var notReady *NotReadyError
		if !errors.As(err, &notReady) || !errors.Is(err, context.DeadlineExceeded) || !notReady.Last.Registered {
			t.Errorf("got %v", err)
		}
	})
	t.Run("delete", func(t *testing.T) {
		err := p.admin.DeleteNodeUID(t.Context(), "w1", "00000000-0000-0000-0000-000000000000")
		expect(t, err, LayerAPI, Conflict, "cannot delete node w1")
		expect(t, worker.DeleteNode(t.Context(), "w1"), LayerAuthorization, Forbidden, "cannot delete node w1", "system:node:w1")
		if err := p.admin.DeleteNodeUID(t.Context(), "w1", s.UID); err != nil {
			t.Error(err)
		}
		if err := p.admin.DeleteNode(t.Context(), "w1"); err != nil {
			t.Errorf("the second time: %v", err)
		}
		if _, err := worker.Node(t.Context(), "w1"); !IsReason(err, NotFound) {
			t.Errorf("got %v", err)
		}
	})
}

func TestRealCSRs(t *testing.T) {
	p := startControlPlane(t)
	boot := p.client(t, p.bootstrapToken(t, "cccccc", true))
	if _, err := boot.untilAuthenticated(t); err != nil {
		t.Fatal(err)
	}
	ask := func(name, node string) {
		p.apply(t, boot, "/apis/certificates.k8s.io/v1/certificatesigningrequests", object("CertificateSigningRequest", "certificates.k8s.io/v1", name, map[string]any{
			"spec": map[string]any{"request": request(t, node), "signerName": kubeletClient, "usages": []string{"digital signature", "client auth"}},
		}))
	}
	ask("csr-w1", "w1")
	ask("csr-w2", "w2")
	state := func(want CSRState) {
		t.Helper()
		all, err := boot.CSRs(t.Context(), "w1")
		if err != nil || len(all) != 1 || all[0].Name != "csr-w1" || all[0].State != want || all[0].Requester != "system:bootstrap:cccccc" {
			t.Errorf("got %+v, %v; want %s", all, err, want)
		}
	}
	state(CSRPending)
	decide := func(name, verdict string) {
		t.Helper()
		body := fmt.Sprintf(`{"status":{"conditions":[{"type":%q,"status":"True","reason":"Test","message":"by the test"}]}}`, verdict)
		path := "/apis/certificates.k8s.io/v1/certificatesigningrequests/" + name + "/approval"
		if _, _, err := p.admin.raw(t.Context(), "decide", p.admin.rest.Patch("application/merge-patch+json").AbsPath(path).Body([]byte(body))); err != nil {
			t.Fatal(err)
		}
	}
	decide("csr-w1", "Approved")
	state(CSRApproved) // there is no controller to issue it
	decide("csr-w2", "Denied")
	all, err := boot.CSRs(t.Context(), "w2")
	if err != nil || len(all) != 1 || all[0].State != CSRDenied || all[0].Message != "by the test" {
		t.Errorf("got %+v, %v", all, err)
	}
	if all, err := p.cert(t, "system:node:w1", "system:nodes").CSRs(t.Context(), "w1"); err != nil || len(all) != 1 {
		t.Errorf("a node's own certificate: %+v, %v", all, err)
	}
	_, err = p.cert(t, "somebody").CSRs(t.Context(), "w1")
	expect(t, err, LayerAuthorization, Forbidden, "cannot list the certificate signing requests of node w1")
}
