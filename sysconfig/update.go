package sysconfig

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Update returns data with the keys of set assigned. A key's last assignment, which is the one in
// force, is replaced where it stands; a key that has none replaces its commented example ("#KEY=…");
// failing that it is appended. Every other byte stays. A key that has the value already is not touched,
// so a second Update changes nothing. An empty value unsets the key.
//
// The result reads back, by Parse and by every systemd, as data did with set on top, provided that
// Parse found no Problem in data. A name or value that no systemd would pass on is a mistake of the
// caller, since Load refuses it: Update panics.
func Update(data []byte, set map[string]string) []byte {
	names := make([]string, 0, len(set))
	for name := range set {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	out := slices.Clone(data)
	for _, name := range names {
		if !validName(name) || hasControl(set[name]) || !utf8.ValidString(set[name]) {
			panic(fmt.Sprintf("sysconfig: Update: the value of %q cannot be written to a file", name))
		}
		out = update(out, name, set[name])
	}
	return out
}

// rank is a key's place in the shipped files; keys that are not there come last.
func rank(name string) int {
	if i := slices.IndexFunc(keys, func(k KeyDoc) bool { return k.Name == name }); i >= 0 {
		return i
	}
	return len(keys)
}

// An example holds no backslash, so it is one line in the eyes of every systemd.
var example = regexp.MustCompile(`^#[ \t]?([A-Za-z_][A-Za-z0-9_]*)=[^\\]*$`)

func update(data []byte, name, val string) []byte {
	s := scan(data)
	place := -1
	for i, it := range s.items {
		if it.kind == assignment && it.key == name {
			place = i
		}
	}
	if place >= 0 && s.items[place].value == val {
		return data
	}
	if place < 0 {
		if val == "" {
			return data
		}
		for i, it := range s.items {
			if m := example.FindSubmatch(data[it.start:it.end]); it.kind == comment && m != nil && string(m[1]) == name {
				place = i
			}
		}
	}
	line := name + "=" + quote(val)
	if place >= 0 {
		it := s.items[place]
		return slices.Concat(data[:it.start], []byte(line), data[it.end:])
	}

	newline := "\n"
	if i := bytes.IndexByte(data, '\n'); i > 0 && data[i-1] == '\r' {
		newline = "\r\n"
	}
	end := ""
	switch {
	case s.last == valueEscape, s.last == commentEscape:
		// The first line break is eaten by the backslash.
		end = "\n\n"
	case s.last == inComment && bytes.HasSuffix(data, []byte("\n")):
		// A comment that a backslash carried over to an empty last line.
		end = newline
	case s.last != preKey:
		end = newline
	}
	return slices.Concat(data, []byte(end+line+newline))
}

// plain are the values that need no quotes, for systemd or for a shell that reads the file.
var plain = regexp.MustCompile(`^[A-Za-z0-9_./:@%+,=-]*$`)

// quote writes a value so that every systemd, and a shell, reads it back.
func quote(val string) string {
	if plain.MatchString(val) {
		return val
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range []byte(val) {
		if strings.IndexByte(escapable, c) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	b.WriteByte('"')
	return b.String()
}
