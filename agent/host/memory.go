package host

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// Slim gives back what memory the process does not need to wait: the heap that
// is free, and the pages of its own program that only its start has used. They
// come back from the page cache when they are used again. It is for a process
// that waits for most of its life.
func Slim() {
	debug.FreeOSMemory()
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer f.Close()
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// address perms offset dev inode path: proc_pid_maps(5)
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || fields[5] != self || fields[1][1] != '-' { // what can be written is ours alone, and would be lost
			continue
		}
		var from, to uintptr
		if _, err := fmt.Sscanf(fields[0], "%x-%x", &from, &to); err != nil || to <= from {
			continue
		}
		// The addresses are the kernel's, of a mapping that no Go object is in.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
	}
}
