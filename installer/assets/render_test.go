package assets

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares what was rendered with the files of a directory, which holds nothing else.
func golden(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	dir = filepath.Join("testdata", dir)
	if *update {
		if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
			t.Fatal(err)
		}
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatalf("%v; \"go test -update\" writes it", err)
	}
	for _, e := range entries {
		if _, ok := files[e.Name()]; !ok {
			t.Errorf("%s is not rendered any more", filepath.Join(dir, e.Name()))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		want, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Errorf("%v; \"go test -update\" writes it", err)
			continue
		}
		if diff := cmp.Diff(string(want), string(files[name])); diff != "" {
			t.Errorf("%s is not what is rendered now (-golden +now); if that is right, \"go test -update\":\n%s", filepath.Join(dir, name), diff)
		}
	}
}

const sshKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl operator@example.com"

// small leaves everything to its default; OS and VERSION are filled in.
const small = `name: tectonic
dns: {controller: k8s.example.com, ingress: tectonic.example.com}
sshKeys: ["` + sshKey + `"]
matchbox: {http: "http://matchbox.example.com:8080"}
os: {name: OS, version: "VERSION"}
machines:
  - {name: node1, macs: [52:54:00:a1:9c:ae], dnsName: node1.example.com, role: controller}
  - {name: node2, macs: [52:54:00:b2:2f:86], dnsName: node2.example.com, role: worker}
  - {name: node3, macs: [52:54:00:c3:61:77], dnsName: node3.example.com, role: worker}
`

// large uses all that is rendered.
const large = `name: lab
dns: {controller: k8s.example.com, ingress: tectonic.example.com}
podCIDRs: [10.2.0.0/16, "fd00:2::/48"]
serviceCIDRs: [10.3.0.0/16, "fd00:3::/112"]
sshKeys:
  - "` + sshKey + `"
  - 'from="10.0.0.0/8" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJm O''Brien "the {{.operator}}" \o/ %end'
matchbox: {http: "http://172.18.0.2:8080", machines: "matchbox.example.com:443"}
network: {subnet: 172.18.0.0/24}
os: {name: OS, version: "VERSION", images: "https://mirror.example.com/images", kernelArgs: [console=ttyS0]EXTRA}
install:
  minimum: {memory: 16GiB, cores: 4, disk: 100GB}
  disk: {rotational: false, minSize: 100GB}
proxy: {http: "http://proxy.example.com:3128/a%20b", https: "http://proxy.example.com:3128", noProxy: [.example.com]}
ntp: [ntp.example.com, 172.18.0.1]
files:
  - {path: /etc/tectonic/pull-secret.json, source: pull-secret.json}
machines:
  - name: node1
    macs: [52:54:00:a1:9c:ae, 52:54:00:a1:9c:af]
    dnsName: node1.example.com
    address: 172.18.0.21
    role: controller
    power: {address: node1-bmc.example.com, credentials: {file: bmc.yaml}}
    labels: {rack: a1}
    exit: sanboot
    files: [{path: /etc/kubernetes/kubeconfig, source: /keys/node1.kubeconfig, mode: "0400"}]
  - {name: node2, macs: [52:54:00:b2:2f:86], dnsName: node2.example.com, role: worker, disk: {serial: S3Z8NB0K}, kernelArgs: [nomodeset]ARCH}
  - {name: node3, macs: [52:54:00:c3:61:77], dnsName: node3.example.com, role: worker, files: [{path: /etc/tectonic/pull-secret.json, source: other.json}]ARCH}
`

func parse(t testing.TB, text string) *cluster.Cluster {
	t.Helper()
	c, err := cluster.Parse("/srv/cluster.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// systems are the cases of most tests here.
var systems = []struct{ name, text, os, version string }{
	{"flatcar", small, cluster.Flatcar, "4230.2.0"},
	{"flatcar-large", large, cluster.Flatcar, "4230.2.0"},
	{"fedora-coreos", small, cluster.FedoraCoreOS, "42.20250427.3.0"},
	{"fedora-coreos-large", large, cluster.FedoraCoreOS, "42.20250427.3.0"},
	{"rhel7", small, cluster.RHEL, "7.9"},
	{"rhel7-large", large, cluster.RHEL, "7.9"},
	{"rhel8-large", large, cluster.RHEL, "8.10"},
	{"rhel10", small, cluster.RHEL, "10.0"},
	{"rhel10-large", large, cluster.RHEL, "10.0"},
}

func system(text, os, version string) string {
	extra, arch := "", ""
	switch {
	case os == cluster.RHEL:
		extra = ", packages: [http://172.18.0.2:8080/assets/tectonic-worker.rpm, https://mirror.example.com/site.rpm]"
		arch = ", arch: aarch64"
	case os == cluster.FedoraCoreOS:
		arch = ", arch: aarch64"
	}
	return strings.NewReplacer("name: OS", "name: "+os, "VERSION", version, "EXTRA", extra, "ARCH", arch).Replace(text)
}

// What is secret in the input, in a form that a test finds again.
const (
	pullSecret = "pull-secret-c2VjcmV0"
	kubeconfig = "client-key-data: a3ViZWNvbmZpZyBrZXk="
	caKey      = "Y2Ega2V5IGNhIGtleSBjYSBrZXk="
)

// ca is a certificate, with a key in the same file as happens.
const ca = `-----BEGIN CERTIFICATE-----
MIIBdDCCARugAwIBAgIUeW91IGNhbm5vdCByZWFkIHRoaXMwCgYIKoZIzj0EAwIw
-----END CERTIFICATE-----
-----BEGIN EC PRIVATE KEY-----
` + caKey + `
-----END EC PRIVATE KEY-----
`

func input() Input {
	return Input{
		CA:             []byte(ca),
		MachineProgram: map[string]string{"x86_64": strings.Repeat("0123456789abcdef", 8), "aarch64": strings.Repeat("fedcba9876543210", 8)},
		Files: func(path string) ([]byte, error) {
			switch path {
			case "/srv/pull-secret.json", "/srv/other.json":
				return []byte(pullSecret + " " + path), nil
			case "/keys/node1.kubeconfig":
				return []byte(kubeconfig), nil
			}
			return nil, fmt.Errorf("open %s: no such file", path)
		},
	}
}

func render(t testing.TB, text string) (*cluster.Cluster, Rendered) {
	t.Helper()
	c := parse(t, text)
	r, err := Render(c, input())
	if err != nil {
		t.Fatal(err)
	}
	return c, r
}

func indent(t testing.TB, v any) []byte {
	t.Helper()
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(text, '\n')
}

func TestGolden(t *testing.T) {
	for _, s := range systems {
		_, r := render(t, system(s.text, s.os, s.version))
		files := map[string][]byte{"profiles.json": indent(t, r.Profiles), "groups.json": indent(t, r.Groups)}
		maps.Copy(files, r.Ignition)
		maps.Copy(files, r.Generic)
		for i, d := range r.Machines {
			if len(d.Config) > 0 {
				files["installed-"+d.Name+".ign"] = append([]byte(d.Config), '\n')
				r.Machines[i].Config = nil
			}
		}
		files["machines.json"] = indent(t, r.Machines)
		golden(t, s.name, files)
	}
}

// The same input gives the same bytes, or plan would show a difference where there is none.
func TestRenderIsPure(t *testing.T) {
	for _, s := range systems {
		_, first := render(t, system(s.text, s.os, s.version))
		for range 5 {
			if _, again := render(t, system(s.text, s.os, s.version)); !cmp.Equal(first, again) {
				t.Fatalf("%s: two renderings differ:\n%s", s.name, cmp.Diff(first, again))
			}
		}
	}
}

// What refers to something refers to what is there, and every id is the cluster's own and can be a file's name.
func TestReferences(t *testing.T) {
	for _, s := range systems {
		c, r := render(t, system(s.text, s.os, s.version))
		ids := []string{}
		profiles := map[string]matchbox.Profile{}
		for _, p := range r.Profiles {
			ids = append(ids, p.ID)
			profiles[p.ID] = p
			_, ignition := r.Ignition[p.IgnitionID]
			_, generic := r.Generic[p.GenericID]
			if ignition == generic {
				t.Errorf("%s: profile %s has Ignition %q and generic %q", s.name, p.ID, p.IgnitionID, p.GenericID)
			}
			// UEFI: a kernel looks for its initrd by the last part of what the loader loaded.
			if want := "initrd=" + filepath.Base(p.Boot.Initrd[0]); p.Boot.Args[0] != want {
				t.Errorf("%s: the first argument is %s, want %s", s.name, p.Boot.Args[0], want)
			}
		}
		macs := map[string]bool{}
		for _, g := range r.Groups {
			ids = append(ids, g.ID)
			if _, ok := profiles[g.Profile]; !ok {
				t.Errorf("%s: group %s names the profile %q", s.name, g.ID, g.Profile)
			}
			macs[g.Selector["mac"]] = true
			var m metadata
			if err := json.Unmarshal(g.Metadata, &m); err != nil || m.ManagedBy != Managed || m.Cluster != c.Name || !strings.HasPrefix(g.ID, c.Name+"-install-"+m.Machine+"-") {
				t.Errorf("%s: group %s has the metadata %s", s.name, g.ID, g.Metadata)
			}
		}
		ids = slices.Concat(ids, slices.Collect(maps.Keys(r.Ignition)), slices.Collect(maps.Keys(r.Generic)))
		seen := map[string]bool{}
		for _, id := range ids {
			if !strings.HasPrefix(id, c.Name+"-") || strings.ContainsAny(id, "/\\ \x00") || len(id) > 200 || seen[id] {
				t.Errorf("%s: the id %q", s.name, id)
			}
			seen[id] = true
		}
		if len(r.Machines) != len(c.Machines) {
			t.Errorf("%s: %d definitions of %d machines", s.name, len(r.Machines), len(c.Machines))
		}
		for _, d := range r.Machines {
			for _, mac := range d.MACs {
				if !macs[mac] {
					t.Errorf("%s: %s has no group for %s", s.name, d.Name, mac)
				}
			}
			if !strings.Contains(d.Image.BaseURL, d.Image.Version) {
				t.Errorf("%s: %s is installed from %s", s.name, d.Name, d.Image.BaseURL)
			}
		}
	}
}

func TestExternalMatchbox(t *testing.T) {
	for _, s := range systems {
		text := strings.Replace(system(s.text, s.os, s.version), `matchbox: {`, `matchbox: {external: true, `, 1)
		c, r := render(t, text)
		if len(r.Profiles) > 0 || len(r.Groups) > 0 {
			t.Errorf("%s: an external matchbox would serve these to any network boot: %v %v", s.name, r.Profiles, r.Groups)
		}
		_, ours := render(t, system(s.text, s.os, s.version))
		for _, m := range c.Machines {
			p, groups := InstallGroup(c, m, []string{"tectonic.token=abc"})
			if len(groups) != len(m.MACs) || groups[0].Profile != p.ID {
				t.Errorf("%s: %d groups for %d cards, the profile is %q", s.name, len(groups), len(m.MACs), groups[0].Profile)
			}
			if args := p.Boot.Args; args[len(args)-1] != "tectonic.token=abc" {
				t.Errorf("%s: arguments %v", s.name, args)
			}
			if r.Ignition[p.IgnitionID] == nil && r.Generic[p.GenericID] == nil {
				t.Errorf("%s: the armed profile's config %q%q is not rendered", s.name, p.IgnitionID, p.GenericID)
			}
			// Of the same name as the embedded server's groups, so that changing over replaces them.
			if !slices.ContainsFunc(ours.Groups, func(g matchbox.Group) bool { return g.ID == groups[0].ID }) {
				t.Errorf("%s: group %s", s.name, groups[0].ID)
			}
			for _, other := range ours.Profiles {
				if other.ID == p.ID || slices.Contains(other.Boot.Args, "tectonic.token=abc") {
					t.Errorf("%s: the token reached profile %s", s.name, other.ID)
				}
			}
		}
	}
}

func TestRenderRefuses(t *testing.T) {
	text := system(large, cluster.Flatcar, "4230.2.0")
	for _, row := range []struct {
		name   string
		change func(*Input)
		want   []string
	}{
		{"no authority", func(in *Input) { in.CA = nil }, []string{"/srv/cluster.yaml:8: matchbox.tls.ca: tls/ca.crt holds no certificate; \"tectonic-installer certs\" makes one"}},
		{"a key for an authority", func(in *Input) { in.CA = []byte(ca[strings.Index(ca, "-----BEGIN EC"):]) }, []string{"/srv/cluster.yaml:8: matchbox.tls.ca: tls/ca.crt holds no certificate; \"tectonic-installer certs\" makes one"}},
		{"no program", func(in *Input) { in.MachineProgram = map[string]string{"x86_64": "abc"} }, []string{
			"/srv/cluster.yaml:19: machines[0].arch: there is no tectonic-machine for x86_64 to run on it; install the package that has it on the provisioner",
			"/srv/cluster.yaml:28: machines[1].arch: there is no tectonic-machine for x86_64 to run on it; install the package that has it on the provisioner",
			"/srv/cluster.yaml:29: machines[2].arch: there is no tectonic-machine for x86_64 to run on it; install the package that has it on the provisioner",
		}},
		{"no files", func(in *Input) {
			in.Files = func(path string) ([]byte, error) { return nil, errors.New("cannot open " + path) }
		}, []string{
			"/srv/cluster.yaml:17: files[0].source: cannot open /srv/pull-secret.json; correct the path, or make the file",
			"/srv/cluster.yaml:27: machines[0].files[0].source: cannot open /keys/node1.kubeconfig; correct the path, or make the file",
			"/srv/cluster.yaml:29: machines[2].files[0].source: cannot open /srv/other.json; correct the path, or make the file",
		}},
	} {
		in := input()
		row.change(&in)
		r, err := Render(parse(t, text), in)
		var findings cluster.Findings
		if !errors.As(err, &findings) || len(r.Machines)+len(r.Ignition)+len(r.Groups) > 0 {
			t.Errorf("%s: error %v", row.name, err)
		} else if diff := cmp.Diff(strings.Join(row.want, "\n"), err.Error()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", row.name, diff)
		}
	}
}
