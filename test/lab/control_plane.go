package lab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	serviceCIDR = "10.3.0.0/16"
	// DNSServiceIP is the kube-dns Service's address, the tenth of the service range.
	DNSServiceIP = "10.3.0.10"
	apiPort      = "6443"
)

// ControlPlane is a real kube-apiserver with its etcd and kube-controller-manager.
type ControlPlane struct {
	Server  string // "https://10.77.0.2:6443"
	Version string
	CA      *Authority

	lab        *Lab
	dir        string
	netns      *os.File
	kubectl    string
	kubeconfig string // the administrator's, a path
	components []*component
	client     *http.Client
}

// component is one process of the control plane.
type component struct {
	name  string
	cmd   *exec.Cmd
	ended chan struct{}
	log   string
}

func (l *Lab) startControlPlane(ctx context.Context) (*ControlPlane, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute) // builds too, where the cache is empty
	defer cancel()
	binaries := map[string]string{}
	for _, command := range []string{"kube-apiserver", "kube-controller-manager", "kubectl"} {
		path, err := l.Cache.Kubernetes(ctx, ControlPlaneVersion, command)
		if err != nil {
			return nil, err
		}
		binaries[command] = path
	}
	cp := &ControlPlane{
		Server: "https://" + net.JoinHostPort(controlPlaneAddress, apiPort), Version: ControlPlaneVersion,
		lab: l, dir: filepath.Join(l.dir, "control-plane"), kubectl: binaries["kubectl"],
	}
	if err := cp.start(ctx, binaries); err != nil {
		for _, c := range cp.components {
			err = fmt.Errorf("%w\n--- %s\n%s", err, c.name, tail(c.log, 15))
		}
		cp.close()
		return nil, fmt.Errorf("cannot start the control plane: %w", err)
	}
	return cp, nil
}

func (cp *ControlPlane) start(ctx context.Context, binaries map[string]string) (err error) {
	if err := os.MkdirAll(filepath.Join(cp.dir, "etcd"), 0o700); err != nil {
		return err
	}
	if cp.netns, err = cp.lab.attach(ctx, "cp", controlPlaneAddress); err != nil {
		return err
	}
	if err := cp.credentials(); err != nil {
		return err
	}
	if err := cp.etcd(); err != nil {
		return err
	}
	file := func(name string) string { return filepath.Join(cp.dir, name) }
	if err := cp.run("kube-apiserver", binaries["kube-apiserver"],
		"--etcd-servers=http://127.0.0.1:2379", "--secure-port="+apiPort, "--bind-address=0.0.0.0", "--advertise-address="+controlPlaneAddress,
		"--tls-cert-file="+file("server.crt"), "--tls-private-key-file="+file("server.key"),
		"--client-ca-file="+file("ca.crt"), "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--enable-bootstrap-token-auth=true", "--service-cluster-ip-range="+serviceCIDR,
		"--service-account-key-file="+file("sa.key"), "--service-account-signing-key-file="+file("sa.key"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--kubelet-client-certificate="+file("admin.crt"), "--kubelet-client-key="+file("admin.key"),
		"--kubelet-preferred-address-types=InternalIP,Hostname"); err != nil {
		return err
	}
	if err := cp.waitReady(ctx); err != nil {
		return err
	}
	if err := cp.run("kube-controller-manager", binaries["kube-controller-manager"],
		"--kubeconfig="+file("admin.kubeconfig"), "--leader-elect=false", "--use-service-account-credentials=false",
		"--controllers=certificatesigningrequest-signing-controller,certificatesigningrequest-approving-controller,"+
			"token-cleaner-controller,bootstrap-signer-controller,node-lifecycle-controller,root-ca-certificate-publisher-controller,"+
			"serviceaccount-controller,namespace-controller",
		"--cluster-signing-cert-file="+file("ca.crt"), "--cluster-signing-key-file="+file("ca.key"),
		"--root-ca-file="+file("ca.crt"), "--service-account-private-key-file="+file("sa.key")); err != nil {
		return err
	}
	return cp.Apply(ctx, clusterObjects)
}

// etcd runs on a tmpfs that only it sees: a test's cluster is not worth an fsync.
func (cp *ControlPlane) etcd() error {
	path, err := exec.LookPath("etcd")
	if err != nil {
		return fmt.Errorf("cannot find etcd: %w; run \"make lab\"", err)
	}
	return cp.run("etcd", "/bin/sh", "-c", `mount -t tmpfs -o size=512m tmpfs "$1" && exec "$2" --data-dir "$1/data" --name lab \
	--listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
	--listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
	--initial-cluster lab=http://127.0.0.1:2380`, "etcd", filepath.Join(cp.dir, "etcd"), path)
}

func (cp *ControlPlane) run(name string, argv ...string) error {
	log, err := os.Create(filepath.Join(cp.dir, name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.CommandContext(context.Background(), argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + cp.dir}
	cmd.Dir = cp.dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if err := cp.lab.spawn.start(cp.netns, cmd); err != nil {
		return fmt.Errorf("cannot start %s: %w", name, err)
	}
	c := &component{name: name, cmd: cmd, ended: make(chan struct{}), log: log.Name()}
	go func() { cmd.Wait(); close(c.ended) }()
	cp.components = append(cp.components, c)
	return nil
}

// credentials writes the CA, the server's certificate, the service accounts' key and the administrator's kubeconfig.
func (cp *ControlPlane) credentials() (err error) {
	if cp.CA, err = NewAuthority("kube-ca"); err != nil {
		return err
	}
	server, err := cp.CA.Issue(Subject{Name: "kube-apiserver", Hosts: []string{
		controlPlaneAddress, proxyAddress, "10.3.0.1", "127.0.0.1", controlPlaneName, "kubernetes", "kubernetes.default",
		"kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
	}})
	if err != nil {
		return err
	}
	admin, err := cp.CA.Issue(Subject{Name: "admin", Organizations: []string{"system:masters"}})
	if err != nil {
		return err
	}
	accounts, err := cp.CA.Issue(Subject{Name: "service-accounts"})
	if err != nil {
		return err
	}
	cp.kubeconfig = filepath.Join(cp.dir, "admin.kubeconfig")
	for name, data := range map[string][]byte{
		"ca.crt": cp.CA.Cert, "ca.key": cp.CA.Key, "server.crt": server.Cert, "server.key": server.Key,
		"admin.crt": admin.Cert, "admin.key": admin.Key, "sa.key": accounts.Key,
		"admin.kubeconfig": Kubeconfig{Server: cp.Server, CA: cp.CA.Cert, Client: admin}.YAML(),
	} {
		if err := os.WriteFile(filepath.Join(cp.dir, name), data, 0o600); err != nil {
			return err
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cp.CA.Cert)
	pair, err := tls.X509KeyPair(admin.Cert, admin.Key)
	if err != nil {
		return err
	}
	cp.client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext:     cp.Dial,
		TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}},
	}}
	return nil
}

// waitReady asks /readyz; kube-apiserver has no event to wait for.
func (cp *ControlPlane) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := cp.Get(ctx, "/readyz")
		if err == nil {
			return nil
		}
		for _, c := range cp.components {
			select {
			case <-c.ended:
				return fmt.Errorf("%s ended", c.name)
			default:
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("kube-apiserver is not ready: %w", err)
		case <-tick.C:
		}
	}
}

// Get reads a path of the API as the administrator.
func (cp *ControlPlane) Get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, cp.Server+path, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot ask for %s: %w", path, err)
	}
	resp, err := cp.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, resp.Status, body)
	}
	return body, err
}

// Dial connects to an address on the lab's bridge from the control plane's network namespace. It suits
// http.Transport.DialContext and rest.Config.Dial.
func (cp *ControlPlane) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	nsErr := inNetns(cp.netns, func() error {
		conn, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, address)
		return nil
	})
	return conn, errors.Join(nsErr, err)
}

// Kubeconfig is the path of the administrator's kubeconfig.
func (cp *ControlPlane) Kubeconfig() string { return cp.kubeconfig }

// Kubectl runs kubectl as the administrator.
func (cp *ControlPlane) Kubectl(ctx context.Context, args ...string) (string, error) {
	return cp.kubectlStdin(ctx, "", args...)
}

// Apply applies YAML as the administrator.
func (cp *ControlPlane) Apply(ctx context.Context, yaml string) error {
	_, err := cp.kubectlStdin(ctx, yaml, "apply", "-f", "-")
	return err
}

func (cp *ControlPlane) kubectlStdin(ctx context.Context, stdin string, args ...string) (string, error) {
	argv := append([]string{cp.kubectl, "--kubeconfig=" + cp.kubeconfig, "--cache-dir=" + filepath.Join(cp.dir, "cache")}, args...)
	return cp.lab.spawn.output(ctx, cp.netns, stdin, argv...)
}

// WaitNodeReady waits until the node is Ready, by kubectl's watch.
func (cp *ControlPlane) WaitNodeReady(ctx context.Context, name string, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	if _, err := cp.Kubectl(ctx, "wait", "--for=create", "node/"+name, "--timeout="+timeout.String()); err != nil {
		return err
	}
	_, err := cp.Kubectl(ctx, "wait", "--for=condition=Ready", "node/"+name, "--timeout="+time.Until(deadline).Round(time.Second).String())
	return err
}

// Log gives the last lines of a component's log: "kube-apiserver", "kube-controller-manager" or "etcd".
func (cp *ControlPlane) Log(name string, lines int) string {
	return tail(filepath.Join(cp.dir, name+".log"), lines)
}

func (cp *ControlPlane) close() error {
	for i := len(cp.components) - 1; i >= 0; i-- {
		killGroup(cp.components[i].cmd)
		<-cp.components[i].ended
	}
	if cp.netns != nil {
		cp.netns.Close()
	}
	return os.RemoveAll(cp.dir)
}

// clusterObjects are what every cluster has: the DNS Service, and kubeadm's bindings that let a bootstrap token's
// holder get a node's certificate.
var clusterObjects = strings.Join([]string{
	`apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec:
  clusterIP: ` + DNSServiceIP + `
  selector: {k8s-app: kube-dns}
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
`,
	clusterRoleBinding("kubelet-bootstrap", "system:node-bootstrapper", "system:bootstrappers"),
	clusterRoleBinding("node-autoapprove-bootstrap", "system:certificates.k8s.io:certificatesigningrequests:nodeclient", "system:bootstrappers"),
	clusterRoleBinding("node-autoapprove-rotation", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", "system:nodes"),
}, "---\n")

func clusterRoleBinding(name, role, group string) string {
	return `apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: ` + name + `}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "` + role + `"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "` + group + `"}]
`
}
