package main

import (
	"os"

	"golang.org/x/term"
)

// colour is an SGR code of ECMA-48.
type colour string

const (
	plain  colour = ""
	red    colour = "31"
	green  colour = "32"
	yellow colour = "33"
)

// paint gives a text its colour, or leaves it as it is.
type paint func(c colour, text string) string

// paintFor paints on a terminal that shows colours, unless NO_COLOR says
// otherwise (https://no-color.org).
func paintFor(w *os.File) paint {
	if !isTerminal(w) || os.Getenv("NO_COLOR") != "" {
		return func(_ colour, text string) string { return text }
	}
	return func(c colour, text string) string {
		if c == plain {
			return text
		}
		return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
	}
}

func isTerminal(w *os.File) bool {
	return term.IsTerminal(int(w.Fd())) && os.Getenv("TERM") != "dumb"
}
