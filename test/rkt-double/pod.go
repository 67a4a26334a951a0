package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// pod is one run of an app: a directory with its rootfs, and the process that became the app.
type pod struct{ uuid, dir string }

func (c *cli) podsDir() string { return filepath.Join(c.dir(), "pods", "run") }

func (c *cli) newPod(img *image) (*pod, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, err
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	uuid := fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	p := &pod{uuid, filepath.Join(c.podsDir(), uuid)}
	for _, dir := range []string{"upper", "work", "rootfs"} {
		if err := os.MkdirAll(filepath.Join(p.dir, dir), 0o755); err != nil {
			return nil, err
		}
	}
	return p, os.WriteFile(filepath.Join(p.dir, "image"), []byte(img.Name), 0o644)
}

func (p *pod) rootfs() string { return filepath.Join(p.dir, "rootfs") }

// mount puts the image's rootfs below a writable layer.
func (p *pod) mount(img *image) error {
	lower, err := filepath.EvalSymlinks(filepath.Join(img.dir, "rootfs"))
	if err != nil {
		return fmt.Errorf("cannot render the image: %w", err)
	}
	options := "lowerdir=" + lower + ",upperdir=" + filepath.Join(p.dir, "upper") + ",workdir=" + filepath.Join(p.dir, "work")
	if err := unix.Mount("overlay", p.rootfs(), "overlay", 0, options); err != nil {
		return fmt.Errorf("cannot mount the overlay: %w", err)
	}
	return nil
}

// savePID records the process that is about to become the app.
func (p *pod) savePID() error {
	pid := os.Getpid()
	return os.WriteFile(filepath.Join(p.dir, "pid"), []byte(strconv.Itoa(pid)+" "+startTime(pid)), 0o644)
}

// running gives the app's process id, or 0.
func (p *pod) running() int {
	data, err := os.ReadFile(filepath.Join(p.dir, "pid"))
	if err != nil {
		return 0
	}
	id, start, _ := strings.Cut(string(data), " ")
	pid, err := strconv.Atoi(id)
	if err != nil || startTime(pid) != start {
		return 0
	}
	return pid
}

// startTime is field 22 of /proc/PID/stat; with the id it names a process. Empty: there is none.
func startTime(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return ""
	}
	return fields[19]
}

// pods finds the pods that a command names, by UUID or by --uuid-file.
func (c *cli) pods(args []string, set options) ([]*pod, values, error) {
	v := values{}
	set["uuid-file"] = option{}
	args, err := c.parseWithGlobals(set, args, v)
	if err != nil {
		return nil, nil, err
	}
	if file := v.last("uuid-file"); file != "" {
		if len(args) > 0 {
			return nil, nil, usagef("only one of --uuid-file and UUIDs can be given")
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, nil, fmt.Errorf("unable to resolve UUID from file: %w", err)
		}
		args = []string{strings.TrimSpace(string(data))}
	}
	if len(args) == 0 {
		return nil, nil, usagef("must provide at least one pod UUID or --uuid-file")
	}
	var pods []*pod
	for _, uuid := range args {
		p := &pod{uuid, filepath.Join(c.podsDir(), uuid)}
		if _, err := os.Stat(p.dir); err != nil || uuid == "" || strings.Contains(uuid, "/") {
			return nil, nil, fmt.Errorf("unable to resolve UUID: no matches found for %q", uuid)
		}
		pods = append(pods, p)
	}
	return pods, v, nil
}

func (c *cli) stop(args []string) error {
	pods, v, err := c.pods(args, options{"force": {kind: boolean}})
	if err != nil {
		return err
	}
	for _, p := range pods {
		pid := p.running()
		if pid == 0 {
			return fmt.Errorf("pod %q is not running", p.uuid)
		}
		signal := unix.SIGTERM
		if v.bool("force") {
			signal = unix.SIGKILL
		}
		if err := unix.Kill(pid, signal); err != nil {
			return fmt.Errorf("error stopping pod %q: %w", p.uuid, err)
		}
		fmt.Fprintf(c.stdout, "%q\n", p.uuid)
	}
	return nil
}

func (c *cli) remove(args []string) error {
	pods, _, err := c.pods(args, options{})
	if err != nil {
		return err
	}
	for _, p := range pods {
		if p.running() != 0 {
			return fmt.Errorf("pod %q is currently running", p.uuid)
		}
		if err := p.remove(); err != nil {
			return fmt.Errorf("error removing pod %q: %w", p.uuid, err)
		}
		fmt.Fprintf(c.stdout, "%q\n", p.uuid)
	}
	return nil
}

// remove unmounts the pod's mounts, deepest first, and removes its directory. A mount that cannot be undone keeps
// everything: removing through it would remove the host's files.
func (p *pod) remove() error {
	points, err := mountPoints()
	if err != nil {
		return err
	}
	var below []string
	for _, point := range points {
		if strings.HasPrefix(point, p.dir+"/") {
			below = append(below, point)
		}
	}
	sort.SliceStable(below, func(i, j int) bool { return len(below[i]) > len(below[j]) })
	// /dev, /proc and /sys were bound recursively from shared mounts: an unmount inside would reach the host's as long as
	// its parent is shared. Recursively, because of two mounts on one place a path names only the upper.
	if len(below) > 0 {
		if err := unix.Mount("", p.rootfs(), "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("making %s private: %w", p.rootfs(), err)
		}
	}
	for _, point := range below {
		if err := unix.Mount("", point, "", unix.MS_PRIVATE, ""); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("making %s private: %w", point, err)
		}
	}
	for _, point := range below {
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmounting %s: %w", point, err)
		}
	}
	if points, err = mountPoints(); err != nil {
		return err
	}
	for _, point := range points {
		if strings.HasPrefix(point, p.dir+"/") {
			return fmt.Errorf("%s is still mounted", point)
		}
	}
	return os.RemoveAll(p.dir)
}

func (c *cli) list(args []string) error {
	v := values{}
	args, err := c.parseWithGlobals(options{"full": {kind: boolean}, "no-legend": {kind: boolean}, "format": {check: oneOf("json", "json-pretty")}}, args, v)
	if err != nil {
		return err
	}
	if len(args) > 0 {
		return usagef("list: unexpected argument %q", args[0])
	}
	if v.last("format") != "" {
		return errors.New("the double lists pods as a table only")
	}
	if !v.bool("no-legend") {
		fmt.Fprintln(c.stdout, "UUID\tAPP\tIMAGE NAME\tSTATE")
	}
	entries, _ := os.ReadDir(c.podsDir())
	for _, e := range entries {
		p := &pod{e.Name(), filepath.Join(c.podsDir(), e.Name())}
		name, _ := os.ReadFile(filepath.Join(p.dir, "image"))
		state := "exited"
		if p.running() != 0 {
			state = "running"
		}
		fmt.Fprintf(c.stdout, "%s\t%s\t%s\t%s\n", p.uuid, appName(string(name)), name, state)
	}
	return nil
}

// collect is "rkt gc": it removes the pods that exited; the double has no grace period.
func (c *cli) collect(args []string) error {
	args, err := c.parseWithGlobals(options{"grace-period": {}, "expire-prepared": {}, "mark-only": {kind: boolean}}, args, values{})
	if err != nil {
		return err
	}
	if len(args) > 0 {
		return usagef("gc: unexpected argument %q", args[0])
	}
	entries, _ := os.ReadDir(c.podsDir())
	for _, e := range entries {
		p := &pod{e.Name(), filepath.Join(c.podsDir(), e.Name())}
		if p.running() == 0 {
			if err := p.remove(); err != nil {
				return err
			}
		}
	}
	return nil
}

// mountPoints are field 5 of /proc/self/mountinfo (proc(5)), octal escapes undone.
func mountPoints() ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var points []string
	for _, line := range strings.Split(string(data), "\n") {
		if fields := strings.Fields(line); len(fields) > 4 {
			points = append(points, unescape.Replace(fields[4]))
		}
	}
	return points, nil
}

func isMountPoint(path string) bool {
	points, err := mountPoints()
	if err != nil {
		return false
	}
	for _, p := range points {
		if p == filepath.Clean(path) {
			return true
		}
	}
	return false
}
