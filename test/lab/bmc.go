package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// BMCOptions say where a BMC is and who may use it.
type BMCOptions struct {
	Netns   *os.File       // the network namespace that it listens in; nil: the process's own
	Address netip.AddrPort // UDP; port 0: a free one
	Users   []BMCUser
	// Chassis is what it switches; nil: a Switch of its own, which is off.
	Chassis Chassis
}

// BMCUser may log in over RMCP+. ipmi_sim holds a password of at most 20 bytes, as IPMI 2.0 does.
type BMCUser struct {
	Name, Password string
	Privilege      string // admin (when empty), operator, user
	Sessions       int    // how many at once; 10 when zero
}

// BMC is a running ipmi_sim: a real baseboard management controller as far as the network can tell (RMCP+, IPMI 2.0,
// cipher suites 0 to 3 and MD5 ones, not 17). It does not keep the valid and EFI bits of the boot flags.
type BMC struct {
	Address netip.AddrPort

	o      BMCOptions
	spawn  *spawner
	dir    string
	lines  *chassisLines
	mu     sync.Mutex
	cmd    *exec.Cmd
	ended  chan struct{}
	stdin  *os.File // ipmi_sim answers only while its standard input is open
	closed bool
}

// StartBMC starts a BMC. It returns when that answers an RMCP ping. Whatever happens to the calling process, ipmi_sim
// ends with it.
func StartBMC(ctx context.Context, o BMCOptions) (*BMC, error) {
	if _, err := exec.LookPath("ipmi_sim"); err != nil {
		return nil, fmt.Errorf("cannot start a BMC: %w; install openipmi", err)
	}
	if o.Chassis == nil {
		o.Chassis = &Switch{}
	}
	var b *BMC
	var err error
	for range 10 {
		// Between its being found free and ipmi_sim somebody else may take a port.
		if b, err = startBMC(ctx, o); !errors.Is(err, errSimEnded) || o.Address.Port() != 0 {
			break
		}
	}
	return b, err
}

var errSimEnded = errors.New("ipmi_sim ended")

func startBMC(ctx context.Context, o BMCOptions) (*BMC, error) {
	b := &BMC{o: o, spawn: newSpawner()}
	var err error
	if b.Address, err = b.freeAddress(); err != nil {
		close(b.spawn.calls)
		return nil, fmt.Errorf("cannot start a BMC: %w", err)
	}
	if b.dir, err = os.MkdirTemp("", "bmc-"); err != nil {
		close(b.spawn.calls)
		return nil, fmt.Errorf("cannot start a BMC: %w", err)
	}
	if err = b.write(); err == nil {
		b.lines, err = serveChassis(b.dir, o.Chassis)
	}
	if err == nil {
		err = b.run(ctx)
	}
	if err != nil {
		err = fmt.Errorf("cannot start a BMC at %s: %w\n%s", b.Address, err, tail(filepath.Join(b.dir, "log"), 10))
		b.Close()
		return nil, err
	}
	return b, nil
}

// freeAddress finds a port where none is given.
func (b *BMC) freeAddress() (netip.AddrPort, error) {
	if b.o.Address.Port() != 0 {
		return b.o.Address, nil
	}
	var free netip.AddrPort
	err := b.spawn.on(b.o.Netns, func() error {
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(b.o.Address))
		if err != nil {
			return err
		}
		free = conn.LocalAddr().(*net.UDPAddr).AddrPort()
		return conn.Close()
	})
	return netip.AddrPortFrom(b.o.Address.Addr(), free.Port()), err
}

// write makes ipmi_sim's files: ipmi_lan(5) and ipmi_sim_cmd(5).
func (b *BMC) write() error {
	var users strings.Builder
	users.WriteString("  user 1 false \"\" \"\" user 10 none md2 md5 straight\n")
	for i, u := range b.o.Users {
		if strings.ContainsAny(u.Name+u.Password, "\"\\ \t\n") {
			return errors.New("ipmi_sim takes no blank, quote or backslash in a user's name or password")
		}
		if u.Privilege == "" {
			u.Privilege = "admin"
		}
		if u.Sessions == 0 {
			u.Sessions = 10
		}
		fmt.Fprintf(&users, "  user %d true %q %q %s %d md5\n", i+2, u.Name, u.Password, u.Privilege, u.Sessions)
	}
	lan := fmt.Sprintf(`name "bmc"
set_working_mc 0x20
  startlan 1
    addr %s %d
    priv_limit admin
    allowed_auths_callback md5
    allowed_auths_user md5
    allowed_auths_operator md5
    allowed_auths_admin md5
    guid a123456789abcdefa123456789abcdef
  endlan
  chassis_control %q
%s`, b.Address.Addr(), b.Address.Port(), filepath.Join(b.dir, "chassis"), users.String())
	const commands = "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02\nmc_enable 0x20\n"
	for name, text := range map[string]string{"lan.conf": lan, "sim.emu": commands} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return os.Mkdir(filepath.Join(b.dir, "state"), 0o700)
}

// run starts ipmi_sim and waits until it answers.
func (b *BMC) run(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(b.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	stdin, keep, err := os.Pipe()
	if err != nil {
		return err
	}
	defer stdin.Close()
	// It outlives the caller's context; Kill ends it.
	cmd := exec.CommandContext(context.Background(), "ipmi_sim", "-c", filepath.Join(b.dir, "lan.conf"), "-f", filepath.Join(b.dir, "sim.emu"),
		"-s", filepath.Join(b.dir, "state"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, log, log
	if err := b.spawn.start(b.o.Netns, cmd); err != nil {
		keep.Close()
		return err
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	b.mu.Lock()
	b.cmd, b.stdin, b.ended = cmd, keep, ended
	b.mu.Unlock()
	return b.waitAnswer(ctx, ended)
}

// presencePing is the RMCP/ASF ping (IPMI 2.0 specification, 13.2.3), which needs no session.
var presencePing = []byte{0x06, 0x00, 0xff, 0x06, 0x00, 0x00, 0x11, 0xbe, 0x80, 0x00, 0x00, 0x00}

// waitAnswer pings until the BMC answers. UDP has no event for that.
func (b *BMC) waitAnswer(ctx context.Context, ended <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	answer := make([]byte, 512)
	tick := time.NewTicker(30 * time.Millisecond)
	defer tick.Stop()
	for {
		var n int
		err := b.spawn.on(b.o.Netns, func() error {
			conn, err := net.DialTimeout("udp", b.Address.String(), time.Second)
			if err != nil {
				return err
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(200 * time.Millisecond))
			if _, err = conn.Write(presencePing); err == nil {
				n, err = conn.Read(answer)
			}
			return err
		})
		if err == nil && n > 8 && answer[8] == 0x40 { // presence pong
			select {
			case <-ended: // who has its port answered
				return errSimEnded
			default:
				return nil
			}
		}
		select {
		case <-ended:
			return errSimEnded
		case <-ctx.Done():
			return fmt.Errorf("it does not answer a ping: %v", err)
		case <-tick.C:
		}
	}
}

// Hang stops ipmi_sim without ending it: it answers nothing until Resume.
func (b *BMC) Hang() error { return b.signal(syscall.SIGSTOP) }

// Resume lets a hung BMC go on; it then answers what it was asked meanwhile.
func (b *BMC) Resume() error { return b.signal(syscall.SIGCONT) }

func (b *BMC) signal(s syscall.Signal) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cmd == nil {
		return errors.New("the BMC is not running")
	}
	return syscall.Kill(-b.cmd.Process.Pid, s)
}

// Kill ends ipmi_sim: sessions are lost, the machine stays as it is.
func (b *BMC) Kill() {
	b.mu.Lock()
	cmd, stdin, ended := b.cmd, b.stdin, b.ended
	b.cmd = nil
	b.mu.Unlock()
	if cmd == nil {
		return
	}
	killGroup(cmd)
	<-ended
	stdin.Close()
}

// Restart is a BMC's own cold reset: every session is gone, the machine stays as it is.
func (b *BMC) Restart(ctx context.Context) error {
	b.Kill()
	if err := b.run(ctx); err != nil {
		return fmt.Errorf("cannot restart the BMC at %s: %w", b.Address, err)
	}
	return nil
}

// Close ends the BMC and removes its files. A second call does nothing.
func (b *BMC) Close() error {
	b.Kill()
	b.mu.Lock()
	closed := b.closed
	b.closed = true
	b.mu.Unlock()
	if closed {
		return nil
	}
	if b.lines != nil {
		b.lines.close()
	}
	close(b.spawn.calls)
	return os.RemoveAll(b.dir)
}

// Host and Port are for command lines.
func (b *BMC) Host() string { return b.Address.Addr().String() }

// Port is the UDP port.
func (b *BMC) Port() string { return strconv.Itoa(int(b.Address.Port())) }
