package agent

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/tectonic-worker/tectonic-worker/agent/host"
)

// A run is killed after it announced a change to a file; the next one finds settings that need no change, and closes the
// record by what is there.
func TestSettle(t *testing.T) {
	const path = "/etc/sysconfig/tectonic-worker"
	old, changed := []byte("A=1\n"), []byte("A=2\n")
	for _, tt := range []struct {
		name        string
		now         []byte
		known, done bool
	}{
		{"killed before the change", old, false, false},
		{"killed after it", changed, true, true},
		{"somebody changed it since", []byte("A=3\n"), true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := host.Root(t.TempDir())
			l, err := OpenLedger(root)
			if err != nil {
				t.Fatal(err)
			}
			k := Key{KindFile, path}
			if err := l.Intend(k, state(t, old), state(t, changed)); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Dir(root.Path(path)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(root.Path(path), tt.now, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := settle(root, l); err != nil {
				t.Fatal(err)
			}
			e, known := l.Find(k)
			if known != tt.known || e.Done != tt.done {
				t.Errorf("known %v, done %v, want %v, %v", known, e.Done, tt.known, tt.done)
			}
		})
	}
}

func state(t *testing.T, content []byte) []byte {
	t.Helper()
	data, err := json.Marshal(fileState{Exists: true, Mode: 0o644, SHA256: digest(content)})
	if err != nil {
		t.Fatal(err)
	}
	return data
}
