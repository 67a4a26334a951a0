package packaging

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// need skips the test, or fails it in CI, where a tool is missing.
func need(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is missing", tool)
			}
			t.Skipf("%s is missing", tool)
		}
	}
}

// run runs a program and returns what it printed; a failure is the test's.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := try(t, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func try(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	// Debian's rpm says this whenever it installs.
	text := strings.ReplaceAll(string(out), "rpm: RPM should not be used directly install RPM packages, use Alien instead!\n", "")
	return strings.ReplaceAll(text, "rpm: However assuming you know what you are doing...\n", ""), err
}

// repository is a stand-in for this repository, with a small binary: the tests are about the package.
func repository(t *testing.T) Options {
	t.Helper()
	dir := t.TempDir()
	o := Options{Binary: filepath.Join(dir, "binary"), Completions: filepath.Join(dir, "completions"), Source: filepath.Join(dir, "src"),
		Version: "v1.2.3", Arch: "x86_64", Dist: "el9", Time: time.Unix(1700000000, 0)}
	for path, text := range map[string]string{
		"binary":                           "#!/bin/sh\nexit 0\n",
		"tectonic-worker-drain":            "#!/bin/sh\nexit 0\n",
		"completions/tectonic-worker.bash": "# bash\n", "completions/tectonic-worker.zsh": "#compdef tectonic-worker\n",
		"completions/tectonic-worker.fish": "# fish\n",
		"src/LICENSE":                      "Apache License\n", "src/README.md": "# Tectonic Worker\n", "src/CHANGELOG.md": "# Changes\n",
		"src/docs/guide.md": "# Guide\n",
	} {
		write(t, filepath.Join(dir, path), text)
	}
	return o
}

// installerRepository is the same for the installer.
func installerRepository(t *testing.T) Options {
	t.Helper()
	o := repository(t)
	dir := filepath.Dir(o.Binary)
	o.Package, o.Programs = Installer, filepath.Join(dir, "bin")
	for path, text := range map[string]string{
		"bin/linux-amd64/tectonic-machine": "amd64\n", "bin/linux-arm64/tectonic-machine": "arm64\n",
		"completions/tectonic-installer.bash": "# bash\n", "completions/tectonic-installer.zsh": "#compdef tectonic-installer\n",
		"completions/tectonic-installer.fish": "# fish\n", "src/docs/installer.md": "# Installer\n",
	} {
		write(t, filepath.Join(dir, path), text)
	}
	return o
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// build makes a package file of o.
func build(t *testing.T, o Options) string {
	t.Helper()
	p, err := Build(o)
	if err != nil {
		t.Fatal(err)
	}
	return encodeTo(t, t.TempDir(), p)
}

func encodeTo(t *testing.T, dir string, p *Package) string {
	t.Helper()
	data, err := Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, p.FileName())
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// distribution is a package with nothing but Provides. It stands for the distribution's packages in
// a root whose rpm database is empty.
func distribution(t *testing.T, dir string, provides ...string) string {
	t.Helper()
	p := &Package{Name: "distribution", Version: "1", Release: "1", Arch: "x86_64", Summary: "Stands for the distribution",
		Description: "Stands for the distribution", License: "Apache-2.0", Time: time.Unix(1700000000, 0)}
	p.Provides = []Relation{{Name: "distribution", Op: "=", Version: "1-1"}}
	for _, name := range provides {
		name, version, versioned := strings.Cut(name, "=")
		r := Relation{Name: name}
		if versioned {
			r.Op, r.Version = "=", version
		}
		p.Provides = append(p.Provides, r)
	}
	return encodeTo(t, dir, p)
}

// host is a root filesystem of its own: an overlay over a minimal one with /bin/sh and systemctl.
type host struct {
	t    *testing.T
	root string
}

func newHost(t *testing.T) *host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a root filesystem and run scriptlets in it")
	}
	need(t, "rpm", "mmdebstrap")
	base := systemdRoot(t)
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for _, d := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", base, dir, dir)
	if err := unix.Mount("overlay", root, "overlay", 0, options); err != nil {
		t.Fatalf("cannot mount an overlay: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Errorf("cannot unmount %s: %v", root, err)
		}
	})
	return &host{t, root}
}

// systemdRoot is a root filesystem with systemd, made once and then only read.
func systemdRoot(t *testing.T) string {
	t.Helper()
	cache := os.Getenv("TECTONIC_LAB_CACHE")
	if cache == "" {
		cache = "/var/cache/tectonic-worker-lab"
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(filepath.Join(cache, "bookworm-systemd-rpm.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(cache, "bookworm-systemd-rpm")
	if _, err := os.Stat(root); err == nil {
		return root
	}
	if err := os.RemoveAll(root + ".building"); err != nil {
		t.Fatal(err)
	}
	run(t, "mmdebstrap", "--quiet", "--variant=minbase", "--include=systemd,systemd-sysv,rpm", "bookworm", root+".building")
	if err := os.Rename(root+".building", root); err != nil {
		t.Fatal(err)
	}
	return root
}

func (h *host) path(p string) string { return filepath.Join(h.root, p) }

func (h *host) rpm(args ...string) string {
	h.t.Helper()
	return run(h.t, "rpm", append([]string{"--root", h.root}, args...)...)
}

// withDistribution installs what the worker's package requires of the distribution.
func (h *host) withDistribution(provides ...string) *host {
	h.t.Helper()
	h.rpm("--install", distribution(h.t, h.t.TempDir(), append([]string{"/bin/sh", "systemd=252"}, provides...)...))
	return h
}

func (h *host) exists(p string) bool {
	_, err := os.Lstat(h.path(p))
	return err == nil
}
