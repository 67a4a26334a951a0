package main

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestCommands(t *testing.T) {
	for name, c := range map[string]struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		"none":                 {nil, 2, "", "usage: tectonic-machine"},
		"help":                 {[]string{"help"}, 0, "usage: tectonic-machine", ""},
		"version":              {[]string{"version"}, 0, "dev\n", ""},
		"unknown":              {[]string{"reinstall"}, 2, "", "usage:"},
		"too many":             {[]string{"install", "now"}, 2, "", "usage:"},
		"not in a live system": {[]string{"install"}, 1, "", "tectonic-machine: cannot begin: the kernel's command line has no tectonic."},
		"no %pre":              {[]string{"kickstart-post", "/nonexistent"}, 1, "", "kickstart-pre"},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), c.args, &stdout, &stderr); code != c.code || !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) {
			t.Errorf("%s: %d\n%s\n%s", name, code, &stdout, &stderr)
		}
	}
}

// It is downloaded by every machine before its installation, and runs on whatever the live system is: small, and
// without a library of the system.
func TestProgramIsSmallAndStatic(t *testing.T) {
	for _, goarch := range []string{"amd64", "arm64"} {
		file := filepath.Join(t.TempDir(), "tectonic-machine")
		build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", file, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+goarch)
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > 8<<20 {
			t.Errorf("%s: %d bytes, more than 8 MiB", goarch, info.Size())
		}
		f, err := elf.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP {
				t.Errorf("%s: it needs a dynamic linker", goarch)
			}
		}
		f.Close()
		t.Logf("%s: %d bytes", goarch, info.Size())
	}
}
