package power

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"
)

// person answers what a console asks.
type person struct {
	mu     sync.Mutex
	heard  bytes.Buffer
	answer func(asked string) string
	in     *io.PipeWriter
}

func (p *person) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard.Write(b)
	if a := p.answer(string(b)); a != "" {
		go io.WriteString(p.in, a)
	}
	return len(b), nil
}

func (p *person) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.heard.String()
}

func console(t *testing.T, answer func(string) string) (*Console, *person) {
	r, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	p := &person{answer: answer, in: w}
	return NewConsole(r, p), p
}

func TestManual(t *testing.T) {
	t.Parallel()
	c, p := console(t, func(asked string) string {
		switch {
		case strings.HasPrefix(asked, "node1: is it on?"):
			return "Yes\n"
		case strings.HasPrefix(asked, "node2: is it on?"):
			return "no\n"
		case strings.Contains(asked, "press Enter"):
			return "\n"
		}
		return "perhaps\n"
	})
	ctx := within(t, 10*time.Second)
	for name, want := range map[string]State{"node1": On, "node2": Off, "node3": Unknown} {
		if got, err := c.Machine(name).Status(ctx); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", name, got, err, want)
		}
	}
	m := c.Machine("node1")
	if err := errors.Join(m.On(ctx), m.Off(ctx, 0), m.Off(ctx, time.Second), m.Cycle(ctx, 0)); err != nil {
		t.Error(err)
	}
	if b, err := m.SetBoot(ctx, Boot{Device: PXE}); err != nil || b.Device != PXE {
		t.Errorf("%v, %v", b, err)
	}
	for _, want := range []string{"node1: switch it on", "node1: switch it off", "node1: shut it down", "node1: choose the network"} {
		if !strings.Contains(p.text(), want) {
			t.Errorf("%q was not said:\n%s", want, p.text())
		}
	}
}

// A network boot is not asked about: the DHCP request tells.
func TestManualNetworkBoot(t *testing.T) {
	t.Parallel()
	pressed := make(chan struct{}, 2)
	c, p := console(t, func(asked string) string {
		if strings.Contains(asked, "node1: restart it, and choose the network") {
			pressed <- struct{}{}
		}
		return ""
	})
	seen := func(ctx context.Context) error {
		select {
		case <-pressed:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	o := PXEOptions{Within: 5 * time.Second, Seen: seen}
	if err := NetworkBoot(within(t, 20*time.Second), c.Machine("node1"), o); err != nil {
		t.Errorf("%v\n%s", err, p.text())
	}
	o.Within = 50 * time.Millisecond
	if err := NetworkBoot(within(t, 20*time.Second), c.Machine("node2"), o); !errors.Is(err, ErrNotSeen) {
		t.Errorf("%v; want %v", err, ErrNotSeen)
	}
}

// Without somebody to answer nothing hangs.
func TestManualAlone(t *testing.T) {
	t.Parallel()
	m := NewConsole(strings.NewReader(""), io.Discard).Machine("node1")
	if _, err := m.Status(t.Context()); !errors.Is(err, errNobody) {
		t.Error(err)
	}
	c, _ := console(t, func(string) string { return "" })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Machine("node1").On(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
