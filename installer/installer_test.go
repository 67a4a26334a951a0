package installer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
	"github.com/tectonic-worker/tectonic-worker/installer/credentials"
	"github.com/tectonic-worker/tectonic-worker/installer/machine"
	"github.com/tectonic-worker/tectonic-worker/installer/machine/api"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/server"
	"github.com/tectonic-worker/tectonic-worker/installer/power"
)

const publicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDw7w0sJkxf6hnvYmXZ3bcyqeFjE8S5hmO5fCvTtJbXn operator"

// site is a provisioner on loopback and the cluster file of its operator.
type site struct {
	testing.TB
	dir     string
	cluster *cluster.Cluster
	config  server.Config
	log     *bytes.Buffer
	stop    func() error
}

// newSite writes a cluster file and credentials, and starts nothing.
func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{TB: t, dir: t.TempDir(), log: &bytes.Buffer{}}
	text := string(cluster.Example())
	for old, now := range map[string]string{
		"sshKeys: []                        # fill in": "sshKeys: [\"" + publicKey + "\"]",
		"version: \"\"                      # fill in": "version: 4230.2.0 #",
	} {
		if !strings.Contains(text, old) {
			t.Fatalf("the example has no line %q", old)
		}
		text = strings.Replace(text, old, now, 1)
	}
	for i := 1; i <= 3; i++ {
		text = strings.Replace(text, "macs: []", fmt.Sprintf("macs: [52:54:00:00:00:0%d]", i), 1)
	}
	path := filepath.Join(s.dir, "cluster.yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	s.load()
	if _, err := credentials.Create(filepath.Join(s.dir, "tls"), credentials.Options{Names: []string{"127.0.0.1"}, Cluster: "tectonic"}); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"data/assets", "programs/x86_64"} {
		if err := os.MkdirAll(filepath.Join(s.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(s.dir, "programs/x86_64/tectonic-machine"), []byte("a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	return s
}

// load reads the cluster file. It may not name loopback, which is another host for each that asks: here there is one.
func (s *site) load() {
	s.Helper()
	c, err := cluster.Load(filepath.Join(s.dir, "cluster.yaml"))
	if err != nil {
		s.Fatal(err)
	}
	if s.cluster != nil {
		c.Matchbox = s.cluster.Matchbox
	}
	s.cluster = c
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

// serve starts the provisioner and points the cluster file to it.
func (s *site) serve(args ...string) {
	s.Helper()
	http, rpc, machines := freePort(s.TB), freePort(s.TB), freePort(s.TB)
	config, err := server.ParseArgs(append([]string{
		"-address=" + http, "-rpc-address=" + rpc, "--machine-address=" + machines, "-log-level", "debug",
		"-data-path=" + s.path("data"), "-assets-path=" + s.path("data/assets"), "--programs-path=" + s.path("programs"),
		"-ca-file=" + s.path("tls/ca.crt"), "-cert-file=" + s.path("tls/server.crt"), "-key-file=" + s.path("tls/server.key"),
	}, args...), nil)
	if err != nil {
		s.Fatal(err)
	}
	s.cluster.Matchbox.HTTP, s.cluster.Matchbox.RPC, s.cluster.Matchbox.Machines = "http://"+http, rpc, machines
	s.config = config
	s.stop = s.start(config)
}

func (s *site) start(config server.Config) (stop func() error) {
	s.Helper()
	log, err := config.Logger(s.log)
	if err != nil {
		s.Fatal(err)
	}
	return startServe(s.TB, config, log)
}

func startServe(t testing.TB, config server.Config, log *slog.Logger) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	started, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- Serve(ctx, ServeOptions{Config: config, Log: log, Started: func() { close(started) }})
	}()
	select {
	case <-started:
	case err := <-ended:
		cancel()
		t.Fatal(err)
	}
	stopped := false
	stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-ended
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// boot asks what a machine would ask over the network.
func (s *site) boot(mac string) string {
	s.Helper()
	return get(s.TB, s.cluster.Matchbox.HTTP+"/ipxe?mac="+strings.ReplaceAll(mac, ":", "-"))
}

func get(t testing.TB, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func (s *site) apply() Plan {
	s.Helper()
	plan, err := Apply(s.Context(), s.cluster, ApplyOptions{})
	if err != nil {
		s.Fatal(err)
	}
	return plan
}

func (s *site) state(name string) machine.State {
	s.Helper()
	machines, err := Machines(s.cluster)
	if err != nil {
		s.Fatal(err)
	}
	defer machines.Close()
	st, err := machines.Machine(s.Context(), name)
	if err != nil {
		s.Fatal(err)
	}
	return st.State
}

const fromDisk = "sanboot --no-describe"

func TestOnlyAnArmedMachineIsInstalledOnce(t *testing.T) {
	s := newSite(t)
	s.serve()
	if plan := s.apply(); plan.Empty() {
		t.Fatal("the first plan is empty")
	}
	if plan := s.apply(); !plan.Empty() {
		t.Fatalf("a second apply changes something: %+v", plan)
	}
	const mac = "52:54:00:00:00:01"
	if got := s.boot(mac); !strings.Contains(got, fromDisk) {
		t.Errorf("a machine that is not armed boots:\n%s", got)
	}
	outcomes, err := Arm(t.Context(), s.cluster, []string{"node1"}, ArmOptions{Action: machine.ActionInstall})
	if err != nil || outcomes[0].Err != nil {
		t.Fatal(err, outcomes)
	}
	// What is armed is on disk: a restart of the provisioner forgets nothing.
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s.stop = s.start(s.config)
	explained, err := Explain(t.Context(), s.cluster, map[string]string{"mac": mac})
	if err != nil || explained.Group != "tectonic-install-node1-0" || explained.Machine == nil || explained.Machine.State != machine.Armed {
		t.Errorf("explain says %+v, %v", explained, err)
	}
	script := s.boot(mac)
	for _, want := range []string{"/assets/flatcar/4230.2.0/", machine.ArgServer + "=https://127.0.0.1:", machine.ArgToken + "=", machine.ArgMAC + "=" + mac} {
		if !strings.Contains(script, want) {
			t.Errorf("an armed machine is not served %q:\n%s", want, script)
		}
	}
	if got := s.boot(mac); !strings.Contains(got, fromDisk) {
		t.Errorf("the second boot gets an installer, too:\n%s", got)
	}
	if got := s.state("node1"); got != machine.Failed {
		t.Errorf("node1 is %s", got)
	}
	token := script[strings.Index(script, machine.ArgToken+"=")+len(machine.ArgToken)+1:]
	token = strings.Fields(token)[0]
	events, err := Timeline(t.Context(), s.cluster, "node1")
	if err != nil || len(events) < 4 {
		t.Errorf("the timeline has %d events, %v", len(events), err)
	}
	if strings.Contains(fmt.Sprint(events), token) || strings.Contains(s.log.String(), token) {
		t.Error("the token is in a timeline or in the log")
	}
	// Cleared, and armed again.
	if _, err := ClearFailure(t.Context(), s.cluster, []string{"node1"}); err != nil {
		t.Fatal(err)
	}
	if got := s.state("node1"); got != machine.Accepted {
		t.Errorf("node1 is %s", got)
	}
}

func TestApplyChangesAndPrunes(t *testing.T) {
	s := newSite(t)
	s.serve()
	s.apply()
	// Somebody else's group and profile are nobody's business.
	mb, err := dialMatchbox(t.Context(), s.cluster)
	if err != nil {
		t.Fatal(err)
	}
	defer mb.Close()
	if err := mb.ProfilePut(t.Context(), matchbox.Profile{ID: "theirs"}); err != nil {
		t.Fatal(err)
	}
	if err := mb.GroupPut(t.Context(), matchbox.Group{ID: "theirs", Profile: "theirs", Selector: map[string]string{"rack": "1"}}); err != nil {
		t.Fatal(err)
	}
	s.cluster.Machines[1].Labels = map[string]string{"rack": "a1"}
	plan, err := NewPlan(t.Context(), s.cluster, ApplyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if plan.Machines[1].Action != matchbox.Update || plan.Machines[0].Action != matchbox.Keep {
		t.Errorf("the plan is %+v", plan.Machines)
	}
	if s.apply(); !s.apply().Empty() {
		t.Error("apply does not come to an end")
	}
	s.cluster.Machines = s.cluster.Machines[:2]
	if plan, err = NewPlan(t.Context(), s.cluster, ApplyOptions{}); err != nil || !plan.Empty() || len(plan.Orphans) == 0 {
		t.Errorf("without prune: %+v, %v", plan, err)
	}
	if _, err := Apply(t.Context(), s.cluster, ApplyOptions{Prune: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := mb.GroupGet(t.Context(), "tectonic-install-node3-0"); !errors.Is(err, matchbox.ErrNotFound) {
		t.Errorf("the group of node3 is there: %v", err)
	}
	if _, err := mb.GroupGet(t.Context(), "theirs"); err != nil {
		t.Errorf("somebody's group: %v", err)
	}
}

func TestAcceptDiscovered(t *testing.T) {
	s := newSite(t)
	s.serve()
	s.apply()
	const mac = "52:54:00:00:00:44"
	m := cluster.Machine{Name: "node4", MACs: []cluster.MAC{mac}, Role: cluster.Worker, DNSName: "node4.example.com"}
	if _, err := AcceptDiscovered(t.Context(), s.cluster, m, false); err == nil || !strings.Contains(err.Error(), "has booted from the network yet") {
		t.Errorf("a machine that nobody saw: %v", err)
	}
	if got := s.boot(mac); !strings.Contains(got, fromDisk) {
		t.Errorf("an unknown machine boots:\n%s", got)
	}
	if got := s.state(mac); got != machine.Discovered {
		t.Errorf("it is %s", got)
	}
	before, _ := os.ReadFile(s.cluster.Path)
	// The cluster file itself cannot name loopback, so the part that writes it is followed by an apply here.
	added, err := AddMachine(s.cluster, m)
	if err != nil {
		t.Fatal(err)
	}
	after, _ := os.ReadFile(s.cluster.Path)
	if len(added.Machines) != 4 || !strings.HasPrefix(string(after), strings.TrimRight(string(before), "\n")) {
		t.Errorf("the cluster file is now\n%s", after)
	}
	s.load()
	s.apply()
	if got := s.state("node4"); got != machine.Accepted {
		t.Errorf("node4 is %s", got)
	}
	if _, err := AddMachine(s.cluster, m); err == nil {
		t.Error("the same machine was added twice")
	}
}

// A network boot wants an armed machine and a provisioner that answers, before any BMC is asked.
func TestPowerIsGuarded(t *testing.T) {
	s := newSite(t)
	s.serve()
	s.apply()
	input, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer input.Close()
	theirs.Close()
	o := PowerOptions{Within: time.Second, Tries: 1, Console: power.NewConsole(input, io.Discard)}
	outcomes, err := Power(t.Context(), s.cluster, power.ActionPXE, []string{"node1"}, o)
	if err != nil || outcomes[0].Err == nil || !strings.Contains(outcomes[0].Err.Error(), "tectonic-installer arm node1") {
		t.Errorf("power pxe of a machine that is not armed: %v %v", err, outcomes)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	outcomes, err = Power(t.Context(), s.cluster, power.ActionOff, []string{"node1"}, o)
	if err != nil || !errors.Is(outcomes[0].Err, api.ErrUnreachable) || ExitCode(outcomes[0].Err) != 69 {
		t.Errorf("power off without a provisioner: %v %v", err, outcomes)
	}
	if _, err := Power(t.Context(), s.cluster, power.ActionStatus, []string{"nodeX"}, o); err == nil || !strings.Contains(err.Error(), "it has node1, node2, node3") {
		t.Errorf("an unknown machine: %v", err)
	}
}

// With an external matchbox the install groups are there from arming until the disk is claimed, and no longer.
func TestExternalMatchbox(t *testing.T) {
	s := newSite(t)
	// A server without states stands for matchbox: it serves whatever is there to whoever asks.
	theirs := s.path("theirs")
	if err := os.Mkdir(theirs, 0o755); err != nil {
		t.Fatal(err)
	}
	http, rpc := freePort(t), freePort(t)
	config, err := server.ParseArgs([]string{
		"-address=" + http, "-rpc-address=" + rpc, "-data-path=" + theirs, "-assets-path=",
		"-ca-file=" + s.path("tls/ca.crt"), "-cert-file=" + s.path("tls/server.crt"), "-key-file=" + s.path("tls/server.key"),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	startServe(t, config, slog.New(slog.DiscardHandler))
	s.serve("--matchbox-endpoint="+rpc, "--matchbox-cert-file="+s.path("tls/client.crt"), "--matchbox-key-file="+s.path("tls/client.key"))
	s.cluster.Matchbox.External, s.cluster.Matchbox.HTTP, s.cluster.Matchbox.RPC = true, "http://"+http, rpc
	// A cluster file that takes it for ours must not put installers there.
	s.cluster.Matchbox.External = false
	if _, err := Apply(t.Context(), s.cluster, ApplyOptions{}); err == nil || !strings.Contains(err.Error(), "set matchbox.external: true") {
		t.Errorf("apply to a matchbox without states: %v", err)
	}
	s.cluster.Matchbox.External = true
	s.apply()
	const mac = "52:54:00:00:00:01"
	nothing := s.boot(mac)
	if strings.Contains(nothing, "kernel") {
		t.Fatalf("before arming:\n%s", nothing)
	}
	outcomes, err := Arm(t.Context(), s.cluster, []string{"node1"}, ArmOptions{Action: machine.ActionInstall})
	if err != nil || outcomes[0].Err != nil {
		t.Fatal(err, outcomes)
	}
	script := s.boot(mac)
	if !strings.Contains(script, "/assets/flatcar/4230.2.0/") || !strings.Contains(script, machine.ArgToken+"=") {
		t.Fatalf("armed:\n%s", script)
	}
	if e, err := Explain(t.Context(), s.cluster, map[string]string{"mac": mac}); err != nil || e.Group != "tectonic-install-node1-0" || e.ProfileMissing || e.Machine != nil {
		t.Errorf("explain says %+v, %v", e, err)
	}
	// Applying again, even with prune, takes no arming away.
	if plan, err := Apply(t.Context(), s.cluster, ApplyOptions{Prune: true}); err != nil || !plan.Empty() {
		t.Errorf("apply of what is armed: %+v, %v", plan, err)
	}
	if s.boot(mac) != script {
		t.Error("apply --prune took the arming away")
	}
	if _, err := Disarm(t.Context(), s.cluster, []string{"node1"}, false); err != nil {
		t.Fatal(err)
	}
	if got := s.boot(mac); got != nothing {
		t.Errorf("disarmed:\n%s", got)
	}
	// The end of an installation takes the groups away, without an operator.
	if _, err := Arm(t.Context(), s.cluster, []string{"node1"}, ArmOptions{Action: machine.ActionInstall}); err != nil {
		t.Fatal(err)
	}
	machines, err := Machines(s.cluster)
	if err != nil {
		t.Fatal(err)
	}
	defer machines.Close()
	if _, err := machines.Disarm(t.Context(), "node1", false); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for s.boot(mac) != nothing {
		if time.Now().After(deadline) {
			t.Fatal("the groups stay")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func TestServeRefuses(t *testing.T) {
	s := newSite(t)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-data-path=" + s.path("nowhere")}, "is not a directory; create it"},
		{[]string{"-data-path=" + s.path("data"), "-assets-path=", "-rpc-address=127.0.0.1:0", "-ca-file=" + s.path("nowhere")}, "cannot serve without credentials"},
		{[]string{"-data-path=" + s.path("data"), "-assets-path=", "--machine-address=127.0.0.1:0", "-ca-file=" + s.path("nowhere")}, "machines have to be told where to report"},
	} {
		config, err := server.ParseArgs(append([]string{"-address=127.0.0.1:0"}, c.args...), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := Serve(t.Context(), ServeOptions{Config: config, Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.args, err, c.want)
		}
	}
}

// The whole of an apply: connections, plan, matchbox's objects and the machines' definitions, all on the disk.
func BenchmarkApply1000(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		s := newSite(b)
		s.serve()
		template := s.cluster.Machines[2]
		for i := len(s.cluster.Machines); i < 1000; i++ {
			m := template
			m.Name, m.DNSName = fmt.Sprintf("node%d", i+1), fmt.Sprintf("node%d.example.com", i+1)
			m.MACs = []cluster.MAC{cluster.MAC(fmt.Sprintf("52:54:00:01:%02x:%02x", i>>8, i&0xff))}
			s.cluster.Machines = append(s.cluster.Machines, m)
		}
		b.StartTimer()
		if plan := s.apply(); len(plan.Machines) != 1000 {
			b.Fatalf("%d machines", len(plan.Machines))
		}
		b.StopTimer()
		if err := s.stop(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
