package sysconfig

import (
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Problem is one thing wrong with the settings, with all an operator needs to mend it.
type Problem struct {
	File   string // the file's path, "flag --zone" or "environment"
	Line   int    // counted from 1; 0 where File is not a file or the whole file is meant
	Key    string // empty where no key could be read
	Value  string // as written, passwords removed
	Why    string // completes "KEY=VALUE: …"
	Remedy string // an imperative sentence without a full stop
}

// String is the problem as one line: where, what, why, and what to do.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	b.WriteString(": ")
	switch {
	case p.Key != "" && p.Value != "":
		fmt.Fprintf(&b, "%s=%s: ", printable(p.Key), printable(p.Value))
	case p.Key != "":
		fmt.Fprintf(&b, "%s: ", printable(p.Key))
	case p.Value != "":
		fmt.Fprintf(&b, "%s: ", printable(p.Value))
	}
	b.WriteString(p.Why)
	if p.Remedy != "" {
		b.WriteString("; ")
		b.WriteString(p.Remedy)
	}
	return b.String()
}

// Problems is every problem found, in the order of files and lines. As an error it means bad
// configuration: exit code 78.
type Problems []Problem

// Error lists the problems, one a line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, one := range p {
		lines[i] = one.String()
	}
	return strings.Join(lines, "\n")
}

// printable keeps a message on one line of a terminal whatever the file holds.
func printable(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most] + "…"
	}
	quoted := strconv.Quote(s)
	if plain := quoted[1 : len(quoted)-1]; plain == s {
		return s
	}
	return quoted
}

var (
	secretName = regexp.MustCompile(`(?i)(passw|secret|token|credential|private|api_?key)`)
	userinfo   = regexp.MustCompile(`//[^/@\s]*@`)
)

// redact returns the value of key as it may be shown: passwords in URLs and values of keys that
// sound like a secret are replaced.
func redact(key, value string) string {
	if secretName.MatchString(key) {
		return "(not shown)"
	}
	if strings.HasSuffix(strings.ToUpper(key), "_PROXY") && strings.Contains(value, "@") {
		if u, err := url.Parse(value); err == nil && u.User != nil {
			u.User = url.User("xxxxx") // a token may stand where the name does
			return u.String()
		}
		return "(not shown)"
	}
	return userinfo.ReplaceAllString(value, "//xxxxx@")
}
