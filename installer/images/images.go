// Package images owns the trees of operating system images below the assets directory that machines are installed from:
// fetching them (again from where it stopped), verifying them, publishing a tree whole or not at all, listing and
// pruning. It must not know clusters, machines or matchbox, ship keys, or trust anything that it has not verified.
package images

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Operating systems, as the cluster file names them.
const (
	Flatcar      = "flatcar"
	FedoraCoreOS = "fedora-coreos"
	RHEL         = "rhel"
)

// Current as a version is the newest of its channel.
const Current = "current"

// Spec says which tree, from where, to where.
type Spec struct {
	OS      string
	Channel string // flatcar: stable, beta, alpha, lts; fedora-coreos: stable, testing, next; rhel: none
	Version string // Current or empty: the channel's newest; for rhel, whatever the tree says it is
	Arch    string // x86_64 or aarch64
	// Source is the URL or the directory of a mirror with the same layout as the project's own server; empty is that
	// server. For rhel it is the root of an installation tree, the mounted DVD for instance, and has no default.
	Source string
	Dest   string // the assets directory
	// Keys are files with the OpenPGP public keys (armoured or not) that may have signed the images. None are built in.
	Keys []string
	// SkipSignatures takes images on their digests alone, which say that they arrived whole, not whose they are.
	SkipSignatures bool
	// Client is http.DefaultClient's kind when nil, with timeouts and without redirects from https to http.
	Client *http.Client `json:"-"`
}

// Result is what Sync did.
type Result struct {
	Tree
	Fetched int      // files that were fetched
	Notes   []string // what an operator should know, one sentence each
}

// Step is where a synchronisation is. Sizes in bytes; Total is -1 while it is not known.
type Step struct {
	Action      string // "fetch" or "check"
	File        string
	Done, Total int64 // of all files together
}

// Progress is called often, never from two goroutines at once. It may be nil.
type Progress func(Step)

// Directory is where a tree is published below the assets directory.
func Directory(os, version, arch string) string {
	if os == RHEL {
		return path.Join(os, version, arch)
	}
	return path.Join(os, version)
}

var (
	plainWord = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)
	versions  = regexp.MustCompile(`^[0-9][0-9A-Za-z.]{0,40}$`)
)

// Sync brings one tree into the assets directory. When it is there already, its files are checked and only what is
// damaged or missing is fetched. Run again after an interruption it goes on where it was.
func Sync(ctx context.Context, spec Spec, progress Progress) (Result, error) {
	s, err := newSyncer(spec, progress)
	if err != nil {
		return Result{}, err
	}
	unlock, err := lock(filepath.Join(spec.Dest, stagingDir))
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	var plan func(context.Context) (tree, error)
	switch spec.OS {
	case Flatcar:
		plan = s.flatcar
	case FedoraCoreOS:
		plan = s.fedoraCoreOS
	case RHEL:
		plan = s.rhel
	}
	t, err := plan(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("cannot synchronise %s: %w", spec.what(), err)
	}
	result, err := s.sync(ctx, t)
	if err != nil {
		return Result{}, fmt.Errorf("cannot synchronise %s %s %s: %w", t.os, t.version, t.arch, err)
	}
	return result, nil
}

func (s Spec) what() string {
	return strings.Join(slices.DeleteFunc([]string{s.OS, s.Channel, s.Version, s.Arch}, func(x string) bool { return x == "" }), " ")
}

// check looks for everything that is wrong with a Spec.
func (s Spec) check() error {
	var errs []error
	switch s.OS {
	case Flatcar, FedoraCoreOS:
		if !plainWord.MatchString(s.Channel) {
			errs = append(errs, fmt.Errorf("%q is no channel of %s; give one such as stable", s.Channel, s.OS))
		}
		if len(s.Keys) == 0 && !s.SkipSignatures {
			errs = append(errs, fmt.Errorf("no key to verify %s with; give the file of its signing key with --key, from a place you trust (docs/images.md says where they are published)", s.OS))
		}
	case RHEL:
		if s.Source == "" {
			errs = append(errs, errors.New("rhel has no public server: give --source, the directory of a mounted installation DVD or the URL of a tree of yours"))
		}
	default:
		errs = append(errs, fmt.Errorf("%q is none of flatcar, fedora-coreos, rhel", s.OS))
	}
	if s.Version != "" && s.Version != Current && !versions.MatchString(s.Version) {
		errs = append(errs, fmt.Errorf("%q is not a version; write it as the project does, such as 3975.2.2, or current", s.Version))
	}
	if s.Arch != "x86_64" && s.Arch != "aarch64" {
		errs = append(errs, fmt.Errorf("%q is neither x86_64 nor aarch64", s.Arch))
	}
	if s.Dest == "" {
		errs = append(errs, errors.New("no assets directory to put the images into"))
	}
	return errors.Join(errs...)
}

// tree is a plan: what is to be published.
type tree struct {
	os, channel, version, arch string
	files                      []file
}

// file is one of a tree. All digests and the signature must be right.
type file struct {
	path      string // in the published tree, slash-separated
	from      string // below the source
	size      int64  // -1 when the source has not said
	digests   []digest
	signature string // below the source; empty when there is none
	// keepSignature publishes the signature beside the file, for installers that verify it once more.
	keepSignature bool
	alias         string // a second name for the same file
	content       []byte // already fetched while planning
}

// add appends a file whose paths came from the network.
func (t *tree) add(f file) error {
	for _, p := range []string{f.path, f.from, f.signature, f.alias} {
		if p != "" && (!filepath.IsLocal(filepath.FromSlash(p)) || strings.ContainsAny(p, "\\\x00\n\r?#%") || path.Clean(p) != p) {
			return fmt.Errorf("the source names a file %q, which is outside of its tree", p)
		}
	}
	for _, part := range strings.Split(f.path, "/") {
		if strings.HasSuffix(part, partSuffix) || strings.HasPrefix(part, manifestPrefix) {
			return fmt.Errorf("the source names a file %q, a name that is used here", f.path)
		}
	}
	t.files = append(t.files, f)
	return nil
}
