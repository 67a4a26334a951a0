package node

import (
	"strings"
	"unicode"
)

// maxText bounds any text from a server or a file that becomes part of a message, in runes.
const maxText = 300

// clean makes text from outside fit for one line of a terminal or a journal: control and formatting characters (escape
// sequences, bidirectional overrides, invalid UTF-8) become spaces, runs of white space one space, and the length is bounded.
func clean(s string) string { return cleanTo(s, maxText) }

func cleanTo(s string, max int) string {
	var b strings.Builder
	n, space := 0, false
	for _, r := range s {
		if r == unicode.ReplacementChar || unicode.IsSpace(r) || !unicode.IsPrint(r) {
			space = n > 0
			continue
		}
		if n >= max {
			b.WriteString("…")
			break
		}
		if space {
			b.WriteByte(' ')
			n, space = n+1, false
		}
		b.WriteRune(r)
		n++
	}
	return b.String()
}
