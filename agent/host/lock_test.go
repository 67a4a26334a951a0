package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

func TestLockAcrossProcesses(t *testing.T) {
	r := testRoot(t)
	other := startHolder(t, r)

	_, err := r.Acquire(deadline(t, 50*time.Millisecond), "/lock", "test")
	var busy *BusyError
	if !errors.As(err, &busy) {
		t.Fatalf("error %v, want a BusyError", err)
	}
	if want := fmt.Sprintf("holder, process %d", other.Process.Pid); busy.Holder != want {
		t.Errorf("the holder is called %q, want %q", busy.Holder, want)
	}
	if !strings.Contains(err.Error(), busy.Holder) || !strings.Contains(err.Error(), "try again") {
		t.Errorf("error %q says neither who nor what to do", err)
	}

	// A killed holder's lock is free at once, and whoever waited gets it.
	waited := make(chan error, 1)
	var lock *Lock
	go func() {
		var err error
		lock, err = r.Acquire(deadline(t, 10*time.Second), "/lock", "test")
		waited <- err
	}()
	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Fatal(err)
	}
	if got, want := mustRead(t, r, "/lock"), fmt.Sprintf("test, process %d\n", os.Getpid()); got != want {
		t.Errorf("the lock says %q, want %q", got, want)
	}
	lock.Unlock()
	lock.Unlock() // a second time is nothing
	(*Lock)(nil).Unlock()
	if got := mustRead(t, r, "/lock"); got != "" {
		t.Errorf("a free lock still says %q", got)
	}
	again, err := r.Acquire(deadline(t, time.Second), "/lock", "test")
	if err != nil {
		t.Fatal(err)
	}
	again.Unlock()
}

// A free lock is taken without waiting, even where there is no time left.
func TestLockFree(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	lock, err := testRoot(t).Acquire(ctx, "/lock", "test")
	if err != nil {
		t.Fatal(err)
	}
	lock.Unlock()
}

func TestLockRefusesLink(t *testing.T) {
	r := testRoot(t)
	mustWrite(t, r, "/victim", "precious", 0o600)
	if err := os.Symlink("victim", r.Path("/lock")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Acquire(deadline(t, time.Second), "/lock", "test"); err == nil || !strings.HasPrefix(err.Error(), "cannot open the lock /lock: ") {
		t.Errorf("error %v", err)
	}
	if got := mustRead(t, r, "/victim"); got != "precious" {
		t.Errorf("the file behind the link holds %q", got)
	}
}
