package cluster

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares text with testdata/name.
func golden(t *testing.T, name, text string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; \"go test -update\" writes it", err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("%s is not what comes out now (-golden +now); if that is right, \"go test -update\":\n%s", file, diff)
	}
}

const sshKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl operator@example.com"

// valid is a file that uses everything, and has no finding at all.
const valid = `apiVersion: installer.tectonic/v1alpha1
kind: Cluster
name: tectonic
dns:
  controller: k8s.example.com
  ingress: tectonic.example.com
podCIDRs: [10.2.0.0/16, "fd00:2::/48"]
serviceCIDRs: [10.3.0.0/16, "fd00:3::/112"]
sshKeys:
  - ` + sshKey + `
matchbox:
  http: http://matchbox.example.com:8080
network:
  dhcp: full
  interface: metal0
  subnet: 172.18.0.0/24
  range: {start: 172.18.0.100, end: 172.18.0.199}
  gateway: 172.18.0.1
  dns: true
  upstream: [172.18.0.1]
os:
  name: flatcar
  version: 4230.2.0
  kernelArgs: [console=ttyS0]
install:
  minimum: {memory: 8GB, cores: 2, disk: 30GB}
  disk: {rotational: false, minSize: 100GB}
proxy:
  http: http://proxy.example.com:3128
  https: http://proxy.example.com:3128
  noProxy: [.example.com]
ntp: [ntp.example.com, 172.18.0.1]
files:
  - {path: /etc/tectonic/pull-secret.json, source: pull-secret.json}
machines:
  - name: node1
    macs: [52:54:00:a1:9c:ae, 52-54-00-A1-9C-AF]
    dnsName: node1.example.com
    address: 172.18.0.21
    role: controller
    power: {driver: ipmi, address: node1-bmc.example.com, credentials: {file: bmc.yaml}}
    labels: {rack: a1, example.com/power: "2"}
  - name: node2
    macs: [5254.00b2.2f86]
    dnsName: node2.example.com
    address: 172.18.0.22
    role: worker
    power: {address: "10.0.0.22:6230", credentials: {env: BMC}}
    exit: sanboot
    disk: {serial: S3Z8NB0K}
  - name: node3
    macs: [525400C36177]
    dnsName: node3.example.com
    address: 172.18.0.23
    role: worker
    files:
      - {path: /etc/tectonic/pull-secret.json, source: /other.json, mode: "0440"}
    kernelArgs: [nomodeset]
`

func parsed(t *testing.T, text string) *Cluster {
	t.Helper()
	c, err := Parse("cluster.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// edit replaces old, which must be there once.
func edit(t *testing.T, text, old, replacement string) string {
	t.Helper()
	if n := strings.Count(text, old); n != 1 {
		t.Fatalf("%q is %d times in the file that is edited", old, n)
	}
	return strings.Replace(text, old, replacement, 1)
}

func TestValidFileHasNoFinding(t *testing.T) {
	c := parsed(t, valid)
	if w := c.Warnings(); len(w) > 0 {
		t.Errorf("warnings:\n%v", w)
	}
	var macs []MAC
	for _, m := range c.Machines {
		macs = append(macs, m.MACs...)
	}
	want := []MAC{"52:54:00:a1:9c:ae", "52:54:00:a1:9c:af", "52:54:00:b2:2f:86", "52:54:00:c3:61:77"}
	if diff := cmp.Diff(want, macs); diff != "" {
		t.Errorf("MAC addresses are not in one form (-want +got):\n%s", diff)
	}
	if c.Machines[1].Power.Driver != PowerIPMI || c.Machines[2].Power.Driver != PowerManual {
		t.Errorf("power drivers by default: %q, %q", c.Machines[1].Power.Driver, c.Machines[2].Power.Driver)
	}
	if c.Machines[1].Line != 43 {
		t.Errorf("node2 begins in line %d", c.Machines[1].Line)
	}
}

func TestDefaults(t *testing.T) {
	text := `
name: tectonic
dns: {controller: K8s.Example.com., ingress: tectonic.example.com}
sshKeys: ["` + sshKey + `"]
matchbox: {http: "http://[fd00::1]:8080/"}
os: {name: fedora-coreos, version: 9.10}
machines:
  - {name: a, macs: [52:54:00:00:00:01], dnsName: a.example.com, role: controller}
  - {name: b, macs: [52:54:00:00:00:02], dnsName: b.example.com, role: worker}
  - {name: c, macs: [52:54:00:00:00:03], dnsName: C.example.com, role: worker, arch: aarch64}
`
	c := parsed(t, text)
	got := []any{
		c.APIVersion, c.Kind, c.DNS.Controller, c.PodCIDRs[0].String(), c.ServiceCIDRs[0].String(), c.Matchbox.HTTP, c.Matchbox.RPC, c.Matchbox.Machines,
		c.Matchbox.TLS, c.Network.DHCP, c.OS.Channel, c.OS.Version, c.OS.Arch, c.OS.Images, c.Install.Minimum,
		c.Machines[0].Arch, c.Machines[0].Exit, c.Machines[0].Power.Driver, c.Machines[2].Arch, c.Machines[2].DNSName,
	}
	want := []any{
		APIVersion, Kind, "k8s.example.com", "10.2.0.0/16", "10.3.0.0/16", "http://[fd00::1]:8080", "[fd00::1]:8081", "[fd00::1]:8443",
		TLS{"tls/ca.crt", "tls/client.crt", "tls/client.key"}, "none", "stable", "9.10", "x86_64", "http://[fd00::1]:8080/assets", Minimum{8e9, 2, 30e9},
		"x86_64", "auto", "manual", "aarch64", "c.example.com",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
}

func TestQueries(t *testing.T) {
	c := parsed(t, valid)
	c.Path = "/srv/lab/cluster.yaml"
	t.Setenv("HOME", "/home/operator")
	for in, want := range map[string]string{
		"bmc.yaml": "/srv/lab/bmc.yaml", "tls/ca.crt": "/srv/lab/tls/ca.crt", "/etc/x": "/etc/x", "~/x": "/home/operator/x", "": "", "../x": "/srv/x",
	} {
		if got := c.Resolve(in); got != want {
			t.Errorf("Resolve(%q) = %q, want %q", in, got, want)
		}
	}
	for field, want := range map[string]int{
		"name": 3, "dns.ingress": 6, "matchbox.rpc": 11, "machines": 35, "machines[1]": 43, "machines[1].address": 46,
		"machines[1].labels": 43, `machines[0].labels["rack"]`: 42, `machines[0].labels["no.such"]`: 42, "nonsense": 1,
	} {
		if got := c.Line(field); got != want {
			t.Errorf("Line(%s) = %d, want %d", field, got, want)
		}
	}
	if m, ok := c.Machine("node2"); !ok || m.Name != "node2" || c.DiskOf(m).Serial != "S3Z8NB0K" {
		t.Errorf("Machine(node2) = %v, %v, disk %v", m.Name, ok, c.DiskOf(m))
	}
	if _, ok := c.Machine("node9"); ok {
		t.Error("there is a node9")
	}
	if n1, n3 := c.FilesOf(c.Machines[0]), c.FilesOf(c.Machines[2]); len(n1) != 1 || n1[0].Mode != "0600" || len(n3) != 1 || n3[0].Source != "/other.json" {
		t.Errorf("files: %v, %v", n1, n3)
	}
	if len(c.InRole(Worker)) != 2 || len(c.InRole(Controller)) != 1 {
		t.Errorf("roles: %d workers, %d controllers", len(c.InRole(Worker)), len(c.InRole(Controller)))
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	_, err := Load(filepath.Join(dir, "cluster.yaml"))
	if err == nil || !strings.Contains(err.Error(), "tectonic-installer init") {
		t.Errorf("a missing file: %v", err)
	}
	file := filepath.Join(dir, "c.yaml")
	if err := os.WriteFile(file, []byte(strings.Replace(valid, "name: tectonic\n", "name: Tectonic\n", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Load(file)
	findings, ok := err.(Findings)
	if !ok || len(findings) != 1 || findings[0].Line != 3 || findings[0].Field != "name" {
		t.Errorf("a wrong file: %v", err)
	}
	if err := os.WriteFile(file, []byte(valid), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := Load(file); err != nil || c.Path != file {
		t.Errorf("a right file: %v", err)
	}
}

// filledIn is the example as its comments ask for it.
func filledIn(t *testing.T) string {
	t.Helper()
	text := edit(t, string(Example()), "sshKeys: []", "sshKeys: ["+sshKey+"]")
	text = edit(t, text, `version: ""`, "version: 4230.2.0")
	for _, mac := range []string{"52:54:00:a1:9c:ae", "52:54:00:b2:2f:86", "52:54:00:c3:61:77"} {
		if !strings.Contains(text, "macs: []") {
			t.Fatal("the example has fewer machines than a cluster")
		}
		text = strings.Replace(text, "macs: []", "macs: ["+mac+"]", 1)
	}
	return text
}

func TestExample(t *testing.T) {
	c := parsed(t, filledIn(t))
	if w := c.Warnings(); len(w) > 0 {
		t.Errorf("warnings:\n%v", w)
	}
	_, err := Parse("cluster.yaml", Example())
	findings, _ := err.(Findings)
	lines := strings.Split(string(Example()), "\n")
	if len(findings) == 0 {
		t.Error("the example as it is printed has no finding: nothing is left to fill in")
	}
	for _, f := range findings {
		if !strings.Contains(lines[f.Line-1], "fill in") {
			t.Errorf("what is to be filled in is not marked so: %v", f)
		}
	}
}

// What is commented out in the example must be right as well.
func TestExampleUncommented(t *testing.T) {
	var lines []string
	for _, line := range strings.Split(filledIn(t), "\n") {
		for _, key := range []string{
			"rpc", "machines: matchbox", "external", "interface", "subnet", "range", "gateway", "leaseTime", "dns: true", "upstream", "arch", "images",
			"kernelArgs", "disk", "proxy", "  http", "  https", "  noProxy", "ntp", "files", "  - {path", "address: 172", "exit", "labels",
		} {
			if i := strings.Index(line, "# "+key); i >= 0 && strings.Trim(line[:i], " ") == "" {
				line = line[:i] + line[i+2:]
				break
			}
		}
		lines = append(lines, line)
	}
	text := edit(t, strings.Join(lines, "\n"), "dhcp: none ", "dhcp: full ")
	for i, node := range []string{"node2", "node3"} {
		text = edit(t, text, "dnsName: "+node+".example.com\n", "dnsName: "+node+".example.com\n    address: 172.18.0.2"+string(rune('2'+i))+"\n")
	}
	c := parsed(t, text)
	if w := c.Warnings(); len(w) > 0 {
		t.Errorf("warnings:\n%v", w)
	}
	if c.Proxy.HTTP == "" || len(c.Files) != 1 || c.Machines[0].Disk == nil || !c.Network.DNS || c.Install.Disk.Rotational == nil {
		t.Errorf("not all of it was uncommented:\n%s", text)
	}
}
