package watch

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

// nameOf is what a machine is called: a discovered one by its MAC address.
func nameOf(s machine.Status) string {
	if s.Name != "" {
		return s.Name
	}
	if len(s.MACs) > 0 {
		return s.MACs[0]
	}
	return "?"
}

// Line is an event as one line of text.
func Line(e machine.Event) string {
	name := e.Machine
	if name == "" {
		name = cmp.Or(e.MAC, "-")
	}
	return fmt.Sprintf("%s  %s  %s %s: %s", e.Time.Local().Format(time.TimeOnly), printable(name), printable(e.Source), printable(e.Kind), printable(e.Message))
}

// summary says in words where a machine is and what comes next.
func summary(s machine.Status, now time.Time) string {
	text := string(s.State)
	if s.Action == machine.ActionWipe {
		text += " (wipe)"
	}
	return text + "; " + what(s, now)
}

// what says what there is to know of a machine in its state.
func what(s machine.Status, now time.Time) string {
	switch {
	case s.State == machine.Failed:
		return s.Reason
	case s.Overdue != nil:
		return fmt.Sprintf("OVERDUE for %s: %s", age(now.Sub(*s.Overdue)), s.Next)
	case s.Next != "":
		return "next: " + s.Next
	}
	return ""
}

// ranks are the order in which machines matter when not all of them fit.
var ranks = map[machine.State]int{
	machine.Failed: 0, machine.Installing: 2, machine.Booting: 2, machine.Installed: 3, machine.Armed: 4, machine.Discovered: 5, machine.Accepted: 6, machine.Ready: 7,
}

func rank(s machine.Status) int {
	if s.Overdue != nil {
		return 1
	}
	return ranks[s.State]
}

// Draw renders a table of machines for a terminal of so many columns and lines. When there are more machines than
// lines, those that need an operator or are under way are shown, and the others are counted.
func Draw(all []machine.Status, columns, lines int, now time.Time, colour bool) string {
	room := max(1, lines-4) // the head, the line of sums, that of a provisioner that is gone, the cursor's
	shown := slices.Clone(all)
	if len(shown) > room {
		slices.SortStableFunc(shown, func(a, b machine.Status) int { return rank(a) - rank(b) })
		shown = shown[:room]
	}
	rows := make([][]string, 0, len(shown)+1)
	rows = append(rows, []string{"MACHINE", "ROLE", "STATE", "FOR", "PROGRESS", ""})
	for _, s := range shown {
		state := string(s.State)
		if s.Action == machine.ActionWipe && s.State != machine.Accepted {
			state += " (wipe)"
		}
		rows = append(rows, []string{printable(nameOf(s)), printable(s.Role), state, age(now.Sub(s.Since)), progress(s), printable(what(s, now))})
	}
	widths := make([]int, len(rows[0]))
	for _, r := range rows {
		for i, cell := range r {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	if widths[4] == len("PROGRESS") && !slices.ContainsFunc(shown, func(s machine.Status) bool { return progress(s) != "" }) {
		widths[4], rows[0][4] = 0, ""
	}
	var b strings.Builder
	for i, r := range rows {
		var line strings.Builder
		for j, cell := range r {
			if widths[j] == 0 {
				continue
			}
			line.WriteString(cell)
			if j < len(r)-1 {
				line.WriteString(strings.Repeat(" ", widths[j]-utf8.RuneCountInString(cell)+2))
			}
		}
		text := clip(strings.TrimRight(line.String(), " "), columns)
		if colour && i > 0 {
			text = paint(shown[i-1], text)
		}
		b.WriteString(text + "\n")
	}
	b.WriteString(clip(sums(all, len(all)-len(shown)), columns) + "\n")
	return b.String()
}

// paint colours a whole line: so the widths need not know of it.
func paint(s machine.Status, line string) string {
	code := ""
	switch {
	case s.State == machine.Failed:
		code = "31"
	case s.Overdue != nil:
		code = "33"
	case s.State == machine.Ready:
		code = "32"
	default:
		return line
	}
	return "\x1b[" + code + "m" + line + "\x1b[0m"
}

func progress(s machine.Status) string {
	if s.State != machine.Installing || s.Stage == "" {
		return ""
	}
	const width = 10
	full := min(max(s.Percent, 0), 100) * width / 100
	return fmt.Sprintf("[%s%s] %3d %% %s", strings.Repeat("#", full), strings.Repeat(".", width-full), s.Percent, printable(s.Stage))
}

// sums counts machines by state.
func sums(all []machine.Status, hidden int) string {
	if len(all) == 0 {
		return "no machines: apply a cluster file, or boot one from the network"
	}
	count := map[machine.State]int{}
	overdue := 0
	for _, s := range all {
		count[s.State]++
		if s.Overdue != nil {
			overdue++
		}
	}
	parts := []string{}
	for _, s := range []machine.State{machine.Discovered, machine.Accepted, machine.Armed, machine.Booting, machine.Installing, machine.Installed, machine.Ready, machine.Failed} {
		if count[s] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count[s], s))
		}
	}
	text := fmt.Sprintf("%d machines: %s", len(all), strings.Join(parts, ", "))
	if len(all) == 1 {
		text = "1 machine: " + strings.TrimPrefix(parts[0], "1 ")
	}
	if overdue > 0 {
		text += fmt.Sprintf("; %d overdue", overdue)
	}
	if hidden > 0 {
		text += fmt.Sprintf("; %d not shown", hidden)
	}
	return text
}

// age is a duration in its two greatest units at most.
func age(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// printable takes out what would move the cursor or turn text around: a provisioner has done so already, but a terminal
// shall not depend on that.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.Is(unicode.C, r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r) {
			return '?'
		}
		return r
	}, s)
}

// clip cuts a line to a width, since a line that wraps would spoil drawing in place.
func clip(s string, columns int) string {
	if columns < 1 || utf8.RuneCountInString(s) <= columns {
		return s
	}
	r := []rune(s)
	return string(r[:max(0, columns-1)]) + "…"
}

// screen is the part of a terminal that is drawn again and again.
type screen struct {
	out   io.Writer
	lines int // of the last drawing
	last  string
}

// Sequences of ECMA-48 and DEC: up, erase to the end, no wrapping of characters that are wider than they count.
const (
	up      = "\x1b[%dA\r"
	erase   = "\x1b[J"
	noWrap  = "\x1b[?7l"
	wrapped = "\x1b[?7h"
)

func (s *screen) draw(text string) error {
	if text == s.last {
		return nil
	}
	var b strings.Builder
	b.WriteString(noWrap)
	if s.lines > 0 {
		fmt.Fprintf(&b, up, s.lines)
	}
	b.WriteString(erase + text)
	s.lines, s.last = strings.Count(text, "\n"), text
	_, err := io.WriteString(s.out, b.String())
	return err
}

// leave gives the terminal back; the last drawing stays.
func (s *screen) leave() { _, _ = io.WriteString(s.out, wrapped) }
