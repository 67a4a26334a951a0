package live

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

// write runs the operating system's installer. How far it is goes to the provisioner every few seconds; a slow or
// lost provisioner does not hold it.
func (s *session) write(ctx context.Context, argv []string) error {
	program, err := s.lookPath(argv[0])
	if err != nil {
		return fmt.Errorf("cannot run %s: %w", argv[0], err)
	}
	s.say("running %s", strings.Join(argv, " "))
	p := &progress{total: s.imageSize(ctx)}
	group := 0
	ctx, cancel := context.WithCancel(ctx)
	var wait sync.WaitGroup
	wait.Go(func() {
		tick := time.NewTicker(2 * time.Second)
		defer tick.Stop()
		for last := (machine.Progress{Percent: -1}); ; {
			if now := p.now(); now != last {
				s.report(ctx, now)
				last = now
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			p.mu.Lock()
			g := group
			p.mu.Unlock()
			p.downloaded(s.transferred(g))
		}
	})
	runner := s.Run
	if runner == nil {
		runner = run
	}
	err = runner(ctx, append([]string{s.path(program)}, argv[1:]...), func(g int) {
		p.mu.Lock()
		group = g
		p.mu.Unlock()
	}, func(line string) {
		s.say("%s: %s", argv[0], line)
		p.line(line)
	})
	cancel()
	wait.Wait()
	if err != nil {
		return fmt.Errorf("cannot install on %s: %w; its last words: %s", s.disk.Name, err, strings.Join(p.tail(), " | "))
	}
	return nil
}

// progress is how far the installer is, from its words or from what it downloaded.
type progress struct {
	mu      sync.Mutex
	last    []string
	percent int
	message string
	spoken  bool  // it says how far it is
	total   int64 // bytes to download, 0 where not known
}

var percentage = regexp.MustCompile(`(?:^|[^0-9.])([0-9]{1,3})(?:\.[0-9]+)? ?%`)

func (p *progress) line(line string) {
	line = printable(strings.TrimSpace(line), 300)
	p.mu.Lock()
	defer p.mu.Unlock()
	if m := percentage.FindStringSubmatch(line); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil && n <= 100 {
			p.percent, p.spoken = n, true
			return
		}
	}
	p.message = line
	p.last = append(p.last, line)
	if len(p.last) > 5 {
		p.last = p.last[1:]
	}
}

func (p *progress) downloaded(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.spoken && p.total > 0 {
		p.percent = max(p.percent, int(min(100, n*100/p.total)))
	}
}

func (p *progress) now() machine.Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	return machine.Progress{Stage: "write", Percent: p.percent, Message: p.message}
}

func (p *progress) tail() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.last) == 0 {
		return []string{"none"}
	}
	return p.last
}

func (s *session) imageSize(ctx context.Context) int64 {
	urls, err := imageURLs(s.order.Image)
	if err != nil || len(urls) == 0 {
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, urls[0], nil)
	if err != nil {
		return 0
	}
	response, err := (&http.Client{Transport: &http.Transport{}}).Do(request)
	if err != nil {
		return 0
	}
	response.Body.Close()
	return max(0, response.ContentLength)
}

// transferred is how many bytes the downloads of a process group have passed on. flatcar-install's wget is silent; what
// it wrote to the pipe is in its "wchar" (proc_pid_io(5)).
func (l *Live) transferred(group int) int64 {
	if group == 0 {
		return 0
	}
	most := int64(0)
	stats, _ := filepath.Glob(l.path("/proc/[0-9]*/stat"))
	for _, name := range stats {
		data, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) || err != nil {
			continue
		}
		// proc_pid_stat(5): pid (comm) state ppid pgrp …
		text := string(data)
		open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
		if open < 0 || end < open {
			continue
		}
		rest := strings.Fields(text[end+1:])
		if comm := text[open+1 : end]; comm != "wget" && comm != "curl" || len(rest) < 3 || rest[2] != strconv.Itoa(group) {
			continue
		}
		counters, _ := os.ReadFile(filepath.Join(filepath.Dir(name), "io"))
		for _, line := range strings.Split(string(counters), "\n") {
			if v, ok := strings.CutPrefix(line, "wchar: "); ok {
				n, _ := strconv.ParseInt(v, 10, 64)
				most = max(most, n)
			}
		}
	}
	return most
}
