package assets

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coreos/ignition/v2/config"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
)

// needTool skips where a program is missing, and fails in CI, where nothing may be missing.
func needTool(t *testing.T, program, debian string) {
	t.Helper()
	if _, err := exec.LookPath(program); err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed (Debian: %s)", program, debian)
	}
	t.Skipf("%s is not installed (Debian: %s)", program, debian)
}

// ignitions are all that are rendered for the systems that take them.
func ignitions(t *testing.T) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for _, s := range systems {
		_, r := render(t, system(s.text, s.os, s.version))
		for name, text := range r.Ignition {
			all[s.name+"/"+name] = text
		}
		for _, d := range r.Machines {
			if len(d.Config) > 0 {
				all[s.name+"/"+d.Name] = d.Config
			}
		}
	}
	if len(all) < 10 {
		t.Fatalf("only %d", len(all))
	}
	return all
}

// Ignition's own parser has nothing to say, not even a warning.
func TestIgnitionParses(t *testing.T) {
	for name, text := range ignitions(t) {
		_, report, err := config.Parse(text)
		if err != nil || len(report.Entries) > 0 {
			t.Errorf("%s: %v\n%s", name, err, report.String())
		}
	}
}

// contentsOf reads the data URLs of a configuration.
func contentsOf(t *testing.T, text []byte) (files map[string]string, units map[string]string) {
	t.Helper()
	var i ignition
	if err := json.Unmarshal(text, &i); err != nil {
		t.Fatal(err)
	}
	files, units = map[string]string{}, map[string]string{}
	for _, f := range i.Storage.Files {
		if _, twice := files[f.Path]; twice {
			t.Errorf("%s is there twice", f.Path)
		}
		data, ok := strings.CutPrefix(f.Contents.Source, "data:;base64,")
		if !ok {
			files[f.Path] = f.Contents.Source
			continue
		}
		content, err := base64.StdEncoding.DecodeString(data)
		if err != nil {
			t.Errorf("%s: %v", f.Path, err)
		}
		files[f.Path] = string(content)
	}
	for _, u := range i.Systemd.Units {
		units[u.Name] = u.Contents
	}
	return files, units
}

func TestInstalledSystem(t *testing.T) {
	_, r := render(t, system(large, cluster.Flatcar, "4230.2.0"))
	files, units := contentsOf(t, r.Machines[1].Config)
	for path, want := range map[string]string{
		"/etc/hostname":                                     "node2.example.com\n",
		"/etc/tectonic-machine/ca.crt":                      ca[:strings.Index(ca, "-----BEGIN EC")],
		"/etc/systemd/timesyncd.conf.d/10-tectonic.conf":    "[Time]\nNTP=ntp.example.com 172.18.0.1\n",
		"/etc/systemd/system.conf.d/10-tectonic-proxy.conf": "",
		"/etc/profile.d/tectonic-proxy.sh":                  "",
		"/etc/tectonic-machine/ready.sh":                    "",
	} {
		got, ok := files[path]
		if !ok || want != "" && got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if _, ok := units["tectonic-ready.service"]; !ok {
		t.Error("there is no tectonic-ready.service")
	}
	if _, ok := files["/etc/tectonic-machine/ready.token"]; ok {
		t.Error("the ready token is rendered: only the claim's answer may hold it")
	}
	_, r = render(t, system(large, cluster.FedoraCoreOS, "42.20250427.3.0"))
	files, _ = contentsOf(t, r.Machines[1].Config)
	if chrony := files["/etc/chrony.conf"]; !strings.Contains(chrony, "server ntp.example.com iburst\nserver 172.18.0.1 iburst\n") {
		t.Errorf("chrony.conf: %q", chrony)
	}
}

// shellcheck and sh agree with what a shell is given.
func TestShell(t *testing.T) {
	needTool(t, "shellcheck", "shellcheck")
	dir := t.TempDir()
	scripts := map[string]string{}
	for _, s := range systems {
		_, r := render(t, system(s.text, s.os, s.version))
		for _, d := range r.Machines[:min(1, len(r.Machines))] {
			if len(d.Config) == 0 {
				continue
			}
			files, _ := contentsOf(t, d.Config)
			for path, text := range files {
				if strings.HasSuffix(path, ".sh") {
					scripts[s.name+filepath.Base(path)] = text
				}
			}
		}
	}
	if len(scripts) < 4 {
		t.Fatalf("only %d scripts", len(scripts))
	}
	for _, name := range slices.Sorted(maps.Keys(scripts)) {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(scripts[name]), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), "shellcheck", "--shell=sh", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// systemd itself finds nothing wrong with the units.
func TestUnitsVerify(t *testing.T) {
	needTool(t, "systemd-analyze", "systemd")
	dir := t.TempDir()
	all := map[string]string{}
	for name, text := range ignitions(t) {
		_, units := contentsOf(t, text)
		for unit, contents := range units {
			all[strings.ReplaceAll(name, "/", "-")+"@"+unit] = contents
		}
	}
	seen := map[string]bool{}
	for _, contents := range all {
		if seen[contents] {
			continue
		}
		seen[contents] = true
		// The program is not on this host, and systemd-analyze looks for it.
		name := "tectonic-machine.service"
		if strings.Contains(contents, "ready.token") {
			name = "tectonic-ready.service"
		}
		file := filepath.Join(dir, name)
		text := strings.NewReplacer("/opt/bin/tectonic-machine", "/bin/sh", "/usr/local/bin/tectonic-machine", "/bin/sh").Replace(contents)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", file).CombinedOutput(); err != nil || strings.Contains(string(out), name) {
			t.Errorf("%s: %v\n%s\n%s", name, err, out, contents)
		}
	}
	if len(seen) != 3 {
		t.Errorf("%d different units, want 3", len(seen))
	}
}
