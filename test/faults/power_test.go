package faults

import (
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
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tectonic-worker/tectonic-worker/installer"
	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
	"github.com/tectonic-worker/tectonic-worker/installer/credentials"
	"github.com/tectonic-worker/tectonic-worker/installer/machine"
	"github.com/tectonic-worker/tectonic-worker/installer/machine/api"
	"github.com/tectonic-worker/tectonic-worker/installer/power"
	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

const (
	bmcPassword = "s3cret-of-the-bmc"
	bmcMAC      = "52:54:00:00:00:01"
)

// bareMachine is a machine with a real BMC, and what its operator has.
type bareMachine struct {
	dir     string
	cluster *cluster.Cluster
	chassis *lab.Switch
	store   *machine.Store
}

func newBareMachine(t *testing.T) *bareMachine {
	t.Helper()
	if _, err := exec.LookPath("ipmi_sim"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	b := &bareMachine{dir: t.TempDir(), chassis: &lab.Switch{}}
	if err := b.chassis.SetPower(true); err != nil { // somebody works on it
		t.Fatal(err)
	}
	bmc := must[*lab.BMC](t)(lab.StartBMC(t.Context(), lab.BMCOptions{Address: netip.MustParseAddrPort("127.0.0.1:0"), Chassis: b.chassis,
		Users: []lab.BMCUser{{Name: "ADMIN", Password: bmcPassword}}}))
	t.Cleanup(func() { bmc.Close() })
	must[[]credentials.Written](t)(credentials.Create(filepath.Join(b.dir, "tls"), credentials.Options{Cluster: "lab", Names: []string{"127.0.0.1"}}))
	text := fmt.Sprintf(`apiVersion: installer.tectonic/v1alpha1
kind: Cluster
name: lab
dns: {controller: k8s.lab.example, ingress: apps.lab.example}
podCIDRs: [10.2.0.0/16]
serviceCIDRs: [10.3.0.0/16]
sshKeys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH8v0bqK3mYyd0r3eC0o0kPz5lq3mQz2JzL1T8cFYzbe lab"]
matchbox: {http: "http://matchbox.lab.example:8080", tls: {ca: tls/ca.crt, certificate: tls/client.crt, key: tls/client.key}}
network: {dhcp: none}
os: {name: flatcar, channel: stable, version: 4230.2.0}
machines:
  - {name: node1, macs: ["%s"], dnsName: node1.lab.example, role: controller, power: {driver: ipmi, address: "%s", credentials: {file: bmc.yaml}}}
  - {name: node2, macs: ["52:54:00:00:00:02"], dnsName: node2.lab.example, role: worker, power: {driver: manual}}
  - {name: node3, macs: ["52:54:00:00:00:03"], dnsName: node3.lab.example, role: worker, power: {driver: manual}}
`, bmcMAC, bmc.Address)
	for name, content := range map[string]string{"cluster.yaml": text, "bmc.yaml": "username: ADMIN\npassword: " + bmcPassword + "\n"} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.cluster = must[*cluster.Cluster](t)(cluster.Load(filepath.Join(b.dir, "cluster.yaml")))
	b.store = must[*machine.Store](t)(machine.Open(t.TempDir(), machine.Options{}))
	t.Cleanup(func() { b.store.Close() })
	// Somebody has to listen later; nobody does yet.
	b.cluster.Matchbox.Machines = "127.0.0.1:1"
	return b
}

// serve starts the machines' API.
func (b *bareMachine) serve(t *testing.T) {
	t.Helper()
	file := func(name string) string { return filepath.Join(b.dir, "tls", name) }
	config := must[*tls.Config](t)(credentials.ServerConfig(file("ca.crt"), file("server.crt"), file("server.key"), credentials.ServerOptions{ClientAuth: tls.VerifyClientCertIfGiven}))
	listener := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	server := &http.Server{Handler: api.Handler(b.store, api.Options{}), TLSConfig: config, ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan struct{})
	go func() { server.ServeTLS(listener, "", ""); close(done) }()
	t.Cleanup(func() { server.Close(); <-done })
	b.cluster.Matchbox.Machines = listener.Addr().String()
}

// A BMC is told nothing before the provisioner has said that the machine may be switched, and a network boot is asked
// for only when an installer waits for it.
func TestPowerWaitsForTheProvisioner(t *testing.T) {
	t.Parallel()
	b := newBareMachine(t)
	ctx := t.Context()
	told := b.chassis.Calls()
	try := func(action power.Action, force bool) error {
		t.Helper()
		outcomes, err := installer.Power(ctx, b.cluster, action, []string{"node1"}, installer.PowerOptions{Force: force, Within: 10 * time.Second})
		if err != nil {
			return err
		}
		if text := fmt.Sprintf("%+v", outcomes); strings.Contains(text, "s3cret") {
			t.Errorf("a secret is in %s", text)
		}
		return outcomes[0].Err
	}
	refused := func(action power.Action, code int, text string) {
		t.Helper()
		err := try(action, false)
		if err == nil || installer.ExitCode(err) != code || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v, exit code %d; want %d and %q", action, err, installer.ExitCode(err), code, text)
		}
		if diff := cmp.Diff(told, b.chassis.Calls()); diff != "" {
			t.Fatalf("%s was refused, and the machine was told (-before +after):\n%s", action, diff)
		}
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	for _, action := range []power.Action{power.ActionOff, power.ActionCycle, power.ActionPXE} {
		refused(action, 69, "cannot reach the machines' API")
	}
	b.serve(t)
	refused(power.ActionPXE, 1, "does not know it")
	_, err := b.store.Put(ctx, machine.Definition{Name: "node1", Cluster: "lab", MACs: []string{bmcMAC}, Role: "controller",
		Image: machine.Image{OS: "flatcar", Version: "1", Arch: "x86_64", BaseURL: "http://127.0.0.1/assets"}}, "test")
	check(err)
	refused(power.ActionPXE, 1, "tectonic-installer arm node1")

	_, err = b.store.Arm(ctx, "node1", machine.ArmRequest{Action: machine.ActionInstall, By: "test"})
	check(err)
	b.chassis.Changed = func(on bool, boot string) {
		if on && boot == "pxe" {
			go b.store.Observe(machine.Event{MAC: bmcMAC, Source: machine.SourceDHCP, Kind: "request", Message: "DHCPREQUEST"})
		}
	}
	check(try(power.ActionPXE, false))
	if diff := cmp.Diff(append(told, "power false", "boot pxe", "power true"), b.chassis.Calls()); diff != "" {
		t.Errorf("a network boot of an armed machine (-want +got):\n%s", diff)
	}
	told = b.chassis.Calls()

	boot, err := b.store.Boot(ctx, bmcMAC)
	check(err)
	_, err = b.store.Hello(ctx, boot.Token, machine.Hello{MAC: bmcMAC})
	check(err)
	check(b.store.Checks(ctx, boot.Token, machine.Checks{Checks: []machine.Check{{Name: "disk", OK: true}}}))
	claimed, err := b.store.Claim(ctx, boot.Token, machine.Claim{Disk: machine.InventoryDisk{Name: "vda", Size: 1 << 35}})
	check(err)
	refused(power.ActionCycle, 75, "its disk is being written")
	refused(power.ActionPXE, 75, "its disk is being written")
	check(b.store.Installed(ctx, claimed.Session))
	check(b.store.Ready(ctx, claimed.Ready))
	refused(power.ActionOff, 1, "it is ready")
	refused(power.ActionCycle, 1, "it is ready")

	check(try(power.ActionOff, true))
	if b.chassis.Power() {
		t.Error("--force left it on")
	}
}
