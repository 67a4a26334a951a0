package firewall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tectonic-worker/tectonic-worker/firewall/firewalldtest"
)

// sentence checks an error: what it is for a program, and what an operator reads.
func sentence(t *testing.T, err, is error, text string) {
	t.Helper()
	var code, got *Error
	switch {
	case errors.As(is, &code) && (!errors.As(err, &got) || got.Code != code.Code), code == nil && !errors.Is(err, is):
		t.Errorf("error %v, want one that is %q", err, is)
	}
	if err != nil && !strings.Contains(err.Error(), text) {
		t.Errorf("error %q\nwant it to say %q", err, text)
	}
}

// In panic mode the runtime refuses. What is open already needs nothing and is no error, and the permanent
// configuration can be written.
func TestPanicMode(t *testing.T) {
	t.Parallel()
	f := firewalldtest.Start(t, nil)
	ctx, c := connect(t, f.Bus)
	open(t, ctx, c, Runtime, "public", kubelet)
	f.Cmd("--panic-on")
	state, err := c.State(ctx)
	if err != nil || state.Presence != Running || !state.Panic {
		t.Errorf("State = %+v, %v", state, err)
	}
	if note := state.Note(); !strings.Contains(note, "panic mode") || !strings.Contains(note, "--panic-off") {
		t.Errorf("Note = %q", note)
	}
	_, err = c.Open(ctx, Runtime, "public", vxlan)
	sentence(t, err, ErrPanic, `cannot open 4789/udp in zone public: firewalld is in panic mode and drops every packet; `+
		`run "firewall-cmd --panic-off", then "tectonic-worker join" again`)
	_, err = c.Shut(ctx, Runtime, "public", kubelet)
	sentence(t, err, ErrPanic, `cannot shut 10250/tcp in zone public: firewalld is in panic mode`)
	if got := open(t, ctx, c, Runtime, "public", kubelet); got.Changed() {
		t.Errorf("Open of what is open: %+v", got)
	}
	open(t, ctx, c, Permanent, "public", vxlan)
	f.Cmd("--panic-off")
	open(t, ctx, c, Runtime, "public", vxlan)
	want(t, f, Runtime, "public", "10250/tcp", "4789/udp")
}

// An absent firewalld is a state; to open a port in it is an error that says so.
func TestStopped(t *testing.T) {
	t.Parallel()
	f := firewalldtest.Start(t, nil)
	ctx, c := connect(t, f.Bus)
	if state, err := c.State(ctx); err != nil || state.Presence != Running || state.DefaultZone != "public" || state.Version == "" || state.Note() != "" {
		t.Errorf("State = %+v, %v", state, err)
	}
	f.Stop()
	state, err := c.State(ctx)
	if diff := cmp.Diff(State{Presence: Stopped}, state); diff != "" || err != nil {
		t.Errorf("State after it stopped: %v (-want +got):\n%s", err, diff)
	}
	for _, layer := range Layers() {
		_, err = c.Open(ctx, layer, "public", kubelet)
		sentence(t, err, ErrNotRunning, `firewalld is installed but not running; run "systemctl enable --now firewalld", or set FIREWALL=leave`)
		_, err = c.Query(ctx, layer, "", kubelet)
		sentence(t, err, ErrNotRunning, "cannot read the default zone of firewalld: firewalld is installed but not running")
	}
	if _, err = c.ZoneOfInterface(ctx, "eth0"); !errors.Is(err, ErrNotRunning) {
		t.Errorf("ZoneOfInterface: %v", err)
	}
}

// An administrator who stopped firewalld does not get it back by a question, though the bus could start it.
func TestNeverStarts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	started := filepath.Join(dir, "started")
	service := "[D-BUS Service]\nName=" + busName + "\nUser=root\nExec=/usr/bin/touch " + started + "\n"
	if err := os.WriteFile(filepath.Join(dir, busName+".service"), []byte(service), 0o644); err != nil {
		t.Fatal(err)
	}
	bus := firewalldtest.StartBus(t, firewalldtest.BusConfig{XML: "<servicedir>" + dir + "</servicedir>" +
		`<limit name="service_start_timeout">1000</limit>`})
	ctx, c := connect(t, bus)
	if state, err := c.State(ctx); state.Presence != Stopped || err != nil {
		t.Errorf("State = %+v, %v", state, err)
	}
	for _, layer := range Layers() {
		_, err := c.Open(ctx, layer, "public", kubelet)
		sentence(t, err, ErrNotRunning, "not running")
		_, err = c.Shut(ctx, layer, "public", kubelet)
		sentence(t, err, ErrNotRunning, "not running")
	}
	_, err := c.ZoneOfInterface(ctx, "eth0")
	sentence(t, err, ErrNotRunning, "not running")
	if _, err := os.Stat(started); err == nil {
		t.Fatal("the bus started firewalld")
	}
	// The counter-proof: without the flag the broker does start it, and waits for its name.
	call := c.conn.Object(busName, objectPath).CallWithContext(ctx, ifaceMain+".getDefaultZone", 0)
	if _, err := os.Stat(started); err != nil {
		t.Errorf("this broker starts nothing, so nothing is proved: %v", call.Err)
	}
}

// A reload that meets a broken zone file leaves firewalld running on what it can; State says so.
func TestFailedConfiguration(t *testing.T) {
	t.Parallel()
	f := firewalldtest.Start(t, nil)
	ctx, c := connect(t, f.Bus)
	f.WriteConfig("direct.xml", `<?xml version="1.0"?><direct><rule priority="0" table="filter" ipv="ipv4" chain="INPUT">--no-such-option</rule></direct>`)
	if out, err := f.TryCmd("--reload"); err == nil {
		t.Fatalf("the reload was to fail: %s", out)
	}
	state, err := c.State(ctx)
	if err != nil || state.Presence != Failed || !strings.Contains(state.Note(), "could not load its configuration") {
		t.Errorf("State = %+v (%s), %v", state, state.Note(), err)
	}
	_, err = c.Open(ctx, Permanent, "public", kubelet)
	sentence(t, err, errFailed, `permanently: firewalld runs but could not load its configuration; run "firewall-cmd --check-config"`)
}

// errFailed has no sentinel of its own: the code tells.
var errFailed = &Error{Code: CodeFailed}

func TestInvalidZone(t *testing.T) {
	t.Parallel()
	f := firewalldtest.Start(t, nil)
	ctx, c := connect(t, f.Bus)
	for _, layer := range Layers() {
		_, err := c.Open(ctx, layer, "cluster", kubelet)
		sentence(t, err, ErrInvalidZone, `in zone cluster`)
		sentence(t, err, ErrInvalidZone, `firewalld has no such zone; "firewall-cmd --get-zones" lists those that there are`)
		_, err = c.Shut(ctx, layer, "cluster", kubelet)
		sentence(t, err, ErrInvalidZone, `cannot shut 10250/tcp in zone cluster`)
	}
	// A zone that was just made exists permanently first, and at runtime after a reload.
	f.Cmd("--permanent", "--new-zone=cluster")
	open(t, ctx, c, Permanent, "cluster", kubelet)
	_, err := c.Open(ctx, Runtime, "cluster", kubelet)
	sentence(t, err, ErrInvalidZone, `after the next "firewall-cmd --reload"`)
	f.Cmd("--reload")
	if got := open(t, ctx, c, Runtime, "cluster", kubelet); got.Changed() || got.Zone != "cluster" {
		t.Errorf("Open after the reload: %+v", got)
	}
	zones, err := c.Zones(ctx)
	if err != nil || !strings.Contains(strings.Join(zones, " "), "cluster") {
		t.Errorf("Zones = %v, %v", zones, err)
	}
	want(t, f, Runtime, "cluster", "10250/tcp")
	want(t, f, Runtime, "public")
}

// The zone of an interface is the one it is bound to at runtime, else the default zone of the moment.
func TestZoneOfInterface(t *testing.T) {
	t.Parallel()
	f := firewalldtest.Start(t, nil)
	ctx, c := connect(t, f.Bus)
	zone := func(iface, expected string) {
		t.Helper()
		if got, err := c.ZoneOfInterface(ctx, iface); got != expected || err != nil {
			t.Errorf("ZoneOfInterface(%s) = %q, %v, want %q", iface, got, err, expected)
		}
	}
	zone("eth0", "public")
	f.Cmd("--zone=internal", "--change-interface=eth0")
	zone("eth0", "internal")
	zone("eth1", "public")
	f.Cmd("--set-default-zone=work")
	zone("eth0", "internal")
	zone("eth1", "work")
	if got := open(t, ctx, c, Runtime, "", kubelet); got.Zone != "work" {
		t.Errorf("Open in the empty zone used %q", got.Zone)
	}
	want(t, f, Runtime, "work", "10250/tcp")
}

// A port that no firewalld would take is refused before anything is asked.
func TestInvalidPort(t *testing.T) {
	c := &Client{address: "unix:path=/nonexistent"}
	for _, p := range []Port{{"0", "tcp"}, {"65536", "tcp"}, {"", "tcp"}, {"10-5", "udp"}, {"ssh", "tcp"}, {"1-", "tcp"}, {"+1", "tcp"}, {"10250", "icmp"}} {
		for name, call := range map[string]func() error{
			"open":  func() error { _, err := c.Open(t.Context(), Runtime, "public", p); return err },
			"shut":  func() error { _, err := c.Shut(t.Context(), Runtime, "public", p); return err },
			"query": func() error { _, err := c.Query(t.Context(), Runtime, "public", p); return err },
		} {
			var e *Error
			if err := call(); !errors.As(err, &e) || e.Code != CodeInvalidPort || !strings.HasPrefix(err.Error(), "cannot "+name+" ") {
				t.Errorf("%s %s: %v", name, p, err)
			}
		}
	}
}

// Another user may not open ports: firewalld without polkit serves root alone.
func TestOtherUser(t *testing.T) {
	if address := os.Getenv("FIREWALL_TEST_BUS"); address != "" {
		openAsOther(address)
		return
	}
	t.Parallel()
	f := firewalldtest.Start(t, nil)
	if err := os.Chmod(os.Args[0], 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	// The test binary lies in a directory that only root may enter.
	dir, err := os.MkdirTemp("", "other")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(dir+"/test", self, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(dir+"/test", "-test.run=^TestOtherUser$", "-test.timeout=1m")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "FIREWALL_TEST_BUS="+f.Bus.Address)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, line := range []string{
		"not authorized: true",
		"cannot open 10250/tcp in zone public: firewalld refuses this user (",
		"; run as root; ",
	} {
		if !strings.Contains(string(out), line) {
			t.Errorf("the other user's output lacks %q:\n%s", line, out)
		}
	}
	want(t, f, Runtime, "public")
}

func openAsOther(address string) {
	ctx, done := context.WithTimeout(context.Background(), 30*time.Second)
	defer done()
	c, err := Dial(ctx, address)
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = c.Open(ctx, Runtime, "public", kubelet)
	fmt.Printf("not authorized: %t\n%v\n", errors.Is(err, ErrNotAuthorized), err)
}

// A bus policy that forbids the call is a refusal too, and reads as one.
func TestBusPolicy(t *testing.T) {
	t.Parallel()
	bus := firewalldtest.StartBus(t, firewalldtest.BusConfig{XML: `<policy context="mandatory">
		<deny send_destination="org.fedoraproject.FirewallD1" send_interface="org.fedoraproject.FirewallD1.zone" send_member="addPort"/>
		<deny send_destination="org.fedoraproject.FirewallD1" send_interface="org.fedoraproject.FirewallD1.config.zone" send_member="addPort"/>
		</policy>`})
	f := firewalldtest.Start(t, bus)
	ctx, c := connect(t, bus)
	for _, layer := range Layers() {
		_, err := c.Open(ctx, layer, "public", kubelet)
		sentence(t, err, ErrNotAuthorized, "look at polkit's rules")
		want(t, f, layer, "public")
	}
}

// Lockdown is a refusal with its own remedy.
func TestLockdown(t *testing.T) {
	t.Parallel()
	f := firewalldtest.Start(t, nil)
	ctx, c := connect(t, f.Bus)
	if _, err := f.TryCmd("--lockdown-on"); err != nil {
		t.Skipf("this firewalld knows no lockdown (removed before 2.2): %v", err)
	}
	_, err := c.Open(ctx, Runtime, "public", kubelet)
	sentence(t, err, ErrNotAuthorized, `firewalld is in lockdown`)
	sentence(t, err, ErrNotAuthorized, `run "firewall-cmd --lockdown-off"`)
}
