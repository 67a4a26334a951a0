package main

import (
	"os"

	"golang.org/x/term"
)

func isTerminal(f *os.File) bool {
	return term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// width of a terminal in columns.
func width(f *os.File) int {
	if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 20 {
		return w
	}
	return 80
}

// noColour follows https://no-color.org.
func noColour() bool { return os.Getenv("NO_COLOR") != "" }
