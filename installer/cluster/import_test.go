package cluster

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestImport(t *testing.T) {
	for _, name := range []string{"metal.tfvars", "gui.tfvars"} {
		text, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		imported, err := Import(name, text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var b strings.Builder
		b.Write(imported.YAML)
		b.WriteString("\n# Files\n")
		for _, path := range slices.Sorted(maps.Keys(imported.Files)) {
			fmt.Fprintf(&b, "## %s\n%s", path, imported.Files[path])
		}
		b.WriteString("\n# Notes\n" + strings.Join(imported.Notes, "\n") + "\n\n# Findings\n" + imported.Findings.Error() + "\n")
		golden(t, name+".golden", b.String())

		for _, secret := range []string{"hunter2", "proxy-secret"} {
			if !strings.Contains(b.String(), secret) {
				continue
			}
			t.Errorf("%s: %s is in what came out", name, secret)
		}
		if strings.Contains(string(imported.YAML), "a2V5") {
			t.Errorf("%s: the client's key is in the cluster file", name)
		}
		// Filled in as the one finding asks, it is a cluster.
		if len(imported.Findings) != 1 || imported.Findings[0].Field != "os.version" {
			t.Errorf("%s: findings:\n%v", name, imported.Findings)
		}
		c := parsed(t, edit(t, string(imported.YAML), `version: ""`, "version: 4230.2.0"))
		if !c.Matchbox.External || len(c.Machines) != 3 || len(c.InRole(Controller)) != 1 {
			t.Errorf("%s: external %v, %d machines", name, c.Matchbox.External, len(c.Machines))
		}
	}
}

func TestImportWrapped(t *testing.T) {
	text, err := os.ReadFile("testdata/gui.tfvars")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := Import("x", text)
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := Import("x", []byte(`{"platform": "metal", "adminPassword": "hunter2", "variables": `+string(text)+`, "dryRun": true}`))
	if err != nil || string(wrapped.YAML) != string(plain.YAML) {
		t.Errorf("what the GUI sends to its server: %v\n%s", err, wrapped.YAML)
	}
}

func TestImportRefuses(t *testing.T) {
	for _, row := range []struct{ name, text, want string }{
		{"cut JSON", "{\n\"tectonic_cluster_name\": \"a\",\n\"tectonic_admin_password\": \"hunter2", "v:3: it is not valid JSON"},
		{"cut HCL", "tectonic_cluster_name = \"a\"\ntectonic_admin_password = \"hunter2\n", "v:2:"},
		{"cut list", "a = [\n", "v:"},
		{"deep", "a = " + strings.Repeat("[", 100), "nests deeper"},
		{"deep by signs", "a = " + strings.Repeat("-", 100) + "1", "nests deeper"},
		{"lists of two lengths", `tectonic_metal_worker_names = ["a", "b"]` + "\n" + `tectonic_metal_worker_macs = ["52:54:00:00:00:01"]`, "v:1: tectonic_metal_worker_names: 2 names, 0 domains and 1 macs"},
		{"a list for a name", `tectonic_cluster_name = ["hunter2"]`, "v:1: tectonic_cluster_name: this is not a single value"},
		{"a map for a list", `tectonic_metal_worker_names = {a = "hunter2"}`, "v:1: tectonic_metal_worker_names: this is a map"},
		{"an expression", "\n" + `tectonic_ssh_authorized_key = file("~/.ssh/hunter2.pub")`, "v:2: tectonic_ssh_authorized_key: this is not a single value"},
		{"a private key", `tectonic_ssh_authorized_key = "-----BEGIN RSA PRIVATE KEY-----\nhunter2"`, "this is a private key"},
		{"a key for a certificate", `tectonic_metal_matchbox_ca = "-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----"`, "this is not PEM with a certificate"},
		{"no PEM", `tectonic_metal_matchbox_client_key = "hunter2"`, "this is not PEM with a private key"},
	} {
		_, err := Import("v", []byte(row.text))
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: want %q, got %v", row.name, row.want, err)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error shows a value: %v", row.name, err)
		} else if _, ok := err.(Findings); !ok {
			t.Errorf("%s: the error is %T", row.name, err)
		}
	}
}

// Nothing at all is not an error: what it lacks is told as findings.
func TestImportNothing(t *testing.T) {
	imported, err := Import("terraform.tfvars", nil)
	if err != nil || len(imported.Findings) < 5 {
		t.Errorf("%v, %v", err, imported.Findings)
	}
}

// Whatever the variables hold, what comes out is a cluster file or says why not, and no value can add a key to it.
func FuzzImport(f *testing.F) {
	for _, name := range []string{"metal.tfvars", "gui.tfvars"} {
		text, err := os.ReadFile("testdata/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("tectonic_cluster_name = \"a\\nname: b\"\ntectonic_metal_worker_names=[\"]\"]\ntectonic_metal_worker_domains=[\"{\"]\ntectonic_metal_worker_macs=[\"#\"]"))
	f.Add([]byte(`{"tectonic_no_proxy": "a,b", "tectonic_ntp_servers": ["\u0000", "- x"]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		imported, err := Import("v", text)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\x00\x1b\r") {
				t.Errorf("the error has a control character: %q", err)
			}
			return
		}
		for _, finding := range imported.Findings {
			if strings.Contains(finding.Message, "not YAML") || strings.Contains(finding.Message, "no such key") || strings.Contains(finding.Message, "given twice") {
				t.Errorf("%v\n%s", finding, imported.YAML)
			}
		}
		for _, note := range imported.Notes {
			if strings.ContainsAny(note, "\x00\x1b\r\n") {
				t.Errorf("a note has a control character: %q", note)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(valid))
	f.Add(Example())
	f.Add([]byte("machines:\n- &a {macs: [1]}\n- *a\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse("f", text)
		if err != nil {
			findings, ok := err.(Findings)
			if !ok || c != nil || len(findings) == 0 {
				t.Fatalf("%T %v", err, c)
			}
			for _, finding := range findings {
				if strings.ContainsAny(finding.Error(), "\x00\x1b\r\n") || finding.Line < 0 || finding.Severity != Error {
					t.Errorf("%q", finding.Error())
				}
			}
			return
		}
		// What is valid holds what everyone behind relies on.
		macs := map[MAC]bool{}
		for _, m := range c.Machines {
			if dnsLabel(m.Name) != "" || len(m.MACs) == 0 || m.Role != Controller && m.Role != Worker {
				t.Errorf("%+v", m)
			}
			for _, mac := range m.MACs {
				if again, err := ParseMAC(string(mac)); err != nil || again != mac || macs[mac] {
					t.Errorf("%q: %v", mac, err)
				}
				macs[mac] = true
			}
		}
		if len(c.Machines) < 3 || len(c.InRole(Controller))%2 == 0 {
			t.Errorf("%d machines, %d controllers", len(c.Machines), len(c.InRole(Controller)))
		}
		for _, word := range []string{c.Name, c.OS.Version, c.DNS.Controller, c.DNS.Ingress, c.Network.Interface, c.Matchbox.RPC, strings.TrimPrefix(c.Matchbox.HTTP, "http://")} {
			if strings.ContainsAny(word, " \\\n\x00;'\"$`{},#@") {
				t.Errorf("%q could say something else in a configuration", word)
			}
		}
	})
}
