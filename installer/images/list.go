package images

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Tree is a published tree.
type Tree struct {
	OS       string    `json:"os"`
	Channel  string    `json:"channel,omitempty"`
	Version  string    `json:"version"`
	Arch     string    `json:"arch"`
	Dir      string    `json:"dir"`
	Size     int64     `json:"size"` // bytes
	Source   string    `json:"source"`
	SignedBy []string  `json:"signedBy,omitempty"` // fingerprints; empty when no signature was checked
	Time     time.Time `json:"time"`               // when it was published
}

// List gives the trees that were published below an assets directory, newest version first. Trees that somebody else
// put there are not listed.
func List(assets string) ([]Tree, error) {
	var all []Tree
	for _, pattern := range []string{"*/*", "*/*/*"} {
		dirs, err := filepath.Glob(filepath.Join(assets, pattern, manifestPrefix+"*.json"))
		if err != nil {
			return nil, fmt.Errorf("cannot list the images in %s: %w", assets, err)
		}
		for i, d := range dirs {
			dirs[i] = filepath.Dir(d)
		}
		for _, dir := range slices.Compact(dirs) {
			if strings.HasPrefix(dir, filepath.Join(assets, stagingDir)+string(filepath.Separator)) {
				continue
			}
			manifests, err := readManifests(dir)
			if err != nil {
				return nil, fmt.Errorf("cannot list the images in %s: %w", assets, err)
			}
			for _, m := range manifests {
				all = append(all, m.tree(dir))
			}
		}
	}
	slices.SortFunc(all, func(a, b Tree) int {
		return cmp.Or(strings.Compare(a.OS, b.OS), strings.Compare(a.Arch, b.Arch), compareVersions(b.Version, a.Version))
	})
	return all, nil
}

// Verify reads a published tree again and gives what is no longer as it was published, one error for each file.
func Verify(ctx context.Context, t Tree, progress Progress) error {
	manifests, err := readManifests(t.Dir)
	if err != nil {
		return fmt.Errorf("cannot verify %s: %w", t.Dir, err)
	}
	var errs []error
	for _, m := range manifests {
		if m.Arch != t.Arch {
			continue
		}
		step := Step{Action: "check", Total: t.Size}
		for _, f := range m.Files {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := verifyFile(filepath.Join(t.Dir, filepath.FromSlash(f.Path)), f); err != nil {
				errs = append(errs, fmt.Errorf("%s of %s %s is damaged: %w; run \"tectonic-installer images sync\" for it again", f.Path, t.OS, t.Version, err))
			}
			step.File, step.Done = f.Path, step.Done+f.Size
			if progress != nil {
				progress(step)
			}
		}
	}
	return errors.Join(errs...)
}

func verifyFile(name string, f manifestFile) error {
	in, err := os.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	h := sha256.New()
	n, err := io.Copy(h, in)
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); n != f.Size || got != f.SHA256 {
		return fmt.Errorf("it has %d bytes with sha256 %s, not %d with %s", n, got, f.Size, f.SHA256)
	}
	return nil
}

// PruneOptions say what stays.
type PruneOptions struct {
	Keep  int      // newest versions of each operating system and architecture; at least 1
	InUse []string // versions that are never removed, whatever their age: those of the cluster files
	// DryRun removes nothing.
	DryRun bool
}

// Prune removes old trees that Sync published, and what interrupted synchronisations of them left. It gives the trees
// that were removed (or would be), also with an error. A machine that is loading from one of them fails; do not
// prune a version that is being installed.
func Prune(assets string, o PruneOptions) ([]Tree, error) {
	if o.Keep < 1 {
		return nil, errors.New("cannot prune images: at least one version of each must be kept")
	}
	if _, err := os.Stat(assets); err != nil {
		return nil, fmt.Errorf("cannot prune images: %w", err)
	}
	unlock, err := lock(filepath.Join(assets, stagingDir))
	if err != nil {
		return nil, err
	}
	defer unlock()
	trees, err := List(assets)
	if err != nil {
		return nil, err
	}
	kept := map[string]int{}
	keepDir := map[string]bool{} // a Fedora CoreOS version's directory is shared by its architectures
	var old, removed []Tree
	for _, t := range trees {
		key := t.OS + " " + t.Arch
		if kept[key] < o.Keep || slices.Contains(o.InUse, t.Version) {
			kept[key]++
			keepDir[t.Dir] = true
			continue
		}
		old = append(old, t)
	}
	for _, t := range old {
		if keepDir[t.Dir] {
			continue
		}
		if !o.DryRun {
			if err := remove(assets, t); err != nil {
				return removed, fmt.Errorf("cannot remove %s: %w", t.Dir, err)
			}
		}
		removed = append(removed, t)
	}
	return removed, nil
}

// remove takes a tree away at once, then deletes it.
func remove(assets string, t Tree) error {
	if _, err := os.Stat(t.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil // it went with another architecture's
	}
	trash := filepath.Join(assets, stagingDir, "removed-"+t.OS+"-"+t.Version+"-"+t.Arch)
	if err := os.RemoveAll(trash); err != nil {
		return err
	}
	if err := os.Rename(t.Dir, trash); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(trash), os.RemoveAll(filepath.Join(assets, stagingDir, t.OS+"-"+t.Version+"-"+t.Arch)))
}

// compareVersions orders versions by their parts, numbers as numbers: 3975.2.10 is newer than 3975.2.2.
func compareVersions(a, b string) int {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(x), len(y)) {
		n, errN := strconv.ParseUint(x[i], 10, 64)
		m, errM := strconv.ParseUint(y[i], 10, 64)
		c := strings.Compare(x[i], y[i])
		if errN == nil && errM == nil {
			c = cmp.Compare(n, m)
		}
		if c != 0 {
			return c
		}
	}
	return cmp.Compare(len(x), len(y))
}
