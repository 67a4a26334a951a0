package agent

import (
	"path"
	"strings"

	"github.com/pmezard/go-difflib/difflib"
)

// unified shows a change of one file the way diff -u does.
func unified(name string, before, after []byte) string {
	from := name
	if before == nil {
		from = "/dev/null"
	}
	text, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: lines(before), B: lines(after),
		FromFile: from, ToFile: name, Context: 2,
	})
	if err != nil {
		return "change " + name + "\n"
	}
	return text
}

// lines splits data after each newline. (difflib.SplitLines adds an empty
// line at the end, which then shows as a change.)
func lines(data []byte) []string {
	var out []string
	for l := range strings.Lines(string(data)) {
		out = append(out, strings.TrimSuffix(l, "\n")+"\n")
	}
	return out
}

func dirOf(p string) string { return path.Dir(p) }
