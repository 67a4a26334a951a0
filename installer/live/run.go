package live

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Runner runs a program until it ends. Each line that it prints, on either stream, is given to line, one at a time;
// a carriage return ends one too. started is told the process group, which has the program's own number.
type Runner func(ctx context.Context, argv []string, started func(group int), line func(string)) error

func run(ctx context.Context, argv []string, started func(int), line func(string)) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	// In a group of its own, so that an end of ctx ends what it started as well.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("cannot run %s: %w", argv[0], err)
	}
	defer r.Close()
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("cannot run %s: %w", argv[0], err)
	}
	started(cmd.Process.Pid)
	read := make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewScanner(r)
		lines.Buffer(make([]byte, 4096), 1<<20)
		lines.Split(splitLines)
		for lines.Scan() {
			if len(lines.Bytes()) > 0 {
				line(lines.Text())
			}
		}
	}()
	err = cmd.Wait()
	// What it left running may hold the pipe; it is not waited for.
	_ = r.SetReadDeadline(time.Now().Add(2 * time.Second))
	<-read
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("%s was stopped: %w", argv[0], context.Cause(ctx))
		}
		return fmt.Errorf("%s failed: %w", argv[0], err)
	}
	return nil
}

// splitLines is bufio.ScanLines that takes a carriage return for the end of a line too: that is how a program draws
// its progress in place.
func splitLines(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.IndexAny(data, "\r\n"); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

// end ends the live system.
func (l *Live) end(ctx context.Context, how string) error {
	l.say("%s", how)
	if l.End != nil {
		return l.End(ctx, how)
	}
	syscall.Sync()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := run(ctx, []string{"systemctl", "--no-block", how}, func(int) {}, func(s string) { l.say("%s", s) })
	if err == nil {
		return nil
	}
	if !errors.Is(err, exec.ErrNotFound) {
		l.say("%v", err)
	}
	command := syscall.LINUX_REBOOT_CMD_RESTART
	if how == "poweroff" {
		command = syscall.LINUX_REBOOT_CMD_POWER_OFF
	}
	if err := syscall.Reboot(command); err != nil {
		return fmt.Errorf("cannot %s this machine: %w; do it by hand", how, err)
	}
	return nil
}
