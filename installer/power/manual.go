package power

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// Console is a person who presses buttons. Machines that share it take turns.
type Console struct {
	in    io.Reader
	out   io.Writer
	turn  chan struct{}
	read  sync.Once
	lines chan string // closed at the end of the input
}

// NewConsole talks over a terminal's two sides. From the first question on it reads in, and nothing else may. An input
// that has ended is a person who is not there: then everything that needs an answer fails at once.
func NewConsole(in io.Reader, out io.Writer) *Console {
	c := &Console{in: in, out: out, turn: make(chan struct{}, 1), lines: make(chan string)}
	c.turn <- struct{}{}
	return c
}

// readLines goes on when a question is given up: a read of a terminal cannot be taken back.
func (c *Console) readLines() {
	defer close(c.lines)
	for s := bufio.NewScanner(c.in); s.Scan(); {
		c.lines <- s.Text()
	}
}

// Machine is one that has no BMC.
func (c *Console) Machine(name string) Machine { return &manual{c, name} }

type manual struct {
	console *Console
	name    string
}

var errNobody = errors.New("its power is manual and nobody answers; run the command on a terminal, or give the machine a BMC (power.driver: ipmi)")

// ask prints what to do and waits for a line.
func (c *Console) ask(ctx context.Context, name, text string) (string, error) {
	select {
	case <-c.turn:
	case <-ctx.Done():
		return "", fmt.Errorf("nobody pressed what was asked for: %w", ctx.Err())
	}
	defer func() { c.turn <- struct{}{} }()
	c.read.Do(func() { go c.readLines() })
	if _, err := fmt.Fprintf(c.out, "%s: %s ", name, text); err != nil {
		return "", fmt.Errorf("cannot ask for what its power needs: %w", err)
	}
	select {
	case line, ok := <-c.lines:
		if !ok {
			fmt.Fprintln(c.out)
			return "", errNobody
		}
		return strings.ToLower(strings.TrimSpace(line)), nil
	case <-ctx.Done():
		fmt.Fprintln(c.out)
		return "", fmt.Errorf("nobody pressed what was asked for: %w", ctx.Err())
	}
}

func (m *manual) Status(ctx context.Context) (State, error) {
	answer, err := m.console.ask(ctx, m.name, "is it on? [yes/no]")
	if err != nil {
		return Unknown, err
	}
	switch answer {
	case "y", "yes", "on":
		return On, nil
	case "n", "no", "off":
		return Off, nil
	}
	return Unknown, nil
}

func (m *manual) press(ctx context.Context, text string) error {
	_, err := m.console.ask(ctx, m.name, text+", then press Enter:")
	return err
}

func (m *manual) On(ctx context.Context) error {
	return m.press(ctx, "switch it on (power button) if it is off")
}

func (m *manual) Off(ctx context.Context, soft time.Duration) error {
	if soft > 0 {
		return m.press(ctx, "shut it down (short press of the power button), or hold the button for 5 seconds if it does not go off")
	}
	return m.press(ctx, "switch it off (hold the power button for 5 seconds)")
}

func (m *manual) Cycle(ctx context.Context, soft time.Duration) error {
	if err := m.Off(ctx, soft); err != nil {
		return err
	}
	return m.On(ctx)
}

func (m *manual) SetBoot(ctx context.Context, b Boot) (Boot, error) {
	switch b.Device {
	case PXE:
		return b, m.press(ctx, "choose the network in its boot menu at its next start (often F12, F11 or F8)")
	case Disk:
		return b, m.press(ctx, "choose the disk in its boot menu at its next start (often F12, F11 or F8)")
	}
	return b, nil
}

func (m *manual) Close() error { return nil }

// networkBoot says all of it at once: the keys have to be pressed while the machine starts. The DHCP request is the
// answer; Enter is not waited for.
func (m *manual) networkBoot(ctx context.Context, o PXEOptions) error {
	const what = "restart it, and choose the network in its boot menu (often F12, F11 or F8)"
	if o.Seen == nil {
		if err := m.press(ctx, what); err != nil {
			return err
		}
		return fmt.Errorf("it was said to boot from the network, but nobody looked: %w; \"tectonic-installer watch\" shows its DHCP request", ErrNotSeen)
	}
	select {
	case <-m.console.turn:
	case <-ctx.Done():
		return ctx.Err()
	}
	_, err := fmt.Fprintf(m.console.out, "%s: %s; waiting up to %s for its DHCP request\n", m.name, what, o.Within)
	m.console.turn <- struct{}{}
	if err != nil {
		return fmt.Errorf("cannot say what to press: %w", err)
	}
	wait, cancel := context.WithTimeout(ctx, o.Within)
	defer cancel()
	if err := o.Seen(wait); err != nil {
		if wait.Err() != nil && ctx.Err() == nil {
			return fmt.Errorf("no DHCP request came within %s: %w; look whether the network boot was chosen, and compare the MACs in the cluster file with its cards", o.Within, ErrNotSeen)
		}
		return fmt.Errorf("cannot tell whether it booted from the network: %w", err)
	}
	o.Say("it booted from the network")
	return nil
}
