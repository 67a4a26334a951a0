package host

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// settle is how long the changes of one path are gathered before it is
// reported: an editor or a package manager touches a file several times.
const settle = 200 * time.Millisecond

const (
	// entryMask is what is asked of a directory that holds, or will hold, one
	// of the paths. IN_MODIFY is not in it: a half-written file is of no use to
	// anybody, and its end is IN_CLOSE_WRITE.
	entryMask = unix.IN_CLOSE_WRITE | unix.IN_ATTRIB | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO
	// selfMask is asked of every directory on the way: it costs nothing until
	// that directory itself is moved or deleted.
	selfMask = unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
)

// Watch tells which of the paths changed, until ctx ends; then the channel is
// closed. A change is a write that ended, another file in its place, creation,
// deletion, another mode or owner, of the file or of a directory above it; our
// own changes are reported too. Symbolic links are followed, and watched
// themselves. Of a directory, every entry counts. A path need not exist, nor
// its directory. Changes within 200 ms are reported once, and a slow reader
// finds each path once.
//
// The error says that watching cannot begin. What cannot be watched later
// (fs.inotify.max_user_watches is reached) goes unseen until the next change
// beside it: pair this with a timer.
//
// This is inotify(7) itself and not fsnotify, which wakes for each write to
// any file beside ours, does not follow a link that is replaced, and leaves
// directories that come and go to its caller: the greater part of this file.
func (r Root) Watch(ctx context.Context, paths []string) (<-chan string, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, watchError(err)
	}
	w := &watcher{root: r, paths: paths, fd: fd, file: os.NewFile(uintptr(fd), "inotify"), due: map[string]time.Time{}}
	if err := w.arm(); err != nil {
		w.file.Close()
		return nil, err
	}
	raw := make(chan []rawEvent)
	out := make(chan string)
	go w.read(ctx, raw)
	go w.loop(ctx, raw, out)
	return out, nil
}

func watchError(err error) error {
	remedy := ""
	switch {
	case errors.Is(err, unix.EMFILE):
		remedy = "; raise fs.inotify.max_user_instances with sysctl"
	case errors.Is(err, unix.ENOSPC):
		remedy = "; raise fs.inotify.max_user_watches with sysctl"
	}
	return fmt.Errorf("cannot watch files for changes: %w%s", err, remedy)
}

type watcher struct {
	root  Root
	paths []string
	fd    int
	file  *os.File // fd, as the runtime polls it

	dirs map[int]*watched     // by watch descriptor
	due  map[string]time.Time // when a changed path is to be reported
}

// watched says whom a directory's events concern.
type watched struct {
	entries map[string][]string // name in it -> paths; "" is every name
	self    []string            // paths that lead through it
}

// rawEvent is struct inotify_event.
type rawEvent struct {
	wd   int
	mask uint32
	name string
}

// read takes events from the kernel until the file is closed.
func (w *watcher) read(ctx context.Context, to chan<- []rawEvent) {
	defer close(to)
	buf := make([]byte, 16<<10)
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			return
		}
		select {
		case to <- parseEvents(buf[:n]):
		case <-ctx.Done():
			return
		}
	}
}

func parseEvents(b []byte) []rawEvent {
	var events []rawEvent
	for len(b) >= unix.SizeofInotifyEvent {
		e := rawEvent{wd: int(int32(binary.NativeEndian.Uint32(b))), mask: binary.NativeEndian.Uint32(b[4:])}
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		if end > len(b) {
			break
		}
		name, _, _ := bytes.Cut(b[unix.SizeofInotifyEvent:end], []byte{0})
		e.name = string(name)
		events = append(events, e)
		b = b[end:]
	}
	return events
}

// loop gathers changes and hands out the paths that are due.
func (w *watcher) loop(ctx context.Context, raw <-chan []rawEvent, out chan<- string) {
	defer close(out)
	defer func() {
		w.file.Close()
		for range raw { // until the reader has ended
		}
	}()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		path, wait := w.next()
		var send chan<- string
		timer.Stop()
		switch {
		case path == "":
		case wait <= 0:
			send = out
		default:
			timer.Reset(wait)
		}
		select {
		case events, ok := <-raw:
			if !ok {
				return
			}
			w.handle(events)
		case send <- path:
			delete(w.due, path)
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
}

// next is the path that is due first, and how long that is from now.
func (w *watcher) next() (path string, wait time.Duration) {
	var at time.Time
	for p, t := range w.due {
		if path == "" || t.Before(at) || t.Equal(at) && p < path {
			path, at = p, t
		}
	}
	return path, time.Until(at)
}

func (w *watcher) handle(events []rawEvent) {
	moved := false
	changed := func(paths []string) {
		for _, p := range paths {
			if _, waits := w.due[p]; !waits {
				w.due[p] = time.Now().Add(settle)
			}
		}
	}
	for _, e := range events {
		if e.mask&unix.IN_Q_OVERFLOW != 0 {
			changed(w.paths)
			moved = true
			continue
		}
		dir := w.dirs[e.wd]
		if dir == nil {
			continue
		}
		if e.mask&(selfMask|unix.IN_IGNORED|unix.IN_UNMOUNT) != 0 {
			changed(dir.self)
			moved = true
			continue
		}
		// A directory tells of its own mode without a name.
		concerned := dir.self
		if e.name != "" {
			concerned = dir.entries[e.name]
			changed(dir.entries[""])
		}
		changed(concerned)
		if len(concerned) > 0 && e.mask&(unix.IN_CREATE|unix.IN_DELETE|unix.IN_MOVED_FROM|unix.IN_MOVED_TO) != 0 {
			moved = true
		}
	}
	if moved {
		_ = w.arm() // see Watch
	}
}

// arm sets the watches for the paths as they lead now. It looks again after
// it set them, because what came in between was seen by nobody.
func (w *watcher) arm() error {
	var failed error
	for range 10 {
		before := w.root.trace(w.paths)
		dirs := map[int]*watched{}
		failed = nil
		for path, d := range before {
			mask := uint32(selfMask | unix.IN_ONLYDIR | unix.IN_MASK_ADD)
			if len(d.entries) > 0 {
				mask |= entryMask
			}
			wd, err := unix.InotifyAddWatch(w.fd, w.root.Path(path), mask)
			switch {
			case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
				continue // the look after this sees the same
			case err != nil:
				failed = fmt.Errorf("%s: %w", path, watchError(err))
				continue
			}
			dirs[wd] = merge(dirs[wd], d)
		}
		for wd := range w.dirs {
			if dirs[wd] == nil {
				_, _ = unix.InotifyRmWatch(w.fd, uint32(wd))
			}
		}
		w.dirs = dirs
		if same(before, w.root.trace(w.paths)) {
			break
		}
	}
	return failed
}
