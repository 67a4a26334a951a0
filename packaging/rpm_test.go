package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tectonic-worker/tectonic-worker/sysconfig"
	"github.com/tectonic-worker/tectonic-worker/units"
)

const (
	settings   = sysconfig.Path
	kubeconfig = "/etc/kubernetes/kubeconfig"
)

// verified is what rpm -V says; rpm exits 1 where it says anything.
func (h *host) verified() string {
	h.t.Helper()
	out, _ := try(h.t, "rpm", "--root", h.root, "--verify", Name)
	return out
}

func TestInstallVerifyErase(t *testing.T) {
	for _, dist := range Dists() {
		t.Run(dist, func(t *testing.T) {
			h := newHost(t).withDistribution("podman")
			o := repository(t)
			o.Dist = dist
			if out := h.rpm("--install", build(t, o)); out != "" {
				t.Errorf("the install says: %s", out)
			}
			if out := h.verified(); out != "" {
				t.Errorf("rpm -V after the install:\n%s", out)
			}
			for path, mode := range map[string]os.FileMode{
				settings: 0o644, "/etc/kubernetes": 0o755 | os.ModeDir, "/usr/bin/tectonic-worker": 0o755,
				"/var/lib/tectonic-worker": 0o700 | os.ModeDir, "/etc/tectonic-worker/kubelet.d": 0o755 | os.ModeDir,
			} {
				if info, err := os.Stat(h.path(path)); err != nil || info.Mode() != mode {
					t.Errorf("%s: %v %v, want %v", path, info, err, mode)
				}
			}
			if h.exists(kubeconfig) {
				t.Error("the install made a kubeconfig")
			}
			if got := content(t, h.path(settings)); got != string(sysconfig.Shipped) {
				t.Errorf("the settings are:\n%s", got)
			}
			h.notEnabled()

			h.rpm("--erase", Name)
			for _, path := range []string{settings, "/etc/kubernetes", "/etc/tectonic-worker", "/usr/bin/tectonic-worker", "/var/lib/tectonic-worker",
				units.Dir + "/kubelet.service", "/usr/share/doc/tectonic-worker", "/usr/share/licenses/tectonic-worker", "/usr/share/fish"} {
				if h.exists(path) {
					t.Errorf("the erase left %s", path)
				}
			}
		})
	}
}

// notEnabled reports every unit of ours that something wants.
func (h *host) notEnabled() {
	h.t.Helper()
	for _, name := range units.Names() {
		found, err := filepath.Glob(h.path("/etc/systemd/system/*.wants/" + name))
		if err != nil || len(found) > 0 {
			h.t.Errorf("%s is enabled: %v %v", name, found, err)
		}
	}
}

// A joined worker's own files are the package's as well: right modes verify, wrong ones do not, an erase
// takes what can be made again and leaves the administrator's kubeconfig where it is.
func TestGhosts(t *testing.T) {
	h := newHost(t).withDistribution("rkt")
	h.rpm("--install", build(t, repository(t)))
	for path, mode := range map[string]os.FileMode{kubeconfig: 0o600, "/etc/kubernetes/ca.crt": 0o644, "/etc/kubernetes/kubelet.yaml": 0o600,
		"/var/lib/tectonic-worker/ledger.jsonl": 0o600} {
		write(t, h.path(path), "content of "+path)
		if err := os.Chmod(h.path(path), mode); err != nil {
			t.Fatal(err)
		}
	}
	if out := h.verified(); out != "" {
		t.Errorf("rpm -V of a joined worker:\n%s", out)
	}
	if err := os.Chmod(h.path(kubeconfig), 0o644); err != nil {
		t.Fatal(err)
	}
	if out := h.verified(); !strings.HasPrefix(out, ".M.......") || !strings.Contains(out, kubeconfig) {
		t.Errorf("rpm -V does not see that everyone can read the kubeconfig: %q", out)
	}
	if err := os.Chmod(h.path(kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	h.rpm("--upgrade", "--replacepkgs", build(t, repository(t)))
	if got := content(t, h.path(kubeconfig)); got != "content of "+kubeconfig {
		t.Errorf("a reinstall made the kubeconfig %q", got)
	}
	h.rpm("--erase", Name)
	if info, err := os.Stat(h.path(kubeconfig)); err != nil || info.Mode() != 0o600 {
		t.Errorf("the kubeconfig did not stay as it was: %v %v", info, err)
	}
	for _, path := range []string{kubeconfig + ".rpmsave", "/etc/kubernetes/ca.crt", "/etc/kubernetes/kubelet.yaml"} {
		if h.exists(path) {
			t.Errorf("the erase left %s", path)
		}
	}
	// What was changed on the host can still be undone after a reinstall.
	if !h.exists("/var/lib/tectonic-worker/ledger.jsonl") {
		t.Error("the erase took the ledger")
	}
}

func TestReinstallUpgradeDowngrade(t *testing.T) {
	o := repository(t)
	old := build(t, o)
	o.Version = "v1.3.0"
	write(t, o.Binary, "#!/bin/sh\necho new\n")
	p, err := Build(o)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range p.Files {
		if f.Path == settings {
			p.Files[i].Body = append([]byte("# New in 1.3.0.\n"), f.Body...)
		}
	}
	newer := encodeTo(t, t.TempDir(), p)
	version := func(h *host) string { return h.rpm("--query", "--queryformat=%{VERSION}", Name) }

	t.Run("an edited file is kept", func(t *testing.T) {
		h := newHost(t).withDistribution("podman")
		h.rpm("--install", old)
		edited := string(sysconfig.Update(sysconfig.Shipped, map[string]string{"KUBERNETES_DNS_SERVICE_IP": "10.3.0.10"}))
		write(t, h.path(settings), edited)
		h.rpm("--upgrade", newer)
		if got := content(t, h.path(settings)); got != edited {
			t.Errorf("the edited settings became:\n%s", got)
		}
		if got := content(t, h.path(settings+".rpmnew")); !strings.HasPrefix(got, "# New in 1.3.0.\n") {
			t.Errorf("settings.rpmnew is:\n%s", got)
		}
		if got := content(t, h.path("/usr/bin/tectonic-worker")); got != "#!/bin/sh\necho new\n" || version(h) != "1.3.0" {
			t.Errorf("the binary is %q of version %s", got, version(h))
		}
		h.notEnabled()
		// An erase keeps the edited file too.
		h.rpm("--erase", Name)
		if got := content(t, h.path(settings+".rpmsave")); got != edited {
			t.Errorf("settings.rpmsave is:\n%s", got)
		}
	})
	t.Run("an untouched file is replaced", func(t *testing.T) {
		h := newHost(t).withDistribution("podman")
		h.rpm("--install", old)
		h.rpm("--upgrade", newer)
		if got := content(t, h.path(settings)); !strings.HasPrefix(got, "# New in 1.3.0.\n") || h.exists(settings+".rpmnew") {
			t.Errorf("the settings are:\n%s", got)
		}
		if out := h.verified(); out != "" {
			t.Errorf("rpm -V after the upgrade:\n%s", out)
		}
		if _, err := try(t, "rpm", "--root", h.root, "--upgrade", old); err == nil {
			t.Error("rpm downgraded without being asked")
		}
		h.rpm("--upgrade", "--oldpackage", old)
		if version(h) != "1.2.3" || content(t, h.path(settings)) != string(sysconfig.Shipped) {
			t.Errorf("the downgrade left version %s", version(h))
		}
		if out := h.verified(); out != "" {
			t.Errorf("rpm -V after the downgrade:\n%s", out)
		}
	})
	t.Run("a reinstall mends", func(t *testing.T) {
		h := newHost(t).withDistribution("podman")
		h.rpm("--install", old)
		write(t, h.path(units.Dir+"/kubelet.service"), "broken")
		if out := h.verified(); !strings.Contains(out, "kubelet.service") {
			t.Errorf("rpm -V does not see the broken unit: %q", out)
		}
		h.rpm("--upgrade", "--replacepkgs", old)
		if out := h.verified(); out != "" {
			t.Errorf("rpm -V after the reinstall:\n%s", out)
		}
	})
}

// An upgrade keeps units enabled, an erase disables them.
func TestUnitsStayEnabledUntilErase(t *testing.T) {
	h := newHost(t).withDistribution("podman")
	o := repository(t)
	h.rpm("--install", build(t, o))
	run(t, "systemctl", "--root="+h.root, "enable", units.Kubelet, units.KubeletPath)
	links := []string{"/etc/systemd/system/multi-user.target.wants/kubelet.service", "/etc/systemd/system/multi-user.target.wants/kubelet.path"}
	for _, link := range links {
		if !h.exists(link) {
			t.Fatalf("systemctl enable did not make %s", link)
		}
	}
	o.Version = "v1.3.0"
	h.rpm("--upgrade", build(t, o))
	for _, link := range links {
		if !h.exists(link) {
			t.Errorf("the upgrade removed %s", link)
		}
	}
	h.rpm("--erase", Name)
	for _, link := range links {
		if h.exists(link) {
			t.Errorf("the erase left %s", link)
		}
	}
}

func TestDependencies(t *testing.T) {
	for _, c := range []struct {
		name, dist string
		provides   []string
		missing    string // what rpm names; empty where it installs
	}{
		{"podman", "el9", []string{"/bin/sh", "systemd=252", "podman"}, ""},
		{"rkt", "el8", []string{"/bin/sh", "systemd=239", "rkt"}, ""},
		{"no runtime", "el10", []string{"/bin/sh", "systemd=257"}, "(rkt or podman)"},
		{"no runtime on EL7", "el7", []string{"/bin/sh", "systemd=219"}, ""},
		{"old systemd", "el7", []string{"/bin/sh", "systemd=208", "rkt"}, "systemd >= 219"},
		{"kubernetes-node", "el9", []string{"/bin/sh", "systemd=252", "podman", "kubernetes-node"}, "kubernetes-node conflicts with"},
		{"kubernetes", "el7", []string{"/bin/sh", "systemd=219", "kubernetes"}, "kubernetes conflicts with"},
		{"kubernetes-master", "el7", []string{"/bin/sh", "systemd=219", "kubernetes-master"}, "kubernetes-master conflicts with"},
		{"kubelet", "el9", []string{"/bin/sh", "systemd=252", "podman", "kubelet"}, "kubelet conflicts with"},
	} {
		t.Run(c.name, func(t *testing.T) {
			need(t, "rpm")
			root := t.TempDir()
			run(t, "rpm", "--root", root, "--install", "--justdb", "--ignorearch", distribution(t, t.TempDir(), c.provides...))
			o := repository(t)
			o.Dist = c.dist
			out, err := try(t, "rpm", "--root", root, "--install", "--test", "--ignorearch", build(t, o))
			if c.missing == "" && err != nil || c.missing != "" && (err == nil || !strings.Contains(out, c.missing)) {
				t.Errorf("want %q, got %v: %s", c.missing, err, out)
			}
		})
	}
}

// What the package holds, as rpm reads it: size, time, digest, mode, owner, and whether it is
// configuration or documentation.
func TestDumpIsGolden(t *testing.T) {
	need(t, "rpm", "rpm2cpio", "cpio")
	file := build(t, repository(t))
	for golden, file := range map[string]string{"dump.golden": file, "installer.golden": build(t, installerRepository(t))} {
		var got []string
		for _, line := range strings.Split(strings.TrimSpace(run(t, "rpm", "--query", "--list", "--package", "--dump", file)), "\n") {
			f := strings.Fields(line)
			// Sizes and digests change with every word of a document: rpm -V checks them above.
			got = append(got, strings.Join([]string{f[4], f[5], f[6], "config=" + f[7], "doc=" + f[8], f[0]}, " "))
		}
		text := strings.Join(got, "\n") + "\n"
		golden = filepath.Join("testdata", golden)
		if os.Getenv("UPDATE_GOLDEN") != "" {
			write(t, golden, text)
		}
		if diff := cmp.Diff(strings.Split(content(t, golden), "\n"), strings.Split(text, "\n")); diff != "" {
			t.Errorf("set UPDATE_GOLDEN=1 if this is meant (-golden +got):\n%s", diff)
		}
	}

	// Ghosts are in the list and not in the archive.
	archive := run(t, "sh", "-c", "rpm2cpio "+file+" | cpio --list --quiet")
	flags := run(t, "rpm", "--query", "--package", "--queryformat=[%{FILENAMES} %{FILEFLAGS:fflags}\n]", file)
	for path, flag := range map[string]string{kubeconfig: "cmg", "/etc/kubernetes/ca.crt": "g", "/etc/kubernetes/kubelet.yaml": "g"} {
		if strings.Contains(archive, path) {
			t.Errorf("%s is in the archive", path)
		}
		if !strings.Contains(flags, path+" "+flag+"\n") {
			t.Errorf("%s does not have the flags %s:\n%s", path, flag, flags)
		}
	}
	if !strings.Contains(flags, settings+" cn\n") {
		t.Errorf("%s is not config(noreplace):\n%s", settings, flags)
	}
}

// rpm2cpio compares the archive with the size in the signature header, and exits 1 where they differ.
func TestArchiveSizeAndDigests(t *testing.T) {
	need(t, "rpm", "rpm2cpio")
	for _, dist := range Dists() {
		o := repository(t)
		o.Dist = dist
		file := build(t, o)
		archive, err := exec.Command("rpm2cpio", file).Output()
		if err != nil {
			t.Fatalf("rpm2cpio: %v", err)
		}
		if got := run(t, "rpm", "--query", "--package", "--queryformat=%{ARCHIVESIZE}", file); got != itoa(len(archive)) {
			t.Errorf("%s: the header says %s bytes, the archive has %d", dist, got, len(archive))
		}
		out := run(t, "rpm", "--checksig", "--verbose", file)
		for _, digest := range []string{"Header SHA256 digest: OK", "Payload SHA256 digest: OK"} {
			if !strings.Contains(out, digest) {
				t.Errorf("%s: no %q in\n%s", dist, digest, out)
			}
		}
		if legacy := strings.Contains(out, "MD5 digest: OK") && strings.Contains(out, "Header SHA1 digest: OK"); legacy != (dist == "el7") {
			t.Errorf("%s: legacy digests: %v\n%s", dist, legacy, out)
		}
		// A flipped byte in the header, or in the payload, is found.
		data := []byte(content(t, file))
		header, err := headerOf(data)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []int{header.end - 40, len(data) - 40} {
			bad := append([]byte{}, data...)
			bad[at] ^= 1
			broken := filepath.Join(t.TempDir(), "broken.rpm")
			write(t, broken, string(bad))
			if out, err := try(t, "rpm", "--checksig", broken); err == nil {
				t.Errorf("%s: a flipped byte at %d of %d went unnoticed: %s", dist, at, len(data), out)
			}
		}
	}
}

// rpm on the other architecture takes the package, and this one's does not.
func TestArchitecture(t *testing.T) {
	need(t, "rpm")
	o := repository(t)
	o.Arch = "aarch64"
	file := build(t, o)
	if got := run(t, "rpm", "--query", "--package", "--queryformat=%{ARCH} [%{PROVIDES} ]", file); got != "aarch64 tectonic-worker tectonic-worker(aarch-64) " {
		t.Errorf("rpm reads %q", got)
	}
	if out, err := try(t, "rpm", "--root", t.TempDir(), "--install", "--test", "--nodeps", file); runtime.GOARCH == "amd64" &&
		(err == nil || !strings.Contains(out, "intended for a different architecture")) {
		t.Errorf("x86_64 took an aarch64 package: %v %s", err, out)
	}
}

func TestReproducible(t *testing.T) {
	o := repository(t)
	// Large enough for the parallel compressor to split it.
	big := make([]byte, 5<<20)
	for i := range big {
		big[i] = byte(i * i >> 7)
	}
	write(t, o.Binary, string(big))
	first := content(t, build(t, o))
	before := runtime.GOMAXPROCS(1)
	second := content(t, build(t, o))
	runtime.GOMAXPROCS(8)
	third := content(t, build(t, o))
	runtime.GOMAXPROCS(before)
	if first != second || first != third {
		t.Error("the same input gave different packages")
	}
}
