package machine

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// syncTree puts everything below dir on the disk: one syncfs(2) instead of ten thousand fsyncs.
func syncTree(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}
