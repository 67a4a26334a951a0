package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// OVMF is the UEFI firmware of the lab's machines, and the variables that a new one has; their card's driver is iPXE's.
const (
	ovmfCode  = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	ovmfVars  = "/usr/share/OVMF/OVMF_VARS_4M.fd"
	efiDriver = "/usr/lib/ipxe/qemu/efi-virtio.rom"
)

// MachineOptions say what a machine is made of. The zero value is a BIOS machine with 1 GiB of memory, two cores and an
// empty disk of 2 GiB.
type MachineOptions struct {
	Name   string // of the machine, for messages and files
	MAC    string // of its one network card
	UEFI   bool
	Memory int // MiB
	Cores  int
	Disks  []MachineDisk
	// NetworkFirst is a firmware that boots from the network whenever it starts.
	NetworkFirst bool
}

// MachineDisk is a disk of a machine.
type MachineDisk struct {
	Size   int64 // bytes; the file is sparse
	Serial string
}

// Machine is an emulated computer on the lab's bridge, switched off at first. It is a Chassis: its BMC or a test switches it.
type Machine struct {
	Name string
	MAC  string

	o     MachineOptions
	lab   *Lab
	dir   string
	tap   string
	logf  func(string, ...any)
	mu    sync.Mutex
	boot  string // of the next start: none, default, pxe
	qemu  *qemu  // nil: off
	boots int
	since time.Time
	bmcs  []*BMC
	netns []*os.File
}

// Machine makes a machine. It ends with the lab, or by Close.
func (l *Lab) Machine(ctx context.Context, o MachineOptions) (*Machine, error) {
	l.mu.Lock()
	l.ordinal++
	ordinal := l.ordinal
	l.mu.Unlock()
	if o.Memory == 0 {
		o.Memory = 1024
	}
	if o.Cores == 0 {
		o.Cores = 2
	}
	if o.Disks == nil {
		o.Disks = []MachineDisk{{Size: 2 << 30, Serial: "lab-" + o.Name}}
	}
	m := &Machine{Name: o.Name, MAC: o.MAC, o: o, lab: l, dir: filepath.Join(l.dir, fmt.Sprintf("machine-%d", ordinal)),
		tap: fmt.Sprintf("tap%d", ordinal), boot: "none", logf: l.Cache.logf}
	if err := m.make(ctx); err != nil {
		m.Close()
		return nil, fmt.Errorf("cannot make the machine %s: %w", o.Name, err)
	}
	l.mu.Lock()
	l.machines = append(l.machines, m)
	l.mu.Unlock()
	return m, nil
}

func (m *Machine) make(ctx context.Context) error {
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return err
	}
	for i, d := range m.o.Disks {
		if err := sparse(m.DiskPath(i), d.Size); err != nil {
			return err
		}
	}
	if m.o.UEFI {
		if err := copyFile(ovmfVars, m.variables(), 0o600); err != nil {
			return err
		}
	}
	_, err := m.lab.spawn.output(ctx, m.lab.net, fmt.Sprintf("tuntap add %s mode tap\nlink set %s master br0 up\n", m.tap, m.tap), "ip", "-batch", "-")
	return err
}

// DiskPath is the file that holds what is on a disk.
func (m *Machine) DiskPath(i int) string { return filepath.Join(m.dir, fmt.Sprintf("disk%d", i)) }

// ConsolePath is the file that holds what the machine said on its serial line, in all of its life.
func (m *Machine) ConsolePath() string { return filepath.Join(m.dir, "console") }

func (m *Machine) variables() string { return filepath.Join(m.dir, "variables") }

// Power says whether the machine runs.
func (m *Machine) Power() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.qemu != nil
}

// Boots counts how often the firmware has started.
func (m *Machine) Boots() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.boots
}

// Boot is the device that the next start begins with: none (what the firmware is set to), or pxe.
func (m *Machine) Boot() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.boot
}

// SetBoot chooses the device for the next start alone.
func (m *Machine) SetBoot(device string) error {
	switch device {
	case "none", "default", "pxe":
	default:
		return fmt.Errorf("a machine of the lab cannot boot from %q", device)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.boot = device
	return nil
}

// SetPower switches the machine on, or off as by pulling its plug.
func (m *Machine) SetPower(on bool) error {
	m.mu.Lock()
	q := m.qemu
	switch {
	case on && q == nil:
		defer m.mu.Unlock()
		return m.start()
	case !on && q != nil:
		m.mu.Unlock()
		q.kill()
		<-q.gone
		return nil
	}
	m.mu.Unlock()
	return nil
}

// Shutdown presses the power button; the system, if there is one, then goes off by itself.
func (m *Machine) Shutdown() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.qemu == nil {
		return nil
	}
	return m.qemu.command("system_powerdown")
}

// Reset presses the reset button.
func (m *Machine) Reset() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.qemu == nil {
		return errors.New("the machine is off")
	}
	return m.qemu.command("system_reset")
}

// Wait waits until the machine is off.
func (m *Machine) Wait(ctx context.Context) error {
	for {
		m.mu.Lock()
		q := m.qemu
		m.mu.Unlock()
		if q == nil {
			return nil
		}
		select {
		case <-q.gone:
		case <-ctx.Done():
			return fmt.Errorf("%s is not off in time: %w; its console ends with:\n%s", m.Name, ctx.Err(), tail(m.ConsolePath(), 20))
		}
	}
}

// Close pulls the plug and removes the machine, and its BMC.
func (m *Machine) Close() error {
	err := m.SetPower(false)
	for _, bmc := range m.bmcs {
		err = errors.Join(err, bmc.Close())
	}
	for _, ns := range m.netns {
		ns.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	m.lab.spawn.output(ctx, m.lab.net, "", "ip", "link", "delete", m.tap)
	return errors.Join(err, os.RemoveAll(m.dir))
}

// StartBMC gives the machine a BMC with a network card of its own on the bridge.
func (m *Machine) StartBMC(ctx context.Context, address string, users ...BMCUser) (*BMC, error) {
	at, err := netip.ParseAddr(address)
	if err != nil {
		return nil, fmt.Errorf("cannot start the BMC of %s: %w", m.Name, err)
	}
	ns, err := m.lab.attach(ctx, "bmc"+strings.TrimPrefix(m.tap, "tap"), address)
	if err != nil {
		return nil, err
	}
	bmc, err := StartBMC(ctx, BMCOptions{Netns: ns, Address: netip.AddrPortFrom(at, 623), Users: users, Chassis: m})
	if err != nil {
		ns.Close()
		return nil, err
	}
	m.mu.Lock()
	m.bmcs = append(m.bmcs, bmc)
	m.netns = append(m.netns, ns)
	m.mu.Unlock()
	return bmc, nil
}

// start runs the firmware from its beginning; the caller holds the lock. A reset ends the process too, so that the
// order of boot devices, which QEMU reads once, can be another one after it.
func (m *Machine) start() error {
	network := m.o.NetworkFirst || m.boot == "pxe"
	m.boot = "none"
	m.boots++
	args := []string{
		"-name", m.Name, "-accel", "tcg,thread=multi", "-cpu", "max", "-machine", "q35,graphics=off",
		"-smp", fmt.Sprint(m.o.Cores), "-m", fmt.Sprint(m.o.Memory), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-chardev", "stdio,id=qmp", "-mon", "chardev=qmp,mode=control",
		"-chardev", "file,id=console,append=on,path=" + m.ConsolePath(), "-serial", "chardev:console",
		"-netdev", "tap,id=net,script=no,downscript=no,ifname=" + m.tap,
		"-device", "virtio-rng-pci",
	}
	nic, disk := 2, 1
	if network {
		nic, disk = 1, 2
	}
	card := fmt.Sprintf("virtio-net-pci,netdev=net,mac=%s,bootindex=%d", m.o.MAC, nic)
	if m.o.UEFI {
		// The card brings its own UEFI driver, as real ones do. With OVMF's, Debian's ipxe.efi never comes back to the firmware
		// after a script's "exit". DHCPv6, which nobody answers here, would only take its time.
		card += ",romfile=" + efiDriver
		args = append(args, "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=no")
		args = append(args,
			"-drive", "if=pflash,format=raw,readonly=on,file="+ovmfCode,
			"-drive", "if=pflash,format=raw,file="+m.variables())
	}
	args = append(args, "-device", card)
	for i, d := range m.o.Disks {
		device := fmt.Sprintf("virtio-blk-pci,drive=disk%d,serial=%s", i, d.Serial)
		if i == 0 {
			device += fmt.Sprintf(",bootindex=%d", disk)
		}
		args = append(args, "-drive", fmt.Sprintf("if=none,id=disk%d,format=raw,cache=unsafe,discard=unmap,file=%s", i, m.DiskPath(i)), "-device", device)
	}
	console, err := os.OpenFile(m.ConsolePath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	fmt.Fprintf(console, "\n== %s: power on %d, %s first ==\n", m.Name, m.boots, map[bool]string{true: "network", false: "disk"}[network])
	console.Close()
	q, err := startQEMU(m.lab, args, filepath.Join(m.dir, "qemu.log"))
	if err != nil {
		return fmt.Errorf("cannot start %s: %w", m.Name, err)
	}
	m.qemu, m.since = q, time.Now()
	m.logf("%s: on, %s first", m.Name, map[bool]string{true: "network", false: "disk"}[network])
	go m.ended(q)
	return nil
}

// ended goes on after QEMU is gone: with the next start after a reset, else the machine is off.
func (m *Machine) ended(q *qemu) {
	reset := q.wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.qemu = nil
	if reset {
		m.logf("%s: restarts, after %.0f s", m.Name, time.Since(m.since).Seconds())
		if err := m.start(); err != nil {
			m.logf("%s: %v", m.Name, err)
		}
	} else {
		m.logf("%s: off, after %.0f s", m.Name, time.Since(m.since).Seconds())
	}
	close(q.gone)
}

// qemu is one process, and its monitor (the QMP specification).
type qemu struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	events *bufio.Scanner
	gone   chan struct{} // after its end is dealt with
}

func startQEMU(l *Lab, args []string, log string) (*qemu, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	q := &qemu{cmd: exec.CommandContext(context.Background(), "qemu-system-x86_64", args...), gone: make(chan struct{})}
	q.cmd.Stderr = file
	stdout, err := q.cmd.StdoutPipe()
	if err == nil {
		q.stdin, err = q.cmd.StdinPipe()
	}
	if err == nil {
		err = l.spawn.start(l.net, q.cmd)
	}
	if err != nil {
		return nil, err
	}
	q.events = bufio.NewScanner(stdout)
	return q, q.command("qmp_capabilities")
}

func (q *qemu) command(name string) error {
	_, err := fmt.Fprintf(q.stdin, "{\"execute\":%q}\n", name)
	return err
}

func (q *qemu) kill() { killGroup(q.cmd) }

// wait returns when the process has ended, and whether a reset was why.
func (q *qemu) wait() (reset bool) {
	for q.events.Scan() {
		var e struct {
			Event string
			Data  struct{ Reason string }
		}
		if json.Unmarshal(q.events.Bytes(), &e) == nil && e.Event == "SHUTDOWN" {
			reset = strings.HasSuffix(e.Data.Reason, "-reset")
		}
	}
	if q.cmd.Wait() != nil {
		return false
	}
	return reset
}
