package netboot

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if conf := os.Getenv("NETBOOT_TEST_RUN"); conf != "" {
		err := Run(context.Background(), Config{Text: []byte(conf)}, func(e Event) { fmt.Println(e.Kind) }, nil)
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// needTool skips where a program is missing, and fails in CI, where nothing may be missing.
func needTool(t *testing.T, program, debian string) string {
	t.Helper()
	for _, name := range []string{program, "/usr/sbin/" + program, "/sbin/" + program} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	missing(t, "%s is not installed (Debian: %s)", program, debian)
	return ""
}

func missing(t *testing.T, format string, a ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, a...)
	}
	t.Skipf(format, a...)
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
}

const (
	serverAddress = "10.99.0.1"
	subnet        = "10.99.0.0/24"
)

// testnet is a bridge br0 in a network namespace of its own, with serverAddress, and one client namespace with eth0 on
// that bridge. Both have no name and end with the test.
type testnet struct {
	t              *testing.T
	server, client *os.File
	mac            string // of the client's eth0
}

func newTestnet(t *testing.T) *testnet {
	t.Helper()
	needRoot(t)
	needTool(t, "ip", "iproute2")
	n := &testnet{t: t, server: newNetns(t), client: newNetns(t)}
	n.ip(n.server, "link set lo up\nlink add br0 type bridge\naddr add "+serverAddress+"/24 dev br0\nlink set br0 up\n")
	n.mac = n.join(n.client, "c1")
	return n
}

// join puts eth0 of a namespace on the bridge and gives its MAC.
func (n *testnet) join(ns *os.File, port string) (mac string) {
	n.t.Helper()
	n.ip(n.server, fmt.Sprintf("link add %s type veth peer name eth0 netns /proc/%d/fd/%d\nlink set %s master br0 up\n", port, os.Getpid(), ns.Fd(), port))
	n.ip(ns, "link set lo up\nlink set eth0 up\n")
	n.in(ns, func() error {
		i, err := net.InterfaceByName("eth0")
		if err == nil {
			mac = i.HardwareAddr.String()
		}
		return err
	})
	return mac
}

func newNetns(t *testing.T) *os.File {
	t.Helper()
	type result struct {
		f   *os.File
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{err: err}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		done <- result{f, err}
	}()
	r := <-done
	if r.err != nil {
		t.Fatalf("cannot make a network namespace: %v", r.err)
	}
	t.Cleanup(func() { r.f.Close() })
	return r.f
}

// in runs f on a thread inside ns; what f starts or opens stays there.
func (n *testnet) in(ns *os.File, f func() error) {
	n.t.Helper()
	if err := <-n.goIn(ns, f); err != nil {
		n.t.Fatal(err)
	}
}

func (n *testnet) goIn(ns *os.File, f func() error) <-chan error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return done
}

func (n *testnet) ip(ns *os.File, batch string) {
	n.t.Helper()
	n.in(ns, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, "ip", "-batch", "-")
		cmd.Stdin = strings.NewReader(batch)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("ip: %w\n%s\n%s", err, batch, out)
		}
		return nil
	})
}

// udp opens a socket in ns, bound to eth0 or whatever device is named.
func (n *testnet) udp(ns *os.File, device, address string) net.PacketConn {
	n.t.Helper()
	var conn net.PacketConn
	n.in(ns, func() (err error) {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			c.Control(func(fd uintptr) {
				if err = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, device); err == nil {
					err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
				}
			})
			return err
		}}
		conn, err = lc.ListenPacket(context.Background(), "udp4", address)
		return err
	})
	n.t.Cleanup(func() { conn.Close() })
	return conn
}

// listenTCP listens in ns.
func (n *testnet) listenTCP(ns *os.File, address string) net.Listener {
	n.t.Helper()
	var l net.Listener
	n.in(ns, func() (err error) {
		l, err = net.Listen("tcp4", address)
		return err
	})
	n.t.Cleanup(func() { l.Close() })
	return l
}

// dnsmasq runs Run in ns until the test ends.
type dnsmasq struct {
	t      *testing.T
	events chan Event
	seen   []Event
}

func (n *testnet) run(ns *os.File, cfg Config) *dnsmasq {
	n.t.Helper()
	needTool(n.t, "dnsmasq", "dnsmasq")
	ctx, cancel := context.WithCancel(context.Background())
	d := &dnsmasq{t: n.t, events: make(chan Event, 10_000)}
	done := n.goIn(ns, func() error {
		return Run(ctx, cfg, func(e Event) { d.events <- e }, func(line string) { n.t.Log(line) })
	})
	n.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("Run: %v", err)
		}
	})
	d.wait("dnsmasq has started", func(e Event) bool { return e.Kind == KindStarted })
	return d
}

// wait reads events until one is right.
func (d *dnsmasq) wait(what string, right func(Event) bool) Event {
	d.t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	for {
		select {
		case e := <-d.events:
			d.seen = append(d.seen, e)
			if right(e) {
				return e
			}
		case <-deadline.C:
			d.t.Fatalf("no event says that %s; seen: %+v", what, d.seen)
		}
	}
}
