package metal

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
	"github.com/tectonic-worker/tectonic-worker/test/lab"
	"github.com/tectonic-worker/tectonic-worker/test/lab/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

// MAC address of the machine that is in no cluster file.
const stranger = "52:54:00:a1:9c:04"

// TestSite is one life of a site: machines that boot over the network for the first time, and again; that are installed,
// installed again, wiped; that are not what they should be, or nobody's. It is one test because every emulated boot
// takes its time: each step begins with what the one before left.
func TestSite(t *testing.T) {
	if testing.Short() {
		t.Skip("boots emulated machines; not with -short")
	}
	l := labtest.Lab(t)
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Minute)
	defer cancel()
	start := time.Now()
	logf := func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "metal %6.1fs  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
	}
	site, err := Open(ctx, l, "../..", []*Node{
		{Options: lab.MachineOptions{Name: "node1", MAC: "52:54:00:a1:9c:01"}, Address: 21, Role: "controller"},
		// This one boots from the network whenever it starts: iPXE in its card, then its firmware's PXE and HTTP Boot.
		{Options: lab.MachineOptions{Name: "node2", MAC: "52:54:00:a1:9c:02", UEFI: true, NetworkFirst: true}, Address: 22},
		// This one's disk is too small.
		{Options: lab.MachineOptions{Name: "node3", MAC: "52:54:00:a1:9c:03", Disks: []lab.MachineDisk{{Size: 512 << 20, Serial: "small"}}}, Address: 23},
		{Options: lab.MachineOptions{Name: "stranger", MAC: stranger, NetworkFirst: true}, Hidden: true},
	}, logf)
	if err != nil {
		t.Fatal(err)
	}
	s := &siteTest{Site: site, ctx: ctx, logf: logf}
	stop := func() {}
	t.Cleanup(func() {
		if t.Failed() {
			s.explain(t)
		}
		stop()
	})
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"certs and images", func(t *testing.T) {
			s.run(t, "certs")
			if out := s.run(t, "images", "sync", "--source", Mirror, "--key", Key); !strings.Contains(out, lab.FlatcarVersion) {
				t.Errorf("images sync said: %s", out)
			}
		}},
		{"serve", func(t *testing.T) {
			end, err := s.Serve(ctx)
			if err != nil {
				t.Fatal(err)
			}
			stop = end
		}},
		{"apply, twice", func(t *testing.T) {
			s.run(t, "apply")
			if out := s.run(t, "apply"); !strings.Contains(out, "Nothing to do") {
				t.Errorf("the second apply changed something: %s", out)
			}
		}},
		{"check", func(t *testing.T) { s.run(t, "check") }},
		{"discovered", s.discovered},
		{"network boot twice", s.networkBootTwice},
		{"install", s.install},
		{"another network boot", s.anotherNetworkBoot},
		{"install again, and wipe", s.installAgainAndWipe},
		{"accept", s.accept},
		{"secrets", s.secrets},
	} {
		begin := time.Now()
		if !t.Run(step.name, step.run) {
			t.Fatalf("after %q nothing else is looked at", step.name)
		}
		logf("== %s: %.0f s", step.name, time.Since(begin).Seconds())
	}
}

type siteTest struct {
	*Site
	ctx          context.Context
	logf         func(string, ...any)
	fingerprints map[string]string
	identity     string // of what is installed on node1
}

// run runs tectonic-installer and gives what it printed.
func (s *siteTest) run(t *testing.T, args ...string) string {
	t.Helper()
	r, err := s.Installer(s.ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	return r.Output()
}

// await is Await, whose error ends the test.
func (s *siteTest) await(t *testing.T, name string, state machine.State) machine.Status {
	t.Helper()
	status, err := s.Await(s.ctx, name, state)
	if err != nil {
		t.Fatal(err)
	}
	return status
}

// off ends a node's system in order, so that its disk holds all that it wrote.
func (s *siteTest) off(t *testing.T, name string) {
	t.Helper()
	s.run(t, "power", "off", "--force", "--soft=2m", name)
	if err := s.Node(name).Wait(s.ctx); err != nil {
		t.Fatal(err)
	}
}

// untouched fails when anything was ever written to a node's disk.
func (s *siteTest) untouched(t *testing.T, name string) {
	t.Helper()
	clean, err := Untouched(s.Node(name).DiskPath(0))
	if err != nil || !clean {
		t.Errorf("the disk of %s was written (%v)", name, err)
	}
}

// discovered: a machine that nobody knows is recorded, and its disk is not touched.
func (s *siteTest) discovered(t *testing.T) {
	n := s.Node("stranger")
	if err := n.SetPower(true); err != nil {
		t.Fatal(err)
	}
	if err := s.AwaitLine(s.ctx, n, "No bootable device"); err != nil {
		t.Fatal(err)
	}
	status := s.await(t, stranger, machine.Discovered)
	if status.Name != "" || len(status.MACs) != 1 || status.MACs[0] != stranger {
		t.Errorf("it is recorded as %+v", status)
	}
	if err := n.SetPower(false); err != nil {
		t.Fatal(err)
	}
	s.untouched(t, "stranger")
}

// networkBootTwice: a machine that was given its installer, and asks again before that installer reported, is not given
// it again.
func (s *siteTest) networkBootTwice(t *testing.T) {
	n := s.Node("node3")
	s.run(t, "arm", "node3")
	s.run(t, "power", "pxe", "node3")
	s.await(t, "node3", machine.Booting)
	if err := n.SetPower(false); err != nil {
		t.Fatal(err)
	}
	if err := n.SetBoot("pxe"); err != nil {
		t.Fatal(err)
	}
	if err := n.SetPower(true); err != nil {
		t.Fatal(err)
	}
	status := s.await(t, "node3", machine.Failed)
	if !strings.Contains(status.Reason, "asked for the network boot again") {
		t.Errorf("it failed because: %s", status.Reason)
	}
	if err := s.AwaitLine(s.ctx, n, "No bootable device"); err != nil {
		t.Fatal(err)
	}
	if err := n.SetPower(false); err != nil {
		t.Fatal(err)
	}
	s.untouched(t, "node3")
	s.run(t, "accept", "node3")
	s.await(t, "node3", machine.Accepted)
}

// install: three machines at once; BIOS and UEFI to the end, the third fails its checks before anything is written.
func (s *siteTest) install(t *testing.T) {
	s.run(t, "arm", "node1", "node2", "node3")
	out := s.run(t, "power", "pxe", "node1", "node2", "node3")
	if strings.Count(out, "it booted from the network") != 3 {
		t.Errorf("power pxe said: %s", out)
	}
	s.each(t, map[string]machine.State{"node1": machine.Ready, "node2": machine.Ready, "node3": machine.Failed})
	if status := s.await(t, "node3", machine.Failed); !strings.Contains(status.Reason, "disk") || status.Inventory == nil {
		t.Errorf("node3 failed because: %q, with inventory %+v", status.Reason, status.Inventory)
	}
	if err := s.Node("node3").SetPower(false); err != nil {
		t.Fatal(err)
	}
	s.untouched(t, "node3")
	for name, firmware := range map[string]string{"node1": "bios", "node2": "uefi"} {
		if status := s.await(t, name, machine.Ready); status.Inventory == nil || status.Inventory.Firmware != firmware {
			t.Errorf("%s: inventory %+v, want firmware %s", name, status.Inventory, firmware)
		}
	}
	s.fingerprints = map[string]string{}
	for _, name := range []string{"node1", "node2"} {
		s.off(t, name)
		s.installed(t, name)
	}
}

// each waits for several machines, each in its state.
func (s *siteTest) each(t *testing.T, states map[string]machine.State) {
	t.Helper()
	var wait sync.WaitGroup
	for name, state := range states {
		wait.Go(func() {
			if _, err := s.Await(s.ctx, name, state); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// installed looks at the disk of a machine that is off.
func (s *siteTest) installed(t *testing.T, name string) {
	t.Helper()
	disk := s.Node(name).DiskPath(0)
	for file, want := range map[string]string{
		"/etc/hostname":                  name + ".lab.example",
		"/etc/tectonic/pull-secret.json": Secret,
	} {
		got, err := ReadFile(s.ctx, disk, file)
		if err != nil || strings.TrimSpace(got) != strings.TrimSpace(want) {
			t.Errorf("%s: %s is %q (%v), want %q", name, file, got, err, want)
		}
	}
	if stat, err := Stat(s.ctx, disk, "/etc/tectonic/pull-secret.json"); err != nil || !strings.Contains(stat, "Mode:  0600") {
		t.Errorf("%s: the secret's mode is not 0600 (%v): %s", name, err, stat)
	}
	// It is spent, and so is gone: what is left in its place is the overlay's mark that something was removed.
	if token, err := ReadFile(s.ctx, disk, "/etc/tectonic-machine/ready.token"); err == nil {
		t.Errorf("%s: the ready token is still on the disk: %d bytes", name, len(token))
	}
	print, err := Fingerprint(s.ctx, disk)
	if err != nil {
		t.Fatal(err)
	}
	s.fingerprints[name] = print
	if name == "node1" {
		if s.identity, err = ReadFile(s.ctx, disk, "/etc/machine-id"); err != nil {
			t.Fatal(err)
		}
	}
}

// anotherNetworkBoot: machines that are installed boot from the network again, and start from their disks as those are.
func (s *siteTest) anotherNetworkBoot(t *testing.T) {
	if r, err := s.Provisioner.Command(s.ctx, Installer("power", "pxe", "node1")); err != nil || r.Code == 0 {
		t.Errorf("a ready machine was booted from the network without --force: %v %s", err, r.Output())
	}
	s.run(t, "power", "pxe", "--force", "node1", "node2")
	for _, name := range []string{"node1", "node2"} {
		if err := s.AwaitLine(s.ctx, s.Node(name), "Reached target multi-user.target"); err != nil {
			t.Fatal(err)
		}
		s.await(t, name, machine.Ready)
		out := s.run(t, "timeline", name)
		if !strings.Contains(out, "it is ready, so it is told to boot from disk") {
			t.Errorf("the timeline of %s has no network boot that was sent to the disk:\n%s", name, out)
		}
		// After the iPXE in its card, UEFI firmware tries its own PXE client.
		if s.Node(name).Options.UEFI && !strings.Contains(out, "loaded ipxe.efi") {
			t.Errorf("%s was not sent ipxe.efi:\n%s", name, out)
		}
		s.off(t, name)
		before := s.fingerprints[name]
		identity := s.identity
		s.installed(t, name)
		if s.fingerprints[name] != before || s.identity != identity {
			t.Errorf("the disk of %s is not what it was before the network boot", name)
		}
	}
}

// installAgainAndWipe: with --force a machine is installed once more, by its own network boot; another one is wiped.
func (s *siteTest) installAgainAndWipe(t *testing.T) {
	if r, err := s.Provisioner.Command(s.ctx, Installer("arm", "node1")); err != nil || r.Code == 0 {
		t.Errorf("an installed machine was armed without --force: %v %s", err, r.Output())
	}
	s.run(t, "arm", "--force", "node1")
	s.run(t, "wipe", "--force", "--confirm", "node2", "node2")
	s.run(t, "power", "pxe", "node1", "node2")
	s.each(t, map[string]machine.State{"node1": machine.Ready, "node2": machine.Accepted})
	if err := s.Node("node2").SetPower(false); err != nil {
		t.Fatal(err)
	}
	if parts, err := partitions(s.ctx, s.Node("node2").DiskPath(0)); err == nil {
		t.Errorf("the wiped disk of node2 has partitions: %v", parts)
	}
	s.off(t, "node1")
	identity := s.identity
	s.installed(t, "node1")
	if s.identity == identity {
		t.Error("node1 is the same installation as before")
	}
}

// accept: the machine that nobody knew becomes one of the cluster.
func (s *siteTest) accept(t *testing.T) {
	s.run(t, "accept", stranger, "--name", "node4", "--role", "worker", "--dns-name", "node4.lab.example", "--address", "10.77.0.24")
	if status := s.await(t, "node4", machine.Accepted); len(status.MACs) != 1 || status.MACs[0] != stranger {
		t.Errorf("node4 is %+v", status)
	}
	text, err := s.Provisioner.ReadFile(Directory + "/cluster.yaml")
	if err != nil || !strings.Contains(string(text), "node4") || !strings.Contains(string(text), "A machine of the lab is small.") {
		t.Errorf("the cluster file (%v):\n%s", err, text)
	}
	s.untouched(t, "stranger")
}

// secrets: none is in a log, in a timeline, or where anybody may ask for it.
func (s *siteTest) secrets(t *testing.T) {
	places := `cat /var/log/*.log; cd ` + Directory + `; for m in node1 node2 node3 node4; do tectonic-installer timeline $m; done
		for m in 01 02 03 04; do for path in ipxe ignition metadata generic; do curl -s --max-time 20 "http://matchbox.lab.example:8080/$path?mac=52:54:00:a1:9c:$m"; done; done
		find /var/lib/matchbox -path '*/assets' -prune -o -path '*/machines' -prune -o -type f -print0 | xargs -0 cat`
	r, err := s.Provisioner.Must(s.ctx, "sh", "-c", places)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"bGFiOnNlY3JldA", "sesame", "PRIVATE KEY", "tectonic.token="} {
		if i := strings.Index(r.Output(), secret); i >= 0 {
			t.Errorf("%q is out in the open: …%.200s", secret, r.Output()[max(0, i-100):])
		}
	}
}

// explain logs what a failed test leaves.
func (s *siteTest) explain(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r, err := s.Provisioner.Exec(ctx, "sh", "-c", "tail -n 40 /var/log/*.log; cd "+Directory+"; for m in node1 node2 node3; do tectonic-installer timeline $m | tail -n 30; done")
	t.Logf("the provisioner (%v):\n%s", err, r.Output())
	for _, n := range s.Nodes {
		if data, err := os.ReadFile(n.ConsolePath()); err == nil {
			t.Logf("the console of %s ends with:\n%s", n.Name, data[max(0, len(data)-6000):])
		}
	}
}
