package host

import (
	"errors"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// FileSystem is what statfs(2) tells of a file system and of the mount that it
// is seen by.
type FileSystem struct {
	Size, Free int64 // bytes
	Inodes     int64 // 0 where the file system has no fixed number of them
	FreeInodes int64
	ReadOnly   bool
	NoExec     bool
	Path       string // of the nearest directory that exists
}

// FileSystem looks at the file system that p is on or, where there is no p, that
// it would be on.
func (r Root) FileSystem(p string) (FileSystem, error) {
	for {
		var st unix.Statfs_t
		err := unix.Statfs(r.Path(p), &st)
		if err == nil {
			return FileSystem{
				Size: int64(st.Blocks) * st.Bsize, Free: int64(st.Bfree) * st.Bsize,
				Inodes: int64(st.Files), FreeInodes: int64(st.Ffree),
				ReadOnly: st.Flags&unix.ST_RDONLY != 0, NoExec: st.Flags&unix.ST_NOEXEC != 0, Path: p,
			}, nil
		}
		if !errors.Is(err, fs.ErrNotExist) || p == "/" {
			return FileSystem{}, err
		}
		p = filepath.Dir(p)
	}
}
