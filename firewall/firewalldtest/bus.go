package firewalldtest

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"text/template"
)

// Bus is a private D-Bus broker.
type Bus struct {
	// Address is where it listens; it stays the same over a Restart.
	Address string

	t      testing.TB
	config string
	cmd    *exec.Cmd
}

// BusConfig is what a test may want to be different.
type BusConfig struct {
	// XML comes after the policy that permits everything, for instance
	// <policy context="mandatory"><deny …/></policy>, or a <servicedir>.
	XML string
	// ReplyTimeout, in milliseconds, makes the broker answer NoReply for a callee that is silent for so long.
	ReplyTimeout int
}

var busConfig = template.Must(template.New("").Parse(`<busconfig>
  <type>system</type>
  <listen>unix:path={{.Socket}}</listen>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
    <allow user="*"/>
  </policy>
  {{.XML}}
  {{if .ReplyTimeout}}<limit name="reply_timeout">{{.ReplyTimeout}}</limit>{{end}}
</busconfig>
`))

// StartBus starts a broker that lives as long as the test.
func StartBus(t testing.TB, c BusConfig) *Bus {
	t.Helper()
	NeedTool(t, "dbus-daemon")
	// Not t.TempDir: the name of a test makes the path too long for a socket.
	dir, err := os.MkdirTemp("", "bus")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // for clients that are not root
		t.Fatal(err)
	}
	var b bytes.Buffer
	socket := filepath.Join(dir, "socket")
	values := map[string]any{"Socket": socket, "XML": c.XML, "ReplyTimeout": c.ReplyTimeout}
	if err := busConfig.Execute(&b, values); err != nil {
		t.Fatal(err)
	}
	bus := &Bus{Address: "unix:path=" + socket, t: t, config: filepath.Join(dir, "bus.conf")}
	if err := os.WriteFile(bus.config, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	bus.start()
	t.Cleanup(bus.Stop)
	return bus
}

func (b *Bus) start() {
	b.t.Helper()
	cmd := exec.Command("dbus-daemon", "--config-file="+b.config, "--nofork", "--nopidfile", "--print-address=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.cmd = cmd
	if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil { // it prints its address once it listens
		b.Stop()
		b.t.Fatalf("dbus-daemon did not start: %v: %s", err, stderr.String())
	}
}

// Stop kills the broker, as a crash would.
func (b *Bus) Stop() {
	if b.cmd != nil {
		_ = b.cmd.Process.Kill()
		_ = b.cmd.Wait()
		b.cmd = nil
	}
}

// Signal sends the broker a signal: SIGSTOP makes it accept and never speak, until SIGCONT.
func (b *Bus) Signal(s syscall.Signal) {
	if b.cmd != nil {
		_ = b.cmd.Process.Signal(s)
	}
}

// Restart replaces the broker by a new one at the same address. Everybody's connection is lost.
func (b *Bus) Restart() {
	b.t.Helper()
	b.Stop()
	if err := os.Remove(b.Address[len("unix:path="):]); err != nil && !os.IsNotExist(err) {
		b.t.Fatal(err)
	}
	b.start()
}

// Env is the environment in which a program takes this bus for the system bus.
func (b *Bus) Env() []string {
	return append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+b.Address, "LC_ALL=C.UTF-8")
}

// NeedTool skips the test where a program is missing; with CI=true it fails, because there every program is wanted.
func NeedTool(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			missing(t, fmt.Sprintf("needs the program %s", name))
		}
	}
}

// NeedRoot skips the test for other users; with CI=true it fails.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "needs root, for network and mount namespaces")
	}
}

func missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}
