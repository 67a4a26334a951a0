package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/tectonic-worker/tectonic-worker/agent"
)

// quiet reports nothing: for -o json.
type quiet struct{}

func (quiet) Begin(string, string) {}
func (quiet) Progress(string)      {}
func (quiet) End(agent.StepResult) {}

// report prints a line for each step; on a terminal a spinner turns while the
// step runs.
type report struct {
	w     *os.File
	tty   bool
	width int

	mu       sync.Mutex
	title    string
	progress string
	since    time.Time
	stop     chan struct{}
	stopped  sync.WaitGroup
}

func newReport(w *os.File) *report {
	r := &report{w: w, tty: term.IsTerminal(int(w.Fd())) && os.Getenv("TERM") != "dumb"}
	if r.tty {
		if r.width, _, _ = term.GetSize(int(w.Fd())); r.width < 20 {
			r.width = 80
		}
	}
	return r
}

func (r *report) Begin(_, title string) {
	r.mu.Lock()
	r.title, r.progress, r.since = title, "", time.Now()
	r.mu.Unlock()
	if !r.tty || r.stop != nil {
		return
	}
	r.stop = make(chan struct{})
	r.stopped.Add(1)
	go r.spin(r.stop)
}

// Progress shows on the spinner's line; without a terminal it would be noise.
func (r *report) Progress(text string) {
	r.mu.Lock()
	r.progress = text
	r.mu.Unlock()
}

func (r *report) End(s agent.StepResult) {
	r.close()
	mark, colour := "✓", "\x1b[32m"
	switch s.Status {
	case agent.StatusFailed:
		mark, colour = "✗", "\x1b[31m"
	case agent.StatusUnchanged, agent.StatusSkipped:
		mark, colour = "·", ""
	case agent.StatusWould:
		mark, colour = "+", "\x1b[33m"
	}
	if r.tty && colour != "" {
		mark = colour + mark + "\x1b[0m"
	}
	line := mark + " " + s.Title
	if s.Evidence != "" {
		line += ": " + s.Evidence
	}
	fmt.Fprintf(r.w, "%s (%s%s)\n", line, wordFor(s.Status), seconds(s.Seconds))
	for _, w := range s.Warnings {
		fmt.Fprintf(r.w, "    ! %s\n", w)
	}
	if s.Status != agent.StatusWould {
		return
	}
	for _, o := range s.Resources {
		for _, l := range strings.Split(strings.TrimSuffix(o.Diff, "\n"), "\n") {
			if l != "" {
				fmt.Fprintf(r.w, "    %s\n", l)
			}
		}
	}
}

func wordFor(s agent.StepStatus) string {
	switch s {
	case agent.StatusUnchanged:
		return "unchanged, "
	case agent.StatusSkipped:
		return "skipped, "
	case agent.StatusWould:
		return "would change, "
	case agent.StatusFailed:
		return "failed, "
	}
	return ""
}

func seconds(s float64) string {
	if s < 1 {
		return fmt.Sprintf("%.0f ms", s*1000)
	}
	return fmt.Sprintf("%.1f s", s)
}

// close takes the spinner away.
func (r *report) close() {
	if r.stop != nil {
		close(r.stop)
		r.stopped.Wait()
		r.stop = nil
	}
}

func (r *report) spin(stop chan struct{}) {
	defer r.stopped.Done()
	tick := time.NewTicker(120 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-stop:
			writeAll(r.w, "\r\x1b[K")
			return
		case <-tick.C:
			r.mu.Lock()
			line := fmt.Sprintf("%c %s (%.0f s) %s", []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")[i%10], r.title, time.Since(r.since).Seconds(), r.progress)
			r.mu.Unlock()
			if runes := []rune(line); len(runes) >= r.width {
				line = string(runes[:r.width-2]) + "…"
			}
			writeAll(r.w, "\r\x1b[K"+line)
		}
	}
}
