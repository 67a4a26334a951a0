package agent

import (
	"path"

	"github.com/pmezard/go-difflib/difflib"
)

// unified shows a change of one file the way diff -u does.
func unified(name string, before, after []byte) string {
	from := name
	if before == nil {
		from = "/dev/null"
	}
	text, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: difflib.SplitLines(string(before)), B: difflib.SplitLines(string(after)),
		FromFile: from, ToFile: name, Context: 2,
	})
	if err != nil {
		return "change " + name + "\n"
	}
	return text
}

func dirOf(p string) string { return path.Dir(p) }
