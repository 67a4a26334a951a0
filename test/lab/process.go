package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// spawner starts all of a lab's processes from one operating system thread that lives as long as the lab's process:
// PR_SET_PDEATHSIG fires when the *thread* that forked ends, and Go ends threads as it pleases (prctl(2)).
type spawner struct{ calls chan func() }

func newSpawner() *spawner {
	s := &spawner{calls: make(chan func())}
	go func() {
		runtime.LockOSThread()
		for f := range s.calls {
			f()
		}
	}()
	return s
}

// on runs f on the spawner's thread, inside the network namespace ns (nil: the process's own).
func (s *spawner) on(ns *os.File, f func() error) error {
	done := make(chan error)
	s.calls <- func() { done <- inNetns(ns, f) }
	return <-done
}

// start starts cmd inside ns. It is killed when the lab's process ends, however that ends.
func (s *spawner) start(ns *os.File, cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr.Setpgid = true
	cmd.Cancel = func() error { return killGroup(cmd) }
	cmd.WaitDelay = 5 * time.Second
	return s.on(ns, cmd.Start)
}

// killGroup ends a command and what it started.
func killGroup(cmd *exec.Cmd) error {
	err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// output runs argv inside ns to its end and returns what it wrote. The error has the output.
func (s *spawner) output(ctx context.Context, ns *os.File, stdin string, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out bytes.Buffer
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := s.start(ns, cmd); err != nil {
		return "", fmt.Errorf("cannot run %s: %w", argv[0], err)
	}
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, out.String())
	}
	return out.String(), nil
}

// inNetns runs f with the calling thread inside ns, and puts the thread back. The caller holds the thread.
func inNetns(ns *os.File, f func() error) error {
	if ns == nil {
		return f()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("cannot open the thread's network namespace: %w", err)
	}
	defer own.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("cannot enter a network namespace of the lab: %w", err)
	}
	fErr := f()
	if err := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); err != nil {
		// A thread in the wrong namespace would poison whatever runs on it next.
		panic(fmt.Sprintf("cannot leave a network namespace of the lab: %v", err))
	}
	return fErr
}

// newNetns makes a network namespace that lives as long as the returned file, or a process inside, does. It has no
// name below /run/netns: nothing is left behind by a lab that was killed.
func newNetns() (*os.File, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("cannot open the thread's network namespace: %w", err)
	}
	defer own.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("cannot make a network namespace: %w; run the lab as root", err)
	}
	ns, openErr := os.Open("/proc/thread-self/ns/net")
	if err := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); err != nil {
		panic(fmt.Sprintf("cannot leave a network namespace of the lab: %v", err))
	}
	return ns, openErr
}

// fdPath names an open file so that another process of the same user can open it.
func fdPath(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }
