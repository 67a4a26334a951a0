package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	dir := t.TempDir()
	for path, text := range map[string]string{"bin": "program\n", "tectonic-worker-drain": "program\n", "c/tectonic-worker.bash": "b\n", "c/tectonic-worker.zsh": "z\n", "c/tectonic-worker.fish": "f\n",
		"c/tectonic-installer.bash": "b\n", "c/tectonic-installer.zsh": "z\n", "c/tectonic-installer.fish": "f\n", "p/linux-amd64/tectonic-machine": "m\n", "p/linux-arm64/tectonic-machine": "m\n",
		"s/LICENSE": "l\n", "s/README.md": "r\n", "s/CHANGELOG.md": "c\n"} {
		file := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	good := []string{"--binary", dir + "/bin", "--completions", dir + "/c", "--source", dir + "/s", "--version", "v1.2.3",
		"--arch", "aarch64", "--dist", "el7,el10", "--out", dir + "/out"}
	for _, c := range []struct {
		name, epoch string
		args        []string
		code        int
		says        string
	}{
		{"two packages", "1700000000", good, 0, dir + "/out/tectonic-worker-1.2.3-1.el7.aarch64.rpm\n" + dir + "/out/tectonic-worker-1.2.3-1.el10.aarch64.rpm\n"},
		{"the installer", "1700000000", append(good[:len(good):len(good)], "--package", "tectonic-installer", "--programs", dir+"/p"), 0, dir + "/out/tectonic-installer-1.2.3-1.el10.aarch64.rpm\n"},
		{"no programs", "1700000000", append(good[:len(good):len(good)], "--package", "tectonic-installer", "--programs", dir+"/q"), 1, "cannot package the machines' program"},
		{"no such package", "1700000000", append(good[:len(good):len(good)], "--package", "tectonic"), 1, `cannot build "tectonic"`},
		{"no time", "", good, 2, `cannot read SOURCE_DATE_EPOCH=""`},
		{"no version", "1700000000", good[:6], 2, "--binary and --version are needed"},
		{"no such flag", "1700000000", []string{"--nonsense"}, 2, "flag provided but not defined"},
		{"no such distribution", "1700000000", append(good[:len(good):len(good)], "--dist", "el6"), 1, `cannot build for "el6"`},
		{"output is a file", "1700000000", append(good[:len(good):len(good)], "--out", dir+"/bin"), 1, "cannot make the output directory"},
	} {
		var out bytes.Buffer
		if code := run(c.args, c.epoch, &out, &out); code != c.code || !strings.Contains(out.String(), c.says) {
			t.Errorf("%s: exit %d, want %d; says %q, want %q", c.name, code, c.code, out.String(), c.says)
		}
	}
	for _, dist := range []string{"el7", "el10"} {
		data, err := os.ReadFile(dir + "/out/tectonic-worker-1.2.3-1." + dist + ".aarch64.rpm")
		if err != nil || !bytes.HasPrefix(data, []byte{0xed, 0xab, 0xee, 0xdb}) {
			t.Errorf("%s: not an RPM: %v", dist, err)
		}
	}
}
