//go:build unix

package power

import "syscall"

// openFlags keep an open of a FIFO from waiting for its writer.
const openFlags = syscall.O_NONBLOCK
