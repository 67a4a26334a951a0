package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Command is something to run on a host as root.
type Command struct {
	Args   []string
	Env    []string // beside PATH, HOME, LANG and TERM
	Stdin  io.Reader
	Stdout io.Writer // nil: only in the Result
	Stderr io.Writer
}

// Result is how a command on a host ended.
type Result struct {
	Args           []string
	Stdout, Stderr string
	Code           int // exit code; 128+N for signal N
	Took           time.Duration
}

// Output is what a terminal would have shown, standard output first.
func (r Result) Output() string { return r.Stdout + r.Stderr }

func (r Result) String() string {
	return fmt.Sprintf("%s: exit code %d after %.2fs\n%s", strings.Join(r.Args, " "), r.Code, r.Took.Seconds(), r.Output())
}

// Exec runs argv on the host. The error says that it could not be run or did not end in time; an exit code other
// than 0 is no error.
func (h *Host) Exec(ctx context.Context, argv ...string) (Result, error) {
	return h.Command(ctx, Command{Args: argv})
}

// Must is Exec with an exit code other than 0 being an error, for what the lab itself needs to work.
func (h *Host) Must(ctx context.Context, argv ...string) (Result, error) {
	r, err := h.Exec(ctx, argv...)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("%s: %s", h.Name, r)
	}
	return r, err
}

// Command runs c to its end.
func (h *Host) Command(ctx context.Context, c Command) (Result, error) {
	p, err := h.Start(ctx, c)
	if err != nil {
		return Result{}, err
	}
	return p.Wait()
}

// Process is a command that runs on a host.
type Process struct {
	host           *Host
	ctx            context.Context
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
	start          time.Time
}

// Start starts c. It is killed when ctx ends.
func (h *Host) Start(ctx context.Context, c Command) (*Process, error) {
	// The shell moves itself into the host's cgroup first: systemd inside must not find processes from outside its tree.
	// It becomes env(1) inside all of the host's namespaces; no environment of the machine comes along.
	const script = `groups=$1 leader=$2; shift 2
for group in $groups; do echo $$ >"$group/cgroup.procs" 2>/dev/null; done
exec nsenter --target "$leader" --all -- env -i "$@"`
	args := []string{"-c", script, "lab", strings.Join(h.cgroups, " "), strconv.Itoa(h.leader),
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "TERM=dumb"}
	args = append(append(args, c.Env...), c.Args...)
	p := &Process{host: h, ctx: ctx, cmd: exec.CommandContext(ctx, "/bin/sh", args...), start: time.Now()}
	p.cmd.Stdin = c.Stdin
	p.cmd.Stdout, p.cmd.Stderr = tee(&p.stdout, c.Stdout), tee(&p.stderr, c.Stderr)
	if err := h.lab.spawn.start(nil, p.cmd); err != nil {
		return nil, fmt.Errorf("cannot run %s on %s: %w", strings.Join(c.Args, " "), h.Name, err)
	}
	p.cmd.Args = c.Args
	return p, nil
}

func tee(buffer *bytes.Buffer, w io.Writer) io.Writer {
	if w == nil {
		return buffer
	}
	return io.MultiWriter(buffer, w)
}

// Wait waits for the command's end.
func (p *Process) Wait() (Result, error) {
	err := p.cmd.Wait()
	r := Result{Args: p.cmd.Args, Stdout: p.stdout.String(), Stderr: p.stderr.String(), Took: time.Since(p.start)}
	if p.ctx.Err() != nil {
		return r, fmt.Errorf("%s on %s did not end in time: %w\n%s", strings.Join(r.Args, " "), p.host.Name, p.ctx.Err(), r.Output())
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		r.Code = exitCode(exit)
	default:
		return r, fmt.Errorf("cannot run %s on %s: %w", strings.Join(r.Args, " "), p.host.Name, err)
	}
	return r, nil
}

// Kill ends the command, hard, and what it started.
func (p *Process) Kill() error { return killGroup(p.cmd) }

// Path is the path, outside, of a file on the running host, through any mount of the host's own. A symlink in it
// that is absolute would be followed outside: use it for paths without.
func (h *Host) Path(path string) string {
	return filepath.Join("/proc", strconv.Itoa(h.leader), "root", path)
}

// ReadFile reads a file of the running host.
func (h *Host) ReadFile(path string) ([]byte, error) { return os.ReadFile(h.Path(path)) }

// WriteFile writes a file on the running host, and its directories.
func (h *Host) WriteFile(path string, data []byte, mode os.FileMode) error {
	target := h.Path(path)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return fmt.Errorf("cannot write %s on %s: %w", path, h.Name, err)
	}
	if err := os.WriteFile(target, data, mode); err != nil {
		return fmt.Errorf("cannot write %s on %s: %w", path, h.Name, err)
	}
	return os.Chmod(target, mode)
}

// CopyIn copies a file of the machine to the running host.
func (h *Host) CopyIn(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return fmt.Errorf("cannot copy to %s: %w", h.Name, err)
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("cannot copy to %s: %w", h.Name, err)
	}
	return h.WriteFile(to, data, info.Mode().Perm())
}

// Journal gives the last lines of the host's journal, of one unit where unit is not empty.
func (h *Host) Journal(ctx context.Context, unit string, lines int) string {
	argv := []string{"journalctl", "--no-pager", "-q", "-o", "short-monotonic", "-n", strconv.Itoa(lines)}
	if unit != "" {
		argv = append(argv, "-u", unit)
	}
	r, err := h.Exec(ctx, argv...)
	if err != nil {
		return err.Error()
	}
	return r.Output()
}

// Shutdown powers the machine off in order, as an administrator would, and removes it.
func (h *Host) Shutdown(ctx context.Context) error {
	// SIGRTMIN+4 asks systemd for poweroff.target (systemd(1)).
	_, err := h.Exec(ctx, "kill", "-s", "RTMIN+4", "1")
	if err == nil {
		select {
		case <-h.ended:
		case <-ctx.Done():
			err = fmt.Errorf("%s did not power off in time: %w", h.Name, ctx.Err())
		}
	}
	return errors.Join(err, h.Close())
}

// makeExecCgroups makes the cgroups that the lab's own commands run in, inside the tree that the machine sees: where
// systemd-nspawn made a "payload" that is the machine's root.
func (h *Host) makeExecCgroups(groups []string) error {
	for _, group := range groups {
		if payload := filepath.Join(group, "payload"); exists(payload) {
			group = payload
		}
		dir := filepath.Join(group, "lab")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("cannot make a cgroup for commands: %w", err)
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if data, err := os.ReadFile(filepath.Join(group, file)); err == nil {
				if err := os.WriteFile(filepath.Join(dir, file), data, 0); err != nil {
					return fmt.Errorf("cannot make a cgroup for commands: %w", err)
				}
			}
		}
		h.cgroups = append(h.cgroups, dir)
	}
	return nil
}

func exitCode(exit *exec.ExitError) int {
	if code := exit.ExitCode(); code >= 0 {
		return code
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok {
		return 128 + int(status.Signal())
	}
	return -1
}
