package cli

import (
	"os"

	"golang.org/x/term"
)

// Colour is an SGR code of ECMA-48.
type Colour string

const (
	Plain  Colour = ""
	Red    Colour = "31"
	Green  Colour = "32"
	Yellow Colour = "33"
)

// Paint gives a text its colour, or leaves it as it is.
type Paint func(c Colour, text string) string

// PaintFor paints on a terminal that shows colours, unless NO_COLOR says otherwise (https://no-color.org).
func PaintFor(w *os.File) Paint {
	if !IsTerminal(w) || os.Getenv("NO_COLOR") != "" {
		return func(_ Colour, text string) string { return text }
	}
	return func(c Colour, text string) string {
		if c == Plain {
			return text
		}
		return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
	}
}

// IsTerminal says whether w is a terminal that understands more than text.
func IsTerminal(w *os.File) bool {
	return term.IsTerminal(int(w.Fd())) && os.Getenv("TERM") != "dumb"
}

// Width of a terminal in columns; 80 where it is not known.
func Width(w *os.File) int {
	if n, _, err := term.GetSize(int(w.Fd())); err == nil && n >= 20 {
		return n
	}
	return 80
}
