package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Cache holds what the lab builds once: Kubernetes binaries, the worker's root filesystem, the kubelet
// images, the operating system of machines that boot over the network.
type Cache struct {
	Dir string                           // absolute
	Log func(format string, args ...any) // one progress line per call; nil discards
}

// DefaultCacheDir is $TECTONIC_LAB_CACHE, else /var/cache/tectonic-worker-lab.
func DefaultCacheDir() string {
	if dir := os.Getenv("TECTONIC_LAB_CACHE"); dir != "" {
		return dir
	}
	return "/var/cache/tectonic-worker-lab"
}

// Build makes everything that is missing: the machine's tools, then all cached parts. About nine minutes on two
// cores the first time; under a second when nothing is missing.
func (c *Cache) Build(ctx context.Context) error {
	if err := InstallTools(ctx, c.logf); err != nil {
		return err
	}
	for _, r := range Releases {
		for _, command := range r.Commands {
			if _, err := c.Kubernetes(ctx, r.Version, command); err != nil {
				return err
			}
		}
	}
	if _, err := c.WorkerRoot(ctx); err != nil {
		return err
	}
	if _, err := c.KubeletImages(ctx); err != nil {
		return err
	}
	if _, err := c.Flatcar(ctx); err != nil {
		return err
	}
	return c.prune()
}

// prune removes parts that are no longer current, unless a lab is open: it may be one that was built before the change.
func (c *Cache) prune() error {
	if open, err := openLabs(c.Dir); err != nil || open {
		return err
	}
	current := map[string]bool{c.workerRootPath(): true}
	images, err := c.kubeletImagesPath()
	if err != nil {
		return err
	}
	current[images] = true
	flatcar, err := c.flatcarPath()
	if err != nil {
		return err
	}
	current[flatcar], current[c.flatcarRootPath()] = true, true
	for _, r := range Releases {
		for _, command := range r.Commands {
			path, err := c.kubernetesPath(r, command)
			if err != nil {
				return err
			}
			current[path] = true
		}
	}
	for _, pattern := range []string{"worker-*", "images-*", "kubernetes/*/*", "flatcar-*"} {
		paths, err := filepath.Glob(filepath.Join(c.Dir, pattern))
		if err != nil {
			return err
		}
		for _, path := range paths {
			if current[path] {
				continue
			}
			c.logf("removing %s, which is no longer current", path)
			if err := os.RemoveAll(path); err != nil {
				return fmt.Errorf("cannot remove an old part of the cache: %w", err)
			}
		}
	}
	return nil
}

// Missing names the first part that Build would have to make, or is empty. Tests use it to skip with a reason
// instead of compiling Kubernetes behind somebody's back.
func (c *Cache) Missing() string {
	for _, r := range Releases {
		for _, command := range r.Commands {
			path, err := c.kubernetesPath(r, command)
			if err != nil {
				return err.Error()
			}
			if !exists(path) {
				return command + " " + r.Version
			}
		}
	}
	if !exists(c.workerRootPath()) {
		return "the worker's root filesystem"
	}
	dir, err := c.kubeletImagesPath()
	if err != nil {
		return err.Error()
	}
	if !exists(dir) {
		return "the kubelet images"
	}
	flatcar, err := c.flatcarPath()
	if err != nil {
		return err.Error()
	}
	if !exists(flatcar) {
		return "the machines' operating system"
	}
	return ""
}

// make builds the artefact at path by calling build with a temporary sibling directory that is renamed to path
// when build returned nil. Two processes that want the same artefact build it once.
func (c *Cache) make(ctx context.Context, what, path string, build func(ctx context.Context, dir string) error) error {
	if exists(path) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("cannot create the lab's cache: %w", err)
	}
	unlock, err := lockFile(ctx, filepath.Join(c.Dir, "build.lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if exists(path) {
		return nil
	}
	c.logf("%s: building", what)
	start := time.Now()
	dir := path + ".part"
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("cannot remove an unfinished %s: %w", what, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot create the lab's cache: %w", err)
	}
	if err := build(ctx, dir); err != nil {
		return fmt.Errorf("cannot build %s: %w", what, err)
	}
	if err := os.Rename(dir, path); err != nil {
		return fmt.Errorf("cannot keep %s: %w", what, err)
	}
	c.logf("%s: built in %s", what, time.Since(start).Round(time.Second))
	return nil
}

func (c *Cache) logf(format string, args ...any) {
	if c.Log != nil {
		c.Log(format, args...)
	}
}

// lockFile takes an exclusive flock, waiting until ctx ends.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the lab's lock: %w", err)
	}
	// flock has no event to wait for together with a deadline, hence the ticker.
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			f.Close()
			return nil, fmt.Errorf("cannot lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("cannot lock %s: another lab holds it: %w", path, ctx.Err())
		case <-tick.C:
		}
	}
}

// digest names an artefact by what it is made from.
func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d\n%s\n", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
