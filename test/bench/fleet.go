package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

const (
	fleetSettle = 10 * time.Second // after all have come, before anything is read
	fleetAlone  = 30 * time.Second // of the API server without agents
	fleetWindow = time.Minute      // of steady state
	clockTick   = 100              // per second, of utime and stime in /proc/PID/stat: fixed for every program (proc(5))
)

// fleet measures what many agents cost the API server.
func (b bench) fleet(ctx context.Context) ([]figure, error) {
	sizes := []int{b.agents}
	if b.full {
		sizes = []int{1000, 5000}
	}
	var figures []figure
	for _, n := range sizes {
		got, err := b.fleetOf(ctx, n)
		if err != nil {
			return nil, fmt.Errorf("%d agents: %w", n, err)
		}
		figures = append(figures, got...)
	}
	return figures, nil
}

// server is what the API server is at one moment.
type server struct {
	at       time.Time
	resident int // KiB
	cpu      time.Duration
	requests map[string]float64 // by verb and resource, since its start
	watches  float64            // of Nodes, that are open
}

func (b bench) fleetOf(ctx context.Context, n int) (_ []figure, err error) {
	apiserver, err := child("kube-apiserver")
	if err != nil {
		return nil, err
	}
	manager, err := child("kube-controller-manager")
	if err != nil {
		return nil, err
	}
	h, err := b.host(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	if err := install(ctx, h, "fleet"); err != nil {
		return nil, err
	}
	// Nobody renews these Nodes' leases. The controller manager would say so of each of them, and be measured.
	if err := syscall.Kill(manager, syscall.SIGSTOP); err != nil {
		return nil, fmt.Errorf("cannot stop the controller manager for a while: %w", err)
	}
	defer func() { err = errors.Join(err, syscall.Kill(manager, syscall.SIGCONT)) }()
	progress("fleet: %d nodes", n)
	if err := b.makeNodes(ctx, h, n); err != nil {
		return nil, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
		defer cancel()
		_, failed := b.Plane.Kubectl(ctx, "delete", "nodes", "-l", "bench=fleet", "--wait=false")
		err = errors.Join(err, failed)
	}()
	look := func(wait time.Duration) (s server, err error) {
		if err := pause(ctx, wait); err != nil {
			return s, err
		}
		return b.look(ctx, apiserver)
	}
	progress("fleet: the API server without agents")
	var alone, before, up, steady server
	if alone, err = look(fleetSettle); err == nil {
		before, err = look(fleetAlone)
	}
	if err != nil {
		return nil, err
	}
	stop, err := startFleet(ctx, h, n)
	if err != nil {
		return nil, err
	}
	progress("fleet: the API server with %d agents", n)
	if up, err = look(fleetSettle); err == nil {
		steady, err = look(fleetWindow)
	}
	if err = errors.Join(err, stop()); err != nil {
		return nil, err
	}
	// What counts nothing would find the target met.
	if _, rate := requests(before, up); rate*up.at.Sub(before.at).Seconds() < float64(2*n) || steady.watches < float64(n) {
		return nil, fmt.Errorf("the API server saw %.0f watches of Nodes, and no %d requests before them: nothing was measured", steady.watches, 2*n)
	}
	each := float64(steady.resident-before.resident) / float64(n)
	perMinute := func(from, to server) float64 { return (to.cpu - from.cpu).Seconds() / to.at.Sub(from.at).Minutes() }
	with, without := perMinute(up, steady), perMinute(alone, before)
	what, rate := requests(up, steady)
	_, base := requests(alone, before)
	figures := []figure{
		{fmt.Sprintf("API server's memory with %d agents / without", n), fmt.Sprintf("%.0f MiB", float64(steady.resident)/1024), fmt.Sprintf("%.0f MiB", float64(before.resident)/1024), fmt.Sprintf("%.0f KiB an agent", each), "", false},
		{"  its CPU time in a minute of steady state", fmt.Sprintf("%.2f s", with), fmt.Sprintf("%.2f s", without), fmt.Sprintf("%.2f ms an agent", (with-without)*1000/float64(n)), "", false},
		{"  its CPU for one agent to connect", fmt.Sprintf("%.1f ms", float64((up.cpu-before.cpu).Microseconds())/float64(n)/1000), "", "", "", false},
		{fmt.Sprintf("requests a second for Nodes from %d agents, steady state", n), fmt.Sprintf("%.3f", rate), fmt.Sprintf("%.3f", base), "", "none", rate == 0},
	}
	for _, w := range what {
		figures = append(figures, figure{what: "  " + w})
	}
	return figures, nil
}

// makeNodes makes the Nodes and their credentials, each one its own as a kubelet gets it by TLS bootstrapping.
func (b bench) makeNodes(ctx context.Context, h *lab.Host, n int) error {
	var yaml strings.Builder
	for i := range n {
		name := fmt.Sprintf("fleet-%04d", i)
		kubeconfig, err := b.Plane.ClientKubeconfig(lab.Subject{Name: "system:node:" + name, Organizations: []string{"system:nodes"}})
		if err != nil {
			return err
		}
		if err := h.WriteFile("/root/fleet/"+name, kubeconfig, 0o600); err != nil {
			return err
		}
		fmt.Fprintf(&yaml, "---\napiVersion: v1\nkind: Node\nmetadata: {name: %s, labels: {bench: fleet}}\n", name)
	}
	path := filepath.Join(h.Path("/root"), "fleet.yaml")
	if err := os.WriteFile(path, []byte(yaml.String()), 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	_, err := b.Plane.Kubectl(ctx, "create", "--validate=false", "-f", path)
	return err
}

// startFleet returns when the API server has answered all of them.
func startFleet(ctx context.Context, h *lab.Host, n int) (stop func() error, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	in, hold := io.Pipe()
	said, out := io.Pipe()
	p, err := h.Start(ctx, lab.Command{Args: []string{"fleet", "/root/fleet"}, Stdin: in, Stdout: out})
	if err != nil {
		cancel()
		return nil, err
	}
	var result lab.Result
	var failed error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		result, failed = p.Wait()
		if failed == nil && (result.Code != 0 || result.Stderr != "") {
			failed = fmt.Errorf("%.2000s", result)
		}
		out.Close()
	}()
	stop = sync.OnceValue(func() error {
		hold.Close()
		<-ended
		cancel()
		return failed
	})
	line, err := bufio.NewReader(said).ReadString('\n')
	if want := fmt.Sprintf("following %d\n", n); err != nil || line != want {
		return nil, errors.Join(fmt.Errorf("the agents said %q, not %q", line, want), stop())
	}
	go func() { _, _ = io.Copy(io.Discard, said) }()
	return stop, nil
}

// look reads what the API server costs, and its own count of requests.
func (b bench) look(ctx context.Context, pid int) (s server, err error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return s, err
	}
	if s.resident, err = field(status, "VmRSS"); err != nil {
		return s, err
	}
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return s, err
	}
	// The command's name, in brackets, may have anything in it; utime and stime are the 12th and 13th field after it.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return s, fmt.Errorf("cannot read the CPU time of %d: %q", pid, stat)
	}
	for _, f := range fields[11:13] {
		ticks, err := strconv.Atoi(f)
		if err != nil {
			return s, err
		}
		s.cpu += time.Duration(ticks) * time.Second / clockTick
	}
	s.at = time.Now()
	metrics, err := b.Plane.Get(ctx, "/metrics")
	if err != nil {
		return s, err
	}
	s.requests = map[string]float64{}
	for line := range strings.Lines(string(metrics)) {
		metric, labels, ok := strings.Cut(line, "{")
		if !ok || metric != "apiserver_request_total" && metric != "apiserver_longrunning_requests" {
			continue
		}
		labels, value, ok := strings.Cut(labels, "} ")
		count, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if !ok || err != nil {
			return s, fmt.Errorf("cannot read %q", line)
		}
		verb, resource := label(labels, "verb"), label(labels, "resource")
		if metric == "apiserver_request_total" {
			s.requests[verb+" "+resource] += count
		} else if verb == "WATCH" && resource == "nodes" {
			s.watches += count
		}
	}
	if len(s.requests) == 0 {
		return s, errors.New("the API server does not count its requests")
	}
	return s, nil
}

func label(labels, name string) string {
	for l := range strings.SplitSeq(labels, ",") {
		if value, ok := strings.CutPrefix(l, name+`="`); ok {
			return strings.TrimSuffix(value, `"`)
		}
	}
	return ""
}

// requests are those for Nodes between two moments, in words and for each second. Agents ask for nothing else but to
// create Events. A watch is counted when it ends.
func requests(from, to server) (what []string, rate float64) {
	for kind, n := range to.requests {
		verb, resource, _ := strings.Cut(kind, " ")
		if d := n - from.requests[kind]; d > 0 && (resource == "nodes" || resource == "events") {
			what = append(what, fmt.Sprintf("%s %s: %.0f", verb, resource, d))
			rate += d
		}
	}
	return what, rate / to.at.Sub(from.at).Seconds()
}

// child finds a process of the lab's, which this program started.
func child(name string) (pid int, err error) {
	statuses, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		return 0, err
	}
	for _, path := range statuses {
		dir := filepath.Dir(path)
		program, err := os.Readlink(filepath.Join(dir, "exe"))
		if err != nil || filepath.Base(program) != name {
			continue // ended, or the kernel's
		}
		status, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if parent, err := field(status, "PPid"); err == nil && parent == os.Getpid() {
			return strconv.Atoi(filepath.Base(dir))
		}
	}
	return 0, fmt.Errorf("cannot find the lab's %s", name)
}
