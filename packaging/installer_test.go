package packaging

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/server"
	"github.com/tectonic-worker/tectonic-worker/units"
)

// verify is what rpm -V says of a package.
func (h *host) verify(name string) string {
	h.t.Helper()
	out, _ := try(h.t, "rpm", "--root", h.root, "--verify", name)
	return out
}

// account is a line of /etc/passwd or /etc/group.
func (h *host) account(database, name string) []string {
	h.t.Helper()
	for _, line := range strings.Split(content(h.t, h.path("/etc/"+database)), "\n") {
		if f := strings.Split(line, ":"); f[0] == name {
			return f
		}
	}
	return nil
}

// owner is who has a file, by number.
func (h *host) owner(path string) string {
	h.t.Helper()
	info, err := os.Stat(h.path(path))
	if err != nil {
		h.t.Error(err)
		return ""
	}
	s := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%d:%d", s.Uid, s.Gid)
}

func TestInstallerInstallVerifyErase(t *testing.T) {
	for _, dist := range Dists() {
		t.Run(dist, func(t *testing.T) {
			h := newHost(t).withDistribution("shadow-utils")
			o := installerRepository(t)
			o.Dist = dist
			if out := h.rpm("--install", build(t, o)); out != "" {
				t.Errorf("the install says: %s", out)
			}
			if out := h.verify(Installer); out != "" {
				t.Errorf("rpm -V after the install:\n%s", out)
			}
			user, group := h.account("passwd", "matchbox"), h.account("group", "matchbox")
			if user == nil || group == nil || user[2] == "0" || user[3] != group[2] || user[5] != "/var/lib/matchbox" || user[6] != "/sbin/nologin" {
				t.Fatalf("the user is %v, the group %v", user, group)
			}
			for path, want := range map[string]string{"/var/lib/matchbox": user[2] + ":" + group[2], "/var/lib/matchbox/assets": user[2] + ":" + group[2],
				"/etc/matchbox": "0:0", "/etc/tectonic-installer": "0:0", "/usr/bin/tectonic-installer": "0:0"} {
				if got := h.owner(path); got != want {
					t.Errorf("%s belongs to %s, want %s", path, got, want)
				}
			}
			for arch, want := range map[string]string{"x86_64": "amd64\n", "aarch64": "arm64\n"} {
				if got := content(t, h.path(programsDir+"/"+arch+"/tectonic-machine")); got != want {
					t.Errorf("the program for %s is that for %s", arch, got)
				}
			}
			for _, name := range units.InstallerNames() {
				if found, err := filepath.Glob(h.path("/etc/systemd/system/*.wants/" + name)); err != nil || len(found) > 0 {
					t.Errorf("%s is enabled: %v %v", name, found, err)
				}
			}
			h.rpm("--erase", Installer)
			for _, path := range []string{"/etc/sysconfig/tectonic-installer", "/etc/matchbox", "/etc/tectonic-installer", "/usr/bin/tectonic-installer", "/var/lib/matchbox",
				"/var/lib/tectonic-installer", "/usr/share/tectonic-installer", units.Dir + "/" + units.Installer, "/usr/lib/firewalld", "/usr/share/doc/tectonic-installer"} {
				if h.exists(path) {
					t.Errorf("the erase left %s", path)
				}
			}
			if h.account("passwd", "matchbox") == nil {
				t.Error("the erase removed the user, whose files may be left")
			}
		})
	}
}

// A matchbox that was installed by hand keeps its user, its unit, its files and its certificates; and they stay when
// the installer goes.
func TestInstallerBesideAMatchbox(t *testing.T) {
	h := newHost(t).withDistribution("shadow-utils")
	run(t, "chroot", h.root, "groupadd", "--gid", "4711", "matchbox")
	run(t, "chroot", h.root, "useradd", "--uid", "4712", "--gid", "matchbox", "--home-dir", "/srv/matchbox", "--shell", "/bin/bash", "matchbox")
	before := h.account("passwd", "matchbox")
	theirs := map[string]string{"/etc/systemd/system/matchbox.service": "[Service]\nExecStart=/usr/local/bin/matchbox\n[Install]\nWantedBy=multi-user.target\n",
		"/var/lib/matchbox/groups/default.json": "{}", "/var/lib/matchbox/assets/coreos/vmlinuz": "kernel", "/etc/matchbox/server.key": "key"}
	for path, text := range theirs {
		write(t, h.path(path), text)
		if err := os.Chown(h.path(path), 4712, 4711); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(h.path("/etc/matchbox/server.key"), 0o640); err != nil {
		t.Fatal(err)
	}
	run(t, "systemctl", "--root="+h.root, "enable", "matchbox.service")
	check := func(when string) {
		t.Helper()
		for path, text := range theirs {
			if got := content(t, h.path(path)); got != text || h.owner(path) != "4712:4711" {
				t.Errorf("%s: %s is %q of %s", when, path, got, h.owner(path))
			}
		}
		if diff := cmp.Diff(before, h.account("passwd", "matchbox")); diff != "" {
			t.Errorf("%s: the user changed:\n%s", when, diff)
		}
		if !h.exists("/etc/systemd/system/multi-user.target.wants/matchbox.service") {
			t.Errorf("%s: matchbox.service is not enabled any more", when)
		}
	}
	h.rpm("--install", build(t, installerRepository(t)))
	check("after the install")
	if got := h.owner("/var/lib/matchbox"); got != "4712:4711" {
		t.Errorf("/var/lib/matchbox belongs to %s", got)
	}
	if out := h.verify(Installer); out != "" {
		t.Errorf("rpm -V beside a matchbox:\n%s", out)
	}
	o := installerRepository(t)
	o.Version = "v1.3.0"
	h.rpm("--upgrade", build(t, o))
	check("after the upgrade")
	h.rpm("--erase", Installer)
	check("after the erase")
}

func TestInstallerSettingsSurviveAnUpgrade(t *testing.T) {
	h := newHost(t).withDistribution("shadow-utils")
	o := installerRepository(t)
	h.rpm("--install", build(t, o))
	const file = "/etc/sysconfig/tectonic-installer"
	write(t, h.path(file), "MATCHBOX_ADDRESS=127.0.0.1:8080\n")
	run(t, "systemctl", "--root="+h.root, "enable", units.Installer, units.Netboot)
	o.Version = "v1.3.0"
	h.rpm("--upgrade", build(t, o))
	if got := content(t, h.path(file)); got != "MATCHBOX_ADDRESS=127.0.0.1:8080\n" {
		t.Errorf("the edited settings became:\n%s", got)
	}
	links := func() (found []string) {
		for _, name := range units.InstallerNames() {
			more, _ := filepath.Glob(h.path("/etc/systemd/system/*.wants/" + name))
			found = append(found, more...)
		}
		return found
	}
	if got := links(); len(got) != 2 {
		t.Errorf("after the upgrade only %v are enabled", got)
	}
	h.rpm("--erase", Installer)
	if got := links(); len(got) != 0 {
		t.Errorf("the erase left %v", got)
	}
}

// The two packages can be on one host: a provisioner may be a worker too.
func TestBothPackages(t *testing.T) {
	h := newHost(t).withDistribution("shadow-utils", "podman")
	h.rpm("--install", build(t, repository(t)), build(t, installerRepository(t)))
	for _, name := range []string{Name, Installer} {
		if out := h.verify(name); out != "" {
			t.Errorf("rpm -V %s:\n%s", name, out)
		}
	}
	h.rpm("--erase", Installer)
	if out := h.verify(Name); out != "" {
		t.Errorf("without the installer:\n%s", out)
	}
}

func TestInstallerDependencies(t *testing.T) {
	need(t, "rpm")
	for dist, want := range map[string]string{"el7": "", "el8": "dnsmasq ipxe-bootimgs ", "el9": "dnsmasq ipxe-bootimgs-x86 ", "el10": "dnsmasq ipxe-bootimgs-x86 "} {
		o := installerRepository(t)
		o.Dist = dist
		file := build(t, o)
		if got := run(t, "rpm", "--query", "--package", "--queryformat=[%{RECOMMENDNAME} ]", file); got != want && !(want == "" && got == "(none) ") {
			t.Errorf("%s recommends %q", dist, got)
		}
		got := run(t, "rpm", "--query", "--package", "--queryformat=[%{REQUIRENAME} %{REQUIREFLAGS:deptype}\n]", file)
		for _, part := range []string{"shadow-utils pre\n", "/bin/sh pre,interp\n"} {
			if !strings.Contains(got, part) {
				t.Errorf("%s: no %q in what it requires:\n%s", dist, part, got)
			}
		}
		root := t.TempDir()
		run(t, "rpm", "--root", root, "--install", "--justdb", "--ignorearch", distribution(t, t.TempDir(), "/bin/sh", "systemd=219"))
		if out, err := try(t, "rpm", "--root", root, "--install", "--test", "--ignorearch", file); err == nil || !strings.Contains(out, "shadow-utils") {
			t.Errorf("%s installs without what makes its user: %v %s", dist, err, out)
		}
	}
}

// What the settings set is what "serve" takes, and all that is commented out is as well.
func TestInstallerSettings(t *testing.T) {
	data, err := installerData.ReadFile("etc/tectonic-installer")
	if err != nil {
		t.Fatal(err)
	}
	var active, all []string
	for _, line := range strings.Split(string(data), "\n") {
		variable := strings.TrimPrefix(line, "#")
		if !strings.HasPrefix(variable, "MATCHBOX_") {
			continue
		}
		all = append(all, variable)
		if variable == line {
			active = append(active, line)
		}
	}
	c, err := server.ParseArgs(nil, active)
	if err != nil || c.Address != "0.0.0.0:8080" || c.RPCAddress != "0.0.0.0:8081" || c.MachineAddress != "0.0.0.0:8443" || len(c.Ignored) > 0 {
		t.Errorf("%+v, %v", c, err)
	}
	d, err := server.ParseArgs(nil, all)
	if err != nil || len(d.Ignored) > 0 || len(all) < 10 {
		t.Errorf("of %d variables, ignored %v: %v", len(all), d.Ignored, err)
	}
	// What is commented out shows the defaults.
	d.MachineURL = c.MachineURL
	if diff := cmp.Diff(c, d); diff != "" {
		t.Errorf("(-as shipped +with all):\n%s", diff)
	}
}

// firewalld reads the services, with the ports that the units serve.
func TestFirewalldServices(t *testing.T) {
	need(t, "firewall-offline-cmd")
	dir := t.TempDir()
	for _, sub := range []string{"system", "default"} {
		run(t, "cp", "-a", "/usr/lib/firewalld", filepath.Join(dir, sub))
	}
	for name, want := range map[string]string{"tectonic-installer": "8080/tcp 8081/tcp 8443/tcp", "tectonic-installer-netboot": "67/udp 4011/udp 69/udp 53/udp 53/tcp"} {
		data, err := installerData.ReadFile("firewalld/" + name + ".xml")
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "default/services", name+".xml"), string(data))
		out := run(t, "firewall-offline-cmd", "--system-config", filepath.Join(dir, "system"), "--default-config", filepath.Join(dir, "default"), "--info-service="+name)
		_, rest, _ := strings.Cut(out, "ports: ")
		got, _, _ := strings.Cut(rest, "\n")
		a, b := strings.Fields(got), strings.Fields(want)
		slices.Sort(a)
		slices.Sort(b)
		if !slices.Equal(a, b) {
			t.Errorf("%s: firewalld reads %s", name, out)
		}
	}
}

// Every document is in the package of the program that it is about.
func TestDocumentsAreShared(t *testing.T) {
	for _, doc := range installerDocs {
		if _, err := os.Stat(filepath.Join("../docs", doc)); err != nil {
			t.Errorf("the installer's document %s: %v", doc, err)
		}
	}
	index := content(t, "../docs/installer.md")
	for _, part := range strings.Split(index, "](")[1:] {
		target, _, _ := strings.Cut(part, ")")
		target, _, _ = strings.Cut(target, "#")
		if strings.HasSuffix(target, ".md") && !strings.Contains(target, "/") && !slices.Contains(installerDocs, target) {
			t.Errorf("installer.md leads to %s, which is not in its package", target)
		}
	}
}
