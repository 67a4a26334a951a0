package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
	"github.com/tectonic-worker/tectonic-worker/cmd/cli/clitest"
)

// call runs the program with standard streams that are files.
func call(t *testing.T, stdin string, args ...string) (code int, out, errs string) {
	t.Helper()
	return clitest.Call(t, func(std cli.Stdio) int { return run(t.Context(), args, std) }, stdin)
}

func TestUsageErrors(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"bogus"}, `unknown command or argument "bogus"; see "tectonic-installer --help"`},
		{[]string{"--bogus"}, `unknown flag: --bogus; see "tectonic-installer --help"`},
		{[]string{"check", "-o", "yaml"}, `unknown output "yaml": it is text or json; see "tectonic-installer check --help"`},
		{[]string{"check", "--timeout", "0"}, `see "tectonic-installer check --help"`},
		{[]string{"import"}, "name one file of variables"},
		{[]string{"arm"}, "name one machine at least"},
		{[]string{"power", "on"}, "name one machine at least, or give --all"},
		{[]string{"power", "on", "--all", "node1"}, "name one machine at least, or give --all"},
		{[]string{"power", "jump", "node1"}, `see "tectonic-installer power --help"`},
		{[]string{"accept", "52:54:00:00:00:01"}, "with the --name that the machine gets"},
		{[]string{"accept", "52:54:00:00:00:zz", "--name", "node4"}, "is not a MAC address"},
		{[]string{"accept", "52:54:00:00:00:01", "--name", "n", "--address", "here"}, "--address"},
		{[]string{"certs", "rotate", "--ca", "--finish"}, "give one of them"},
		{[]string{"certs", "--days", "0"}, "a certificate lasts a day at least"},
		{[]string{"explain"}, "say what a machine would send"},
		{[]string{"images", "prune", "--keep", "0"}, "one version at least is kept"},
		{[]string{"serve", "-adress=:8080"}, "no flag --adress"},
		{[]string{"serve", "-address=8080"}, "is not HOST:PORT"},
		{[]string{"watch", "--until", "happy"}, "it is one of accepted, installed, ready"},
		{[]string{"timeline", "a", "b"}, "name one machine, or a MAC address"},
	} {
		code, out, errs := call(t, "", c.args...)
		if code != 2 || out != "" || !strings.Contains(errs, c.want) || !strings.Contains(errs, `see "tectonic-installer`) {
			t.Errorf("%q: exit code %d, out %q, err %q; want 2 and %q", c.args, code, out, errs, c.want)
		}
	}
}

func TestEveryCommandExplainsItself(t *testing.T) {
	root := newRoot(cli.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	for _, c := range clitest.EveryCommand(root) {
		name := c.CommandPath()
		if c.Short == "" || strings.HasSuffix(c.Short, ".") || len(c.Short) > 70 {
			t.Errorf("%s: the short help is %q", name, c.Short)
		} else if first := c.Short[:1]; first != strings.ToUpper(first) {
			t.Errorf("%s: the short help begins small", name)
		}
		if len(clitest.EveryCommand(c)) > 1 && c.Long == "" {
			t.Errorf("%s has no long help", name)
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" || strings.HasSuffix(f.Usage, ".") {
				t.Errorf("%s --%s: the help is %q", name, f.Name, f.Usage)
			}
		})
	}
	for _, args := range [][]string{{"--help"}, {"serve", "--help"}, {"serve", "-h"}, {"help", "arm"}, {}, {"netboot"}, {"power"}} {
		if code, out, errs := call(t, "", args...); code != 0 || out == "" || errs != "" {
			t.Errorf("%q: exit code %d, err %q", args, code, errs)
		}
	}
}

func TestVersion(t *testing.T) {
	code, out, _ := call(t, "", "version", "-o", "json")
	var doc map[string]string
	if err := json.Unmarshal([]byte(out), &doc); err != nil || code != 0 || doc["version"] == "" || doc["platform"] == "" {
		t.Fatalf("exit code %d, %v, %s", code, err, out)
	}
	if code, out, _ := call(t, "", "serve", "-version"); code != 0 || strings.TrimSpace(out) != doc["version"] {
		t.Errorf("serve -version: exit code %d, %q", code, out)
	}
}

// From nothing to credentials, as an operator does it, with the mistakes on the way.
func TestFirstSteps(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "cluster.yaml")
	if code, _, errs := call(t, "", "check", "-f", file); code != 1 || !strings.Contains(errs, "tectonic-installer init > "+file) {
		t.Errorf("without a file: exit code %d, %q", code, errs)
	}
	code, text, errs := call(t, "", "init")
	if code != 0 || errs != "" {
		t.Fatalf("init: exit code %d, %q", code, errs)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	code, out, errs := call(t, "", "check", "--offline", "-f", file)
	if code != 78 || !strings.Contains(out, "machines[0].macs") || strings.Count(out, "\n") < 4 {
		t.Errorf("an example that nobody filled in: exit code %d\n%s%s", code, out, errs)
	}
	code, out, _ = call(t, "", "check", "--offline", "-f", file, "-o", "json")
	var report struct {
		Findings []struct {
			Line           int
			Field, Message string
		}
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || code != 78 || len(report.Findings) < 4 || report.Findings[0].Line == 0 {
		t.Errorf("as JSON: exit code %d, %v\n%s", code, err, out)
	}
	// Credentials can come before the file is complete.
	early := filepath.Join(dir, "early")
	if code, _, errs := call(t, "", "certs", "-f", file); code != 78 || !strings.Contains(errs, "machines[0].macs") {
		t.Errorf("certs of an incomplete file: exit code %d, %q", code, errs)
	}
	if code, out, errs := call(t, "", "certs", "-d", early, "--name", "matchbox.example.com", "-f", file); code != 0 || strings.Count(out, "\n") != 6 {
		t.Errorf("certs without a file: exit code %d\n%s%s", code, out, errs)
	}
	for i := 1; i <= 3; i++ {
		text = strings.Replace(text, "macs: []", "macs: [52-54-00-A1-9C-0"+string(rune('0'+i))+"]", 1)
	}
	text = strings.Replace(text, "sshKeys: []", `sshKeys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDw7w0sJkxf6hnvYmXZ3bcyqeFjE8S5hmO5fCvTtJbXn operator"]`, 1)
	text = strings.Replace(text, `version: ""`, "version: 4230.2.0", 1)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := call(t, "", "certs", "-f", file); code != 0 || strings.Count(out, "\n") != 6 || !strings.Contains(errs, "/etc/matchbox") {
		t.Fatalf("certs: exit code %d\n%s%s", code, out, errs)
	}
	if info, err := os.Stat(filepath.Join(dir, "tls", "client.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the client's key: %v, %v", info.Mode(), err)
	}
	if code, _, errs := call(t, "", "certs", "-f", file); code != 1 || !strings.Contains(errs, "certs rotate") {
		t.Errorf("certs again: exit code %d, %q", code, errs)
	}
	if code, out, errs := call(t, "", "certs", "show", "-f", file); code != 0 || !strings.Contains(out, "matchbox.example.com") || !strings.Contains(out, "729 days left") {
		t.Errorf("certs show: exit code %d\n%s%s", code, out, errs)
	}
	before, _ := os.ReadFile(filepath.Join(dir, "tls", "server.crt"))
	if code, _, errs := call(t, "", "certs", "rotate", "-f", file); code != 0 {
		t.Errorf("certs rotate: exit code %d, %q", code, errs)
	}
	if after, _ := os.ReadFile(filepath.Join(dir, "tls", "server.crt")); string(after) == string(before) {
		t.Error("certs rotate left the server's certificate")
	}
	if code, out, errs := call(t, "", "check", "--offline", "--all", "-f", file); code != 0 || !strings.Contains(out, "tls/client.crt") {
		t.Errorf("check --offline: exit code %d\n%s%s", code, out, errs)
	}
	for _, c := range []struct {
		code int
		args []string
	}{
		{69, []string{"plan"}}, {69, []string{"apply"}}, {69, []string{"arm", "node1"}}, {69, []string{"timeline", "node1"}}, {69, []string{"watch", "--once"}},
		{1, []string{"arm", "nodeX"}}, {1, []string{"wipe", "node1"}}, {1, []string{"wipe", "node1", "--confirm", "node2"}},
	} {
		if code, out, errs := call(t, "node7\n", append(c.args, "-f", file)...); code != c.code || out != "" || errs == "" {
			t.Errorf("%q: exit code %d, want %d; out %q, err %q", c.args, code, c.code, out, errs)
		}
	}
}

func TestImport(t *testing.T) {
	dir := t.TempDir()
	vars := filepath.Join(dir, "terraform.tfvars")
	text := `
tectonic_cluster_name = "demo"
tectonic_metal_matchbox_http_url = "http://matchbox.example.com:8080"
tectonic_metal_matchbox_rpc_endpoint = "matchbox.example.com:8081"
tectonic_metal_controller_domain = "k8s.example.com"
tectonic_metal_ingress_domain = "tectonic.example.com"
tectonic_metal_controller_names = ["node1"]
tectonic_metal_controller_domains = ["node1.example.com"]
tectonic_metal_controller_macs = ["52:54:00:A1:9C:AE"]
tectonic_metal_worker_names = ["node2", "node3"]
tectonic_metal_worker_domains = ["node2.example.com", "node3.example.com"]
tectonic_metal_worker_macs = ["52:54:00:b2:2f:86", "52:54:00:c3:61:77"]
tectonic_ssh_authorized_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDw7w0sJkxf6hnvYmXZ3bcyqeFjE8S5hmO5fCvTtJbXn core"
`
	if err := os.WriteFile(vars, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errs := call(t, "", "import", "-d", dir, vars)
	if code != 0 || !strings.Contains(out, "cluster.yaml") || !strings.Contains(errs, "check --offline") {
		t.Fatalf("import: exit code %d\n%s%s", code, out, errs)
	}
	got, err := os.ReadFile(filepath.Join(dir, "cluster.yaml"))
	if err != nil || !strings.Contains(string(got), "52:54:00:a1:9c:ae") || !strings.Contains(string(got), "node3.example.com") {
		t.Errorf("%v\n%s", err, got)
	}
	if code, _, errs := call(t, "", "import", "-d", dir, vars); code != 1 || !strings.Contains(errs, "is there already and nothing was written") {
		t.Errorf("import over what is there: exit code %d, %q", code, errs)
	}
	if code, _, errs := call(t, "this is { not", "import", "-d", t.TempDir(), "-"); code == 0 || errs == "" {
		t.Errorf("nonsense: exit code %d, %q", code, errs)
	}
}
