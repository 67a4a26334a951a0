package images

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// manifestPrefix begins the names of the files that say what a published tree holds, one for each architecture.
const manifestPrefix = ".images-"

// manifest is the content of such a file.
type manifest struct {
	OS       string         `json:"os"`
	Channel  string         `json:"channel,omitempty"`
	Version  string         `json:"version"`
	Arch     string         `json:"arch"`
	Source   string         `json:"source"`
	SignedBy []string       `json:"signedBy,omitempty"` // fingerprints of primary keys
	Time     time.Time      `json:"time"`
	Files    []manifestFile `json:"files"`
}

type manifestFile struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

func readManifests(dir string) ([]manifest, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []manifest
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), manifestPrefix) || !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		name := filepath.Join(dir, e.Name())
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		var m manifest
		if err := json.Unmarshal(text, &m); err != nil {
			return nil, fmt.Errorf("%s is damaged: %w; remove the tree %s, then synchronise it again", name, err, dir)
		}
		for _, f := range m.Files {
			if !filepath.IsLocal(filepath.FromSlash(f.Path)) {
				return nil, fmt.Errorf("%s names a file outside of its tree, %q; remove it, then synchronise again", name, f.Path)
			}
		}
		all = append(all, m)
	}
	return all, nil
}

func (m manifest) tree(dir string) Tree {
	t := Tree{OS: m.OS, Channel: m.Channel, Version: m.Version, Arch: m.Arch, Dir: dir, Source: m.Source, SignedBy: m.SignedBy, Time: m.Time}
	for _, f := range m.Files {
		t.Size += f.Size
	}
	return t
}

// publish moves what was staged to where machines load it. A new tree appears whole; in one that is there already,
// each file is replaced at once by its right content.
func (s *syncer) publish(t tree, right map[string]verified, signatures map[string][]byte, staging, final string, fresh bool) (manifest, error) {
	m := manifest{OS: t.os, Channel: t.channel, Version: t.version, Arch: t.arch, Source: s.source.String(), Time: s.now().UTC().Truncate(time.Second)}
	wanted := map[string]bool{}
	record := func(path string, size int64, sha256 string) {
		wanted[path] = true
		m.Files = append(m.Files, manifestFile{path, size, sha256})
	}
	dir := staging
	if !fresh {
		dir = final
	}
	for _, f := range t.files {
		v := right[f.path]
		record(f.path, v.size, v.sha256)
		if v.fingerprint != "" && !slices.Contains(m.SignedBy, v.fingerprint) {
			m.SignedBy = append(m.SignedBy, v.fingerprint)
		}
		if !fresh {
			if err := move(staging, final, f.path); err != nil {
				return m, err
			}
		}
		if text := signatures[f.path]; text != nil && f.keepSignature {
			record(f.path+".sig", int64(len(text)), sum(text).value)
			if err := put(filepath.Join(dir, filepath.FromSlash(f.path+".sig")), text); err != nil {
				return m, err
			}
		}
		if f.alias != "" {
			record(f.alias, v.size, v.sha256)
			if err := alias(dir, f.path, f.alias); err != nil {
				return m, err
			}
		}
	}
	slices.Sort(m.SignedBy)
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return m, err
	}
	name := manifestPrefix + t.arch + ".json"
	wanted[name] = true
	if fresh {
		// What an earlier plan left behind is no part of the tree.
		if err := clean(staging, wanted); err != nil {
			return m, err
		}
	}
	if err := put(filepath.Join(dir, name), append(text, '\n')); err != nil {
		return m, err
	}
	if err := readable(dir); err != nil {
		return m, err
	}
	if !fresh {
		return m, os.RemoveAll(staging)
	}
	if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
		return m, err
	}
	// An empty directory may be in the way; one with content makes the rename fail, as it must.
	if err := os.Remove(final); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return m, err
	}
	if err := os.Rename(staging, final); err != nil {
		return m, err
	}
	return m, syncDir(filepath.Dir(final))
}

// move takes a staged file to its place in a published tree, if one was staged.
func move(staging, final, path string) error {
	from, to := filepath.Join(staging, filepath.FromSlash(path)), filepath.Join(final, filepath.FromSlash(path))
	if _, err := os.Lstat(from); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.Rename(from, to)
}

// alias makes a second name for a file, whatever had that name.
func alias(dir, path, second string) error {
	from, to := filepath.Join(dir, filepath.FromSlash(path)), filepath.Join(dir, filepath.FromSlash(second))
	a, err := os.Stat(from)
	if err != nil {
		return err
	}
	if b, err := os.Lstat(to); err == nil && os.SameFile(a, b) {
		return nil
	}
	tmp := to + partSuffix
	os.Remove(tmp)
	if err := os.Link(from, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, to)
}

// clean removes from dir what is not wanted.
func clean(dir string, wanted map[string]bool) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err == nil && !wanted[filepath.ToSlash(rel)] {
			err = os.Remove(path)
		}
		return err
	})
}

// readable lets everybody read a tree, whatever the umask, and brings its directories to disk.
func readable(dir string) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !e.IsDir() {
			return os.Chmod(path, 0o644)
		}
		return errors.Join(os.Chmod(path, 0o755), syncDir(path))
	})
}

// put writes a file that readers see whole or not at all.
func put(path string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*"+partSuffix)
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(content)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
