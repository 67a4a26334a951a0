// Package firewalldtest runs a real firewalld for tests: on a private bus, in a network namespace of its own, with a
// configuration of its own in a mount namespace. The host's packet filter, files and bus are never touched, and
// everything ends with the test.
//
// It is for tests alone and must not be linked into a binary.
package firewalldtest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// Firewalld is one running firewalld.
type Firewalld struct {
	Bus *Bus
	// Config stands in for /etc/firewalld.
	Config string

	t   testing.TB
	log string
	cmd *exec.Cmd
}

// enter replaces what firewalld reads and writes on the host, then becomes firewalld. The namespaces come from clone flags.
const enter = `set -e
mount -t tmpfs tmpfs /run
mount --bind "$1" /etc/firewalld
mount -t tmpfs tmpfs /var/log
: > /var/log/firewalld
mount --bind "$2" /var/log/firewalld
ip link set lo up
exec firewalld --nofork --nopid
`

// Start starts firewalld on a bus and waits until it serves. The nil bus is a new one that permits everything.
func Start(t testing.TB, bus *Bus) *Firewalld {
	t.Helper()
	NeedRoot(t)
	NeedTool(t, "firewalld", "firewall-cmd", "nft", "ip", "nsenter", "mount")
	if bus == nil {
		bus = StartBus(t, BusConfig{})
	}
	dir := t.TempDir()
	f := &Firewalld{Bus: bus, Config: filepath.Join(dir, "etc"), t: t, log: filepath.Join(dir, "firewalld.log")}
	if err := os.Mkdir(f.Config, 0o755); err != nil {
		t.Fatal(err)
	}
	f.WriteConfig("firewalld.conf", "DefaultZone=public\nFirewallBackend=nftables\nCleanupOnExit=yes\nLockdown=no\n")
	f.start()
	t.Cleanup(func() {
		f.Stop()
		if t.Failed() {
			t.Logf("firewalld said:\n%s", f.Log())
		}
	})
	return f
}

func (f *Firewalld) start() {
	f.t.Helper()
	log, err := os.OpenFile(f.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		f.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("sh", "-c", enter, "sh", f.Config, f.log)
	cmd.Env, cmd.Stdout, cmd.Stderr = f.Bus.Env(), log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
		Pdeathsig:    syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.cmd = cmd
	if err := f.wait(30 * time.Second); err != nil {
		f.Stop()
		f.t.Fatalf("firewalld did not start: %v\n%s", err, f.Log())
	}
}

// wait waits for the signal that firewalld has its name, then for the reply to a first call.
func (f *Firewalld) wait(limit time.Duration) error {
	ctx, done := context.WithTimeout(context.Background(), limit)
	defer done()
	conn, err := dbus.Connect(f.Bus.Address, dbus.WithContext(ctx))
	if err != nil {
		return err
	}
	defer conn.Close()
	const name = "org.fedoraproject.FirewallD1"
	signals := make(chan *dbus.Signal, 10)
	conn.Signal(signals)
	if err := conn.AddMatchSignalContext(ctx, dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, name)); err != nil {
		return err
	}
	for {
		var owned bool
		if err := conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, name).Store(&owned); err != nil {
			return err
		}
		if owned {
			return conn.Object(name, "/org/fedoraproject/FirewallD1").CallWithContext(ctx, name+".getDefaultZone", dbus.FlagNoAutoStart).Err
		}
		select {
		case <-signals:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Stop ends firewalld in good order.
func (f *Firewalld) Stop() {
	if f.cmd == nil {
		return
	}
	f.Resume()
	_ = f.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(10*time.Second, func() { _ = f.cmd.Process.Kill() })
	_ = f.cmd.Wait()
	kill.Stop()
	f.cmd = nil
}

// Kill ends firewalld as a crash would.
func (f *Firewalld) Kill() {
	_ = f.cmd.Process.Kill()
	_ = f.cmd.Wait()
	f.cmd = nil
}

// Restart starts firewalld anew on the same configuration. It gets a new network namespace, so nothing but the permanent
// configuration is left of what was.
func (f *Firewalld) Restart() {
	f.t.Helper()
	f.Stop()
	f.start()
}

// Pause keeps firewalld from answering, as a reload of very many rules does; its name stays on the bus.
func (f *Firewalld) Pause() { _ = f.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (f *Firewalld) Resume() { _ = f.cmd.Process.Signal(syscall.SIGCONT) }

// Cmd runs firewall-cmd and gives what it prints; a failure fails the test.
func (f *Firewalld) Cmd(args ...string) string {
	f.t.Helper()
	out, err := f.TryCmd(args...)
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

// TryCmd is Cmd for commands that may fail.
func (f *Firewalld) TryCmd(args ...string) (string, error) {
	cmd := exec.Command("firewall-cmd", args...)
	cmd.Env = f.Bus.Env()
	return run(cmd)
}

// Enter runs a program in firewalld's network namespace and gives what it prints; a failure fails the test.
func (f *Firewalld) Enter(name string, args ...string) string {
	f.t.Helper()
	all := append([]string{"-t", strconv.Itoa(f.cmd.Process.Pid), "-n", name}, args...)
	out, err := run(exec.Command("nsenter", all...))
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

// Ruleset gives the kernel's packet filter as nft prints it.
func (f *Firewalld) Ruleset() string {
	f.t.Helper()
	return f.Enter("nft", "list", "ruleset")
}

// WriteConfig writes a file below /etc/firewalld, for instance "zones/site.xml".
func (f *Firewalld) WriteConfig(name, content string) {
	f.t.Helper()
	path := filepath.Join(f.Config, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// Log gives what firewalld said.
func (f *Firewalld) Log() string {
	data, _ := os.ReadFile(f.log)
	return string(data)
}

func run(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, stderr.String())
	}
	return strings.TrimSpace(stdout.String()), nil
}
