package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
	"github.com/tectonic-worker/tectonic-worker/test/world"
)

// worker boots a host with the package and joins it, with an agent or without one.
func (b bench) worker(ctx context.Context, withAgent bool) (*lab.Host, error) {
	h, err := b.host(ctx)
	if err != nil {
		return nil, err
	}
	script := "rpm -i /root/" + filepath.Base(b.rpm) + " && tectonic-worker join --assets " + world.AssetsDir
	if !withAgent {
		script += " && systemctl disable -q --now tectonic-worker"
	}
	if _, err := h.Must(ctx, "sh", "-c", script); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// install builds a program of the benchmark's own and copies it to the host.
func install(ctx context.Context, h *lab.Host, name string) error {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, name)
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./test/bench/"+name)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build %s: %w\n%s", name, err, out)
	}
	return h.CopyIn(program, "/usr/local/bin/"+name)
}

// pause waits, where there is nothing to wait for but time.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// field is a number of a process's /proc/PID/status (proc(5)).
func field(status []byte, name string) (int, error) {
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name+":" {
			return strconv.Atoi(f[1])
		}
	}
	return 0, fmt.Errorf("/proc/PID/status has no %s", name)
}

// percentile is the smallest of the times that p percent of them do not exceed.
func (t times) percentile(p int) time.Duration {
	sorted := slices.Sorted(slices.Values(t))
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}

// spread shows times that have no other side: median, 99th percentile and most, in ms.
func (t times) spread() string {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return fmt.Sprintf("%.1f ms, p99 %.1f, most %.1f", ms(t.median()), ms(t.percentile(99)), ms(slices.Max(t)))
}
