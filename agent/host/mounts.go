package host

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Mount is one line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
type Mount struct {
	ID, Parent int
	Root       string // what of the file system is mounted: "/" but for a bind mount of a part
	Point      string // where, as the host sees it
	Shared     bool   // it is in a peer group: what happens below it happens to its peers too
	Type       string // "tmpfs", "ext4", "nfs4" …
	Source     string
}

// MountsBelow lists the mounts below the directory p, but not one at p itself,
// deepest first, and of two at one place the upper first: the order in which
// they can be unmounted.
func (r Root) MountsBelow(p string) ([]Mount, error) {
	all, err := mounts()
	if err != nil {
		return nil, err
	}
	// The kernel names mounts by where they really are.
	dir, err := filepath.EvalSymlinks(r.Path(p))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot tell what is mounted below %s: %w", p, err)
	}
	below := mountsBelow(all, dir)
	for i := range below {
		below[i].Point = filepath.Join(p, strings.TrimPrefix(below[i].Point, dir))
	}
	return below, nil
}

func mounts() ([]Mount, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cannot tell what is mounted: %w", err)
	}
	all, err := parseMountinfo(data)
	if err != nil {
		return nil, fmt.Errorf("cannot tell what is mounted: /proc/self/mountinfo: %w", err)
	}
	return all, nil
}

func mountsBelow(all []Mount, dir string) []Mount {
	var below []Mount
	for _, m := range all {
		if strings.HasPrefix(m.Point, strings.TrimSuffix(dir, "/")+"/") {
			below = append(below, m)
		}
	}
	// The kernel lists mounts in the order they were made.
	slices.Reverse(below)
	slices.SortStableFunc(below, func(a, b Mount) int {
		return cmp.Compare(strings.Count(b.Point, "/"), strings.Count(a.Point, "/"))
	})
	return below
}

func parseMountinfo(data []byte) ([]Mount, error) {
	var all []Mount
	for _, line := range bytes.Split(data, []byte("\n")) {
		if len(line) == 0 {
			continue
		}
		// 36 35 98:0 /root /point opts [optional fields] - type source superopts
		left, right, ok := strings.Cut(string(line), " - ")
		l, rt := strings.Split(left, " "), strings.Split(right, " ")
		if !ok || len(l) < 6 || len(rt) < 2 {
			return nil, fmt.Errorf("cannot understand the line %q", line)
		}
		id, err1 := strconv.Atoi(l[0])
		parent, err2 := strconv.Atoi(l[1])
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("cannot understand the line %q: %w", line, err)
		}
		m := Mount{ID: id, Parent: parent, Root: unescape(l[3]), Point: unescape(l[4]), Type: rt[0], Source: unescape(rt[1])}
		for _, o := range l[6:] {
			m.Shared = m.Shared || strings.HasPrefix(o, "shared:")
		}
		all = append(all, m)
	}
	return all, nil
}

// unescape takes back the kernel's \ooo for blanks and backslashes in a path.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// unmountWait bounds one umount(2): a file system whose server is gone may
// never answer.
const unmountWait = 10 * time.Second

// Unmount unmounts what is mounted at p: the upper one where there are two.
// With detach it leaves the tree at once and ends when its last user does
// (umount2(2), MNT_DETACH). A symbolic link is not followed.
func (r Root) Unmount(ctx context.Context, p string, detach bool) error {
	flags := unix.UMOUNT_NOFOLLOW
	if detach {
		flags |= unix.MNT_DETACH
	}
	ctx, cancel := context.WithTimeout(ctx, unmountWait)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- unix.Unmount(r.Path(p), flags) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("it did not answer: %w", ctx.Err())
	}
}

// Seclude makes the mount at p private: what is unmounted below it stays
// mounted elsewhere. Without that, unmounting below a bind mount of / takes the
// same away from the host itself (mount_namespaces(7)).
func (r Root) Seclude(p string) error {
	return unix.Mount("", r.Path(p), "", unix.MS_PRIVATE, "")
}

// Process is a running program.
type Process struct {
	ID   int
	Name string
}

// Users lists processes that have their directory, their root or an open file
// below p; those that ended meanwhile are left out.
func (r Root) Users(p string) []Process {
	var users []Process
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, d := range procs {
		id, err := strconv.Atoi(d.Name())
		if err != nil || !uses(filepath.Join("/proc", d.Name()), r.Path(p)) {
			continue
		}
		name, _ := os.ReadFile(filepath.Join("/proc", d.Name(), "comm"))
		users = append(users, Process{id, strings.TrimSpace(string(name))})
	}
	return users
}

func uses(proc, dir string) bool {
	links := []string{"cwd", "root", "exe"}
	fds, err := os.ReadDir(proc + "/fd")
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		return false
	}
	for _, fd := range fds {
		links = append(links, "fd/"+fd.Name())
	}
	for _, l := range links {
		if to, err := os.Readlink(filepath.Join(proc, l)); err == nil && (to == dir || strings.HasPrefix(to, dir+"/")) {
			return true
		}
	}
	return false
}
