package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
)

const (
	// stagingDir is where trees grow, on the file system of the assets so that publishing is a rename. It is not for
	// machines: mode 0700.
	stagingDir = ".sync"
	// parallel transfers; more of them help nobody's mirror.
	parallel = 4
	// slack is kept free besides what the images need.
	slack = 64 << 20
)

type syncer struct {
	spec     Spec
	source   source
	keys     openpgp.EntityList
	now      func() time.Time
	free     func(dir string) (int64, error)
	progress Progress

	mu    sync.Mutex
	step  Step
	bytes map[string]int64 // that count as done, by file
	notes []string
}

func newSyncer(spec Spec, progress Progress) (*syncer, error) {
	if err := spec.check(); err != nil {
		return nil, fmt.Errorf("cannot synchronise images: %w", err)
	}
	s := &syncer{spec: spec, now: time.Now, free: freeSpace, progress: progress, bytes: map[string]int64{}}
	s.step.Total = -1
	where := spec.Source
	switch {
	case where != "":
	case spec.OS == Flatcar:
		where = "https://" + spec.Channel + ".release.flatcar-linux.net"
	case spec.OS == FedoraCoreOS:
		where = "https://builds.coreos.fedoraproject.org"
	}
	var err error
	if s.source, err = newSource(where, spec.Client); err != nil {
		return nil, fmt.Errorf("cannot synchronise images: %w", err)
	}
	if !spec.SkipSignatures {
		if s.keys, err = readKeys(spec.Keys); err != nil {
			return nil, fmt.Errorf("cannot synchronise images: %w", err)
		}
	}
	return s, nil
}

func (s *syncer) note(format string, a ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if text := fmt.Sprintf(format, a...); !slices.Contains(s.notes, text) {
		s.notes = append(s.notes, text)
	}
}

// count adds to a file's bytes and tells the progress.
func (s *syncer) count(name string, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes[name] += n
	s.step.Done += n
	s.step.File = name
	if s.progress != nil {
		s.progress(s.step)
	}
}

func (s *syncer) got(name string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes[name]
}

func (s *syncer) act(action string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.step.Action = action
}

// sync makes the published tree what the plan says.
func (s *syncer) sync(ctx context.Context, t tree) (Result, error) {
	final := filepath.Join(s.spec.Dest, filepath.FromSlash(Directory(t.os, t.version, t.arch)))
	staging := filepath.Join(s.spec.Dest, stagingDir, t.os+"-"+t.version+"-"+t.arch)
	fresh, err := adoptable(final, t)
	if err != nil {
		return Result{}, err
	}
	if err := os.MkdirAll(staging, 0o700); err != nil {
		return Result{}, err
	}
	signatures, err := s.signatures(ctx, t)
	if err != nil {
		return Result{}, err
	}
	right, missing, err := s.present(ctx, t, []string{final, staging}, signatures)
	if err != nil {
		return Result{}, err
	}
	if err := s.room(ctx, missing, staging); err != nil {
		return Result{}, err
	}
	s.act("fetch")
	if err := s.each(ctx, len(missing), func(ctx context.Context, i int) error {
		v, err := s.obtain(ctx, missing[i], staging, signatures)
		if err == nil {
			s.mu.Lock()
			right[missing[i].path] = v
			s.mu.Unlock()
		}
		return err
	}); err != nil {
		return Result{}, err
	}
	m, err := s.publish(t, right, signatures, staging, final, fresh)
	if err != nil {
		return Result{}, fmt.Errorf("cannot publish it as %s: %w", final, err)
	}
	return Result{Tree: m.tree(final), Fetched: len(missing), Notes: s.notes}, nil
}

// adoptable tells whether the tree is new. What is there already must have been published by us.
func adoptable(final string, t tree) (fresh bool, err error) {
	entries, err := os.ReadDir(final)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && len(entries) == 0) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	manifests, err := readManifests(final)
	if err != nil {
		return false, err
	}
	for _, m := range manifests {
		// Fedora CoreOS has the architecture in its files' names, Flatcar has not.
		if m.Arch != t.arch && t.os == Flatcar {
			return false, fmt.Errorf("%s holds Flatcar for %s, whose files have the same names; a provisioner serves a version of Flatcar for one architecture only", final, m.Arch)
		}
	}
	if len(manifests) == 0 {
		return false, fmt.Errorf("%s is there already and was not made by \"images sync\"; move it away, then run this again", final)
	}
	return false, nil
}

// signatures fetches the detached signatures of a plan, by the path of what they sign.
func (s *syncer) signatures(ctx context.Context, t tree) (map[string][]byte, error) {
	all := map[string][]byte{}
	for _, f := range t.files {
		if f.signature == "" {
			continue
		}
		text, err := s.small(ctx, f.signature)
		if errors.Is(err, fs.ErrNotExist) && s.spec.SkipSignatures {
			continue
		}
		if err != nil {
			return nil, err
		}
		all[f.path] = text
	}
	return all, nil
}

// present checks what is on disk, and gives what is right and what must be fetched.
func (s *syncer) present(ctx context.Context, t tree, dirs []string, signatures map[string][]byte) (map[string]verified, []file, error) {
	right, missing := map[string]verified{}, []file(nil)
	s.act("check")
	for _, f := range t.files {
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		found := false
		for _, dir := range dirs {
			v, err := s.verify(f, filepath.Join(dir, filepath.FromSlash(f.path)), signatures[f.path])
			if err == nil {
				right[f.path], found = v, true
				s.count(f.path, v.size)
				break
			}
			if dir == dirs[0] && !errors.Is(err, fs.ErrNotExist) {
				s.note("%s was published but is not right: %v; it was fetched again", f.path, err)
			}
		}
		if !found {
			missing = append(missing, f)
		}
	}
	return right, missing, nil
}

// room finds out how much there is to fetch, and whether the disk holds it.
func (s *syncer) room(ctx context.Context, missing []file, staging string) error {
	var need, total int64
	for i := range missing {
		f := &missing[i]
		if f.size < 0 && f.content == nil {
			size, err := s.source.size(ctx, f.from)
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s has no %s: %w", s.source, f.from, err)
			}
			if err == nil && size >= 0 {
				f.size = size
			} else {
				s.note("%s does not say how large %s is, so the disk was not checked for it", s.source, f.path)
			}
		}
		size := max(f.size, int64(len(f.content)))
		total += size
		if info, err := os.Stat(filepath.Join(staging, filepath.FromSlash(f.path)) + partSuffix); err == nil {
			size -= min(size, info.Size())
		}
		need += size
	}
	s.mu.Lock()
	s.step.Total = s.step.Done + total
	s.mu.Unlock()
	free, err := s.free(staging)
	if err != nil {
		s.note("the free space in %s is not known: %v", s.spec.Dest, err)
		return nil
	}
	if need > 0 && need+slack > free {
		return fmt.Errorf("%s more are needed in %s, which has %s free; remove old versions with \"tectonic-installer images prune\", or give it a larger disk",
			human(need+slack-free), s.spec.Dest, human(free))
	}
	return nil
}

// each calls f for 0 to n-1, several at a time, and stops at the first error.
func (s *syncer) each(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(parallel, n) {
		workers.Go(func() {
			for i := range next {
				if err := f(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := 0; i < n && ctx.Err() == nil; i++ {
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	workers.Wait()
	return context.Cause(ctx)
}

// obtain fetches and verifies one file. Bytes that an interrupted run left may be damaged by what interrupted it, so
// a file that was continued and is not right is fetched once more as a whole.
func (s *syncer) obtain(ctx context.Context, f file, staging string, signatures map[string][]byte) (verified, error) {
	name := filepath.Join(staging, filepath.FromSlash(f.path))
	if f.content != nil {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return verified{}, err
		}
		if err := put(name+partSuffix, f.content); err != nil {
			return verified{}, err
		}
		s.count(f.path, int64(len(f.content)))
	}
	for {
		info, err := os.Stat(name + partSuffix)
		continued := err == nil && info.Size() > 0 && f.content == nil
		if f.content == nil {
			if err := s.fetch(ctx, f, name); err != nil {
				return verified{}, err
			}
		}
		v, err := s.verify(f, name+partSuffix, signatures[f.path])
		if err == nil {
			if v.note != "" {
				s.note("%s: %s", v.fingerprint, v.note)
			}
			os.Remove(name + partSuffix + ".version")
			return v, os.Rename(name+partSuffix, name)
		}
		os.Remove(name + partSuffix)
		os.Remove(name + partSuffix + ".version")
		if !continued {
			return verified{}, fmt.Errorf("%s from %s is not right and was thrown away: %w", f.path, s.source, err)
		}
		s.count(f.path, -s.got(f.path))
	}
}
