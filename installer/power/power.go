// Package power switches machines through their BMCs (IPMI 2.0 over LAN) or by telling a person what to press. It owns
// the sessions with BMCs, what is believed of their answers (nothing that was not read back), and how many are asked at
// once. It must not know the cluster file, matchbox or a machine's state: who may be switched is decided by its caller,
// and whether a machine really booted is seen by its caller.
package power

import (
	"context"
	"fmt"
	"time"
)

// State is what a BMC says of the machine's power.
type State string

// Unknown is what a person did not answer.
const (
	On      State = "on"
	Off     State = "off"
	Unknown State = "unknown"
)

// Device is where the next boot comes from.
type Device string

// The devices that an install needs. Default takes a request back.
const (
	PXE     Device = "pxe"
	Disk    Device = "disk"
	Default Device = "default"
)

// Boot is a request for the next boot, and only that one.
type Boot struct {
	Device Device
	UEFI   bool // else as a PC BIOS; firmware that has one way only ignores it
}

func (b Boot) String() string {
	if b.UEFI {
		return string(b.Device) + " (UEFI)"
	}
	return string(b.Device) + " (BIOS)"
}

// Machine is the power switch of one machine. It is safe for use by several goroutines at once; one command at a time
// reaches the BMC. No call outlives its context; a BMC is given up
// after a bounded number of tries also when that has no deadline, a person is not.
type Machine interface {
	Status(ctx context.Context) (State, error)
	// On returns when the machine was seen to be on; a machine that is on stays as it is.
	On(ctx context.Context) error
	// Off asks the operating system to end and gives it soft to do so, then cuts the power; zero cuts it at once.
	Off(ctx context.Context, soft time.Duration) error
	// Cycle is Off, then On.
	Cycle(ctx context.Context, soft time.Duration) error
	// SetBoot returns what was read back. Another device than was asked for is an error; a firmware type that the
	// BMC does not keep is not.
	SetBoot(ctx context.Context, b Boot) (Boot, error)
	Close() error
}

// Error is what a BMC would not do. Its text is a sentence for an operator, with what to do.
type Error struct {
	Address string // of the BMC
	Doing   string // "log in", "read the power state" …
	Why     string
	Do      string // what to try; may be empty
	Err     error  // as the library has it; never holds a secret
}

func (e *Error) Error() string {
	text := fmt.Sprintf("cannot %s at the BMC %s: %s", e.Doing, e.Address, e.Why)
	if e.Do != "" {
		text += "; " + e.Do
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }
