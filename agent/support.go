package agent

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"time"
)

const (
	supportTime   = 3 * time.Minute  // for everything
	collectorTime = 30 * time.Second // for one entry; doctor has more
	// maxEntry bounds one entry after redaction.
	maxEntry = 4 << 20
	// collectors at once: most wait for a program.
	supportWorkers = 4
)

// SupportOptions is what support needs beside the host.
type SupportOptions struct {
	Environ []string
	Version string // of this program
	Prefix  string // the directory in the archive
}

// collector makes one entry of the archive. What it writes goes through the
// redactor; its error goes to the index, and what it wrote before stays.
type collector struct {
	name  string
	limit time.Duration // 0: collectorTime
	write func(ctx context.Context, w io.Writer) error
}

// Support writes a tar.gz for a bug report: what this host says of the worker,
// without a secret in it. Every entry passes one writer that takes them out.
// What can't be collected is in the archive's index; the error is one of w.
func Support(ctx context.Context, sys *System, o SupportOptions, w io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, supportTime)
	defer cancel()
	s := &supporter{sys: sys, o: o}
	list := s.collectors()
	entries := make([]entry, len(list))
	work := make(chan int)
	var all sync.WaitGroup
	for range supportWorkers {
		all.Go(func() {
			for i := range work {
				entries[i] = list[i].collect(ctx)
			}
		})
	}
	for i := range list {
		work <- i
	}
	close(work)
	all.Wait()
	return writeArchive(w, o.Prefix, sys.Now(), append([]entry{index(entries, o.Version, sys.Now())}, entries...))
}

// entry is a file of the archive, without secrets.
type entry struct {
	name string
	data []byte
	took time.Duration
	err  error
}

// collect runs a collector until its end or until its time is over, whichever
// comes first.
func (c collector) collect(ctx context.Context) entry {
	limit := c.limit
	if limit == 0 {
		limit = collectorTime
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	begin := time.Now()
	out := &limited{}
	done := make(chan error, 1)
	go func() {
		r := &redactor{w: out}
		err := c.write(ctx, r)
		done <- errors.Join(err, r.Close())
	}()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		// A program that was told to stop gets to say what it had.
		grace := time.NewTimer(3 * time.Second)
		defer grace.Stop()
		select {
		case err = <-done:
		case <-grace.C:
			err = errors.New("did not end in time")
		}
	}
	return entry{c.name, out.take(), time.Since(begin), err}
}

// limited keeps the first maxEntry bytes, and what comes after take none.
type limited struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	cut  bool
	over bool
}

func (l *limited) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return 0, fs.ErrClosed
	}
	room := maxEntry - l.buf.Len()
	l.buf.Write(p[:min(room, len(p))])
	l.cut = l.cut || room < len(p)
	return len(p), nil
}

func (l *limited) take() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	if l.cut {
		l.buf.WriteString("\n[cut off here]\n")
	}
	return l.buf.Bytes()
}

// index is the archive's first entry: what is in it, and what is missing.
func index(entries []entry, version string, now time.Time) entry {
	var b bytes.Buffer
	r := &redactor{w: &b}
	fmt.Fprintf(r, "tectonic-worker %s, support archive of %s\nSecrets were taken out; read it before you send it all the same.\n\n", version, now.UTC().Format(time.RFC3339))
	for _, e := range entries {
		state := "ok"
		if e.err != nil {
			state = "FAILED: " + oneLine(e.err.Error())
		}
		fmt.Fprintf(r, "%-34s %8d bytes  %6.2f s  %s\n", e.name, len(e.data), e.took.Seconds(), state)
	}
	_ = r.Close() // a bytes.Buffer takes everything
	return entry{name: "index.txt", data: b.Bytes()}
}

func writeArchive(w io.Writer, prefix string, now time.Time, entries []entry) error {
	z := gzip.NewWriter(w)
	t := tar.NewWriter(z)
	for _, e := range entries {
		head := &tar.Header{Name: prefix + "/" + e.name, Mode: 0o600, Size: int64(len(e.data)), ModTime: now.Truncate(time.Second)}
		if err := t.WriteHeader(head); err != nil {
			return fmt.Errorf("cannot write the archive: %w", err)
		}
		if _, err := t.Write(e.data); err != nil {
			return fmt.Errorf("cannot write the archive: %w", err)
		}
	}
	if err := errors.Join(t.Close(), z.Close()); err != nil {
		return fmt.Errorf("cannot write the archive: %w", err)
	}
	return nil
}
