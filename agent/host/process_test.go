package host

import (
	"context"
	"errors"
	"os/exec"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRun(t *testing.T) {
	for _, c := range []struct {
		name string
		argv []string
		want Result
		err  string
	}{
		{"success", []string{"sh", "-c", "echo out; echo err >&2"}, Result{0, "out\n", "err\n"}, ""},
		{"failure", []string{"sh", "-c", "echo out; echo first >&2; echo the reason >&2; echo >&2; exit 3"}, Result{3, "out\n", "first\nthe reason\n\n"},
			"sh -c echo out; echo first >&2; echo the reason >&2; echo >&2; exit 3 failed (exit status 3): the reason"},
		{"reason on standard output", []string{"sh", "-c", "echo why; exit 1"}, Result{1, "why\n", ""}, "sh -c echo why; exit 1 failed (exit status 1): why"},
		{"long command", []string{"sh", "-c", "exit 1", "a", "b"}, Result{1, "", ""}, "sh -c exit 1 failed (exit status 1): "},
		{"signal", []string{"sh", "-c", "kill -9 $$"}, Result{-1, "", ""}, "sh -c kill -9 $$ failed (signal: killed): "},
		{"standard input is empty", []string{"cat"}, Result{0, "", ""}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Root("/").Run(deadline(t, 10*time.Second), nil, c.argv...)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if message(err) != c.err {
				t.Errorf("error %q, want %q", message(err), c.err)
			}
		})
	}
}

// A program sees nothing of our environment but what it is given: a proxy's
// password in ours must not reach rkt or podman by accident.
func TestRunEnvironment(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://user:secret@proxy")
	t.Setenv("LD_PRELOAD", "")
	res, err := Root("/").Run(deadline(t, 10*time.Second), []string{"GIVEN=1"}, "env")
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSpace(res.Stdout), "\n")
	sort.Strings(got)
	want := []string{"GIVEN=1", "HOME=/root", "LC_ALL=C", "PATH=" + searchPath}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// Neither a program that does not end nor a child of it that keeps the pipes
// open keeps us longer than the deadline and WaitDelay.
func TestRunDeadline(t *testing.T) {
	for _, script := range []string{"exec sleep 60", "sleep 7 & wait"} {
		begin := time.Now()
		_, err := Root("/").Run(deadline(t, 200*time.Millisecond), nil, "sh", "-c", script)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), "sh did not end in time") {
			t.Errorf("%s: error %v", script, err)
		}
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("%s: took %v", script, took)
		}
	}
}

// A program that ended well ended well, also where it left a child with its
// pipes.
func TestRunDaemon(t *testing.T) {
	res, err := Root("/").Run(deadline(t, 10*time.Second), nil, "sh", "-c", "echo started; sleep 4 & exit 0")
	if err != nil || res.Stdout != "started\n" {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestRunBoundsOutput(t *testing.T) {
	res, err := Root("/").Run(deadline(t, 20*time.Second), nil, "sh", "-c", "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2")
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Stdout) != maxOutput || len(res.Stderr) != maxOutput {
		t.Errorf("kept %d and %d bytes, want %d", len(res.Stdout), len(res.Stderr), maxOutput)
	}
}

func TestRunCannot(t *testing.T) {
	r := testRoot(t)
	if _, err := r.Run(deadline(t, time.Second), nil, "podman", "--version"); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("error %v, want ErrNotFound", err)
	}
	mustWrite(t, r, "/usr/bin/podman", "not a program", 0o755)
	res, err := r.Run(deadline(t, time.Second), nil, "podman", "--version")
	if err == nil || !strings.HasPrefix(err.Error(), "cannot run /usr/bin/podman: ") || strings.Contains(err.Error(), string(r)) {
		t.Errorf("error %v", err)
	}
	if res.Code == 0 {
		t.Error("a program that did not run exited with 0")
	}
}

func TestLook(t *testing.T) {
	r := testRoot(t)
	mustWrite(t, r, "/usr/bin/rkt", "", 0o755)
	mustWrite(t, r, "/usr/local/bin/rkt", "", 0o644) // not executable
	mustWrite(t, r, "/usr/sbin/podman/x", "", 0o755) // a directory of that name
	mustWrite(t, r, "/opt/odd", "", 0o755)
	t.Setenv("PATH", r.Path("/opt"))
	for _, c := range []struct{ name, want string }{
		{"rkt", "/usr/bin/rkt"}, {"podman", ""}, {"odd", ""}, {"/opt/odd", "/opt/odd"},
	} {
		got, err := r.Look(c.name)
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("Look(%s) = %q, %v; want %q", c.name, got, err, c.want)
		}
		if err != nil && !errors.Is(err, exec.ErrNotFound) {
			t.Errorf("error %v, want ErrNotFound", err)
		}
	}
}

func TestLastLine(t *testing.T) {
	for in, want := range map[string]string{"": "", "a": "a", "a\nb\n\n": "b", "\n \n": "", "a\r\nb \r\n": "b"} {
		if got := LastLine(in); got != want {
			t.Errorf("LastLine(%q) = %q, want %q", in, got, want)
		}
	}
}
