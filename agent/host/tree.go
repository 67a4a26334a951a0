package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MountError is a removal that met a mount and stopped there.
type MountError struct {
	Point string // where it is, as the host sees it
}

func (e *MountError) Error() string {
	return fmt.Sprintf("%s is a mount, and what is behind it is not ours: unmount it (\"umount %s\"), then try again", e.Point, e.Point)
}

// RemoveTree deletes p and everything below it on p's own mount. It follows no
// symbolic link and crosses no mount, not even a bind mount of the same file
// system: where there is one it removes nothing at all, and where one appears
// while it works it stops; the error is a *MountError. A p that is not there
// is fine.
func (r Root) RemoveTree(ctx context.Context, p string) error {
	if filepath.Clean("/"+p) == "/" {
		return errors.New("cannot remove /: that is the whole host")
	}
	path := r.Path(p)
	if fi, err := os.Lstat(path); err == nil && fi.IsDir() {
		below, err := r.MountsBelow(filepath.Dir(filepath.Clean(p)))
		if err != nil {
			return err
		}
		for _, m := range below {
			if m.Point == filepath.Clean(p) || strings.HasPrefix(m.Point, filepath.Clean(p)+"/") {
				return &MountError{m.Point}
			}
		}
	}
	parent, err := unix.Open(filepath.Dir(path), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot remove %s: %w", p, err)
	}
	defer unix.Close(parent)
	w, err := newWalk(ctx, parent)
	if err != nil {
		return fmt.Errorf("cannot remove %s: %w", p, err)
	}
	return w.removeAll(parent, filepath.Clean(p))
}

const (
	// maxDepth bounds the descriptors that are open at once.
	maxDepth = 200
	// deepPrefix names what was moved up.
	deepPrefix = ".tectonic-worker-deep-"
)

var errDeep = errors.New("it lies too deep")

// walk is one removal.
type walk struct {
	ctx   context.Context
	open  func(dir int, name string) (int, error)
	top   int // the directory that deep ones are moved to
	moved int // how many were
}

func newWalk(ctx context.Context, parent int) (*walk, error) {
	w := &walk{ctx: ctx, open: openBeneath, top: -1}
	fd, err := openBeneath(parent, ".")
	switch {
	case err == nil:
		return w, unix.Close(fd)
	case !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM):
		return nil, err
	}
	// Kernels before 5.6 (EL7, EL8), and sandboxes that do not know the call.
	id, err := mountID(parent)
	if err != nil {
		return nil, err
	}
	w.open = func(dir int, name string) (int, error) { return openSameMount(dir, name, id) }
	return w, nil
}

// removeAll deletes path from the directory parent. What lies too deep for open
// descriptors is moved up, and met again.
func (w *walk) removeAll(parent int, path string) error {
	for {
		w.moved = 0
		err := w.remove(parent, filepath.Base(path), path, 0)
		if err == nil || w.moved == 0 || !errors.Is(err, errDeep) {
			return err
		}
	}
}

// remove deletes name, which stands at path, from the directory dir.
func (w *walk) remove(dir int, name, path string, depth int) error {
	if err := w.ctx.Err(); err != nil {
		return fmt.Errorf("cannot remove %s: not done in time: %w", path, err)
	}
	// Whatever it is: unlink(2) refuses a directory, and a mount.
	err := unix.Unlinkat(dir, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return refused(path, err)
	}
	fd, oerr := w.open(dir, name)
	switch {
	case errors.Is(oerr, unix.ENOENT):
		return nil
	case errors.Is(oerr, unix.ENOTDIR), errors.Is(oerr, unix.ELOOP):
		return refused(path, err) // no directory: unlink's own answer counts
	case oerr != nil:
		return refused(path, oerr)
	}
	err = w.empty(fd, path, depth)
	unix.Close(fd)
	if err != nil {
		return err
	}
	if err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		if w.moved > 0 && errors.Is(err, unix.ENOTEMPTY) {
			return errDeep
		}
		return refused(path, err)
	}
	return nil
}

// empty deletes all that is in the directory fd.
func (w *walk) empty(fd int, path string, depth int) error {
	if depth == 0 {
		w.top = fd
	}
	names, err := namesIn(fd)
	if err != nil {
		return refused(path, err)
	}
	for _, name := range names {
		if depth == maxDepth {
			if err := w.lift(fd, name, path); err != nil {
				return err
			}
			continue
		}
		if err := w.remove(fd, name, path+"/"+name, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// lift moves what lies deep up to the top; rename(2) crosses no mount either.
func (w *walk) lift(dir int, name, path string) error {
	w.moved++
	if err := unix.Renameat(dir, name, w.top, deepPrefix+random()); err != nil {
		return refused(path+"/"+name, err)
	}
	return nil
}

// refused turns the kernel's answer for path into an error: EXDEV is openat2's
// word for a mount on the way, EBUSY unlink's and rename's.
func refused(path string, err error) error {
	if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EBUSY) {
		return &MountError{path}
	}
	return fmt.Errorf("cannot remove %s: %w", path, err)
}

const openDir = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// openBeneath opens the directory name in dir, where the kernel itself sees to
// it that the way crosses no mount (openat2(2)).
func openBeneath(dir int, name string) (int, error) {
	for {
		fd, err := unix.Openat2(dir, name, &unix.OpenHow{
			Flags:   openDir,
			Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH,
		})
		// EAGAIN: something was renamed meanwhile.
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// openSameMount is openBeneath for older kernels: name is one component, so it
// is enough to look at what was opened before anything is done with it.
func openSameMount(dir int, name string, id int) (int, error) {
	fd, err := unix.Openat(dir, name, openDir, 0)
	if err != nil {
		return -1, err
	}
	got, err := mountID(fd)
	if err == nil && got != id {
		err = unix.EXDEV
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// mountID tells which mount an open directory is on. st_dev does not: a bind
// mount has that of what it shows.
func mountID(fd int) (int, error) {
	// mnt_id since Linux 3.15; name_to_handle_at(2) tells it since 2.6.39.
	if data, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd)); err == nil {
		for _, line := range bytes.Split(data, []byte("\n")) {
			if v, ok := bytes.CutPrefix(line, []byte("mnt_id:")); ok {
				return strconv.Atoi(string(bytes.TrimSpace(v)))
			}
		}
	}
	return handleMountID(fd)
}

// handleMountID asks name_to_handle_at(2) with no room for the handle: the
// answer EOVERFLOW comes with the mount's ID all the same.
func handleMountID(fd int) (int, error) {
	var head struct {
		bytes uint32
		kind  int32
	}
	var id int32
	empty := []byte{0}
	_, _, errno := unix.Syscall6(unix.SYS_NAME_TO_HANDLE_AT, uintptr(fd), uintptr(unsafe.Pointer(&empty[0])),
		uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&id)), unix.AT_EMPTY_PATH, 0)
	if errno != 0 && errno != unix.EOVERFLOW {
		return 0, fmt.Errorf("this kernel does not tell which mount a directory is on: %w", errno)
	}
	return int(id), nil
}

// namesIn lists the open directory fd.
func namesIn(fd int) ([]string, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(dup), "")
	defer f.Close()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return f.Readdirnames(-1)
}
