package netboot

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// stopTimeout is how long dnsmasq may take to end.
const stopTimeout = 5 * time.Second

// Run runs dnsmasq with the configuration until ctx ends or dnsmasq does, and gives every event to events, one at a
// time, in order. It returns nil when ctx ended it. dnsmasq is a child in the network namespace of the calling thread
// and is killed should this process die. log gets the lines that dnsmasq writes, but for the details of each packet; it
// may be nil. It needs a /bin/sh.
func Run(ctx context.Context, cfg Config, events func(Event), log func(line string)) error {
	program, err := FindDnsmasq()
	if err != nil {
		return err
	}
	path, remove, err := configFile(cfg.Text)
	if err != nil {
		return err
	}
	defer remove()
	if err := directories(cfg.Text); err != nil {
		return err
	}

	// The ports, the neighbour table and dnsmasq are those of this thread's network namespace.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ports := []string{"67"}
	if !strings.Contains("\n"+string(cfg.Text), "\nport=0\n") {
		ports = append(ports, "53")
	}
	if events != nil {
		for _, port := range ports {
			if listens(port) {
				events(Event{Time: time.Now(), Source: SourceDHCP, Kind: KindWarning, Message: "another program already listens on UDP port " + port +
					" of this host (see \"ss -lnup\"); if it serves the machines' network too, machines get answers from both: stop it there"})
			}
		}
	}

	cmd := exec.Command("/bin/sh", "-c", guard, "dnsmasq-guard",
		program, "--keep-in-foreground", "--log-facility=-", "--pid-file", "--conf-file="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's Ctrl-C is for us, who end it
	alive, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("cannot run %s: %w", program, err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return fmt.Errorf("cannot run %s: %w", program, err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot run %s: %w", program, err)
	}
	ended := make(chan struct{})
	go stop(ctx, alive, cmd.Process.Pid, ended)

	last := follow(stderr, newLogReader(time.Now, neighbour), remove, events, log)
	err = cmd.Wait()
	close(ended)
	if ctx.Err() != nil {
		return nil
	}
	return exitError(err, last)
}

// guard runs its arguments and ends them when its standard input is closed, which happens however this process ends. A
// parent-death signal would not do: the kernel forgets it when dnsmasq changes to its own user (prctl(2)).
const guard = `exec 3<&0
"$@" 3<&- </dev/null &
server=$!
{ read -r _ <&3; kill "$server"; } 2>/dev/null &
watcher=$!
exec 3<&-
wait "$server"
code=$?
kill "$watcher" 2>/dev/null
exit "$code"
`

// stop ends dnsmasq when ctx does.
func stop(ctx context.Context, alive io.Closer, group int, ended <-chan struct{}) {
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	alive.Close()
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
		syscall.Kill(-group, syscall.SIGKILL)
	}
}

// follow reads the log to its end and returns the last line that was written by dnsmasq itself rather than about a
// packet: the reason, when it could not start. It reads on while events are delivered: a dnsmasq whose log is not read
// stops serving. started is called when dnsmasq has read its configuration.
func follow(r io.Reader, reader *logReader, started func(), events func(Event), log func(string)) (last string) {
	queue, delivered := newQueue(maxQueue), make(chan struct{})
	go func() {
		defer close(delivered)
		for e, ok := queue.take(); ok; e, ok = queue.take() {
			if events != nil {
				events(e)
			}
		}
	}()
	defer func() {
		queue.close()
		<-delivered
	}()
	lines := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := lines.ReadString('\n')
		if line = strings.TrimRight(line, "\r\n"); line != "" {
			if text, found := strings.CutPrefix(line, "dnsmasq: "); found {
				last = text
			}
			if log != nil && !detail(line) {
				log(printable(line))
			}
			if e, ok := reader.read(line); ok {
				if e.Kind == KindStarted {
					started()
				}
				queue.put(e)
			}
		}
		if err != nil {
			return last
		}
	}
}

// directories makes those that dnsmasq will not make itself.
func directories(text []byte) error {
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "tftp-root":
		case "dhcp-leasefile":
			value = filepath.Dir(value)
		default:
			continue
		}
		if err := os.MkdirAll(value, 0o755); err != nil {
			return fmt.Errorf("cannot make %s for dnsmasq: %w", value, err)
		}
	}
	return nil
}

// exitError says why dnsmasq ended, by its exit code (dnsmasq(8), EXIT CODES).
func exitError(err error, said string) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		if err == nil {
			return errors.New("dnsmasq ended by itself; its log says no more")
		}
		return fmt.Errorf("cannot wait for dnsmasq: %w", err)
	}
	if said == "" {
		said = exit.String()
	}
	said = printable(said)
	switch {
	case exit.ExitCode() == 2 && strings.Contains(said, "in use"):
		return fmt.Errorf("dnsmasq cannot serve: %s; another DHCP, TFTP or DNS server has the port: see \"ss -lnup\", and stop it or use network.dhcp: proxy on another host", said)
	case exit.ExitCode() == 2:
		return fmt.Errorf("dnsmasq cannot serve: %s; it needs root, and network.interface up with its address", said)
	case exit.ExitCode() == 3:
		return fmt.Errorf("dnsmasq cannot use a file: %s", said)
	case exit.ExitCode() == 1:
		return fmt.Errorf("dnsmasq does not take its configuration: %s", said)
	}
	return fmt.Errorf("dnsmasq ended (%s): %s", exit.String(), said)
}

// listens tells whether somebody has the UDP port (decimal) on an address that is not loopback. The table is that of the
// calling thread's network namespace (proc(5): columns slot, local address:port, both hex).
func listens(port string) bool {
	n, err := strconv.Atoi(port)
	if err != nil {
		return false
	}
	table, err := os.ReadFile("/proc/thread-self/net/udp")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		address, p, _ := strings.Cut(f[1], ":")
		if p == fmt.Sprintf("%04X", n) && !strings.HasSuffix(address, "7F") { // little-endian 127.x on the machines we build for
			return true
		}
	}
	return false
}

// neighbour looks an address up in the ARP table of the calling thread's network namespace (proc(5): columns address,
// type, flags, MAC, mask, device).
func neighbour(ip netip.Addr) string {
	table, err := os.ReadFile("/proc/thread-self/net/arp")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) >= 4 && f[0] == ip.String() && f[2] != "0x0" {
			return f[3]
		}
	}
	return ""
}
