package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"
)

// flatcarFiles are the live system that a machine boots, and the image that flatcar-install writes. It fetches the
// image's signature from beside it.
var flatcarFiles = []string{"flatcar_production_pxe.vmlinuz", "flatcar_production_pxe_image.cpio.gz", "flatcar_production_image.bin.bz2"}

var flatcarVersion = regexp.MustCompile(`(?m)^FLATCAR_VERSION=([0-9][0-9A-Za-z.]*)\r?$`)

// flatcar plans <source>/<board>/<version>/, as the release servers have it, or <source>/<version>/, as we publish it.
func (s *syncer) flatcar(ctx context.Context) (tree, error) {
	board := map[string]string{"x86_64": "amd64-usr", "aarch64": "arm64-usr"}[s.spec.Arch]
	version := s.spec.Version
	if version == "" || version == Current {
		var err error
		if version, err = s.flatcarCurrent(ctx, path.Join(board, "current", "version.txt")); err != nil {
			return tree{}, err
		}
	}
	t := tree{os: Flatcar, channel: s.spec.Channel, version: version, arch: s.spec.Arch}
	dir := path.Join(board, version)
	if _, err := s.source.size(ctx, path.Join(dir, flatcarFiles[0])); errors.Is(err, fs.ErrNotExist) {
		if _, flat := s.source.size(ctx, path.Join(version, flatcarFiles[0])); flat != nil {
			return tree{}, fmt.Errorf("%s has no version %s for %s: neither %s nor %s is there", s.source, version, s.spec.Arch,
				path.Join(dir, flatcarFiles[0]), path.Join(version, flatcarFiles[0]))
		}
		dir = version
	}
	for _, name := range flatcarFiles {
		from := path.Join(dir, name)
		f := file{path: name, from: from, size: -1, signature: from + ".sig", keepSignature: true}
		text, err := s.small(ctx, from+".DIGESTS")
		switch {
		case err == nil:
			f.digests = readDigests(string(text), name)
		case !errors.Is(err, fs.ErrNotExist):
			return tree{}, err
		}
		if len(f.digests) == 0 && s.spec.SkipSignatures {
			return tree{}, fmt.Errorf("%s has no digest of %s, and signatures are not to be checked: nothing would tell whether it is right", s.source, name)
		}
		if err := t.add(f); err != nil {
			return tree{}, err
		}
	}
	return t, nil
}

func (s *syncer) flatcarCurrent(ctx context.Context, name string) (string, error) {
	text, err := s.small(ctx, name)
	if err != nil {
		return "", fmt.Errorf("cannot find out the newest version: %w; give one with --version", err)
	}
	if !s.spec.SkipSignatures {
		signature, err := s.small(ctx, name+".sig")
		switch {
		case errors.Is(err, fs.ErrNotExist):
			s.note("%s is not signed: that its version is the newest is the server's word alone", name)
		case err != nil:
			return "", err
		default:
			if _, _, err := checkSignature(s.keys, bytes.NewReader(text), signature, s.now()); err != nil {
				return "", fmt.Errorf("%s is not right: %w", name, err)
			}
		}
	}
	m := flatcarVersion.FindSubmatch(text)
	if m == nil {
		return "", fmt.Errorf("%s of %s has no FLATCAR_VERSION; give a version with --version", name, s.source)
	}
	return string(m[1]), nil
}

// readDigests finds a file's SHA-256 and SHA-512 in lines of "digest  name"; other algorithms have other lengths.
func readDigests(text, name string) []digest {
	var found []digest
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 2 || path.Base(f[1]) != name {
			continue
		}
		for _, algorithm := range []string{"sha256", "sha512"} {
			if d, err := newDigest(algorithm, f[0]); err == nil {
				found = append(found, d)
			}
		}
	}
	return found
}
