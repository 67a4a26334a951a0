package lab

import (
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

const (
	cgroupRoot   = "/sys/fs/cgroup"
	cgroupPrefix = "tectonic-worker-lab-"
)

// makeCgroup makes a cgroup of that name in every hierarchy, v1 and v2, and gives their paths. Each host needs its
// own: without it two hosts' systemds would manage one tree and end each other's services.
func makeCgroup(name string) ([]string, error) {
	var made []string
	for _, root := range cgroupRoots() {
		dir := filepath.Join(root, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return made, err
		}
		// A v1 cpuset accepts no process before it has these.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if data, err := os.ReadFile(filepath.Join(root, file)); err == nil && exists(filepath.Join(dir, file)) {
				if err := os.WriteFile(filepath.Join(dir, file), data, 0); err != nil {
					return made, err
				}
			}
		}
		made = append(made, dir)
	}
	return made, nil
}

// cgroupRoots are the mount points of the hierarchies: one for v2, one for each controller of v1.
func cgroupRoots() []string {
	if exists(filepath.Join(cgroupRoot, "cgroup.procs")) {
		return []string{cgroupRoot}
	}
	procs, err := filepath.Glob(filepath.Join(cgroupRoot, "*", "cgroup.procs"))
	if err != nil {
		return nil
	}
	var roots []string
	for _, p := range procs {
		dir := filepath.Dir(p)
		// "cpu" is often a symlink to "cpu,cpuacct".
		if info, err := os.Lstat(dir); err == nil && info.IsDir() {
			roots = append(roots, dir)
		}
	}
	return roots
}

// removeCgroups removes the cgroups whose name matches the pattern, deepest first. One that still has a process
// stays: the next sweep takes it.
func removeCgroups(pattern string) {
	for _, root := range cgroupRoots() {
		tops, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			continue
		}
		for _, top := range tops {
			var dirs []string
			filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			sort.Slice(dirs, func(i, j int) bool { return strings.Count(dirs[i], "/") > strings.Count(dirs[j], "/") })
			for _, dir := range dirs {
				os.Remove(dir)
			}
		}
	}
}

func sortedKeys(m map[string]string) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
