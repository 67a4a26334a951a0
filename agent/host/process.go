package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// searchPath is where programs are looked for. It is fixed: what root's shell
// happens to have in PATH must not decide which rkt runs the kubelet, and a
// unit's PATH differs from a shell's.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// maxOutput bounds what is kept of a program's output.
const maxOutput = 1 << 20

// Look finds the program name, as the absolute path it will be run by. The
// error is exec.ErrNotFound where there is none.
func (r Root) Look(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range filepath.SplitList(searchPath) {
		p := filepath.Join(dir, name)
		if fi, err := os.Stat(r.Path(p)); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("cannot find %s in %s: %w", name, searchPath, exec.ErrNotFound)
}

// Result is what a program that ended left.
type Result struct {
	Code   int // its exit code, or -1 where a signal ended it
	Stdout string
	Stderr string
}

// Run runs argv to its end and returns what it printed, at most 1 MiB of each
// stream. The error is nil exactly when it exited with 0; otherwise it quotes
// the last line of its standard error. env is added to a minimal environment
// in the C locale.
func (r Root) Run(ctx context.Context, env []string, argv ...string) (Result, error) {
	var stdout bounded
	res, err := r.run(ctx, env, &stdout, argv...)
	res.Stdout = string(stdout)
	return res, explainExit(res, argv, err)
}

// RunTo is Run for an output that is too large to be kept: it goes to stdout
// as it comes.
func (r Root) RunTo(ctx context.Context, env []string, stdout io.Writer, argv ...string) (Result, error) {
	res, err := r.run(ctx, env, stdout, argv...)
	return res, explainExit(res, argv, err)
}

func (r Root) run(ctx context.Context, env []string, stdout io.Writer, argv ...string) (Result, error) {
	path, err := r.Look(argv[0])
	if err != nil {
		return Result{Code: -1}, err
	}
	cmd := exec.CommandContext(ctx, r.Path(path), argv[1:]...)
	cmd.Env = append([]string{"PATH=" + searchPath, "LC_ALL=C", "HOME=/root"}, env...)
	// A grandchild that keeps the pipes open must not keep us.
	cmd.WaitDelay = 2 * time.Second
	var stderr bounded
	cmd.Stdout, cmd.Stderr = stdout, &stderr
	err = cmd.Run()
	res := Result{Code: cmd.ProcessState.ExitCode(), Stderr: string(stderr)}
	var ee *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay): // the latter: it ended well, and left a child with its pipes
		return res, nil
	case ctx.Err() != nil:
		return res, fmt.Errorf("%s did not end in time: %w", argv[0], ctx.Err())
	case errors.As(err, &ee):
		return res, err
	}
	return res, fmt.Errorf("cannot run %s: %w", path, plain(err))
}

// explainExit makes a sentence of an exit code.
func explainExit(res Result, argv []string, err error) error {
	ee, failed := err.(*exec.ExitError)
	if !failed {
		return err
	}
	last := LastLine(res.Stderr)
	if last == "" {
		last = LastLine(res.Stdout)
	}
	return fmt.Errorf("%s failed (%s): %s", strings.Join(head(argv, 3), " "), ee.ProcessState, last)
}

// LastLine is the last line of s that is not blank.
func LastLine(s string) string {
	s = strings.TrimSpace(s)
	return strings.TrimSpace(s[strings.LastIndexByte(s, '\n')+1:])
}

// head keeps an error short: what a command was is told by its first words.
func head(argv []string, n int) []string {
	if len(argv) > n {
		return argv[:n]
	}
	return argv
}

// bounded keeps the first maxOutput bytes and counts the rest as written. It
// must have no ReadFrom, which io.Copy would take instead of Write.
type bounded []byte

func (b *bounded) Write(p []byte) (int, error) {
	if room := maxOutput - len(*b); room > 0 {
		*b = append(*b, p[:min(room, len(p))]...)
	}
	return len(p), nil
}
