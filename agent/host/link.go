package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Symlink makes p a symbolic link to target, in one step: whoever reads p finds
// the old or the new, never nothing. A p that is a directory is refused. Call it
// under the lock.
func (r Root) Symlink(target, p string) (err error) {
	path := r.Path(p)
	if fi, err := os.Lstat(path); err == nil && fi.IsDir() {
		return fmt.Errorf("cannot make the link %s: it is a directory; move it away first", p)
	}
	// One name for all: what a killed run left is in the way, and goes here.
	tmp := filepath.Join(filepath.Dir(path), tempPrefix+filepath.Base(p)+"-link")
	_ = os.Remove(tmp)
	if err := os.Symlink(target, tmp); err != nil {
		return fmt.Errorf("cannot make the link %s: %w", p, plain(err))
	}
	if err := os.Rename(tmp, path); err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("cannot make the link %s: %w; it is as it was", p, plain(err))
	}
	return syncDir(filepath.Dir(path))
}

// Readlink tells where the symbolic link p points to; nothing where p is none.
func (r Root) Readlink(p string) string {
	target, err := os.Readlink(r.Path(p))
	if err != nil {
		return ""
	}
	return target
}

// Chmod changes the permission bits of the regular file p. A link is refused:
// the mode of what it points to is not p's.
func (r Root) Chmod(p string, mode fs.FileMode) error {
	fi, err := os.Lstat(r.Path(p))
	if err == nil && !fi.Mode().IsRegular() {
		err = errors.New("it is " + typeName(fi.Mode()))
	}
	if err == nil {
		err = os.Chmod(r.Path(p), mode)
	}
	if err != nil {
		return fmt.Errorf("cannot set the mode of %s: %w", p, plain(err))
	}
	return nil
}
