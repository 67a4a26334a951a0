package server

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// quiet is how long a file must be left alone before it is read: who overwrites a file truncates it first.
	quiet = 50 * time.Millisecond
	// patience is how long a file that is written all the time, or that cannot be understood, is waited for.
	patience = time.Second
	// restInterval is how often all files are looked at, for file systems that tell nothing (NFS) and links whose target
	// changes. A directory whose scan takes long is scanned less often.
	restInterval = 30 * time.Second
	// pollInterval takes its place where the kernel gives no watch (too many inotify instances).
	pollInterval = 2 * time.Second
)

// change is a file that something happened to.
type change struct {
	kind kind
	id   string
}

type since struct{ first, last time.Time }

// follower keeps the index like the files.
type follower struct {
	store   *store
	watcher *fsnotify.Watcher // nil: poll
	dirty   map[change]since
}

// newFollower watches and then scans, so that nothing falls between.
func newFollower(s *store) *follower {
	f := &follower{store: s, dirty: map[change]since{}}
	watcher, err := fsnotify.NewBufferedWatcher(4096)
	if err == nil {
		f.watcher = watcher
		err = watcher.Add(s.dir)
	}
	if err != nil {
		s.log.Warn("cannot watch the data directory, looking at it every two seconds; if there are too many watches, raise fs.inotify.max_user_instances and max_user_watches",
			"problem", err)
		f.close()
	}
	f.rescan()
	return f
}

func (f *follower) close() {
	if f.watcher != nil {
		_ = f.watcher.Close()
		f.watcher = nil
	}
}

// run follows until ctx ends.
func (f *follower) run(ctx context.Context) {
	defer f.close()
	var events chan fsnotify.Event
	var failures chan error
	interval := pollInterval
	if f.watcher != nil {
		events, failures, interval = f.watcher.Events, f.watcher.Errors, restInterval
	}
	settle := time.NewTimer(time.Hour)
	settle.Stop()
	rest := time.NewTimer(interval)
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-events:
			if f.event(e) {
				settle.Reset(quiet)
			}
		case err := <-failures:
			// The kernel's queue overflowed: what was lost is unknown.
			f.store.log.Warn("lost track of changes in the data directory, reading it anew", "problem", err)
			f.rescan()
		case <-settle.C:
			if f.settle(time.Now()) {
				settle.Reset(quiet)
			}
		case <-rest.C:
			began := time.Now()
			f.rescan()
			rest.Reset(max(interval, 100*time.Since(began)))
		}
	}
}

func (f *follower) rescan() {
	for k := range kinds {
		f.watch(k)
		f.store.rescan(k)
	}
}

// watch begins to follow a directory. One that is not there is heard of when it comes.
func (f *follower) watch(k kind) {
	if f.watcher != nil {
		_ = f.watcher.Add(filepath.Join(f.store.dir, directories[k]))
	}
}

// event notes what is to be read, and says whether there is anything.
func (f *follower) event(e fsnotify.Event) bool {
	if e.Op == fsnotify.Chmod {
		return false
	}
	dir, name := filepath.Split(e.Name)
	dir = filepath.Clean(dir)
	if dir == filepath.Clean(f.store.dir) {
		// One of the directories came, went or was replaced.
		if k := kind(slices.Index(directories[:], name)); k >= 0 {
			f.watch(k)
			f.store.rescan(k)
		}
		return false
	}
	k := kind(slices.Index(directories[:], filepath.Base(dir)))
	if k < 0 {
		return false
	}
	// Kubernetes exchanges the files of a mounted ConfigMap by renaming the link "..data".
	if strings.HasPrefix(name, "..") {
		f.store.rescan(k)
		return false
	}
	id, ours := k.id(name)
	if !ours {
		return false
	}
	now := time.Now()
	at := f.dirty[change{k, id}]
	if at.first.IsZero() {
		at.first = now
	}
	at.last = now
	f.dirty[change{k, id}] = at
	return true
}

// settle reads the files that have come to rest, and says whether any are left to wait for.
func (f *follower) settle(now time.Time) bool {
	for c, at := range f.dirty {
		late := now.Sub(at.first) >= patience
		if now.Sub(at.last) < quiet && !late {
			continue
		}
		if f.store.refresh(c.kind, c.id, late) {
			delete(f.dirty, c)
		}
	}
	return len(f.dirty) > 0
}
