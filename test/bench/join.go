package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
	"github.com/tectonic-worker/tectonic-worker/test/world"
)

// toReady is one way to a Ready Node, in times since the command was started.
type toReady struct{ registered, ready, ended times }

func (t *toReady) add(start, registered, ready, ended time.Time) {
	t.registered = append(t.registered, registered.Sub(start))
	t.ready = append(t.ready, ready.Sub(start))
	t.ended = append(t.ended, ended.Sub(start))
}

// join compares join, on a host that has the package and the kubelet's image and never ran a kubelet, with a bare "systemctl
// restart kubelet" on the same host afterwards. The Node is deleted before, so that both register one. join counts up to
// the command's end, the restart up to when the API server says Ready. It also takes the memory that join needs.
func (b bench) join(ctx context.Context) ([]figure, error) {
	watch, err := watchNodes(ctx, b.Plane)
	if err != nil {
		return nil, err
	}
	var ours, theirs toReady
	peak := 0
	for round := range b.rounds + 1 {
		progress("join and restart: round %d of %d", round, b.rounds)
		var joined, restarted toReady
		kib, err := b.joinRound(ctx, watch, &joined, &restarted)
		if err != nil {
			return nil, err
		}
		if round == 0 {
			continue
		}
		peak = max(peak, kib)
		for _, side := range []struct{ all, one *toReady }{{&ours, &joined}, {&theirs, &restarted}} {
			side.all.registered = append(side.all.registered, side.one.registered...)
			side.all.ready = append(side.all.ready, side.one.ready...)
			side.all.ended = append(side.all.ended, side.one.ended...)
		}
	}
	ratio := float64(ours.ended.median()) / float64(theirs.ready.median())
	return []figure{
		{"join / systemctl restart kubelet, to Ready", ours.ended.String(), theirs.ready.String(), fmt.Sprintf("%.2fx", ratio), "at most 1.25x", ratio <= 1.25},
		{"  of that, until the Node is registered", ours.registered.String(), theirs.registered.String(), "", "", false},
		{"  of that, until the API server says Ready", ours.ready.String(), theirs.ready.String(), "", "", false},
		{"memory of join, peak resident", fmt.Sprintf("%.1f MB", float64(peak)*1024/1e6), "", "", "", false},
	}, nil
}

func (b bench) joinRound(ctx context.Context, watch *nodes, joined, restarted *toReady) (peak int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	h, err := b.host(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	// An image that was pulled leaves podman's own files set up; the lab's comes with a store that podman never saw.
	prepare := "rpm -i /root/" + filepath.Base(b.rpm) + " && podman image exists " + lab.KubeletImage(lab.ControlPlaneVersion)
	if _, err := h.Must(ctx, "sh", "-c", prepare); err != nil {
		return 0, err
	}
	if peak, err = runJoin(ctx, h, watch, joined); err != nil {
		return 0, err
	}
	if _, err := b.Plane.Kubectl(ctx, "delete", "node", h.Name); err != nil {
		return 0, err
	}
	if _, err := watch.await(ctx, h.Name, deleted); err != nil {
		return 0, err
	}
	start := time.Now()
	if _, err := h.Must(ctx, "systemctl", "restart", "kubelet"); err != nil {
		return 0, err
	}
	ended := time.Now()
	registered, err := watch.await(ctx, h.Name, added)
	if err != nil {
		return 0, err
	}
	ready, err := watch.await(ctx, h.Name, isReady)
	if err != nil {
		return 0, fmt.Errorf("%w\n%s", err, h.Journal(ctx, "kubelet", 20))
	}
	restarted.add(start, registered.at, ready.at, ended)
	if _, err := b.Plane.Kubectl(ctx, "delete", "node", h.Name); err != nil {
		return 0, err
	}
	return peak, nil
}

// runJoin joins, and gives join's own peak of resident memory in KiB: getrusage would mix in podman, its child.
func runJoin(ctx context.Context, h *lab.Host, watch *nodes, times *toReady) (peak int, err error) {
	start := time.Now()
	p, err := h.Start(ctx, lab.Command{Args: []string{"sh", "-c", `echo $$ >/run/join.pid; exec tectonic-worker join --assets "$1"`, "sh", world.AssetsDir}})
	if err != nil {
		return 0, err
	}
	stop := make(chan struct{})
	measured := make(chan int, 1)
	go func() { measured <- memoryPeak(h, stop) }()
	r, err := p.Wait()
	ended := time.Now()
	close(stop)
	peak = <-measured
	switch {
	case err != nil:
		return 0, err
	case r.Code != 0:
		return 0, fmt.Errorf("join failed: %s", r)
	case peak == 0:
		return 0, errors.New("cannot read the memory of join")
	}
	registered, err := watch.await(ctx, h.Name, added)
	if err != nil {
		return 0, err
	}
	ready, err := watch.await(ctx, h.Name, isReady)
	if err != nil {
		return 0, err
	}
	times.add(start, registered.at, ready.at, ended)
	return peak, nil
}

// memoryPeak reads VmHWM (proc(5)), which only grows, until stop or the process's end. The kernel forgets it with the
// process, so it has to be looked at while it runs; from outside of the host, that costs the host nothing.
func memoryPeak(h *lab.Host, stop <-chan struct{}) (peak int) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return peak
		case <-tick.C:
		}
		pid, err := h.ReadFile("/run/join.pid")
		if err != nil {
			continue
		}
		status, err := h.ReadFile(filepath.Join("/proc", strings.TrimSpace(string(pid)), "status"))
		if err != nil || !strings.HasPrefix(string(status), "Name:\ttectonic-worker\n") {
			continue
		}
		for line := range strings.Lines(string(status)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "VmHWM:" {
				if kib, err := strconv.Atoi(f[1]); err == nil {
					peak = max(peak, kib)
				}
			}
		}
	}
}

// sizes compares what is installed with kubectl, stripped and built by the lab with the same compiler. The binary is the
// one that the package installs.
func (b bench) sizes(ctx context.Context) ([]figure, error) {
	progress("sizes")
	h, err := b.host(ctx)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	if _, err := h.Must(ctx, "rpm", "-i", "/root/"+filepath.Base(b.rpm)); err != nil {
		return nil, err
	}
	kubectl, err := b.Cache.Kubernetes(ctx, lab.ControlPlaneVersion, "kubectl")
	if err != nil {
		return nil, err
	}
	var mb []float64
	for _, path := range []string{h.Path("/usr/bin/tectonic-worker"), kubectl, b.rpm} {
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("cannot measure a size: %w", err)
		}
		mb = append(mb, float64(info.Size())/1e6)
	}
	size := func(i int) string { return fmt.Sprintf("%.1f MB", mb[i]) }
	return []figure{
		{"size of the binary / kubectl " + lab.ControlPlaneVersion, size(0), size(1), fmt.Sprintf("%.2fx", mb[0]/mb[1]), "at most 40 MB", mb[0] <= 40},
		{"size of the package", size(2), "", "", "at most 15 MB", mb[2] <= 15},
	}, nil
}
