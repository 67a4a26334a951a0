package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

const (
	// The zone as it is in /etc, the same without our ports, and the file that is mounted over the first. firewalld sees no
	// change of a file that is written by its other path, and so does not tell the agent: each reload finds a zone that
	// never had our ports, and until then nobody had a reason to open them.
	zoneFile = "/etc/firewalld/zones/public.xml"
	bareFile = "/var/lib/rkt/bare.xml"
	zoneDisk = "/var/lib/rkt/zone.xml"

	// How the gap is probed: a new connection every few milliseconds. One that is not answered at once is lost, before TCP
	// sends its first packet again after a second.
	probeEvery  = 4 * time.Millisecond
	probeWait   = 400 * time.Millisecond
	probeBefore = 100 * time.Millisecond
	probeAfter  = 300 * time.Millisecond
	// The agent looks again within a second of a reload; a look that runs into the next one would be measured with it.
	probeCalm = 1300 * time.Millisecond
)

// reloaded measures how long the runtime-only ports are gone after firewalld said that it reloaded.
func (b bench) reloaded(ctx context.Context) (_ []figure, err error) {
	h, err := b.worker(ctx, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	if err := install(ctx, h, "reloads"); err != nil {
		return nil, err
	}
	const script = `grep -v '<port ' "$1" >"$2"; cp "$1" "$3"; mount --bind "$3" "$1"
grep -q '<port port="10250"' "$1" && ! grep -q '<port ' "$2"`
	if _, err := h.Must(ctx, "sh", "-ec", script, "sh", zoneFile, bareFile, zoneDisk); err != nil {
		return nil, err
	}
	progress("reloads of firewalld: %d", b.reloads)
	r, err := h.Must(ctx, "reloads", strconv.Itoa(b.reloads), bareFile, zoneDisk)
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, h.Journal(ctx, "tectonic-worker", 20))
	}
	var took times
	for word := range strings.FieldsSeq(r.Stdout) {
		us, err := strconv.Atoi(word)
		if err != nil {
			return nil, fmt.Errorf("cannot read %q: %w", word, err)
		}
		took = append(took, time.Duration(us)*time.Microsecond)
	}
	if len(took) != b.reloads {
		return nil, fmt.Errorf("%d reloads were measured, not %d", len(took), b.reloads)
	}
	return []figure{{fmt.Sprintf("Reloaded to runtime-only ports back, %d reloads", b.reloads), took.spread(), "", "", "p99 at most 50 ms", took.percentile(99) <= 50*time.Millisecond}}, nil
}

// gaps compares how long no connection to the kubelet's port gets through during a reload, on a joined host and on one whose
// agent was stopped. Both have the same permanent ports, and take turns.
func (b bench) gaps(ctx context.Context) (_ []figure, err error) {
	var hosts [2]*lab.Host
	for i := range hosts {
		if hosts[i], err = b.worker(ctx, i == 0); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, hosts[i].Close()) }()
	}
	var gap [2]times
	for round := range b.gapReloads {
		progress("gap at a reload: round %d of %d", round+1, b.gapReloads)
		for side, h := range hosts {
			closed, err := b.gap(ctx, h)
			if err = errors.Join(err, pause(ctx, probeCalm)); err != nil {
				return nil, err
			}
			gap[side] = append(gap[side], closed)
		}
	}
	ratio := float64(gap[0].median()) / float64(gap[1].median())
	worst := float64(gap[0].percentile(99)) / float64(gap[1].percentile(99))
	return []figure{
		{fmt.Sprintf("10250/tcp shut at a reload, with and without the agent, %d reloads each", b.gapReloads), gap[0].spread(), gap[1].spread(), fmt.Sprintf("%.2fx", ratio), "at most 1.05x", ratio <= 1.05},
		{"  the same at the 99th percentile", "", "", fmt.Sprintf("%.2fx", worst), "", false},
	}, nil
}

// gap reloads firewalld once and gives for how long connections to 10250/tcp were lost.
func (b bench) gap(ctx context.Context, h *lab.Host) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	type probe struct {
		at time.Time
		ok bool
	}
	var mu sync.Mutex
	var probes []probe
	var flying sync.WaitGroup
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(probeEvery)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				flying.Wait()
				return
			case <-tick.C:
			}
			flying.Go(func() {
				p := probe{at: time.Now()}
				p.ok = b.connects(ctx, h)
				mu.Lock()
				defer mu.Unlock()
				probes = append(probes, p)
			})
		}
	}()
	err := pause(ctx, probeBefore)
	if err == nil {
		_, err = h.Must(ctx, "firewall-cmd", "-q", "--reload")
	}
	if err == nil {
		err = pause(ctx, probeAfter)
	}
	close(stop)
	<-stopped
	if err != nil {
		return 0, err
	}
	slices.SortFunc(probes, func(a, b probe) int { return a.at.Compare(b.at) })
	if len(probes) < 2 || !probes[0].ok || !probes[len(probes)-1].ok {
		return 0, fmt.Errorf("10250/tcp of %s is not open before and after a reload", h.Name)
	}
	var closed time.Duration
	for i := 1; i < len(probes); i++ {
		if !probes[i-1].ok {
			closed += probes[i].at.Sub(probes[i-1].at)
		}
	}
	if closed == 0 {
		return 0, errors.New("no connection was lost during a reload: nothing was measured")
	}
	return closed, nil
}

func (b bench) connects(ctx context.Context, h *lab.Host) bool {
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	conn, err := b.Plane.Dial(ctx, "tcp", net.JoinHostPort(h.Address, "10250"))
	if err != nil {
		return false
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // no TIME_WAIT for each of thousands
	}
	conn.Close()
	return true
}
