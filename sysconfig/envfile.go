package sysconfig

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Assignment is one KEY=VALUE that systemd would take from the file.
type Assignment struct {
	Key, Value string
	Line       int // where the key stands, counted from 1
}

// Parse reads data as systemd reads an EnvironmentFile= (systemd.exec(5)): the assignments in the
// order of the file, of which the last one for a key is in force. What systemd would drop with no more
// than a line in its log is a Problem here: a line that is no assignment, a name or value it does not
// take, text that is not UTF-8 (for which it drops the whole file). So is what its releases read
// differently, because the reading would then depend on the host: a backslash in single quotes, one in
// double quotes before an ordinary character (both changed in 240), a line break in a value, and a
// backslash at the end of a comment (changed in 254). So, too, is a quote that is never closed, which
// swallows the rest of the file. file is only used to name the place.
func Parse(file string, data []byte) ([]Assignment, Problems) {
	if i := bytes.IndexByte(data, 0); i >= 0 {
		return nil, Problems{{File: file, Line: 1 + bytes.Count(data[:i], []byte("\n")),
			Why:    "the file holds a NUL byte, so systemd refuses it",
			Remedy: "save it as plain UTF-8 text"}}
	}
	s := scan(data)
	var out []Assignment
	var problems Problems
	for _, it := range s.items {
		p := Problem{File: file, Line: it.line, Key: it.key}
		add := func(why, remedy string) {
			p.Why, p.Remedy = why, remedy
			problems = append(problems, p)
		}
		p.Value = redact(it.key, it.value)
		switch {
		case it.kind == comment:
			if it.odd {
				add("the comment above ends in a backslash, which hides this line from systemd before 254 but not since",
					"remove the backslash at the end of the comment")
			}
			continue
		case it.kind == junk:
			p.Key, p.Value = "", redact("", it.key)
			add("this line is not a KEY=VALUE assignment, so systemd ignores it",
				"write KEY=VALUE, or begin the line with # to make it a comment")
			continue
		case !utf8.ValidString(it.key) || !utf8.ValidString(it.value):
			add("this is not valid UTF-8, so systemd ignores the whole file", "save the file as UTF-8")
			continue
		case !validName(it.key):
			remedy := "use letters, digits and _ only, not beginning with a digit"
			if rest, found := strings.CutPrefix(it.key, "export"); found && strings.TrimLeft(rest, " \t") != rest {
				remedy = `remove "export": the file is read by systemd, not by a shell`
			} else if strings.HasPrefix(it.key, "\ufeff") {
				remedy = "save the file without a byte order mark"
			}
			add("this is not a name for a variable, so systemd ignores the line", remedy)
			continue
		case it.open != 0:
			add(fmt.Sprintf("the quote %c is never closed, so it swallows the rest of the file", it.open), "close the quote")
		case hasControl(it.value):
			add("the value holds a control character or a line break, which systemd drops or keeps depending on its release",
				"write the value on one line, or end each line but the last with a backslash")
		case it.odd:
			add("the backslash in quotes is read differently by systemd before 240 and since",
				`use double quotes, and write \\ for a backslash`)
		}
		out = append(out, Assignment{Key: it.key, Value: it.value, Line: it.line})
	}
	return out, problems
}

// validName is systemd's rule for the name of a variable.
func validName(s string) bool {
	if s == "" || (s[0] >= '0' && s[0] <= '9') {
		return false
	}
	for _, c := range []byte(s) {
		if c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// hasControl is systemd's string_has_cc() of the releases that allow the tab alone.
func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r != '\t' && (r < ' ' || r == 0x7f) })
}
