// Package live owns what happens on a machine in the live system that it booted from the network: it tells the
// provisioner what the machine has, checks that against what is required, chooses the disk, claims it, and only then
// has the operating system's own installer write it; or it wipes the disk. It asks for everything over TLS with the
// machine's one-time token. It must never write to a disk before the provisioner has answered the claim, and never
// to one that something uses. It runs in small systems: standard library only, beside the types of package machine.
package live

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

// Files on the machine. The live system's Ignition or Kickstart writes the first; the others are made here.
const (
	PathCA = "/etc/tectonic-machine/ca.crt" // PEM, what the machine API's certificate is checked against
	// PathReady holds the installed system's token for machine.PathReady, mode 0600.
	PathReady = "/etc/tectonic-machine/ready.token"
	// PathKickstartDisk is written by KickstartPre, for %include.
	PathKickstartDisk = "/tmp/tectonic-machine-disk.ks"

	runDir = "/run/tectonic-machine" // in memory on every live system
)

// Live is a machine's live system.
type Live struct {
	// Root is before every path; empty on a real machine.
	Root string
	// Out takes a line for each thing that was done, for the console and the journal. No secret goes there.
	Out io.Writer
	// Run runs a program until it ends and gives each line of its output; nil is os/exec.
	Run Runner
	// End restarts the machine ("reboot") or switches it off ("poweroff"); nil is systemd, or the kernel without it.
	End func(ctx context.Context, how string) error

	// patience is how long a call that must get through is tried; zero is 10 minutes.
	patience time.Duration
}

// ErrArmedOtherwise is what Wipe gives when the machine was not armed for that.
var ErrArmedOtherwise = errors.New("armed otherwise")

func (l *Live) path(name string) string { return filepath.Join("/", l.Root, name) }

func (l *Live) say(format string, args ...any) {
	if l.Out != nil {
		fmt.Fprintln(l.Out, printable(fmt.Sprintf(format, args...), 1000))
	}
}

// session is one installation under way.
type session struct {
	*Live
	args      Arguments
	api       *provisioner
	inventory machine.Inventory
	order     machine.Instruction
	disk      machine.InventoryDisk
	claimed   machine.Claimed
	anaconda  bool // it is the live system's own installer, that waits for us
}

// Install does what the machine was armed for, and restarts it. An error was reported to the provisioner where that
// was possible; the machine is then left as it is, so that somebody can look at it.
func (l *Live) Install(ctx context.Context) error {
	s, err := l.begin(ctx)
	if err != nil {
		return err
	}
	if s.order.Action == machine.ActionWipe {
		return s.wipe(ctx)
	}
	return s.install(ctx)
}

// Wipe is Install for a machine that is armed to be wiped, and refuses any other.
func (l *Live) Wipe(ctx context.Context) error {
	s, err := l.begin(ctx)
	if err != nil {
		return err
	}
	if s.order.Action != machine.ActionWipe {
		return s.fail(ctx, "start", fmt.Errorf("cannot wipe %s: it is armed to %s; run \"tectonic-installer wipe %s\" first: %w",
			s.order.Machine, s.order.Action, s.order.Machine, ErrArmedOtherwise))
	}
	return s.wipe(ctx)
}

// begin introduces the machine and learns what to do.
func (l *Live) begin(ctx context.Context) (*session, error) {
	text, err := os.ReadFile(l.path("/proc/cmdline"))
	if err != nil {
		return nil, fmt.Errorf("cannot read the kernel's command line: %w", err)
	}
	args, err := ParseArguments(string(text))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(l.path(PathCA))
	if err != nil {
		return nil, fmt.Errorf("cannot read the certificate authority that %s is checked against: %w; the install Ignition or Kickstart writes it: run \"tectonic-installer apply\" and boot the machine again", args.Server, err)
	}
	api, err := newProvisioner(args.Server, ca, l.say, l.patience)
	if err != nil {
		return nil, err
	}
	s := &session{Live: l, args: args, api: api}
	if s.inventory, err = l.Inventory(); err != nil {
		// Without an inventory nothing can be chosen, but the operator shall hear of it.
		return nil, s.fail(ctx, "start", err)
	}
	hello := machine.Hello{MAC: args.MAC, Inventory: s.inventory}
	if err := api.must(ctx, machine.PathHello, args.Token, hello, &s.order); err != nil {
		return nil, fmt.Errorf("cannot introduce this machine (%s) to %s: %w", args.MAC, args.Server, err)
	}
	l.say("this is %s, armed to %s; %d disks, %s of memory, %d cores, %s", s.order.Machine, s.order.Action,
		len(s.inventory.Disks), size(s.inventory.Memory), s.inventory.Cores, s.inventory.Firmware)
	return s, nil
}

// claim checks everything, and asks for the disk. After it the disk may be written.
func (s *session) claim(ctx context.Context) error {
	checks, disk := s.check(ctx)
	var failed []string
	for _, c := range checks {
		word := "ok"
		if !c.OK {
			word = "FAILED"
			failed = append(failed, fmt.Sprintf("%s: wanted %s, found %s", c.Name, c.Wanted, c.Found))
		}
		s.say("check %s: %s (wanted %s, found %s)", c.Name, word, c.Wanted, c.Found)
	}
	err := s.api.must(ctx, machine.PathChecks, s.args.Token, machine.Checks{Checks: checks}, &machine.Answer{})
	if len(failed) > 0 {
		return s.fail(ctx, "check", fmt.Errorf("%s; nothing was written", strings.Join(failed, "; ")))
	}
	if err != nil {
		return fmt.Errorf("cannot report the checks of %s: %w; nothing was written", s.order.Machine, err)
	}
	s.disk = disk
	// The same word in every attempt: an answer that was lost may be asked for again, by nobody else.
	claim := machine.Claim{Disk: disk, Run: rand.Text()}
	if err := s.api.must(ctx, machine.PathClaim, s.args.Token, claim, &s.claimed); err != nil {
		return fmt.Errorf("cannot claim %s of %s: %w; nothing was written", disk.Name, s.order.Machine, err)
	}
	if s.claimed.Session == "" {
		return fmt.Errorf("cannot claim %s of %s: the answer holds no session token; is %s a tectonic-installer of this version? Nothing was written", disk.Name, s.order.Machine, s.args.Server)
	}
	s.say("claimed %s (%s, serial %q)", disk.Name, size(disk.Size), disk.Serial)
	return nil
}

func (s *session) install(ctx context.Context) error {
	if err := s.claim(ctx); err != nil {
		return err
	}
	config, err := installedConfig(s.claimed)
	if err != nil {
		return s.fail(ctx, "configure", err)
	}
	// The path is in memory, for root alone, and the installer's argument: the content is secret.
	ignition := filepath.Join(runDir, "installed.ign")
	if err := s.writePrivate(ignition, config); err != nil {
		return s.fail(ctx, "configure", err)
	}
	defer os.Remove(s.path(ignition))
	argv, err := installerCommand(s.order.Image, "/dev/"+s.disk.Name, ignition)
	if err != nil {
		return s.fail(ctx, "write", err)
	}
	if err := s.write(ctx, argv); err != nil {
		return s.fail(ctx, "write", err)
	}
	return s.finish(ctx, "reboot")
}

func (s *session) wipe(ctx context.Context) error {
	if err := s.claim(ctx); err != nil {
		return err
	}
	device, err := s.openDisk(s.disk)
	if err != nil {
		return s.fail(ctx, "wipe", err)
	}
	err = wipe(ctx, device, s.disk.Size)
	if closeErr := device.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return s.fail(ctx, "wipe", fmt.Errorf("cannot wipe %s: %w", s.disk.Name, err))
	}
	s.say("wiped %s", s.disk.Name)
	if err := s.api.must(ctx, machine.PathInstalled, s.claimed.Session, machine.Answer{}, &machine.Answer{}); err != nil {
		return fmt.Errorf("wiped %s, but cannot report it: %w", s.disk.Name, err)
	}
	return s.end(ctx, "poweroff")
}

// finish sets the next boot, reports, and ends the live system.
func (s *session) finish(ctx context.Context, how string) error {
	s.report(ctx, machine.Progress{Stage: "configure", Percent: 100})
	s.nextBoot()
	if err := s.api.must(ctx, machine.PathInstalled, s.claimed.Session, machine.Answer{}, &machine.Answer{}); err != nil {
		// The disk is complete and the system on it reports for itself.
		s.say("%s is installed, but cannot report it: %v", s.order.Machine, err)
	} else {
		s.say("%s is installed on %s", s.order.Machine, s.disk.Name)
	}
	if how == "" {
		return nil
	}
	return s.end(ctx, how)
}

// nextBoot makes the firmware favour the disk. That it cannot is no failure: a machine whose boot order begins with
// the network is told to boot from disk by the provisioner.
func (s *session) nextBoot() {
	if s.inventory.Firmware != "uefi" {
		return
	}
	said, err := s.bootFromDisk(s.disk)
	if err != nil {
		s.say("cannot set the firmware's next boot to %s: %v; the provisioner tells this machine to boot from disk", s.disk.Name, err)
		return
	}
	s.say("%s", said)
}

// fail reports err as the end of the installation, and returns it.
func (s *session) fail(ctx context.Context, stage string, err error) error {
	token := s.claimed.Session
	if token == "" {
		token = s.args.Token
	}
	// ctx may be what ended it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	failure := machine.Failure{Stage: stage, Reason: printable(err.Error(), 1000)}
	var already *refusal
	if e := s.api.must(ctx, machine.PathFailed, token, failure, &machine.Answer{}); e != nil && !errors.As(e, &already) {
		s.say("cannot report the failure: %v", e)
	}
	return err
}

// report is progress, that may be lost.
func (s *session) report(ctx context.Context, p machine.Progress) {
	p.Message = printable(p.Message, 300)
	if err := s.api.try(ctx, machine.PathProgress, s.claimed.Session, p, &machine.Answer{}); err != nil && ctx.Err() == nil {
		s.say("cannot report %s %d%%: %v", p.Stage, p.Percent, err)
	}
}

func (l *Live) writePrivate(name string, content []byte) error {
	file := l.path(name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("cannot make %s: %w", filepath.Dir(name), err)
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot replace %s: %w", name, err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	_, err = f.Write(content)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	return nil
}

func encode(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // types of this program, that always encode
	}
	return text
}

// printable is s as one line without control characters, at most n bytes.
func printable(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' || (r >= 0x80 && r < 0xa0) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "") + "…"
	}
	return s
}

// size is n bytes for people, in powers of ten as disks are sold.
func size(n int64) string {
	for _, u := range []struct {
		unit string
		n    int64
	}{{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}} {
		if n >= u.n {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(u.n), u.unit)
		}
	}
	return fmt.Sprintf("%d B", n)
}
