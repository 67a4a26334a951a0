package server

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"
)

// Gate decides whether a machine that boots from the network is given its profile. matchbox gives it every time, so that
// a machine which boots from the network twice is installed twice.
type Gate interface {
	// Boot is asked once for each boot script that would go out with something to boot, and may take the answer as
	// given: it must be on record before Boot returns. A machine for which there is nothing to boot is not asked about;
	// Observe tells of it. An error is answered like a Decision that does not install.
	Boot(ctx context.Context, labels map[string]string) (Decision, error)
}

// Decision is what a machine is to boot.
type Decision struct {
	Install bool     // the profile, with Args behind its own arguments
	Args    []string // no spaces or control characters; may be secret, so they are in no log
	Exit    string   // how "boot from disk" is said: auto (or empty), exit, http-404, sanboot
	Reason  string   // for the log
}

// gateTime is how long a machine waits for the gate. iPXE itself would wait longer.
const gateTime = 20 * time.Second

// ipxe answers with the profile's boot script, if the gate lets it.
func (s *Server) ipxe(r *request) answer {
	return s.boot(r, diskIPXE, func(p *profile, args []string) []byte {
		if len(args) == 0 {
			return p.ipxe
		}
		return ipxeScript(p.Boot, args)
	})
}

// grub answers with the profile's GRUB configuration, if the gate lets it.
func (s *Server) grub(r *request) answer {
	return s.boot(r, diskGRUB, func(p *profile, args []string) []byte {
		if len(args) == 0 {
			return p.grub
		}
		return grubConfig(p.Boot, args)
	})
}

func (s *Server) boot(r *request, disk map[string]string, script func(*profile, []string) []byte) answer {
	var failed error
	switch r.choose(); {
	case r.profile == nil:
		failed = r.unmatched()
	case r.profile.ipxe == nil:
		failed = errNoBoot
	}
	if s.options.Gate == nil {
		if failed != nil {
			return notFound(failed)
		}
		return ok(textPlain, script(r.profile, nil))
	}
	// A look must not spend what an operator armed.
	if r.Method != http.MethodGet {
		return answer{status: http.StatusMethodNotAllowed, contentType: textPlain, body: []byte("only GET\n")}
	}
	if failed != nil || !r.profile.bootable() {
		if failed == nil {
			failed = errNoBoot
		}
		r.reason = failed.Error()
		return bootFromDisk(disk, "")
	}
	// The machine has its answer from here on, even if it hangs up: whether it saw it is not known.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), gateTime)
	defer cancel()
	r.asked = true
	decision, err := s.options.Gate.Boot(ctx, r.labels)
	if err == nil && decision.Install {
		err = checkArgs(decision.Args)
	}
	r.reason = decision.Reason
	if err != nil {
		a := bootFromDisk(disk, decision.Exit)
		a.err = fmt.Errorf("sent to its disk, its state is not known: %w", err)
		return a
	}
	if !decision.Install {
		return bootFromDisk(disk, decision.Exit)
	}
	r.install = true
	return ok(textPlain, script(r.profile, decision.Args))
}

// checkArgs refuses what would not stay one kernel argument each. It does not repeat them: they may be secret.
func checkArgs(args []string) error {
	for _, arg := range args {
		if arg == "" || strings.ContainsFunc(arg, func(r rune) bool { return unicode.IsSpace(r) || endsLine(r) }) {
			return fmt.Errorf("a kernel argument that the gate adds is empty or has white space in it")
		}
	}
	return nil
}

// How a machine is told to boot from its disk. A script that ends in iPXE with an error makes firmware try its next boot
// device; UEFI firmware that sees a success may show its menu instead and wait there. BIOSes that have no next device are
// sent to the first disk.
var (
	diskIPXE = map[string]string{
		"auto":    "#!ipxe\niseq ${platform} efi && exit 1 ||\nsanboot --no-describe --drive 0x80\n",
		"exit":    "#!ipxe\nexit\n",
		"sanboot": "#!ipxe\nsanboot --no-describe --drive 0x80\n",
	}
	diskGRUB = map[string]string{
		"auto":    "if [ \"$grub_platform\" = \"efi\" ]; then\nexit\nfi\nset root=(hd0)\nchainloader +1\nboot\n",
		"exit":    "exit\n",
		"sanboot": "set root=(hd0)\nchainloader +1\nboot\n",
	}
)

func bootFromDisk(disk map[string]string, exit string) answer {
	if exit == "http-404" {
		return notFound(nil)
	}
	script, known := disk[exit]
	if !known {
		script = disk["auto"]
	}
	return ok(textPlain, []byte(script))
}
