package live

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

// sum is over a disk's content; a touched disk has another one.
func sum(t *testing.T, file string) string {
	t.Helper()
	return fmt.Sprintf("%x", sha256.Sum256([]byte(content(t, file))))
}

// Until the claim is answered nothing is written, whatever the provisioner does instead.
func TestNothingIsWrittenWithoutAClaim(t *testing.T) {
	for _, action := range []machine.Action{machine.ActionInstall, machine.ActionWipe} {
		for _, call := range []string{"hello", "checks", "claim"} {
			for _, status := range []int{301, 400, 401, 404, 409, 410, 500, 503} {
				t.Run(fmt.Sprintf("%s %s %d", action, call, status), func(t *testing.T) {
					t.Parallel()
					h, p := newHost(t), newProvisionerDouble(t)
					p.order.Action = action
					p.order.Minimum.Disk = 1 << 20
					disk := h.disk("vda", 8<<20, nil)
					write(t, disk, strings.Repeat("precious", 1<<20))
					before := sum(t, disk)
					h.program("flatcar-install", "echo ran >"+h.path("/ran"))
					for range 1000 {
						p.answer[call] = append(p.answer[call], status)
					}
					l := p.live(h)
					l.patience = 30 * time.Second
					if status >= 500 {
						l.patience = 500 * time.Millisecond // it is tried until this ends
					}
					err := l.Install(t.Context())
					if err == nil {
						t.Fatal("done without a claim")
					}
					if final := status < 500; errors.Is(err, ErrRefused) != final || errors.Is(err, ErrUnreachable) == final {
						t.Errorf("final %v, but the error is %v", final, err)
					}
					if _, err := os.Stat(h.path("/ran")); err == nil {
						t.Error("the installer ran")
					}
					if sum(t, disk) != before {
						t.Error("the disk was written")
					}
					if len(p.ends) > 0 {
						t.Errorf("the machine was ended: %v", p.ends)
					}
				})
			}
		}
	}
}

// A check that fails ends it before the claim, with all that is wrong in one report.
func TestFailedChecks(t *testing.T) {
	h, p := newHost(t), newProvisionerDouble(t)
	disk := h.disk("vda", 20e9, nil)
	before, err := os.Stat(disk)
	if err != nil {
		t.Fatal(err)
	}
	p.order.Minimum = machine.Minimum{Memory: 64e9, Cores: 16, Disk: 30e9}
	p.order.Image.BaseURL = p.images.URL + "/assets/flatcar/1.2.3"
	p.order.Image.Version = "1.2.3"
	p.order.Image.Arch = "riscv64"
	if err := os.Remove(h.path("/usr/bin/flatcar-install")); err != nil {
		t.Fatal(err)
	}
	h.write("/sys/class/net/eth0/address", "52:54:00:00:00:01\n")
	err = p.live(h).Install(t.Context())
	if err == nil || p.said() != "hello checks failed" {
		t.Fatalf("%v after %s", err, p.said())
	}
	var failed []string
	for _, c := range p.checks.Checks {
		if !c.OK {
			failed = append(failed, c.Name)
		}
	}
	if got := strings.Join(failed, " "); got != "mac disk memory cores arch installer image" {
		t.Errorf("failed: %s", got)
	}
	for _, part := range []string{"memory: wanted at least 64.0 GB, found 8.6 GB", "cores: wanted at least 16, found 2", "vda (20.0 GB: smaller than the minimum of 30.0 GB)",
		"flatcar-install, found not in this live system", "404 Not Found; run \"tectonic-installer images sync\"", "nothing was written"} {
		if !strings.Contains(p.failure.Reason, part) {
			t.Errorf("the reason lacks %q: %s", part, p.failure.Reason)
		}
	}
	if after, err := os.Stat(disk); err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("the disk was touched: %v", err)
	}
}

// A provisioner that is away for a moment is waited for.
func TestWaitsForTheProvisioner(t *testing.T) {
	h, p := newHost(t), newProvisionerDouble(t)
	h.disk("vda", 40*gib, nil)
	h.program("flatcar-install", "exit 0")
	p.answer = map[string][]int{"hello": {503, 502}, "checks": {500}, "claim": {429, 504}, "installed": {503, 503}, "progress": {500, 500}}
	if err := p.live(h).Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := p.said(); got != "hello hello hello checks checks claim claim claim installed installed installed" {
		t.Errorf("said %s", got)
	}
}

// The installer's failure is reported with its last words, and the machine stays as it is.
func TestInstallerFails(t *testing.T) {
	h, p := newHost(t), newProvisionerDouble(t)
	h.disk("vda", 40*gib, nil)
	h.program("flatcar-install", `for i in 1 2 3 4 5 6; do echo line $i; done; printf 'gpg: BAD \033[31msignature\n' >&2; exit 3`)
	err := p.live(h).Install(t.Context())
	if err == nil || p.said() != "hello checks claim failed" || len(p.ends) != 0 {
		t.Fatalf("%v after %s, ended %v", err, p.said(), p.ends)
	}
	want := "cannot install on vda: " + h.path("/usr/bin/flatcar-install") + " failed: exit status 3; its last words: line 3 | line 4 | line 5 | line 6 | gpg: BAD  [31msignature"
	if p.failure.Stage != "write" || p.failure.Reason != want {
		t.Errorf("reported %s:\n%s\nwant\n%s", p.failure.Stage, p.failure.Reason, want)
	}
}

// The report "installed" may be lost: the disk is complete, and its system reports for itself.
func TestRestartsWithoutTheLastReport(t *testing.T) {
	h, p := newHost(t), newProvisionerDouble(t)
	h.disk("vda", 40*gib, nil)
	h.program("flatcar-install", "exit 0")
	p.answer["installed"] = []int{409}
	if err := p.live(h).Install(t.Context()); err != nil || len(p.ends) != 1 || p.ends[0] != "reboot" {
		t.Errorf("%v, ended %v", err, p.ends)
	}
}

func TestWipeRefusesAnInstallation(t *testing.T) {
	h, p := newHost(t), newProvisionerDouble(t)
	h.disk("vda", 40*gib, nil)
	if err := p.live(h).Wipe(t.Context()); !errors.Is(err, ErrArmedOtherwise) || p.said() != "hello failed" {
		t.Errorf("%v after %s", err, p.said())
	}
}

// A token goes to the server of the kernel's command line with a certificate of the given authority, and nowhere else.
func TestTokenStaysHome(t *testing.T) {
	h, p := newHost(t), newProvisionerDouble(t)
	h.disk("vda", 40*gib, nil)
	thief := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("the thief was asked for %s", r.URL)
	}))
	defer thief.Close()

	t.Run("environment's proxy", func(t *testing.T) {
		t.Setenv("HTTPS_PROXY", thief.URL)
		t.Setenv("https_proxy", thief.URL)
		l := p.live(h)
		l.patience = 30 * time.Second
		if _, err := l.begin(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("redirect", func(t *testing.T) {
		moved := httptest.NewTLSServer(http.RedirectHandler(thief.URL, http.StatusTemporaryRedirect))
		defer moved.Close()
		double := newProvisionerDouble(t)
		double.server = moved
		l := double.live(h)
		if _, err := l.begin(t.Context()); !errors.Is(err, ErrRefused) {
			t.Errorf("followed: %v", err)
		}
	})
	t.Run("other authority", func(t *testing.T) {
		l := p.live(h)
		h.write(PathCA, otherAuthority(t))
		l.patience = time.Minute
		start := time.Now()
		_, err := l.begin(t.Context())
		if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "tectonic-installer apply") || time.Since(start) > 20*time.Second {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
	t.Run("no certificate", func(t *testing.T) {
		l := p.live(h)
		h.write(PathCA, "not PEM")
		if _, err := l.begin(t.Context()); err == nil || !strings.Contains(err.Error(), "no PEM certificate") {
			t.Error(err)
		}
	})
}
