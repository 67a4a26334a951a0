package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

// result is one storm.
type result struct {
	declared, armed   time.Duration // all of them, by one operator
	storm             time.Duration // from the first machine's first byte to the last one's last
	processor         time.Duration // of the provisioner meanwhile
	idle, after, peak int64         // resident memory of the provisioner in bytes
	disk              int64         // what its state takes, in bytes
	opened            time.Duration // reading that state again
	retried           int64         // calls that found no answer and were made again
	took              map[string][]time.Duration
	load              [2]float64
}

func run(ctx context.Context, s settings) (r *result, err error) {
	dir, err := os.MkdirTemp(s.dir, "storm-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	p, err := install(dir, s.machines)
	if err != nil {
		return nil, err
	}
	defer p.operator.Close()
	if err := p.start(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	r = &result{}
	r.load[0] = load()

	began := time.Now()
	if err := each(ctx, s.machines, 64, func(ctx context.Context, i int) error {
		_, err := p.operator.Put(ctx, definition(i))
		return err
	}); err != nil {
		return nil, fmt.Errorf("declaring: %w", err)
	}
	r.declared = time.Since(began)
	began = time.Now()
	if err := each(ctx, s.machines, 64, func(ctx context.Context, i int) error {
		_, err := p.operator.Arm(ctx, name(i), machine.ArmRequest{Action: machine.ActionInstall})
		return err
	}); err != nil {
		return nil, fmt.Errorf("arming: %w", err)
	}
	r.armed = time.Since(began)
	p.operator.Close()
	if r.idle, _, err = p.memory(); err != nil {
		return nil, err
	}
	if err := r.blow(ctx, s, p); err != nil {
		return nil, err
	}
	if r.after, r.peak, err = p.memory(); err != nil {
		return nil, err
	}
	r.load[1] = load()
	if err := p.stop(); err != nil {
		return nil, err
	}
	return r, r.prove(ctx, s, filepath.Join(dir, "data", "machines"))
}

// blow is the storm itself.
func (r *result) blow(ctx context.Context, s settings, p *provisioner) error {
	pem, err := os.ReadFile(filepath.Join(p.dir, "tls", "ca.crt"))
	if err != nil {
		return err
	}
	f := &fleet{p: p, roots: x509.NewCertPool(), took: map[string][]time.Duration{}}
	f.roots.AppendCertsFromPEM(pem)
	before, err := p.processor()
	if err != nil {
		return err
	}
	began := time.Now()
	err = each(ctx, s.machines, s.machines, func(ctx context.Context, i int) error {
		timer := time.NewTimer(s.over * time.Duration(i) / time.Duration(s.machines))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		return f.live(ctx, i)
	})
	r.storm = time.Since(began)
	after, perr := p.processor()
	r.processor, r.retried, r.took = after-before, f.retried.Load(), f.took
	return errors.Join(err, perr)
}

// each does something for 0 to n-1, some at a time, and reports the first few errors.
func each(ctx context.Context, n, atATime int, do func(context.Context, int) error) error {
	var mu sync.Mutex
	var errs []error
	failed := 0
	var all sync.WaitGroup
	next := make(chan int)
	for range min(n, atATime) {
		all.Go(func() {
			for i := range next {
				if err := do(ctx, i); err != nil {
					mu.Lock()
					if failed++; failed <= 5 {
						errs = append(errs, err)
					}
					mu.Unlock()
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	all.Wait()
	if failed > 0 {
		return fmt.Errorf("%d of %d failed: %w", failed, n, errors.Join(errs...))
	}
	return nil
}

// prove reads what the provisioner left on the disk: every machine is ready, was served once and claimed once.
func (r *result) prove(ctx context.Context, s settings, dir string) error {
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			r.disk += info.Size()
		}
		return err
	})
	if err != nil {
		return err
	}
	began := time.Now()
	store, err := machine.Open(dir, machine.Options{})
	if err != nil {
		return err
	}
	r.opened = time.Since(began)
	defer store.Close()
	all, _ := store.List()
	if len(all) != s.machines {
		return fmt.Errorf("%d machines were declared, %d are known", s.machines, len(all))
	}
	for _, m := range all {
		if m.State != machine.Ready {
			return fmt.Errorf("%s is %s: %s", m.Name, m.State, m.Reason)
		}
		events, err := store.Timeline(ctx, m.Name)
		if err != nil {
			return err
		}
		count := map[string]int{}
		for _, e := range events {
			count[e.Kind]++
			if e.Kind == "boot" && strings.Contains(e.Message, "gets its installer") {
				count["served"]++
			}
		}
		for _, once := range []string{"arm", "served", "hello", "check", "claim", "installed", "ready"} {
			if count[once] != 1 {
				return fmt.Errorf("%s: %q is %d times in its timeline", m.Name, once, count[once])
			}
		}
		if count["boot"] != 2 || count["progress"] != 5 {
			return fmt.Errorf("%s: %v in its timeline", m.Name, count)
		}
	}
	return nil
}

func (r *result) show(w io.Writer, s settings) {
	verdict := "MISSED"
	if r.storm < s.target {
		verdict = "met"
	}
	fmt.Fprintf(w, "%d machines, each served once, installed and ready: %.1f s (target: under %.0f s, %s)\n", s.machines, r.storm.Seconds(), s.target.Seconds(), verdict)
	requests := 0
	for call, took := range r.took {
		n := len(took)
		switch call {
		case "progress":
			n *= 5
		case "/boot.ipxe":
			n *= 2
		}
		requests += n
	}
	fmt.Fprintf(w, "%d requests, %.0f a second; %d were made again; %.1f s of processor in the provisioner\n", requests, float64(requests)/r.storm.Seconds(), r.retried, r.processor.Seconds())
	fmt.Fprintf(w, "declared in %.1f s, armed in %.1f s, by one operator; the state takes %.1f MB, and is read again in %.2f s\n", r.declared.Seconds(), r.armed.Seconds(), mb(r.disk), r.opened.Seconds())
	fmt.Fprintf(w, "resident memory of the provisioner: %.0f MB before, %.0f MB at most, %.0f MB after\n\n", mb(r.idle), mb(r.peak), mb(r.after))
	out := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "call\tmedian\t99th\tworst\t")
	for _, call := range calls {
		took := r.took[call]
		slices.Sort(took)
		at := func(q float64) string {
			return fmt.Sprintf("%.0f ms", took[min(len(took)-1, int(q*float64(len(took))))].Seconds()*1000)
		}
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\t\n", call, at(0.5), at(0.99), at(1))
	}
	out.Flush()
	fmt.Fprintf(w, "\nLoad average %.1f before and %.1f after, on %d processors, which the machines share with the provisioner.\n", r.load[0], r.load[1], runtime.NumCPU())
	if r.load[0] > float64(runtime.NumCPU())+1 {
		fmt.Fprintln(w, "BUSY: other work ran beside this one. Measure again on a quiet machine.")
	}
}

func mb(n int64) float64 { return float64(n) / 1e6 }

func load() float64 {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), " ")
	n, _ := strconv.ParseFloat(first, 64)
	return n
}
