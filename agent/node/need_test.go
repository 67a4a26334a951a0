package node

import (
	"io"
	"log"
	"os"
	"os/exec"
	"testing"
)

var quiet = log.New(io.Discard, "", 0)

// needRoot skips, giving the reason.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, for a network namespace of its own")
	}
}

// needTool skips where a program is missing; in CI it fails.
func needTool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
		return path
	case os.Getenv("CI") == "true":
		t.Fatalf("%s is missing, and CI has to run everything", name)
	}
	t.Skipf("%s is missing; run make lab", name)
	return ""
}
