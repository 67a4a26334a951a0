package images

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// rhel plans an installation tree: what .treeinfo has digests of (the kernel, initrd and runtime of Anaconda), and its
// repositories with all their packages. Each list is checked with the digest in the list above it; the topmost,
// .treeinfo and repomd.xml, are signed by nobody.
func (s *syncer) rhel(ctx context.Context) (tree, error) {
	text, err := s.small(ctx, ".treeinfo")
	if err != nil {
		return tree{}, fmt.Errorf("%w; the source must be the root of an installation tree, where .treeinfo and images/ are", err)
	}
	info := readINI(string(text))
	version, arch := info.first("version", "release", "general"), info.first("arch", "tree", "general")
	if arch != s.spec.Arch {
		return tree{}, fmt.Errorf("%s is a tree for %q, not %s", s.source, arch, s.spec.Arch)
	}
	if s.spec.Version != "" && s.spec.Version != Current && s.spec.Version != version {
		return tree{}, fmt.Errorf("%s is version %q, not %s", s.source, version, s.spec.Version)
	}
	if !versions.MatchString(version) {
		return tree{}, fmt.Errorf(".treeinfo of %s names a version %q, which is none", s.source, version)
	}
	t := tree{os: RHEL, version: version, arch: arch}
	s.note("rhel trees are not signed: that this one is Red Hat's is the word of %s; check the DVD's digest with the one on Red Hat's page", s.source)
	if err := t.add(file{path: ".treeinfo", from: ".treeinfo", size: int64(len(text)), digests: []digest{sum(text)}, content: text}); err != nil {
		return tree{}, err
	}
	repomd := map[string]digest{}
	for name, value := range info["checksums"] {
		algorithm, hex, _ := strings.Cut(value, ":")
		d, err := newDigest(algorithm, hex)
		if err != nil {
			return tree{}, fmt.Errorf(".treeinfo of %s, %s: %w", s.source, name, err)
		}
		switch {
		case path.Base(name) == "repomd.xml":
			repomd[name] = d
		case path.Ext(name) == ".iso": // for people, not for network boots
		default:
			if err := t.add(file{path: name, from: name, size: -1, digests: []digest{d}}); err != nil {
				return tree{}, err
			}
		}
	}
	for _, needed := range []string{"images/pxeboot/vmlinuz", "images/pxeboot/initrd.img"} {
		if !slices.ContainsFunc(t.files, func(f file) bool { return f.path == needed }) {
			return tree{}, fmt.Errorf(".treeinfo of %s has no digest of %s, without which nothing boots", s.source, needed)
		}
	}
	for _, repository := range info.repositories() {
		if err := s.repository(ctx, &t, repository, repomd); err != nil {
			return tree{}, err
		}
	}
	slices.SortFunc(t.files, func(a, b file) int { return strings.Compare(a.path, b.path) })
	return t, nil
}

// ini is sections of keys; .treeinfo has nothing else (productmd's treeinfo-1.2).
type ini map[string]map[string]string

func readINI(text string) ini {
	sections, section := ini{}, ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]") {
			section = line[1 : len(line)-1]
			continue
		}
		key, value, found := strings.Cut(line, "=")
		if !found || strings.HasPrefix(line, ";") || strings.HasPrefix(line, "#") {
			continue
		}
		if sections[section] == nil {
			sections[section] = map[string]string{}
		}
		sections[section][strings.TrimSpace(key)] = strings.TrimSpace(value)
	}
	return sections
}

// first gives a key of the first section that has it: EL 7 has only [general] of what [release] and [tree] say since.
func (i ini) first(key string, sections ...string) string {
	for _, s := range sections {
		if v := i[s][key]; v != "" {
			return v
		}
	}
	return ""
}

// repositories are those of the variants, relative to the root.
func (i ini) repositories() []string {
	var all []string
	add := func(r string) {
		if r = path.Clean(r); r != "" && !slices.Contains(all, r) {
			all = append(all, r)
		}
	}
	for name, section := range i {
		if r := section["repository"]; r != "" && (strings.HasPrefix(name, "variant-") || name == "general") {
			add(r)
		}
	}
	for name := range i["checksums"] {
		if dir, found := strings.CutSuffix(name, "repodata/repomd.xml"); found {
			add("./" + dir)
		}
	}
	slices.Sort(all)
	return all
}

type repomdXML struct {
	Data []struct {
		Type     string   `xml:"type,attr"`
		Checksum checksum `xml:"checksum"`
		Location location `xml:"location"`
		Size     int64    `xml:"size"`
	} `xml:"data"`
}

type checksum struct {
	Type  string `xml:"type,attr"`
	Value string `xml:",chardata"`
}

type location struct {
	Href string `xml:"href,attr"`
}

type packageXML struct {
	Checksum checksum `xml:"checksum"`
	Size     struct {
		Package int64 `xml:"package,attr"`
	} `xml:"size"`
	Location location `xml:"location"`
}

// repository adds one repository's metadata and packages to the plan.
func (s *syncer) repository(ctx context.Context, t *tree, dir string, known map[string]digest) error {
	name := path.Join(dir, "repodata/repomd.xml")
	text, err := s.small(ctx, name)
	if err != nil {
		return err
	}
	top := sum(text)
	if d, ok := known[name]; ok && d.algorithm == "sha256" && d != top {
		return fmt.Errorf("%s of %s is not right: its sha256 is %s, not %s", name, s.source, top.value, d.value)
	}
	var md repomdXML
	if err := xml.Unmarshal(text, &md); err != nil {
		return fmt.Errorf("cannot read %s of %s: %w", name, s.source, err)
	}
	if err := t.add(file{path: name, from: name, size: int64(len(text)), digests: []digest{top}, content: text}); err != nil {
		return err
	}
	primary := false
	for _, data := range md.Data {
		d, err := newDigest(data.Checksum.Type, strings.TrimSpace(data.Checksum.Value))
		if err != nil {
			return fmt.Errorf("%s of %s, %s: %w", name, s.source, data.Type, err)
		}
		href := path.Join(dir, data.Location.Href)
		f := file{path: href, from: href, size: -1, digests: []digest{d}}
		if data.Size > 0 {
			f.size = data.Size
		}
		if data.Type == "primary" {
			primary = true
			if f.content, err = s.small(ctx, href); err != nil {
				return err
			}
			if d.algorithm == "sha256" && sum(f.content) != d {
				return fmt.Errorf("%s of %s is not right: its sha256 is not %s, as %s says", href, s.source, d.value, name)
			}
			if err := s.packages(t, dir, href, f.content); err != nil {
				return err
			}
		}
		if err := t.add(f); err != nil {
			return err
		}
	}
	if !primary {
		return fmt.Errorf("%s of %s names no list of packages", name, s.source)
	}
	return nil
}

// maxPrimary bounds what a list of packages may unpack to; RHEL's are below 100 MB.
const maxPrimary = 2 << 30

func (s *syncer) packages(t *tree, dir, name string, content []byte) error {
	var r io.Reader = bytes.NewReader(content)
	var err error
	switch path.Ext(name) {
	case ".gz":
		r, err = gzip.NewReader(r)
	case ".zst":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1)); err == nil {
			defer z.Close()
			r = z
		}
	case ".xml":
	default:
		err = errors.New("it is packed neither by gzip nor by zstd")
	}
	if err != nil {
		return fmt.Errorf("cannot unpack %s of %s: %w", name, s.source, err)
	}
	d := xml.NewDecoder(io.LimitReader(r, maxPrimary))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot read %s of %s: %w", name, s.source, err)
		}
		start, ok := token.(xml.StartElement)
		if !ok || start.Name.Local != "package" {
			continue
		}
		var p packageXML
		if err := d.DecodeElement(&p, &start); err != nil {
			return fmt.Errorf("cannot read %s of %s: %w", name, s.source, err)
		}
		sum, err := newDigest(p.Checksum.Type, strings.TrimSpace(p.Checksum.Value))
		if err != nil {
			return fmt.Errorf("%s of %s, %s: %w", name, s.source, p.Location.Href, err)
		}
		href := path.Join(dir, p.Location.Href)
		f := file{path: href, from: href, size: -1, digests: []digest{sum}}
		if p.Size.Package > 0 {
			f.size = p.Size.Package
		}
		if err := t.add(f); err != nil {
			return err
		}
	}
}
