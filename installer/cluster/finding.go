package cluster

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Severity says whether a finding keeps the file from being used.
type Severity string

const (
	Error   Severity = "error"   // the file cannot be used
	Warning Severity = "warning" // it can, and an operator should know
)

// Finding is one thing wrong in the cluster file, with all an operator needs to mend it.
type Finding struct {
	File     string   `json:"file"`
	Line     int      `json:"line,omitempty"`  // counted from 1; 0 when the whole file is meant
	Field    string   `json:"field,omitempty"` // as in machines[2].macs[0]; empty when no field could be read
	Message  string   `json:"message"`         // what is wrong; and what to do, after a semicolon
	Severity Severity `json:"severity"`
}

// Error is the finding as one line.
func (f Finding) Error() string {
	var b strings.Builder
	b.WriteString(printable(f.File))
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d", f.Line)
	}
	b.WriteString(": ")
	if f.Severity == Warning {
		b.WriteString("warning: ")
	}
	if f.Field != "" {
		fmt.Fprintf(&b, "%s: ", f.Field)
	}
	b.WriteString(f.Message)
	return b.String()
}

// Findings is every finding, in the order of lines. As an error it means bad configuration.
type Findings []Finding

// Error lists the findings, one a line.
func (f Findings) Error() string {
	lines := make([]string, len(f))
	for i, one := range f {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// severity returns those of one severity, sorted by line.
func (f Findings) severity(s Severity) Findings {
	var out Findings
	for _, one := range f {
		if one.Severity == s {
			out = append(out, one)
		}
	}
	slices.SortFunc(out, func(a, b Finding) int {
		return cmp.Or(a.Line-b.Line, strings.Compare(a.Field, b.Field), strings.Compare(a.Message, b.Message))
	})
	return out
}

// printable keeps a message on one line of a terminal whatever the file holds.
func printable(s string) string {
	const most = 200
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	quoted := strconv.Quote(s)
	if plain := quoted[1 : len(quoted)-1]; plain == s {
		return s
	}
	return quoted
}

// nearest is the word that s was probably meant to be, empty when none is near.
func nearest(s string, words []string) string {
	best, least := "", len(s)/3+1
	for _, w := range words {
		if len(s) >= 3 && strings.HasPrefix(w, s) || strings.EqualFold(strings.NewReplacer("_", "", "-", "").Replace(s), w) {
			return w
		}
		if d := distance(strings.ToLower(s), strings.ToLower(w), least); d < least || best == "" && d == least && d < len(w) {
			best, least = w, d
		}
	}
	return best
}

// distance is Levenshtein's; anything above most is returned as most+1.
func distance(a, b string, most int) int {
	if len(a)-len(b) > most || len(b)-len(a) > most {
		return most + 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return min(row[len(b)], most+1)
}

// oneOf lists words for a message: a, b or c.
func oneOf(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
