package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// temporary begins the name of a file that is being written.
const temporary = ".tmp-"

// maxFile is the size of a file that is read: ten times what gRPC takes.
const maxFile = 40 << 20

// store is the data directory and the index of it. All that changes files or index goes through its lock, so that a file
// which is read is the file that is indexed.
type store struct {
	dir   string
	index *index
	log   *slog.Logger

	mu       sync.Mutex
	seen     [kinds]map[string]stamp // what the indexed files, and those with a problem, were when read
	problems map[string]string       // by path below dir

	syncs [kinds]directorySync
}

func openStore(dir string, log *slog.Logger) (*store, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot serve the data directory: %w; create it, or name another with --data-path", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("cannot serve the data directory %s: it is not a directory", dir)
	}
	s := &store{dir: dir, index: newIndex(), log: log, problems: map[string]string{}}
	for k := range kinds {
		s.seen[k] = map[string]stamp{}
		s.sweep(k)
		s.rescan(k)
	}
	return s, nil
}

// sweep removes what an interrupted write left. Another server may be at work in the same directory, so only old ones.
func (s *store) sweep(k kind) {
	left, _ := filepath.Glob(filepath.Join(s.dir, directories[k], temporary+"*"))
	for _, path := range left {
		if info, err := os.Lstat(path); err == nil && time.Since(info.ModTime()) > time.Hour {
			_ = os.Remove(path)
		}
	}
}

func (s *store) path(k kind, id string) string {
	return filepath.Join(s.dir, directories[k], k.file(id))
}

// prepare writes content to a temporary file beside the place of an object, and has it on disk.
func (s *store) prepare(k kind, content []byte) (path string, err error) {
	dir := filepath.Join(s.dir, directories[k])
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(dir, temporary)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(content); err != nil {
		return "", err
	}
	if runtime.GOOS != "windows" {
		if err := f.Chmod(0o644); err != nil {
			return "", err
		}
	}
	if err := f.Sync(); err != nil {
		return "", err
	}
	return f.Name(), f.Close()
}

func (s *store) putGroup(g *group) error {
	content, err := json.MarshalIndent(g.wire(), "", "\t")
	if err != nil {
		return err
	}
	return s.put(groups, g.id, content)
}

func (s *store) putProfile(p *profile) error {
	content, err := json.MarshalIndent(p.Profile, "", "\t")
	if err != nil {
		return err
	}
	return s.put(profiles, p.ID, content)
}

// put has an object on disk when it returns: a reader, or a machine that loses power, finds the old one or the new one,
// whole. The lock is not held while the disk is waited for, so that many puts at a time wait together.
func (s *store) put(k kind, id string, content []byte) error {
	path, err := s.prepare(k, content)
	if err == nil {
		s.mu.Lock()
		if err = os.Rename(path, s.path(k, id)); err == nil {
			s.load(k, id, true)
		} else {
			_ = os.Remove(path)
		}
		s.mu.Unlock()
	}
	if err == nil {
		err = s.syncs[k].sync(filepath.Join(s.dir, directories[k]))
	}
	if err != nil {
		return fmt.Errorf("cannot keep the %s %q: %w", k.object(), id, err)
	}
	return nil
}

// remove deletes an object; one that is not there is no error.
func (s *store) remove(k kind, id string) error {
	s.mu.Lock()
	err := os.Remove(s.path(k, id))
	s.load(k, id, true)
	s.mu.Unlock()
	if err == nil {
		err = s.syncs[k].sync(filepath.Join(s.dir, directories[k]))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot delete the %s %q: %w", k.object(), id, err)
	}
	return nil
}

// refresh reads a file that may have changed. It is false when the file cannot be understood, and then, unless final, the
// index keeps what it has: another program may be in the middle of writing.
func (s *store) refresh(k kind, id string, final bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.load(k, id, final)
}

// stamp tells whether a file changed that nothing was heard of. A program that keeps size and time of what it changes
// goes unnoticed where the kernel tells nothing either.
type stamp struct{ size, modified int64 }

func stampOf(info fs.FileInfo) stamp { return stamp{info.Size(), info.ModTime().UnixNano()} }

// load reads a file into the index. The lock is held.
func (s *store) load(k kind, id string, final bool) bool {
	r := s.read(k, id)
	if r.err != nil && !final {
		return false
	}
	s.take(k, id, r)
	return true
}

// take puts what a file holds into the index. The lock is held.
func (s *store) take(k kind, id string, r reading) {
	switch k {
	case groups:
		s.index.putGroup(id, r.group)
	case profiles:
		s.index.putProfile(id, r.profile)
	default:
		s.index.putText(k, id, r.text)
	}
	if r.info == nil {
		delete(s.seen[k], id)
	} else {
		s.seen[k][id] = stampOf(r.info)
	}
	path := directories[k] + "/" + k.file(id)
	if r.err == nil {
		delete(s.problems, path)
		return
	}
	problem := oneLine(r.err.Error())
	if s.problems[path] != problem {
		s.log.Warn("a file is not served", "file", path, "problem", problem)
	}
	s.problems[path] = problem
}

// rescan compares a whole directory with the index.
func (s *store) rescan(k kind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := filepath.Join(s.dir, directories[k])
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		if s.problems[directories[k]] == "" {
			s.log.Warn("a directory is not served anew", "directory", dir, "problem", err)
		}
		s.problems[directories[k]] = err.Error()
		return
	}
	delete(s.problems, directories[k])
	there := make(map[string]bool, len(entries))
	var changed []string
	for _, e := range entries {
		id, ours := k.id(e.Name())
		if !ours {
			continue
		}
		there[id] = true
		if seen, known := s.seen[k][id]; known {
			if info, err := os.Stat(filepath.Join(dir, e.Name())); err == nil && stampOf(info) == seen {
				continue
			}
		}
		changed = append(changed, id)
	}
	for id := range s.seen[k] {
		if !there[id] {
			s.take(k, id, reading{})
		}
	}
	// Files are many and small: read them side by side, in portions.
	const portion = 64
	type portionRead struct {
		ids  []string
		read []reading
	}
	results := make(chan portionRead)
	work := make(chan []string)
	go func() {
		for ids := range slices.Chunk(changed, portion) {
			work <- ids
		}
		close(work)
	}()
	var readers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		readers.Go(func() {
			for ids := range work {
				p := portionRead{ids: ids}
				for _, id := range ids {
					p.read = append(p.read, s.read(k, id))
				}
				results <- p
			}
		})
	}
	go func() { readers.Wait(); close(results) }()
	for p := range results {
		for i, id := range p.ids {
			if _, known := s.seen[k][id]; !known || !p.read[i].unsettled() {
				s.take(k, id, p.read[i])
			}
		}
	}
}

// config gives a config by the name a profile has for it.
func (s *store) config(k kind, name string) *text {
	if t := s.index.text(k, name); t != nil || !nested(name) {
		return t
	}
	content, info, err := readFile(filepath.Join(s.dir, directories[k], filepath.FromSlash(name)))
	if err != nil || info.IsDir() {
		return nil
	}
	return &text{name: name, body: content}
}

// listProblems gives what is not served and why, sorted.
func (s *store) listProblems() []Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Problem
	for path, problem := range s.problems {
		all = append(all, Problem{File: path, Message: problem})
	}
	slices.SortFunc(all, func(a, b Problem) int { return strings.Compare(a.File, b.File) })
	return all
}

// Problem is a file of the data directory that is not served.
type Problem struct {
	File    string `json:"file"` // below the data directory
	Message string `json:"message"`
}
