package live

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// uses says where block devices are mounted or swapped to, by major:minor and by name.
type uses map[string]string

func (l *Live) uses() (uses, error) {
	u := uses{}
	text, err := os.ReadFile(l.path("/proc/self/mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("cannot tell which disks are mounted: %w", err)
	}
	// proc_pid_mountinfo(5): the third field is the device; btrfs gives an anonymous one there, but names the source,
	// the second field after the lone hyphen.
	for _, line := range strings.Split(string(text), "\n") {
		f := strings.Fields(line)
		if len(f) < 7 {
			continue
		}
		what := "mounted on " + printable(f[4], 100)
		u[f[2]] = what
		for i := 6; i+2 < len(f); i++ {
			if f[i] == "-" {
				if strings.HasPrefix(f[i+2], "/dev/") {
					u[filepath.Base(f[i+2])] = what
				}
				break
			}
		}
	}
	for _, line := range strings.Split(l.text("/proc/swaps"), "\n") {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[0], "/dev/") {
			u[filepath.Base(f[0])] = "swap"
		}
	}
	return u, nil
}

// of says what holds a disk or one of its partitions.
func (u uses) of(l *Live, disk string) string {
	dir := filepath.Join("/sys/block", disk)
	names := []string{dir}
	parts, _ := filepath.Glob(l.path(dir + "/*/partition"))
	for _, p := range parts {
		names = append(names, filepath.Join(dir, filepath.Base(filepath.Dir(p))))
	}
	for _, n := range names {
		base := filepath.Base(n)
		if what := first(u[l.text(n, "dev")], u[base]); what != "" {
			return base + " is " + what
		}
		holders, _ := os.ReadDir(l.path(n + "/holders"))
		if len(holders) > 0 {
			held := holders[0].Name()
			return base + " belongs to " + first(l.text("/sys/block", held, "dm/name"), held)
		}
	}
	return ""
}
