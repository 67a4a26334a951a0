// Command matrix prints docs/faults.md. It owns nothing; the rows are in the package faults.
package main

import (
	"os"

	"github.com/tectonic-worker/tectonic-worker/test/faults"
)

func main() {
	if _, err := os.Stdout.Write(faults.Document()); err != nil {
		os.Exit(1)
	}
}
