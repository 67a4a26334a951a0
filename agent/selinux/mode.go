package selinux

import (
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"
)

// Mode is an SELinux mode.
type Mode string

const (
	Enforcing  Mode = "enforcing"
	Permissive Mode = "permissive"
	Disabled   Mode = "disabled"
	// Unset is the mode in a configuration that names none. A kernel with SELinux then boots permissive.
	Unset Mode = ""
)

const (
	mountPoint  = "/sys/fs/selinux"
	enforceFile = mountPoint + "/enforce"
)

// Runtime gives the mode of the running kernel. Disabled also stands for a kernel without SELinux and for one that has
// not loaded a policy.
//
// Inside a sandbox whose /sys is read-only libselinux takes SELinux for disabled; here the kernel is asked all the same,
// because the question is what the host does.
func Runtime() (Mode, error) {
	if !selinux.GetEnabled() {
		if !readOnly() {
			return Disabled, nil
		}
		// EnforceMode must not be called here: without a mount point it reads a file "enforce" in the working directory.
		data, err := os.ReadFile(enforceFile)
		if err != nil {
			return "", fmt.Errorf("cannot read the SELinux mode: %w", err)
		}
		if string(data) == "1" {
			return Enforcing, nil
		}
		return Permissive, nil
	}
	switch selinux.EnforceMode() {
	case selinux.Enforcing:
		return Enforcing, nil
	case selinux.Permissive:
		return Permissive, nil
	}
	return "", fmt.Errorf("cannot read the SELinux mode: %s has no 0 or 1 in it", enforceFile)
}

// SetRuntime sets the mode of the running kernel, until the next boot. It refuses Disabled, and refuses where SELinux is
// disabled: the library would then create a file named "enforce" in the working directory.
func SetRuntime(m Mode) error {
	var value int
	switch m {
	case Enforcing:
		value = selinux.Enforcing
	case Permissive:
		value = selinux.Permissive
	default:
		return fmt.Errorf("cannot set the SELinux mode to %q: only enforcing and permissive can be set", string(m))
	}
	if !selinux.GetEnabled() {
		if readOnly() {
			return fmt.Errorf("cannot set the SELinux mode to %s: %s is mounted read-only here; run outside of the container or sandbox", m, mountPoint)
		}
		return fmt.Errorf("cannot set the SELinux mode to %s: SELinux is disabled in the running kernel", m)
	}
	err := selinux.SetEnforceMode(value)
	switch {
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Errorf("cannot set the SELinux mode to %s: the loaded policy does not allow it; see \"getsebool secure_mode_policyload\" and \"ausearch -m avc -ts recent\"", m)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("cannot set the SELinux mode to %s: this kernel was built without the permissive mode", m)
	case err != nil:
		return fmt.Errorf("cannot set the SELinux mode to %s: %w", m, err)
	}
	if now, err := Runtime(); err != nil || now != m {
		return fmt.Errorf("cannot set the SELinux mode to %s: the kernel took it and is still %s; something else sets the mode too", m, now)
	}
	return nil
}

// readOnly tells whether selinuxfs is there but cannot be written.
func readOnly() bool {
	var fs unix.Statfs_t
	if err := unix.Statfs(mountPoint, &fs); err != nil {
		return false
	}
	return uint32(fs.Type) == unix.SELINUX_MAGIC && fs.Flags&unix.ST_RDONLY != 0
}
