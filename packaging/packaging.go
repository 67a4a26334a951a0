// Package packaging owns the RPMs: what they contain, their scriptlets and their manual pages. It turns a
// built binary and this repository's files into the bytes of a package; it must not build the binary,
// sign the package or touch the host.
//
// The same input gives the same bytes: every time in the package is Options.Time.
package packaging

import (
	"bytes"
	"cmp"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The packages' names.
const (
	Name      = "tectonic-worker"
	Installer = "tectonic-installer"
)

// Dists are the releases of Enterprise Linux that a package can be built for.
func Dists() []string { return []string{"el7", "el8", "el9", "el10"} }

// Arches are the architectures, by rpm's names.
func Arches() []string { return []string{"x86_64", "aarch64"} }

// Options say what to build.
type Options struct {
	Package     string    // Name or Installer; empty is Name
	Binary      string    // path of the built program, tectonic-worker or tectonic-installer
	Drain       string    // of Name: path of the built tectonic-worker-drain; empty: beside Binary
	Completions string    // directory with the program's completions: its name and .bash, .zsh and .fish
	Programs    string    // of Installer: directory with linux-amd64/tectonic-machine and linux-arm64/tectonic-machine
	Source      string    // the repository: LICENSE, README.md, CHANGELOG.md and docs/*.md are taken from it
	Version     string    // as git describes it: v1.2.3, 1.2.3-rc.1, v1.2.3-4-gabcdef
	Release     string    // counts the packages of one version; empty is 1
	Arch        string    // one of Arches
	Dist        string    // one of Dists
	Time        time.Time // of the build, the files and the changelog
	Quick       bool      // gzip instead of xz: built in a tenth of the time and half as large again, for tests
}

// Package is an RPM before it is encoded.
type Package struct {
	Name, Version, Release, Arch       string
	Summary, Description, License, URL string
	Time                               time.Time
	Changelog                          string
	Files                              []File
	Provides, Requires, Conflicts      []Relation
	Recommends                         []Relation // rpm 4.11 (EL7) knows none
	Pre, Post, Preun, Postun           string     // scriptlets for /bin/sh
	Compressor                         string     // "xz" or "gzip"
	// LegacyDigests adds the SHA-1 and MD5 digests, the only ones that rpm 4.11 (EL7) can check.
	LegacyDigests bool
}

// FileName is the name under which the package is published.
func (p *Package) FileName() string {
	return fmt.Sprintf("%s-%s-%s.%s.rpm", p.Name, p.Version, p.Release, p.Arch)
}

// Encoder turns a package into an RPM. It is the one place that knows the library that does it.
type Encoder func(*Package) ([]byte, error)

// Kind says what a file is to rpm.
type Kind int

// The kinds of files.
const (
	Regular Kind = iota
	Dir
	Config      // %config(noreplace): an edited one is kept, and the new one becomes .rpmnew
	Doc         // %doc
	License     // %license
	Ghost       // %ghost: not in the package, but the package's all the same
	GhostConfig // %ghost %config(missingok): an erase leaves it, without renaming it
)

// File is one file or directory of a package.
type File struct {
	Path  string
	Mode  uint // permission bits
	Kind  Kind
	Owner string // user and group, root when empty; a scriptlet of the package makes any other
	Body  []byte
}

// Relation is a Provides, Requires or Conflicts.
type Relation struct {
	Name    string
	Op      string // "", "=", ">=", "<="
	Version string
	When    When
}

// When says which scriptlets of the package need the relation, as Requires(post) does.
type When int

// The scriptlets, as bits.
const (
	Post When = 1 << iota
	Preun
	Postun
	Interpreter // of a scriptlet
	RPMLib      // a feature of rpm itself
	Pre
)

//go:embed scriptlets
var scriptlets embed.FS

// Build makes the package that o describes.
func Build(o Options) (*Package, error) {
	version, err := rpmVersion(o.Version)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(Dists(), o.Dist) {
		return nil, fmt.Errorf("cannot build for %q: the distribution is one of %s", o.Dist, strings.Join(Dists(), ", "))
	}
	if !slices.Contains(Arches(), o.Arch) {
		return nil, fmt.Errorf("cannot build for %q: the architecture is one of %s", o.Arch, strings.Join(Arches(), ", "))
	}
	if o.Time.Unix() <= 0 || o.Time.Unix() > 1<<31-1 {
		return nil, fmt.Errorf("cannot build for the time %s: set SOURCE_DATE_EPOCH to a time since 1970", o.Time)
	}
	p := &Package{
		Version: version, Release: cmp.Or(o.Release, "1") + "." + o.Dist, Arch: o.Arch,
		License:       "Apache-2.0",
		URL:           "https://github.com/tectonic-worker/tectonic-worker",
		Time:          o.Time.UTC().Truncate(time.Second),
		LegacyDigests: o.Dist == "el7",
		// Read by every rpm since 4.5, rpm 4.11 of EL7 included, and a third smaller than gzip.
		Compressor: "xz",
	}
	if o.Quick {
		p.Compressor = "gzip"
	}
	var list func(Options, time.Time) ([]File, error)
	switch p.Name = cmp.Or(o.Package, Name); p.Name {
	case Name:
		err, list = p.worker(o), files
	case Installer:
		err, list = p.installer(o), installerFiles
	default:
		return nil, fmt.Errorf("cannot build %q: the package is %s or %s", o.Package, Name, Installer)
	}
	if err != nil {
		return nil, err
	}
	p.Changelog = "- See " + docDir(p.Name) + "/CHANGELOG.md"
	if p.Files, err = list(o, p.Time); err != nil {
		return nil, err
	}
	slices.SortFunc(p.Files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	return p, p.check()
}

// worker makes p the package of the worker, but for its files.
func (p *Package) worker(o Options) error {
	p.Summary = "Makes this host a worker node of a Kubernetes cluster"
	p.Description = "Installs the Tectonic Worker: tectonic-worker join makes this host a node of a\n" +
		"Kubernetes cluster and opens its ports in firewalld. The kubelet runs from its\n" +
		"container image under rkt or podman. Nothing is enabled or started on install."
	p.relate(o, Post, Preun, Postun)
	// rpm 4.11 cannot read a rich dependency: on EL7 it is join that asks for a runtime.
	if o.Dist != "el7" {
		p.Requires = append(p.Requires,
			Relation{Name: "(rkt or podman)"},
			Relation{Name: "rpmlib(RichDependencies)", Op: "<=", Version: "4.12.0-1", When: RPMLib})
	}
	// All of them bring a kubelet.service.
	for _, name := range []string{"kubelet", "kubernetes", "kubernetes-master", "kubernetes-node"} {
		p.Conflicts = append(p.Conflicts, Relation{Name: name})
	}
	return p.readScriptlets("scriptlets")
}

// readScriptlets takes those that are in a directory.
func (p *Package) readScriptlets(dir string) error {
	for name, text := range map[string]*string{"pre": &p.Pre, "post": &p.Post, "preun": &p.Preun, "postun": &p.Postun} {
		data, err := scriptlets.ReadFile(dir + "/" + name + ".sh")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		*text = string(data)
	}
	return nil
}

// relate fills in what every package of ours needs; scripts are the scriptlets that it has.
func (p *Package) relate(o Options, scripts ...When) {
	isa := map[string]string{"x86_64": "x86-64", "aarch64": "aarch-64"}[o.Arch]
	full := p.Version + "-" + p.Release
	p.Provides = []Relation{
		{Name: p.Name, Op: "=", Version: full},
		{Name: p.Name + "(" + isa + ")", Op: "=", Version: full},
	}
	for _, when := range scripts {
		p.Requires = append(p.Requires, Relation{Name: "/bin/sh", When: when | Interpreter})
	}
	p.Requires = append(p.Requires,
		Relation{Name: "systemd", Op: ">=", Version: "219"},
		Relation{Name: "systemd", When: Post},
		Relation{Name: "systemd", When: Preun},
		Relation{Name: "systemd", When: Postun},
		Relation{Name: "rpmlib(CompressedFileNames)", Op: "<=", Version: "3.0.4-1", When: RPMLib},
		Relation{Name: "rpmlib(FileDigests)", Op: "<=", Version: "4.6.0-1", When: RPMLib})
	if !o.Quick {
		p.Requires = append(p.Requires, Relation{Name: "rpmlib(PayloadIsXz)", Op: "<=", Version: "5.2-1", When: RPMLib})
	}
	if strings.Contains(p.Version, "~") {
		p.Requires = append(p.Requires, Relation{Name: "rpmlib(TildeInVersions)", Op: "<=", Version: "4.10.0-1", When: RPMLib})
	}
}

// check refuses what an encoder would let pass and rpm would choke on.
func (p *Package) check() error {
	seen := make(map[string]bool)
	for _, f := range p.Files {
		switch {
		case !filepath.IsAbs(f.Path) || filepath.Clean(f.Path) != f.Path || f.Path == "/":
			return fmt.Errorf("cannot package %q: not an absolute, clean path", f.Path)
		case seen[f.Path]:
			return fmt.Errorf("cannot package %s: it is there twice", f.Path)
		case f.Mode&^0o777 != 0:
			return fmt.Errorf("cannot package %s: mode %o is more than permission bits", f.Path, f.Mode)
		case (f.Kind == Dir || f.Kind == Ghost || f.Kind == GhostConfig) && len(f.Body) > 0:
			return fmt.Errorf("cannot package %s: it has no place for content", f.Path)
		}
		seen[f.Path] = true
	}
	return nil
}

// rpmVersion turns a version as git describes it into one that rpm orders the same way: 1.2.3-rc.1
// comes before 1.2.3, and four commits after 1.2.3 after it.
func rpmVersion(v string) (string, error) {
	out := strings.TrimPrefix(v, "v")
	out, dirty := strings.CutSuffix(out, "-dirty")
	if m := describe.FindStringSubmatch(out); m != nil {
		out = m[1] + "+" + m[2] + "." + m[3]
	}
	if dirty {
		out += "+dirty"
	}
	out = strings.Replace(out, "-", "~", 1)
	out = strings.ReplaceAll(out, "-", ".")
	if !version.MatchString(out) {
		return "", fmt.Errorf("cannot package version %q: write it as 1.2.3, 1.2.3-rc.1 or as git describe does", v)
	}
	return out, nil
}

// read reads a file of the source tree that the package must have.
func read(path, what string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot package %s: %w", what, err)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, fmt.Errorf("cannot package %s: %s is empty", what, path)
	}
	return data, nil
}
