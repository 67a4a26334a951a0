package faults

import (
	"fmt"
	"strings"
)

// Row is one fault that a worker, or what installs it, must bear, with the tests that inject it. Numbers are stable.
type Row struct {
	Number int
	Fault  string
	Bears  string   // what is to happen
	Tests  []string // "package.TestName", the package's directory in the repository
	Open   string   // what no test injects yet, and why; for a row without tests this is needed
}

// Document renders the rows as docs/faults.md.
func Document() []byte {
	var b strings.Builder
	b.WriteString(`# Faults

What can break under a worker, and on the way to one (54 to 60: matchbox, BMCs, the network boot), what happens then, and the
tests that break it for real. After every fault the same holds: the command runs again and gets to its end; each file is as before
or as after, never half; no temporary file outlives the next run; the exit code is one of 0, 1, 2, 69, 75 and 78; no output and no
journal shows a key, a token or a password.

` + "`make soak`" + ` injects faults at random for a given time; it prints its seed and each step.

This page is generated from ` + "`test/faults/matrix.go`" + `: ` + "`go run ./test/faults/cmd/matrix > docs/faults.md`" + `.

| # | fault | what happens | tests | not tested yet |
| --- | --- | --- | --- | --- |
`)
	for _, r := range Rows {
		var tests []string
		for _, t := range r.Tests {
			tests = append(tests, "`"+t+"`")
		}
		fmt.Fprintf(&b, "| %d | %s | %s | %s | %s |\n", r.Number, r.Fault, r.Bears, strings.Join(tests, "<br>"), r.Open)
	}
	return []byte(b.String())
}
