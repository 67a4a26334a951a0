package images

import (
	"errors"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
)

// A real file system that is full, when the source would not say how much was to come.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a small file system needs root")
	}
	g := newGPG(t)
	m := serve(t, flatcarMirror(t, g), func(w http.ResponseWriter, r *http.Request, n int) bool {
		if r.Method == "HEAD" {
			w.WriteHeader(http.StatusMethodNotAllowed)
		}
		return r.Method == "HEAD"
	})
	spec := flatcarSpec(t, g, m.URL)
	if err := syscall.Mount("tmpfs", spec.Dest, "tmpfs", 0, "size=512k"); err != nil {
		t.Skipf("cannot mount a small file system: %v", err)
	}
	defer syscall.Unmount(spec.Dest, 0)
	_, err := Sync(t.Context(), spec, nil)
	if err == nil || !strings.Contains(err.Error(), "the disk is full") || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("error %v", err)
	}
	nothing(t, spec.Dest)
}
