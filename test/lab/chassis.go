package lab

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// Chassis is what a BMC switches. ipmi_sim asks one thing at a time and answers nobody meanwhile, as a slow BMC.
type Chassis interface {
	Power() bool
	SetPower(on bool) error
	Shutdown() error // the soft power button: ACPI
	Reset() error
	Boot() string                // the device of the next boot: none, default, pxe
	SetBoot(device string) error // the same words
}

// Switch is a Chassis that only remembers. Its zero value is off; it is safe for use at once from many goroutines.
type Switch struct {
	// Soft is what the soft power button does; nil: it turns the power off.
	Soft func(*Switch)
	// Changed is told of each power change, outside of the lock.
	Changed func(on bool, boot string)

	mu    sync.Mutex
	on    bool
	boot  string
	calls []string
}

// Power says whether the power is on.
func (s *Switch) Power() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.on
}

// SetPower switches.
func (s *Switch) SetPower(on bool) error {
	s.mu.Lock()
	s.calls = append(s.calls, fmt.Sprintf("power %t", on))
	changed := s.on != on
	s.on = on
	boot := s.boot
	s.mu.Unlock()
	if changed && s.Changed != nil {
		s.Changed(on, boot)
	}
	return nil
}

// Shutdown presses the soft power button.
func (s *Switch) Shutdown() error {
	s.mu.Lock()
	s.calls = append(s.calls, "shutdown")
	s.mu.Unlock()
	if s.Soft != nil {
		s.Soft(s)
		return nil
	}
	return s.SetPower(false)
}

// Reset presses the reset button.
func (s *Switch) Reset() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, "reset")
	return nil
}

// Boot is the device of the next boot.
func (s *Switch) Boot() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.boot == "" {
		return "default"
	}
	return s.boot
}

// SetBoot chooses it.
func (s *Switch) SetBoot(device string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, "boot "+device)
	s.boot = device
	return nil
}

// Calls lists what was asked of it, in order: "power true", "shutdown", "reset", "boot pxe".
func (s *Switch) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.calls...)
}

// chassisScript is ipmi_sim's chassis_control program: it hands its arguments over one FIFO and prints what comes back
// over the other, which begins with its process id and its exit code. An answer to one that was killed is passed over.
const chassisScript = `#!/bin/sh
dir=${0%/*}
echo "$$ $*" >"$dir/request"
while read -r id code text; do
	[ "$id" = "$$" ] || continue
	[ -z "$text" ] || echo "$text"
	exit "$code"
done <"$dir/reply"
`

// chassisLines answers the script.
type chassisLines struct {
	request, reply *os.File
	done           chan struct{}
}

func serveChassis(dir string, c Chassis) (*chassisLines, error) {
	if err := os.WriteFile(filepath.Join(dir, "chassis"), []byte(chassisScript), 0o700); err != nil {
		return nil, err
	}
	l := &chassisLines{done: make(chan struct{})}
	for name, file := range map[string]**os.File{"request": &l.request, "reply": &l.reply} {
		path := filepath.Join(dir, name)
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			return nil, fmt.Errorf("cannot make %s: %w", path, err)
		}
		// Read and write: the FIFO then never ends when the script closes its side (fifo(7)).
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		*file = f
	}
	go func() {
		defer close(l.done)
		for scanner := bufio.NewScanner(l.request); scanner.Scan(); {
			id, question, _ := strings.Cut(scanner.Text(), " ")
			fmt.Fprintln(l.reply, id, answerChassis(c, strings.Fields(question)))
		}
	}()
	return l, nil
}

// answerChassis does what ipmi_sim wants: "get power", "set power 1", "set boot pxe", "set reset 1", "set shutdown 1",
// "check power 1" (may it be set?).
func answerChassis(c Chassis, args []string) string {
	if len(args) < 2 {
		return "1 what?"
	}
	value := ""
	if len(args) > 2 {
		value = args[2]
	}
	var err error
	switch args[0] + " " + args[1] {
	case "get power":
		if c.Power() {
			return "0 power:1"
		}
		return "0 power:0"
	case "get boot":
		return "0 boot:" + c.Boot()
	case "set power":
		err = c.SetPower(value == "1")
	case "set boot":
		err = c.SetBoot(value)
	case "set reset":
		err = c.Reset()
	case "set shutdown":
		err = c.Shutdown()
	case "check power", "check boot", "check reset", "check shutdown":
	default:
		err = fmt.Errorf("%s is not supported", strings.Join(args, " "))
	}
	if err != nil {
		return "1 " + strings.ReplaceAll(err.Error(), "\n", " ")
	}
	return "0"
}

func (l *chassisLines) close() {
	l.request.Close()
	l.reply.Close()
	<-l.done
}
