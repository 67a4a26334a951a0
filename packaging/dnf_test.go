package packaging

import (
	"strings"
	"testing"
)

// dnf installs, upgrades and removes the package from a repository made by createrepo_c.
func TestDnfFromARepository(t *testing.T) {
	need(t, "dnf", "createrepo_c")
	h := newHost(t)
	repo := t.TempDir()
	distribution(t, repo, "/bin/sh", "systemd=252", "podman")
	o := repository(t)
	dnf := func(args ...string) string {
		t.Helper()
		return run(t, "dnf", append([]string{"--installroot=" + h.root, "--releasever=9", "--forcearch=x86_64", "--assumeyes", "--quiet",
			"--disableplugin=*", "--setopt=reposdir=/nonexistent", "--setopt=cachedir=" + t.TempDir(),
			"--setopt=logdir=/var/log", "--setopt=gpgcheck=0", "--setopt=install_weak_deps=False",
			"--repofrompath=test,file://" + repo, "--repo=test"}, args...)...)
	}
	publish := func(version string) {
		t.Helper()
		o.Version = version
		p, err := Build(o)
		if err != nil {
			t.Fatal(err)
		}
		encodeTo(t, repo, p)
		run(t, "createrepo_c", "--quiet", repo)
	}
	publish("v1.2.3")
	dnf("install", Name)
	if got := h.rpm("--query", Name, "distribution"); got != "tectonic-worker-1.2.3-1.el9.x86_64\ndistribution-1-1.x86_64\n" {
		t.Errorf("dnf installed %s", got)
	}
	if out := h.verified(); out != "" {
		t.Errorf("rpm -V after dnf install:\n%s", out)
	}
	publish("v1.3.0-rc.1")
	dnf("upgrade", Name)
	if got := h.rpm("--query", Name); got != "tectonic-worker-1.3.0~rc.1-1.el9.x86_64\n" {
		t.Errorf("dnf upgraded to %s", got)
	}
	dnf("remove", Name)
	if h.exists("/usr/bin/tectonic-worker") {
		t.Error("dnf left the binary")
	}
}

// rpmlint finds nothing but what rpmlint.toml explains.
func TestRpmlint(t *testing.T) {
	need(t, "rpmlint")
	out, err := try(t, "rpmlint", "--config", "rpmlint.toml", build(t, repository(t)), build(t, installerRepository(t)))
	var said []string
	for _, line := range strings.Split(out, "\n") {
		if strings.Contains(line, ": E: ") || strings.Contains(line, ": W: ") {
			said = append(said, line)
		}
	}
	if err != nil || len(said) > 0 {
		t.Errorf("rpmlint: %v\n%s", err, out)
	}
}
