package images

import (
	"fmt"
	"io"
	"path"
	"strings"
	"time"
)

// Bar shows a synchronisation's progress: one line that is drawn again on a terminal, a line for each tenth elsewhere.
type Bar struct {
	w        io.Writer
	terminal bool
	width    int // columns
	now      func() time.Time

	drawn  time.Time
	tenth  int
	action string
	first  Step
	since  time.Time
}

// NewBar draws on w; width is the terminal's, in columns.
func NewBar(w io.Writer, terminal bool, width int) *Bar {
	return &Bar{w: w, terminal: terminal, width: max(width, 40), now: time.Now, tenth: -1}
}

// Step is a Progress.
func (b *Bar) Step(s Step) {
	now := b.now()
	if s.Action != b.action {
		b.action, b.first, b.since, b.tenth = s.Action, s, now, -1
	}
	whole := s.Total > 0 && s.Done >= s.Total
	if !b.terminal {
		if s.Total <= 0 {
			return
		}
		if tenth := int(10 * s.Done / s.Total); tenth > b.tenth {
			b.tenth = tenth
			fmt.Fprintf(b.w, "%s %d%% of %s\n", s.Action, 10*tenth, human(s.Total))
		}
		return
	}
	if now.Sub(b.drawn) < 100*time.Millisecond && !whole {
		return
	}
	b.drawn = now
	fmt.Fprintf(b.w, "\r%s\x1b[K", b.line(s, now))
}

func (b *Bar) line(s Step, now time.Time) string {
	right := human(s.Done)
	filled := 0.0
	if s.Total > 0 {
		filled = min(1, float64(s.Done)/float64(s.Total))
		right = fmt.Sprintf("%3.0f%% of %s", 100*filled, human(s.Total))
	}
	if elapsed := now.Sub(b.since).Seconds(); elapsed >= 1 && s.Done > b.first.Done {
		rate := float64(s.Done-b.first.Done) / elapsed
		right += fmt.Sprintf(", %s/s", human(int64(rate)))
		if left := float64(s.Total-s.Done) / rate; s.Total > s.Done {
			right += ", " + (time.Duration(left) * time.Second).String()
		}
	}
	name := path.Base(s.File)
	const bar = 20
	room := b.width - 1 - len(s.Action) - len(right) - bar - 5
	if len(name) > room {
		name = name[:max(0, room)]
	}
	full := int(filled * bar)
	return fmt.Sprintf("%s [%s%s] %s %s", s.Action, strings.Repeat("=", full), strings.Repeat(" ", bar-full), right, name)
}

// End leaves the line as it is and goes to the next.
func (b *Bar) End() {
	if b.terminal && !b.drawn.IsZero() {
		fmt.Fprintln(b.w)
	}
}
