package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

// settle is how long the agent has after its start, to look at everything and to give back the memory for that.
const settle = 30 * time.Second

// usage is what a process costs.
type usage struct {
	resident, anonymous int // KiB, at the end
	wakes               int // voluntary context switches of all its threads, within the window
}

// idle compares the agent on a host where nothing happens with the least that a Go program can be that holds the same two
// connections, at the same time on the same host.
func (b bench) idle(ctx context.Context) (_ []figure, err error) {
	h, err := b.worker(ctx, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	if err := install(ctx, h, "holder"); err != nil {
		return nil, err
	}
	pair, err := b.Plane.CA.Issue(lab.Subject{Name: "bench", Organizations: []string{"system:masters"}})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(h.WriteFile("/root/holder/ca.crt", b.Plane.CA.Cert, 0o600), h.WriteFile("/root/holder/client.crt", pair.Cert, 0o600),
		h.WriteFile("/root/holder/client.key", pair.Key, 0o600)); err != nil {
		return nil, err
	}
	server, err := url.Parse(b.Plane.Server)
	if err != nil {
		return nil, err
	}
	// As a unit, and with the agent's priority, so that both live alike.
	if _, err := h.Must(ctx, "systemd-run", "-q", "--unit=holder", "--property=MemoryAccounting=yes", "/usr/local/bin/holder", server.Host, h.Name, "/root/holder"); err != nil {
		return nil, err
	}
	progress("the idle agent: %s", settle+b.idleFor)
	if err := pause(ctx, settle); err != nil {
		return nil, err
	}
	var begin, end [2]usage
	for i, unit := range []string{"tectonic-worker", "holder"} {
		if begin[i], err = used(ctx, h, unit); err != nil {
			return nil, err
		}
	}
	if err := pause(ctx, b.idleFor); err != nil {
		return nil, err
	}
	var perMinute [2]float64
	for i, unit := range []string{"tectonic-worker", "holder"} {
		if end[i], err = used(ctx, h, unit); err != nil {
			return nil, err
		}
		perMinute[i] = float64(end[i].wakes-begin[i].wakes) / b.idleFor.Minutes()
	}
	mib := func(kib int) string { return fmt.Sprintf("%.1f MiB", float64(kib)/1024) }
	ratio := float64(end[0].resident) / float64(end[1].resident)
	return []figure{
		{fmt.Sprintf("resident memory of the idle agent / a bare holder, after %s", settle+b.idleFor), mib(end[0].resident), mib(end[1].resident), fmt.Sprintf("%.2fx", ratio), "at most 3x", ratio <= 3},
		{"  the agent's alone", mib(end[0].resident), "", "", "at most 20 MiB", end[0].resident <= 20<<10},
		{"  of that, anonymous (what it does not share with its file)", mib(end[0].anonymous), mib(end[1].anonymous), fmt.Sprintf("%.2fx", float64(end[0].anonymous)/float64(end[1].anonymous)), "", false},
		{"voluntary context switches a minute", fmt.Sprintf("%.1f", perMinute[0]), fmt.Sprintf("%.1f", perMinute[1]), "", "", false},
	}, nil
}

// used reads from outside of the host, which costs the host nothing.
func used(ctx context.Context, h *lab.Host, unit string) (u usage, err error) {
	r, err := h.Must(ctx, "systemctl", "show", "-p", "MainPID", "--value", unit)
	if err != nil {
		return u, err
	}
	dir := filepath.Join("/proc", strings.TrimSpace(r.Stdout))
	status, err := h.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return u, fmt.Errorf("%s does not run: %w\n%s", unit, err, h.Journal(ctx, unit, 10))
	}
	u.resident, err = field(status, "VmRSS")
	if err != nil {
		return u, err
	}
	if u.anonymous, err = field(status, "RssAnon"); err != nil {
		return u, err
	}
	threads, err := os.ReadDir(h.Path(filepath.Join(dir, "task")))
	if err != nil {
		return u, err
	}
	for _, t := range threads {
		status, err := h.ReadFile(filepath.Join(dir, "task", t.Name(), "status"))
		if err != nil {
			continue // ended meanwhile
		}
		n, err := field(status, "voluntary_ctxt_switches")
		if err != nil {
			return u, err
		}
		u.wakes += n
	}
	return u, nil
}
