//go:build !unix

package credentials

import "io/fs"

// Windows: no advisory lock that ends with the process in the standard library, no owner to keep, and directories that
// cannot be synced.

func lock(string) (unlock func(), err error) { return func() {}, nil }

func keepOwner(string, fs.FileInfo) error { return nil }

func syncDirectory(string) error { return nil }
