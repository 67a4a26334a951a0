// Package metal sets up a site: a provisioner with nothing on it but the programs, machines with empty disks, their BMCs, a
// mirror of the operating system, and a cluster file that names all of it. It owns that setting, for the tests here and for
// the demo; what is done with it is theirs. It must not do by hand what tectonic-installer is there for.
package metal

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

// Places on the provisioner.
const (
	Directory = "/root/cluster"                                        // the operator's: cluster.yaml, tls, bmc.yaml
	Mirror    = "/root/mirror"                                         // of the operating system
	Key       = "/root/key.asc"                                        // of its signatures
	Secret    = `{"auths": {"quay.io": {"auth": "bGFiOnNlY3JldA=="}}}` // of pull-secret.json, for every machine
	programs  = "/usr/share/tectonic-installer/tectonic-machine"
)

// Node is a machine of the site.
type Node struct {
	*lab.Machine // what Options say

	Options lab.MachineOptions
	Role    string // worker when empty
	Address int    // the last number of its address on the bridge
	Hidden  bool   // it is not in the cluster file
	BMC     *lab.BMC
}

// Site is what an operator has before the first command.
type Site struct {
	*lab.Lab
	Provisioner *lab.Provisioner
	Nodes       []*Node
	logf        func(string, ...any)
}

// Missing says why there can be no site here and what to do, or is empty.
func Missing() string {
	if os.Geteuid() != 0 {
		return "it boots machines, which needs root; try it with sudo"
	}
	if tools := lab.MissingTools(); len(tools) > 0 {
		return "missing " + strings.Join(tools, ", ") + "; run \"make lab\""
	}
	if part := (&lab.Cache{Dir: lab.DefaultCacheDir()}).Missing(); part != "" {
		return "the lab lacks " + part + "; run \"make lab\""
	}
	return ""
}

// Open makes the site in a lab, which ends it. source is the root of this repository, where the programs are built.
func Open(ctx context.Context, l *lab.Lab, source string, nodes []*Node, logf func(string, ...any)) (*Site, error) {
	s := &Site{Lab: l, Nodes: nodes, logf: logf}
	var err error
	if s.Provisioner, err = l.Provisioner(ctx); err != nil {
		return nil, err
	}
	if err := s.install(ctx, source); err != nil {
		return nil, err
	}
	if err := s.mirror(ctx); err != nil {
		return nil, err
	}
	for i, n := range nodes {
		if n.Machine, err = l.Machine(ctx, n.Options); err != nil {
			return nil, err
		}
		if n.BMC, err = n.StartBMC(ctx, fmt.Sprintf("10.77.0.%d", 201+i), lab.BMCUser{Name: "operator", Password: "sesame"}); err != nil {
			return nil, err
		}
	}
	return s, s.clusterFile()
}

// install puts the programs where the package would.
func (s *Site) install(ctx context.Context, source string) error {
	dir, err := os.MkdirTemp("", "tectonic-metal-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=v0.1.0", "-o", dir+"/", "./cmd/tectonic-installer", "./cmd/tectonic-machine")
	build.Dir, build.Env = source, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build the programs: %w: %s", err, out)
	}
	return errors.Join(
		s.Provisioner.CopyIn(filepath.Join(dir, "tectonic-installer"), "/usr/local/bin/tectonic-installer"),
		s.Provisioner.CopyIn(filepath.Join(dir, "tectonic-machine"), programs+"/x86_64/tectonic-machine"),
		os.MkdirAll(s.Provisioner.Path("/var/lib/matchbox/assets"), 0o755),
		os.MkdirAll(s.Provisioner.Path("/var/lib/tectonic-installer"), 0o755),
		os.MkdirAll(s.Provisioner.Path("/etc/matchbox"), 0o755),
		os.MkdirAll(s.Provisioner.Path(Directory), 0o755))
}

// mirror is the operating system as its project publishes it.
func (s *Site) mirror(ctx context.Context) error {
	system, err := s.Cache.Flatcar(ctx)
	if err != nil {
		return err
	}
	_, err = s.Provisioner.Must(ctx, "ln", "-s", s.Provisioner.CachePath(system.Dir), s.Provisioner.CachePath(system.Key), filepath.Dir(Mirror)+"/")
	return err
}

func (s *Site) clusterFile() error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: installer.tectonic/v1alpha1
kind: Cluster
name: lab
dns: {controller: k8s.lab.example, ingress: tectonic.lab.example}
podCIDRs: [10.2.0.0/16]
serviceCIDRs: [10.3.0.0/16]
sshKeys:
  - %s operator@lab.example
matchbox:
  http: http://matchbox.lab.example:8080
  rpc: matchbox.lab.example:8081
  machines: matchbox.lab.example:8443
  tls: {ca: tls/ca.crt, certificate: tls/client.crt, key: tls/client.key}
network:
  dhcp: full
  interface: eth0
  subnet: 10.77.0.0/24
  range: {start: 10.77.0.100, end: 10.77.0.150}
  gateway: 10.77.0.1
  dns: true
os:
  name: flatcar
  channel: stable
  version: %s
  kernelArgs: ["console=ttyS0,115200n8", quiet, no_timer_check]
install:
  # A machine of the lab is small.
  minimum: {memory: 900MiB, cores: 2, disk: 1GiB}
files:
  - {path: /etc/tectonic/pull-secret.json, source: pull-secret.json, mode: "0600"}
machines:
`, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))), lab.FlatcarVersion)
	for _, n := range s.Nodes {
		if n.Hidden {
			continue
		}
		role := n.Role
		if role == "" {
			role = "worker"
		}
		firmware := "bios"
		if n.Options.UEFI {
			firmware = "uefi"
		}
		fmt.Fprintf(&b, `  - name: %s
    macs: ["%s"]
    dnsName: %s.lab.example
    address: 10.77.0.%d
    role: %s
    firmware: %s
    power: {driver: ipmi, address: %s, credentials: {file: bmc.yaml}}
`, n.Name, n.MAC, n.Name, n.Address, role, firmware, n.BMC.Host())
	}
	return errors.Join(
		s.Provisioner.WriteFile(Directory+"/cluster.yaml", []byte(b.String()), 0o644),
		s.Provisioner.WriteFile(Directory+"/pull-secret.json", []byte(Secret+"\n"), 0o600),
		s.Provisioner.WriteFile(Directory+"/bmc.yaml", []byte("username: operator\npassword: sesame\n"), 0o600))
}

// Node finds one by its name.
func (s *Site) Node(name string) *Node {
	for _, n := range s.Nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Installer is the command line of tectonic-installer in the operator's directory.
func Installer(args ...string) lab.Command {
	return lab.Command{Args: append([]string{"sh", "-c", `cd "$0" && exec tectonic-installer "$@"`, Directory}, args...)}
}

// Installer runs tectonic-installer as the operator; an exit code other than 0 is an error.
func (s *Site) Installer(ctx context.Context, args ...string) (lab.Result, error) {
	r, err := s.Provisioner.Command(ctx, Installer(args...))
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("tectonic-installer %s: exit code %d\n%s", strings.Join(args, " "), r.Code, r.Output())
	}
	return r, err
}

// Serve starts the provisioner's two programs and waits until both answer. What they say goes to serve.log and netboot.log in
// /var/log of the provisioner. stop ends them.
func (s *Site) Serve(ctx context.Context) (stop func(), err error) {
	if _, err := s.Provisioner.Must(ctx, "sh", "-c", "cp "+Directory+"/tls/ca.crt "+Directory+"/tls/server.crt "+Directory+"/tls/server.key /etc/matchbox/"); err != nil {
		return nil, err
	}
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var started []*lab.Process
	stop = func() {
		cancel()
		for _, p := range started {
			p.Wait()
		}
	}
	for log, args := range map[string][]string{
		"netboot": {"netboot", "run"},
		"serve":   {"serve", "-address=0.0.0.0:8080", "-rpc-address=0.0.0.0:8081", "-machine-address=0.0.0.0:8443"},
	} {
		c := Installer(args...)
		c.Args[2] = `cd "$0" && exec tectonic-installer "$@" >>/var/log/` + log + `.log 2>&1`
		p, err := s.Provisioner.Start(serving, c)
		if err != nil {
			stop()
			return nil, err
		}
		started = append(started, p)
	}
	// Each answers when it is ready; there is nothing that would tell.
	ready := `until getent hosts matchbox.lab.example >/dev/null && ` + curl("/v1alpha1/machines") + ` >/dev/null 2>&1; do sleep 0.2; done`
	wait, done := context.WithTimeout(ctx, 30*time.Second)
	defer done()
	if _, err := s.Provisioner.Must(wait, "sh", "-c", ready); err != nil {
		logs, _ := s.Provisioner.Exec(ctx, "sh", "-c", "tail -n 20 /var/log/*.log")
		stop()
		return nil, fmt.Errorf("the provisioner does not answer: %w\n%s", err, logs.Output())
	}
	return stop, nil
}

func curl(path string) string {
	return fmt.Sprintf("curl -sSf --max-time 20 --cacert %[1]s/tls/ca.crt --cert %[1]s/tls/client.crt --key %[1]s/tls/client.key https://matchbox.lab.example:8443%[2]s", Directory, path)
}

// Status asks the machines' API for one machine, by its name or MAC.
func (s *Site) Status(ctx context.Context, name string) (machine.Status, error) {
	var status machine.Status
	r, err := s.Provisioner.Must(ctx, "sh", "-c", curl("/v1alpha1/machines/"+name))
	if err == nil {
		err = json.Unmarshal([]byte(r.Stdout), &status)
	}
	return status, err
}

// Await waits until a machine is in one of the states. It fails at once when the machine has failed and that was not
// asked for. Progress is logged.
func (s *Site) Await(ctx context.Context, name string, states ...machine.State) (machine.Status, error) {
	last := ""
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		status, err := s.Status(ctx, name)
		if err != nil && ctx.Err() == nil {
			return status, err
		}
		if now := strings.TrimSpace(fmt.Sprintf("%s %s %s", status.State, status.Stage, status.Reason)); err == nil && now != last {
			s.logf("%s: %s", name, now)
			last = now
		}
		for _, state := range states {
			if status.State == state {
				return status, nil
			}
		}
		if err == nil && status.State == machine.Failed {
			return status, fmt.Errorf("%s has failed: %s", name, status.Reason)
		}
		select {
		case <-ctx.Done():
			return status, fmt.Errorf("%s is %s (%s), not %v, in time", name, status.State, status.Next, states)
		case <-tick.C:
		}
	}
}

// AwaitLine waits until a machine has said text on its console since it was last switched on.
func (s *Site) AwaitLine(ctx context.Context, n *Node, text string) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		data, err := os.ReadFile(n.ConsolePath())
		if err != nil {
			return err
		}
		if i := strings.LastIndex(string(data), "== "+n.Name+": power on"); i >= 0 && strings.Contains(string(data[i:]), text) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s has not said %q in time", n.Name, text)
		case <-tick.C:
		}
	}
}
