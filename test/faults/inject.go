package faults

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

// Fault is one that strace injects into a command's system calls.
type Fault struct {
	Call string // name of the system call
	Path string // only calls about this path count; empty: all
	When int    // which one of them in a thread, from 1
	With string // "signal=KILL", or "error=EIO"
}

func (f Fault) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s #%d %s %s", f.Call, f.When, f.With, f.Path))
}

// calls are the system calls by which a command changes the host or reads it. Go renames by renameat(2).
var calls = []string{"openat", "write", "fsync", "renameat", "unlinkat", "mkdirat", "fchmod", "fchmodat", "fchown", "ftruncate"}

// errorsOf are the errors that are worth injecting into a call.
var errorsOf = map[string][]string{
	"openat": {"EMFILE", "EACCES"}, "write": {"ENOSPC", "EIO"}, "fsync": {"EIO"}, "renameat": {"EACCES", "EIO"},
	"unlinkat": {"EIO"}, "mkdirat": {"ENOSPC"}, "fchmod": {"EPERM"}, "fchmodat": {"EPERM"}, "fchown": {"EDQUOT"}, "ftruncate": {"EIO"},
}

const tracePath = "/run/faults.trace"

// Point is a system call that a command came by, and what it was about.
type Point struct {
	Call, Path string
	When       int // which of its thread's calls of that name, from 1
	WhenHere   int // which of those about that path
	Injected   bool
}

func (p Point) String() string { return p.Call + " " + p.Path }

// Ours tells whether the point is at a file of the worker's, and not one of the language's runtime, a socket or a library's.
func (p Point) Ours() bool {
	for _, dir := range []string{"/etc/kubernetes", "/etc/sysconfig", "/etc/tectonic-worker", "/var/lib/tectonic-worker", "/var/lib/kubelet", "/run/tectonic-worker", assetsDir} {
		if p.Path == dir || strings.HasPrefix(p.Path, dir+"/") {
			return true
		}
	}
	return false
}

// Inject runs argv under a fault; the zero Fault only records. It gives how the command ended, and all points that it came
// by; the last one of the fault's call is where it hit.
func (t *Target) Inject(ctx context.Context, f Fault, argv ...string) (lab.Result, []Point, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	// Only what our own program does: what it starts is let go when it becomes another. -s 0: no content in the trace.
	args := []string{"strace", "-f", "-qq", "-y", "-s", "0", "-b", "execve", "-o", tracePath, "-e", "trace=" + strings.Join(calls, ",")}
	if f.Call != "" {
		args = append(args, "-e", fmt.Sprintf("inject=%s:%s:when=%d", f.Call, f.With, f.When))
	}
	if f.Path != "" {
		args = append(args, "-P", f.Path)
	}
	// strace counts the calls of each thread; with one processor almost all are made by one.
	r, err := t.Host.Command(ctx, lab.Command{Args: append(append(args, "--"), argv...), Env: []string{"GOMAXPROCS=1"}})
	if err != nil {
		return r, nil, err
	}
	data, err := t.Host.ReadFile(tracePath)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return r, nil, err
	}
	_ = os.Remove(t.Host.Path(tracePath))
	return r, points(string(data)), nil
}

// hit finds where f hit among the points of its run: the call that strace marked, or that a killed run ended with.
func hit(all []Point, f Fault, code int) (Point, bool) {
	var last Point
	for _, p := range all {
		if p.Injected {
			return p, true
		}
		if p.Call == f.Call {
			last = p
		}
	}
	return last, code == 137 && last.Call != ""
}

var (
	traceLine = regexp.MustCompile(`^(\d+)\s+(\w+)\((.*)`)
	fdPath    = regexp.MustCompile(`^\d+<([^>]*)>`)
	// paths are given as strings, which -s 0 does not shorten, but for what is written.
	quoted   = regexp.MustCompile(`"(/[^"]*)"`)
	tempName = regexp.MustCompile(`\.tectonic-worker-tmp-(.*)-[0-9a-f]{12}`)
)

// points reads strace's output.
func points(trace string) []Point {
	var all []Point
	made := map[string]int{}
	for _, line := range strings.Split(trace, "\n") {
		m := traceLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		path := ""
		if q := quoted.FindStringSubmatch(m[3]); q != nil {
			path = q[1]
		} else if fd := fdPath.FindStringSubmatch(m[3]); fd != nil {
			path = fd[1]
		}
		path = tempName.ReplaceAllString(path, ".tmp-$1")
		made[m[1]+m[2]]++
		made[m[1]+m[2]+path]++
		all = append(all, Point{m[2], path, made[m[1]+m[2]], made[m[1]+m[2]+path], strings.Contains(line, "(INJECTED)")})
	}
	return all
}
