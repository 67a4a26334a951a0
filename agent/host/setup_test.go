package host

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// asHolder makes the test binary take a lock, say so, and hold it until its
// standard input ends.
const asHolder = "TEST_HOST_HOLD_LOCK_BELOW"

func TestMain(m *testing.M) {
	if root := os.Getenv(asHolder); root != "" {
		hold(Root(root))
		return
	}
	os.Exit(m.Run())
}

func hold(r Root) {
	if _, err := r.Acquire(context.Background(), "/lock", "holder"); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("held")
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
}

// startHolder starts another process that holds the lock below r.
func startHolder(t *testing.T, r Root) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asHolder+"="+string(r))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
		t.Fatalf("the other process does not hold the lock: %q, %v", line, err)
	}
	return cmd
}

func testRoot(t *testing.T) Root { return Root(t.TempDir()) }

// owner is a File that belongs to whoever runs the tests.
func owner(mode os.FileMode) File { return File{Mode: mode, UID: os.Getuid(), GID: os.Getgid()} }

func deadline(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func mustWrite(t *testing.T, r Root, p, data string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(r.Path(p)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.Path(p), []byte(data), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(r.Path(p), mode); err != nil {
		t.Fatal(err)
	}
}

func mustRead(t *testing.T, r Root, p string) string {
	t.Helper()
	data, err := os.ReadFile(r.Path(p))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// names lists a directory.
func names(t *testing.T, r Root, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(r.Path(dir))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// smallDisk mounts a tmpfs of size bytes below the root for one test.
func smallDisk(t *testing.T, r Root, dir, size string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	if err := os.MkdirAll(r.Path(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", r.Path(dir), "tmpfs", 0, "mode=0755,size="+size); err != nil {
		t.Skipf("cannot mount a tmpfs here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(r.Path(dir), 0); err != nil {
			t.Errorf("cannot unmount %s: %v", dir, err)
		}
	})
}
