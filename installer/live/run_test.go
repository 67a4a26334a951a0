package live

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// need skips without a tool, and fails instead where the tests must all run.
func need(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err == nil {
			continue
		} else if os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing", tool)
		}
		t.Skipf("%s is missing", tool)
	}
}

func TestRun(t *testing.T) {
	var got []string
	group := 0
	err := run(t.Context(), []string{"/bin/sh", "-c", `printf 'a\r\rb\nc'; echo d >&2; exit 7`}, func(g int) { group = g }, func(s string) { got = append(got, s) })
	if err == nil || !strings.Contains(err.Error(), "/bin/sh failed: exit status 7") || group == 0 {
		t.Errorf("%v, group %d", err, group)
	}
	if diff := cmp.Diff([]string{"a", "b", "cd"}, got); diff != "" {
		t.Error(diff)
	}
	if err := run(t.Context(), []string{"/nonexistent"}, func(int) {}, func(string) {}); err == nil || !strings.HasPrefix(err.Error(), "cannot run /nonexistent") {
		t.Error(err)
	}
}

// The end of the context ends the program with all that it started, and one that lets its children live is not waited
// for.
func TestRunEnds(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	file := filepath.Join(t.TempDir(), "child")
	err := run(ctx, []string{"/bin/sh", "-c", "sleep 300 & echo $! >" + file + "; echo ready; wait"}, func(int) {}, func(string) { cancel(errors.New("enough")) })
	if err == nil || !strings.Contains(err.Error(), "was stopped: enough") {
		t.Error(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(content(t, file)))
	if err != nil {
		t.Fatal(err)
	}
	if !eventually(5*time.Second, func() bool { return dead(pid) }) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		t.Fatal("the child lives on")
	}

	begin := time.Now()
	group := 0
	if err := run(t.Context(), []string{"/bin/sh", "-c", "sleep 300 & echo ready"}, func(g int) { group = g }, func(string) {}); err != nil {
		t.Error(err)
	}
	_ = syscall.Kill(-group, syscall.SIGKILL)
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("waited %s for a child that holds the output", took)
	}
}

// eventually looks again and again at what /proc tells, for which there is no event.
func eventually(within time.Duration, is func() bool) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(within); !is(); <-tick.C {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// dead takes a zombie for dead: whoever inherited it may be slow to reap it.
func dead(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "Z")
}

// flatcar-install's wget says nothing of its progress; what it passed on is seen all the same.
func TestTransferredByWget(t *testing.T) {
	for _, download := range []string{"wget --no-verbose -O -", "curl --silent"} {
		need(t, strings.Fields(download)[0])
		const half = 1 << 20
		more := make(chan struct{})
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(2*half))
			_, _ = w.Write(make([]byte, half))
			w.(http.Flusher).Flush()
			<-more
			_, _ = w.Write(make([]byte, half))
		}))
		groups := make(chan int, 1)
		done := make(chan error, 1)
		go func() {
			done <- run(t.Context(), []string{"/bin/sh", "-c", download + " " + server.URL + " | cat >/dev/null"}, func(g int) { groups <- g }, func(string) {})
		}()
		l, group := &Live{}, <-groups
		eventually(20*time.Second, func() bool { return l.transferred(group) >= half })
		got := l.transferred(group)
		close(more)
		if err := <-done; err != nil {
			t.Error(err)
		}
		server.Close()
		if got < half || got > half+half/10 {
			t.Errorf("%s passed on %d bytes of the %d that came", download, got, half)
		}
	}
}
