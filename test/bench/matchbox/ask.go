package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"
)

// world is what is asked: a server for each number of groups, and the bare one.
type world struct {
	dirs      []string
	processes []*process
	bare      *process
	ours      []*process // by size
	theirs    []*process // by size; nil: not measured
}

func (w *world) close() {
	for _, p := range w.processes {
		p.stop()
	}
	for _, dir := range w.dirs {
		_ = os.RemoveAll(dir)
	}
}

func open(ctx context.Context, s settings) (_ *world, err error) {
	w := &world{}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	started := func(p *process, err error) (*process, error) {
		if err == nil {
			w.processes = append(w.processes, p)
		}
		return p, err
	}
	data := func(n int) (string, error) {
		dir, err := os.MkdirTemp("", "matchbox-bench")
		if err != nil {
			return "", err
		}
		w.dirs = append(w.dirs, dir)
		return dir, writeData(dir, n)
	}
	for _, n := range s.sizes {
		fmt.Fprintf(os.Stderr, "starting with %d groups\n", n)
		dir, err := data(n)
		if err != nil {
			return nil, err
		}
		p, err := started(startOwn(ctx, "ours", dir))
		if err != nil {
			return nil, err
		}
		w.ours = append(w.ours, p)
		var theirs *process
		if s.matchbox != "" && n <= s.matchboxMax {
			if theirs, err = started(startMatchbox(ctx, s.matchbox, dir)); err != nil {
				return nil, err
			}
		}
		w.theirs = append(w.theirs, theirs)
	}
	dir, err := data(1)
	if err != nil {
		return nil, err
	}
	w.bare, err = started(startOwn(ctx, "bare", dir))
	return w, err
}

// measure asks all servers for all endpoints, in turn, so that what else the machine does falls on all alike. Ratios are
// made within a round for the same reason.
func measure(ctx context.Context, s settings) (results []result, err error) {
	w, err := open(ctx, s)
	if err != nil {
		return nil, err
	}
	defer w.close()
	for _, endpoint := range endpoints {
		fmt.Fprintf(os.Stderr, "asking for %s\n", endpoint)
		ours, theirs, bare := make([]rounds, len(s.sizes)), make([]rounds, len(s.sizes)), rounds{}
		for round := range s.rounds + 1 {
			count := round > 0
			err := bare.ask(ctx, w.bare, endpoint, 1, s, count)
			for i, n := range s.sizes {
				err = errors.Join(err, ours[i].ask(ctx, w.ours[i], endpoint, n, s, count))
				if p := w.theirs[i]; p != nil {
					err = errors.Join(err, theirs[i].ask(ctx, p, endpoint, n, s, count))
				}
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", endpoint, err)
			}
		}
		for i, n := range s.sizes {
			r := result{
				groups: n, endpoint: endpoint, ours: ours[i].side(), bare: bare.side(),
				ofBare: ratio(ours[i].rates, bare.rates), ofFirst: ratio(ours[i].rates, ours[0].rates),
				started: w.ours[i].started, resident: w.ours[i].resident(), residentBare: w.bare.resident(),
			}
			if len(theirs[i].rates) > 0 {
				r.theirsMeasured, r.theirs = true, theirs[i].side()
			}
			results = append(results, r)
		}
	}
	return results, nil
}

// rounds is what one server did, round by round.
type rounds struct {
	rates, cpu []float64
	p99s       []time.Duration
}

func (r *rounds) ask(ctx context.Context, p *process, endpoint string, machines int, s settings, count bool) error {
	before := p.cpu()
	answers, rate, p99, err := ask(ctx, p.address, endpoint, machines, s)
	if err != nil || !count {
		return err
	}
	r.rates, r.p99s = append(r.rates, rate), append(r.p99s, p99)
	r.cpu = append(r.cpu, (p.cpu()-before).Seconds()/float64(answers))
	return nil
}

func (r *rounds) side() side { return side{median(r.rates), median(r.p99s), median(r.cpu)} }

// ratio is the median of the rounds' ratios.
func ratio(a, b []float64) float64 {
	ratios := make([]float64, len(a))
	for i := range a {
		ratios[i] = a[i] / b[i]
	}
	return median(ratios)
}

// ask has all connections ask for an endpoint, as one machine after the other, and gives the number of answers, that
// number a second, and the 99th percentile of how long an answer took. Each answer is read in full and must be good.
func ask(ctx context.Context, address, endpoint string, machines int, s settings) (answers int, rate float64, p99 time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.duration)
	defer cancel()
	deadline := time.Now().Add(s.duration + 20*time.Second)
	requests := make([][]byte, min(machines, 2000))
	for i := range requests {
		m := rand.IntN(machines)
		requests[i] = fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: matchbox.example.com\r\nUser-Agent: iPXE/1.21.1\r\n\r\n", query(endpoint, m))
	}
	var (
		all   sync.WaitGroup
		mu    sync.Mutex
		times []time.Duration
		errs  []error
	)
	began := time.Now()
	for i := range s.connections {
		all.Go(func() {
			took, err := converse(ctx, address, requests, i*len(requests)/s.connections, deadline)
			mu.Lock()
			defer mu.Unlock()
			times = append(times, took...)
			errs = append(errs, err)
		})
	}
	all.Wait()
	elapsed := time.Since(began)
	if err := errors.Join(errs...); err != nil {
		return 0, 0, 0, err
	}
	slices.Sort(times)
	return len(times), float64(len(times)) / elapsed.Seconds(), times[len(times)*99/100], nil
}

// converse is one connection: a request, its answer, the next. It speaks just as much HTTP as it needs, so that the
// asking side does not cost more than the answering.
func converse(ctx context.Context, address string, requests [][]byte, at int, deadline time.Time) (times []time.Duration, err error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(deadline); err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(c, 16<<10)
	for ctx.Err() == nil {
		began := time.Now()
		if _, err := c.Write(requests[at%len(requests)]); err != nil {
			return nil, err
		}
		if err := readAnswer(in); err != nil {
			return nil, err
		}
		times = append(times, time.Since(began))
		at++
	}
	return times, nil
}

// readAnswer reads one answer that has a length or comes in chunks.
func readAnswer(in *bufio.Reader) error {
	line, err := readLine(in)
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("answered %q", line)
	}
	length, chunked := int64(-1), false
	for {
		line, err := readLine(in)
		if err != nil {
			return err
		}
		if len(line) == 0 {
			break
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.ParseInt(string(value), 10, 64); err != nil {
				return err
			}
		}
		chunked = chunked || string(line) == "Transfer-Encoding: chunked"
	}
	if !chunked {
		return skip(in, length)
	}
	for {
		line, err := readLine(in)
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(string(line), 16, 64)
		if err != nil {
			return err
		}
		if err := skip(in, n+2); err != nil || n == 0 {
			return err
		}
	}
}

func readLine(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	return bytes.TrimRight(line, "\r\n"), err
}

func skip(in *bufio.Reader, n int64) error {
	if n < 0 {
		return errors.New("an answer without a length")
	}
	_, err := in.Discard(int(n))
	return err
}
