package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// BusyError says that another of our processes is changing the host.
type BusyError struct {
	Holder string // what it wrote into the lock file: its command and process id
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("another tectonic-worker is changing this host (%s); wait for it to end, then try again", e.Holder)
}

// Lock is held until Unlock or until the process ends, however it ends: the
// kernel drops an flock with its last descriptor, so none can go stale.
type Lock struct{ f *os.File }

// Acquire takes the lock file p, waiting for its holder until ctx ends; then
// the error is a *BusyError. who is shown to whoever waits.
func (r Root) Acquire(ctx context.Context, p, who string) (*Lock, error) {
	f, err := os.OpenFile(r.Path(p), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the lock %s: %w", p, plain(err))
	}
	// flock(2) has no deadline and no event when a lock falls free.
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("cannot lock %s: %w", p, err)
		}
		select {
		case <-ctx.Done():
			holder, _ := r.ReadFile(p)
			f.Close()
			return nil, &BusyError{Holder: strings.TrimSpace(string(holder))}
		case <-tick.C:
		}
	}
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprintf(f, "%s, process %d\n", who, os.Getpid())
	}
	return &Lock{f: f}, nil
}

// Unlock lets the next one in.
func (l *Lock) Unlock() {
	if l != nil && l.f != nil {
		_ = l.f.Truncate(0)
		_ = l.f.Close()
		l.f = nil
	}
}
