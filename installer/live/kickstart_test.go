package live

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

// Anaconda's way: %pre claims the disk and names it, %post puts the files in place and reports; between the two is
// another process.
func TestKickstart(t *testing.T) {
	h, p := newHost(t), newProvisionerDouble(t)
	h.disk("nvme0n1", 40*gib, nil)
	p.order.Image = machine.Image{OS: "rhel", Version: "9.4", BaseURL: "http://m/rhel/9.4", KernelArgs: []string{"console=ttyS0", "a=b"}}
	p.claims.Files = []machine.File{{Path: "/etc/kubernetes/kubeconfig", Mode: 0o640, Content: []byte("top-secret")}, {Path: "/etc/motd", Mode: 0o644, Content: []byte("new")}}
	l := p.live(h)
	if err := l.KickstartPre(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := `ignoredisk --only-use=nvme0n1
zerombr
clearpart --all --initlabel --drives=nvme0n1
bootloader --boot-drive=nvme0n1 --append="console=ttyS0 a=b"
reqpart --add-boot
part / --fstype=xfs --grow --size=8192 --ondisk=nvme0n1
`
	if diff := cmp.Diff(want, content(t, h.path(PathKickstartDisk))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if info, err := os.Stat(h.path(kickstartStateFile)); err != nil || info.Mode() != 0o600 {
		t.Errorf("the state between %%pre and %%post: %v %v", info.Mode(), err)
	}
	h.write("/mnt/sysroot/etc/motd", "old")
	if err := p.live(h).KickstartPost(t.Context(), "/mnt/sysroot"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"/etc/kubernetes/kubeconfig": "640 top-secret", "/etc/motd": "644 new", PathReady: "600 " + p.claims.Ready + "\n"} {
		info, err := os.Stat(h.path("/mnt/sysroot" + name))
		if err != nil {
			t.Error(err)
			continue
		}
		if got := fmt.Sprintf("%o %s", info.Mode(), content(t, h.path("/mnt/sysroot"+name))); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if p.said() != "hello checks claim installed" || len(p.ends) != 0 {
		t.Errorf("said %s, ended %v", p.said(), p.ends)
	}
	if _, err := os.Stat(h.path(kickstartStateFile)); !os.IsNotExist(err) {
		t.Errorf("the state with its tokens is left: %v", err)
	}
	if err := l.KickstartPost(t.Context(), "/mnt/sysroot"); err == nil || !strings.Contains(err.Error(), "kickstart-pre") {
		t.Errorf("without %%pre: %v", err)
	}
}

// A link on the new system does not lead a file out of it.
func TestKickstartFilesStayBelow(t *testing.T) {
	h, p := newHost(t), newProvisionerDouble(t)
	h.disk("vda", 40*gib, nil)
	p.order.Image = machine.Image{OS: "rhel"}
	p.claims.Files = []machine.File{{Path: "/etc/out/secret", Mode: 0o600, Content: []byte("top-secret")}}
	h.write("/etc/keep", "")
	if err := p.live(h).KickstartPre(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.write("/mnt/sysroot/etc/x", "")
	if err := os.Symlink("../../../etc", h.path("/mnt/sysroot/etc/out")); err != nil {
		t.Fatal(err)
	}
	err := p.live(h).KickstartPost(t.Context(), "/mnt/sysroot")
	if err == nil || !strings.Contains(err.Error(), "/etc/out") || p.said() != "hello checks claim failed" {
		t.Errorf("%v after %s", err, p.said())
	}
	if _, err := os.Stat(h.path("/etc/secret")); err == nil {
		t.Error("the file is outside of the new system")
	}
}

// Anaconda does not go on after a wipe, and what is not for it is not claimed; nor is RHEL by the other way.
func TestKickstartOnlyForItsOwn(t *testing.T) {
	h, p := newHost(t), newProvisionerDouble(t)
	h.disk("vda", 40*gib, nil)
	p.order.Action = machine.ActionWipe
	if err := p.live(h).KickstartPre(t.Context()); !errors.Is(err, ErrWiped) || strings.Join(p.ends, " ") != "poweroff" {
		t.Errorf("%v, ended %v", err, p.ends)
	}
	for os, pre := range map[string]bool{"flatcar": true, "rhel": false, "beos": false} {
		h, p := newHost(t), newProvisionerDouble(t)
		h.disk("vda", 40*gib, nil)
		p.order.Image.OS = os
		l := p.live(h)
		err := error(nil)
		if pre {
			err = l.KickstartPre(t.Context())
		} else {
			err = l.Install(t.Context())
		}
		if err == nil || !strings.Contains(err.Error(), "installer: wanted ") || p.said() != "hello checks failed" {
			t.Errorf("%s: %v after %s", os, err, p.said())
		}
	}
}

func TestKickstartRefusesArguments(t *testing.T) {
	for _, bad := range []string{`a="b"`, "a\nreboot", `a\b`} {
		if _, err := kickstartDisk(machine.InventoryDisk{Name: "vda"}, []string{bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
