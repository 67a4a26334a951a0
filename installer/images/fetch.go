package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	partSuffix = ".part"
	// attempts in a row that bring not a single byte end a transfer.
	attempts = 6
)

// Variables for tests only: how long a transfer may bring nothing, and the pause before the next attempt.
var (
	stall   = 60 * time.Second
	backoff = func(n int) time.Duration { return min(time.Second<<n, 30*time.Second) }
)

// retry calls f until it succeeds, fails for good, or brought nothing several times. f calls alive for whatever it
// receives; without, its context ends after stall.
func (s *syncer) retry(ctx context.Context, f func(ctx context.Context, alive func()) (progress bool, err error)) error {
	for n := 0; ; n++ {
		attempt, cancel := context.WithCancelCause(ctx)
		watchdog := time.AfterFunc(stall, func() { cancel(fmt.Errorf("nothing came for %v", stall)) })
		progress, err := f(attempt, func() { watchdog.Reset(stall) })
		watchdog.Stop()
		if cause := context.Cause(attempt); err != nil && cause != nil {
			err = temporary{cause}
		}
		cancel(nil)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if progress {
			n = 0
		}
		if !errors.As(err, &temporary{}) || n+1 >= attempts {
			return err
		}
		pause := time.NewTimer(backoff(n))
		select {
		case <-ctx.Done():
			pause.Stop()
			return context.Cause(ctx)
		case <-pause.C:
		}
	}
}

// watched tells that bytes arrive.
type watched struct {
	r     io.Reader
	alive func()
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if n > 0 {
		w.alive()
	}
	return n, err
}

// fetch brings a file to path+".part", from where an earlier call stopped, and leaves it there, complete but not yet
// verified. Beside it path+".part.version" says which version of the source's file the bytes are of.
func (s *syncer) fetch(ctx context.Context, f file, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(path+partSuffix, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	err = s.retry(ctx, func(ctx context.Context, alive func()) (bool, error) {
		return s.fetchOnce(ctx, f, out, path+partSuffix+".version", alive)
	})
	if err != nil {
		return fmt.Errorf("cannot fetch %s from %s: %w", f.from, s.source, err)
	}
	if err := out.Sync(); err != nil {
		return err
	}
	return out.Close()
}

func (s *syncer) fetchOnce(ctx context.Context, f file, out *os.File, versionFile string, alive func()) (progress bool, err error) {
	offset, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return false, err
	}
	version, _ := os.ReadFile(versionFile)
	p, err := s.source.open(ctx, f.from, offset, strings.TrimSpace(string(version)))
	if err != nil {
		return false, err
	}
	defer p.body.Close()
	if p.start != offset {
		if err := out.Truncate(p.start); err != nil {
			return false, err
		}
		if _, err := out.Seek(p.start, io.SeekStart); err != nil {
			return false, err
		}
	}
	if p.start == 0 {
		// The version is on disk before the first byte of it.
		if err := os.WriteFile(versionFile, []byte(p.validator+"\n"), 0o644); err != nil {
			return false, err
		}
	}
	if f.size >= 0 && p.total >= 0 && p.total != f.size {
		return false, fmt.Errorf("it has %d bytes, where %d were announced; the mirror is not up to date", p.total, f.size)
	}
	s.count(f.path, p.start-s.got(f.path))
	limit := int64(maxFile)
	if p.total >= 0 {
		limit = p.total
	}
	n, err := io.Copy(out, io.LimitReader(&counted{&watched{p.body, alive}, func(n int64) { s.count(f.path, n) }}, limit-p.start))
	if isSpace(err) {
		return n > 0, fmt.Errorf("the disk is full: %w", err)
	}
	if err != nil || (p.total >= 0 && p.start+n != p.total) {
		return n > 0, temporary{fmt.Errorf("it broke off after %s: %w", human(p.start+n), cmp.Or(err, io.ErrUnexpectedEOF))}
	}
	return true, nil
}

// maxFile bounds a file whose size nobody told.
const maxFile = 64 << 30

type counted struct {
	r   io.Reader
	add func(int64)
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if n > 0 {
		c.add(int64(n))
	}
	return n, err
}

// human is a size for people.
func human(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d bytes", n)
}
