package matchbox

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/pmezard/go-difflib/difflib"
)

const (
	longestLine = 200 // runes; a data URL is a line
	longestDiff = 400 // lines
)

// secret is what an argument or a config says after a word that means one. A profile for one armed machine holds its
// one-time token, and a plan is printed.
var secret = regexp.MustCompile(`(?i)((?:token|password|passwd|secret)["']?\s*[=:]\s*["']?)[^\s"',&{\[][^\s"',&]*`)

func hide(text string) string { return secret.ReplaceAllString(text, "${1}(hidden)") }

// readable is a text that can be compared by lines: JSON is indented with sorted keys, all else is left.
func readable(text []byte) []byte {
	var value any
	decoder := json.NewDecoder(bytes.NewReader(text))
	// A number stays as it is written.
	decoder.UseNumber()
	if decoder.Decode(&value) != nil || decoder.More() {
		return text
	}
	var indented bytes.Buffer
	encoder := json.NewEncoder(&indented)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if encoder.Encode(value) != nil {
		return text
	}
	return indented.Bytes()
}

// diff is unified, without a header, bounded, with secrets hidden and nothing in it that a terminal would obey.
func diff(old, wanted []byte) string {
	from, to := lines(old), lines(wanted)
	var all []string
	switch {
	case len(from) == 0:
		all = prefix("+", to)
	case len(to) == 0:
		all = prefix("-", from)
	default:
		text, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{A: from, B: to, Context: 2})
		if err != nil {
			return "differs (" + err.Error() + ")\n"
		}
		all = strings.SplitAfter(text, "\n")
	}
	if len(all) > longestDiff {
		all = append(all[:longestDiff:longestDiff], "…\n")
	}
	text := strings.Join(all, "")
	if text == "" {
		return "differs in what is hidden or not shown\n"
	}
	return text
}

func prefix(sign string, lines []string) []string {
	all := make([]string, len(lines))
	for i, line := range lines {
		all[i] = sign + line
	}
	return all
}

func lines(text []byte) []string {
	if len(text) == 0 {
		return nil
	}
	if !utf8.Valid(text) {
		return []string{"(not text)\n"}
	}
	all := strings.Split(strings.TrimSuffix(hide(string(text)), "\n"), "\n")
	for i, line := range all {
		if runes := []rune(line); len(runes) > longestLine {
			line = string(runes[:longestLine]) + " …"
		}
		all[i] = strings.Map(func(r rune) rune {
			if r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 {
				return '?'
			}
			return r
		}, line) + "\n"
	}
	return all
}
