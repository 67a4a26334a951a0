package kubelet

import (
	_ "embed"
	"strconv"
	"strings"
	"sync"
)

//go:generate go run extract.go

//go:embed flags.txt
var flagsText string

//go:embed fields.txt
var fieldsText string

// knownFlag says in which minor releases the kubelet has a flag.
type knownFlag struct{ first, last int }

func (f knownFlag) in(minor int) bool { return f.first <= minor && minor <= f.last }

// knownField is a field of KubeletConfiguration v1beta1.
type knownField struct {
	first int    // minor release
	kind  string // bool, number, string, duration, list, map or object
	flag  string // the flag that sets the same, or ""
}

// endless is the last release of a flag that is still there.
const endless = 1 << 20

var knownFlags = sync.OnceValue(func() map[string]knownFlag {
	all := map[string]knownFlag{}
	for _, w := range rows(flagsText) {
		f := knownFlag{first: minorOf(w[1]), last: endless}
		if w[2] != "-" {
			f.last = minorOf(w[2])
		}
		all[w[0]] = f
	}
	return all
})

var knownFields = sync.OnceValue(func() map[string]knownField {
	all := map[string]knownField{}
	for _, w := range rows(fieldsText) {
		all[w[0]] = knownField{minorOf(w[1]), w[2], strings.TrimPrefix(w[3], "-")}
	}
	return all
})

func rows(text string) (all [][]string) {
	for line := range strings.Lines(text) {
		if words := strings.Fields(line); len(words) > 0 && !strings.HasPrefix(words[0], "#") {
			all = append(all, words)
		}
	}
	return all
}

func minorOf(release string) int {
	n, err := strconv.Atoi(strings.TrimPrefix(release, "1."))
	if err != nil {
		panic("kubelet: bad release in an embedded table: " + release)
	}
	return n
}
