package check

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	grpccredentials "google.golang.org/grpc/credentials"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
	"github.com/tectonic-worker/tectonic-worker/installer/credentials"
	"github.com/tectonic-worker/tectonic-worker/installer/machine"
	"github.com/tectonic-worker/tectonic-worker/installer/machine/api"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/server"
	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

const bmcPassword = "s3cret-of-the-bmc"

// site is a provisioner with everything right: matchbox's APIs and the machines' on the loopback interface, a real
// dnsmasq, two real BMCs.
type site struct {
	dir     string
	cluster *cluster.Cluster
	options Options
	store   *machine.Store
	bmc     *lab.BMC
	other   *lab.BMC

	stopHTTP, stopRPC, stopMachines func()
}

func needTool(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

func newSite(t *testing.T) *site {
	t.Helper()
	needTool(t, "dnsmasq")
	needTool(t, "ipmi_sim")
	s := &site{dir: t.TempDir()}
	if _, err := credentials.Create(filepath.Join(s.dir, "tls"), credentials.Options{Cluster: "lab", Names: []string{"matchbox.lab.example", "127.0.0.1"}}); err != nil {
		t.Fatal(err)
	}
	s.bmc, s.other = startBMC(t), startBMC(t)
	http, rpc, machines := s.serve(t)
	text := fmt.Sprintf(`apiVersion: installer.tectonic/v1alpha1
kind: Cluster
name: lab
dns: {controller: k8s.lab.example, ingress: apps.lab.example}
podCIDRs: [10.2.0.0/16]
serviceCIDRs: [10.3.0.0/16]
sshKeys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH8v0bqK3mYyd0r3eC0o0kPz5lq3mQz2JzL1T8cFYzbe lab"]
matchbox:
  http: http://matchbox.lab.example:8080
  tls: {ca: tls/ca.crt, certificate: tls/client.crt, key: tls/client.key}
network: {dhcp: none}
os: {name: flatcar, channel: stable, version: 4230.2.0}
files:
  - {path: /etc/pull-secret, source: pull-secret}
machines:
  - {name: node1, macs: ["52:54:00:00:00:01"], dnsName: node1.lab.example, role: controller, power: {driver: ipmi, address: "%s", credentials: {file: bmc.yaml}}}
  - {name: node2, macs: ["52:54:00:00:00:02"], dnsName: node2.lab.example, role: worker, power: {driver: ipmi, address: "%s", credentials: {file: bmc.yaml}}}
  - {name: node3, macs: ["52:54:00:00:00:03"], dnsName: node3.lab.example, role: worker, power: {driver: manual}}
`, s.bmc.Address, s.other.Address)
	for name, content := range map[string]string{"cluster.yaml": text, "pull-secret": "{}", "bmc.yaml": "username: ADMIN\npassword: " + bmcPassword + "\n"} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if s.cluster, err = cluster.Load(filepath.Join(s.dir, "cluster.yaml")); err != nil {
		t.Fatal(err)
	}
	s.cluster.Matchbox.HTTP, s.cluster.Matchbox.RPC, s.cluster.Matchbox.Machines = "http://"+http, rpc, machines
	for i := range s.cluster.Machines { // addresses of the loopback interface, which a cluster file may not have
		s.cluster.Machines[i].Address = netip.AddrFrom4([4]byte{127, 1, 0, byte(i + 1)})
	}
	s.options = Options{Timeout: 5 * time.Second, BMCAnswer: 200 * time.Millisecond, Registries: []string{}}
	s.options.Resolver = startDNS(t,
		"node1.lab.example,127.1.0.1", "node2.lab.example,127.1.0.2", "node3.lab.example,127.1.0.3",
		"k8s.lab.example,127.1.0.1", "apps.lab.example,127.1.0.2")
	return s
}

func startBMC(t *testing.T) *lab.BMC {
	t.Helper()
	b, err := lab.StartBMC(t.Context(), lab.BMCOptions{Address: netip.MustParseAddrPort("127.0.0.1:0"), Users: []lab.BMCUser{{Name: "ADMIN", Password: bmcPassword}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// serve starts the three APIs.
func (s *site) serve(t *testing.T) (httpAddress, rpcAddress, machinesAddress string) {
	t.Helper()
	// The provisioner has files of its own: it takes up those that change.
	own := t.TempDir()
	if err := os.CopyFS(own, os.DirFS(filepath.Join(s.dir, "tls"))); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(own, "server.key"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := func(name string) string { return filepath.Join(own, name) }
	config, err := credentials.ServerConfig(file("ca.crt"), file("server.crt"), file("server.key"), credentials.ServerOptions{ClientAuth: tls.RequireAndVerifyClientCert})
	if err != nil {
		t.Fatal(err)
	}
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	mb, err := server.New(server.Options{DataPath: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if s.store, err = machine.Open(t.TempDir(), machine.Options{}); err != nil {
		t.Fatal(err)
	}
	web, rpc, machines := listen(), listen(), listen()
	webServer := &http.Server{Handler: mb.HTTP()}
	apiServer := &http.Server{Handler: api.Handler(s.store, api.Options{}), TLSConfig: config, ErrorLog: log.New(io.Discard, "", 0)}
	g := grpc.NewServer(append(mb.ServerOptions(), grpc.Creds(grpccredentials.NewTLS(config)))...)
	mb.RegisterGRPC(g)
	var wg sync.WaitGroup
	wg.Go(func() { webServer.Serve(web) })
	wg.Go(func() { apiServer.ServeTLS(machines, "", "") })
	wg.Go(func() { g.Serve(rpc) })
	s.stopHTTP, s.stopMachines, s.stopRPC = func() { webServer.Close() }, func() { apiServer.Close() }, g.Stop
	t.Cleanup(func() {
		s.stopHTTP()
		s.stopMachines()
		s.stopRPC()
		wg.Wait()
		s.store.Close()
		mb.Close()
	})
	return web.Addr().String(), rpc.Addr().String(), machines.Addr().String()
}

// startDNS starts a dnsmasq that knows the given host records and nothing else.
func startDNS(t *testing.T, records ...string) *net.Resolver {
	t.Helper()
	for range 10 { // somebody else may take the port between its being found free and dnsmasq
		if r := tryDNS(t, records); r != nil {
			return r
		}
	}
	t.Fatal("dnsmasq does not start")
	return nil
}

func tryDNS(t *testing.T, records []string) *net.Resolver {
	t.Helper()
	probe, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := probe.LocalAddr().String()
	probe.Close()
	_, port, _ := net.SplitHostPort(address)
	args := []string{"--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file=", "--user=root",
		"--listen-address=127.0.0.1", "--bind-interfaces", "--port=" + port, "--local=/example/", "--host-record=up.example,127.0.0.1"}
	for _, r := range records {
		args = append(args, "--host-record="+r)
	}
	cmd := exec.Command("dnsmasq", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := os.Create(filepath.Join(t.TempDir(), "dnsmasq"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	// The signal comes when the thread that forked ends (prctl(2)): one that lives as long as dnsmasq.
	ended := make(chan error, 1)
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
			close(ended)
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() { cmd.Process.Kill(); <-ended })
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := resolver.LookupNetIP(ctx, "ip", "up.example"); err == nil {
			t.Cleanup(stop)
			return resolver
		}
		select {
		case <-ended:
			return nil
		case <-ctx.Done():
			stop()
			return nil
		case <-tick.C:
		}
	}
}

// becomeReady brings a machine through an installation.
func (s *site) becomeReady(t *testing.T, name, mac string) {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.store.Put(ctx, machine.Definition{Name: name, Cluster: "lab", MACs: []string{mac}, Role: "controller",
		Image: machine.Image{OS: "flatcar", Version: "1", Arch: "x86_64", BaseURL: "http://127.0.0.1/assets"}}, "test")
	must(err)
	_, err = s.store.Arm(ctx, name, machine.ArmRequest{Action: machine.ActionInstall, By: "test"})
	must(err)
	d, err := s.store.Boot(ctx, mac)
	must(err)
	_, err = s.store.Hello(ctx, d.Token, machine.Hello{MAC: mac})
	must(err)
	must(s.store.Checks(ctx, d.Token, machine.Checks{Checks: []machine.Check{{Name: "disk", OK: true}}}))
	claimed, err := s.store.Claim(ctx, d.Token, machine.Claim{Disk: machine.InventoryDisk{Name: "vda", Size: 1 << 35}})
	must(err)
	must(s.store.Installed(ctx, claimed.Session))
	must(s.store.Ready(ctx, claimed.Ready))
}
