package selinux

import (
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/selinux/go-selinux"
)

// On a kernel without SELinux the mode is Disabled, setting one is refused, and no file named "enforce" appears in the
// working directory, which is what the library alone would do. What a kernel with SELinux does is proved in a guest.
func TestWithoutSELinux(t *testing.T) {
	if selinux.GetEnabled() || readOnly() {
		t.Skip("this host has SELinux; its mode is not a test's to change")
	}
	t.Chdir(t.TempDir())
	if mode, err := Runtime(); mode != Disabled || err != nil {
		t.Errorf("Runtime = %q, %v", mode, err)
	}
	for mode, text := range map[Mode]string{
		Enforcing:  "SELinux is disabled in the running kernel",
		Permissive: "SELinux is disabled in the running kernel",
		Disabled:   "only enforcing and permissive can be set",
		Unset:      "only enforcing and permissive can be set",
	} {
		if err := SetRuntime(mode); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("SetRuntime(%q): %v, want %q", mode, err, text)
		}
	}
	files, err := os.ReadDir(".")
	if err != nil || len(files) != 0 {
		t.Errorf("files appeared: %v, %v", files, err)
	}
	// The same question, put while a file of that name lies there, is not answered from it.
	if err := os.WriteFile("enforce", []byte("1"), 0o644); err != nil {
		t.Fatal(err)
	}
	if mode, err := Runtime(); mode != Disabled || err != nil {
		t.Errorf("Runtime with a file named enforce = %q, %v", mode, err)
	}
}
