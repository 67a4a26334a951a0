package host

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxFile bounds what ReadFile takes in: nothing the worker reads is near it,
// and a runaway file must not become the agent's memory.
const maxFile = 8 << 20

// tempPrefix starts the name of every unfinished write, so that Sweep can tell
// what a killed run left behind.
const tempPrefix = ".tectonic-worker-tmp-"

// Root is the directory that stands for / : "/" on a real host, a folder in a
// test. Every path below is absolute as the host sees it.
type Root string

// Path gives where the host path p really lies.
func (r Root) Path(p string) string {
	if r == "" {
		r = "/"
	}
	return filepath.Join(string(r), p)
}

// File is what Stat tells of a file.
type File struct {
	Mode     fs.FileMode // permission bits and type
	UID, GID int
}

// Stat describes p without following a symbolic link. The error is
// fs.ErrNotExist where there is none.
func (r Root) Stat(p string) (File, error) {
	fi, err := os.Lstat(r.Path(p))
	if err != nil {
		return File{}, err
	}
	f := File{Mode: fi.Mode()}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		f.UID, f.GID = int(st.Uid), int(st.Gid)
	}
	return f, nil
}

// Exists tells whether p is there, of whatever type.
func (r Root) Exists(p string) bool {
	_, err := os.Stat(r.Path(p))
	return err == nil
}

// ReadFile reads the regular file p, at most 8 MiB. A FIFO or a device is
// refused at once instead of being waited for; a symbolic link is followed.
func (r Root) ReadFile(p string) ([]byte, error) {
	f, err := os.OpenFile(r.Path(p), os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("cannot read %s: it is %s, not a regular file", p, typeName(fi.Mode()))
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", p, err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("cannot read %s: it is larger than %d MiB", p, maxFile>>20)
	}
	return data, nil
}

// WriteFile makes p hold data, or leaves it as it was: a temporary file in the
// same directory gets its mode and owner before its content, is synced,
// renamed over p, and the directory is synced (the recipe of "All File Systems
// Are Not Created Equal", OSDI 2014). A p that is a link, a directory or a
// device is refused.
func (r Root) WriteFile(p string, data []byte, f File) (err error) {
	path := r.Path(p)
	dir := filepath.Dir(path)
	if fi, err := os.Lstat(path); err == nil && !fi.Mode().IsRegular() {
		return fmt.Errorf("cannot write %s: it is %s, not a regular file; move it away first", p, typeName(fi.Mode()))
	}
	out, err := createTemp(filepath.Join(dir, tempPrefix+filepath.Base(p)+"-"))
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", p, plain(err))
	}
	tmp := out.Name()
	renamed := false
	defer func() {
		switch {
		case err == nil:
		case renamed:
			err = fmt.Errorf("cannot be sure that %s outlives a power cut: %w", p, plain(err))
		default:
			_ = os.Remove(tmp)
			err = fmt.Errorf("cannot write %s: %w; the file is as it was", p, plain(err))
		}
	}()
	defer out.Close()
	if err = out.Chmod(f.Mode.Perm()); err != nil {
		return err
	}
	if err = own(out, f); err != nil {
		return err
	}
	if _, err = out.Write(data); err != nil {
		return err
	}
	if err = out.Sync(); err != nil {
		return err
	}
	if err = os.Rename(tmp, path); err != nil {
		return err
	}
	renamed = true
	return syncDir(dir)
}

// createTemp makes a file whose name begins with prefix, locked, which tells
// Sweep that somebody writes it. A Sweep between the two steps takes the file
// away; then another is made.
func createTemp(prefix string) (*os.File, error) {
	for {
		f, err := os.OpenFile(prefix+random(), os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		var st unix.Stat_t
		if err == nil {
			err = unix.Fstat(int(f.Fd()), &st)
		}
		switch {
		case err == nil && st.Nlink > 0:
			return f, nil
		case err != nil && !errors.Is(err, unix.EWOULDBLOCK):
			_ = os.Remove(f.Name())
			f.Close()
			return nil, err
		}
		f.Close()
	}
}

// own gives a file its owner. Where it has that already nothing is asked of the
// kernel: the agent's sandbox forbids chown altogether.
func own(out *os.File, f File) error {
	if os.Geteuid() != 0 {
		return nil
	}
	fi, err := out.Stat()
	if err != nil {
		return err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) == f.UID && int(st.Gid) == f.GID {
		return nil
	}
	return out.Chown(f.UID, f.GID)
}

// Remove deletes the file p; one that is already gone is fine.
func (r Root) Remove(p string) error {
	if err := os.Remove(r.Path(p)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove %s: %w", p, plain(err))
	}
	return syncDir(filepath.Dir(r.Path(p)))
}

// MkdirAll makes the directory p and what is missing above it, and returns the
// directories it made, topmost first. One already there keeps its mode.
func (r Root) MkdirAll(p string, mode fs.FileMode) ([]string, error) {
	var missing []string
	for d := filepath.Clean(p); d != "/" && d != "."; d = filepath.Dir(d) {
		fi, err := os.Stat(r.Path(d))
		if err == nil {
			if !fi.IsDir() {
				return nil, fmt.Errorf("cannot make the directory %s: %s is %s", p, d, typeName(fi.Mode()))
			}
			break
		}
		missing = append([]string{d}, missing...)
	}
	for i, d := range missing {
		if err := os.Mkdir(r.Path(d), mode); err != nil && !errors.Is(err, fs.ErrExist) {
			return missing[:i], fmt.Errorf("cannot make the directory %s: %w", d, plain(err))
		}
		if err := os.Chmod(r.Path(d), mode); err != nil {
			return missing[:i+1], fmt.Errorf("cannot make the directory %s: %w", d, plain(err))
		}
	}
	return missing, nil
}

// RemoveDir deletes the directory p if it is empty and says whether it did.
func (r Root) RemoveDir(p string) bool {
	return unix.Rmdir(r.Path(p)) == nil
}

// Sweep deletes what a killed WriteFile left in the directory dir. A file that
// another process writes at this moment is locked, and stays.
func (r Root) Sweep(dir string) {
	entries, err := os.ReadDir(r.Path(dir))
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.Type().IsRegular() && strings.HasPrefix(e.Name(), tempPrefix) {
			removeUnlocked(filepath.Join(r.Path(dir), e.Name()))
		}
	}
}

func removeUnlocked(path string) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		_ = os.Remove(path)
	}
}

// Free tells the bytes that root may still write on the file system of p, or
// of the nearest directory above it that exists.
func (r Root) Free(p string) (int64, error) {
	for {
		var st unix.Statfs_t
		err := unix.Statfs(r.Path(p), &st)
		if err == nil {
			return int64(st.Bfree) * st.Bsize, nil
		}
		if !errors.Is(err, fs.ErrNotExist) || p == "/" {
			return 0, err
		}
		p = filepath.Dir(p)
	}
}

// SyncDir makes what was created in the directory p outlive a power cut.
func (r Root) SyncDir(p string) error { return syncDir(r.Path(p)) }

// syncDir makes a rename in dir outlive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	// Some file systems (overlay on tmpfs, FUSE) refuse to sync a directory;
	// they give no such promise, so there is nothing to report.
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	return nil
}

// plain drops the temporary file's name, which tells an operator nothing.
func plain(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	var le *os.LinkError
	if errors.As(err, &le) {
		return le.Err
	}
	return err
}

func typeName(m fs.FileMode) string {
	switch {
	case m.IsRegular():
		return "a regular file"
	case m.IsDir():
		return "a directory"
	case m&fs.ModeSymlink != 0:
		return "a symbolic link"
	case m&fs.ModeNamedPipe != 0:
		return "a FIFO"
	case m&fs.ModeSocket != 0:
		return "a socket"
	default:
		return "a device"
	}
}

func random() string {
	b := make([]byte, 6)
	_, _ = rand.Read(b) // never fails: crypto/rand's documentation
	return hex.EncodeToString(b)
}
