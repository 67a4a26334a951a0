package machine

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/windows"
)

// lock keeps a second process out of dir; the system frees it when this one ends.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the machines' state: %w", err)
	}
	const all = ^uint32(0)
	flags := uint32(windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY)
	if err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, all, all, &windows.Overlapped{}); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("cannot use the machines' state in %s: another tectonic-installer serves it; stop that one first: %w", dir, err)
	}
	return f, nil
}

// syncDir has no counterpart: NTFS logs its directories.
func syncDir(string) error { return nil }
