package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"strings"
)

// stream is a stream's metadata, streams/<stream>.json, as far as it matters here.
type stream struct {
	Architectures map[string]struct {
		Artifacts map[string]struct {
			Release string             `json:"release"`
			Formats map[string]formats `json:"formats"`
		} `json:"artifacts"`
	} `json:"architectures"`
}

// release is one release's metadata, prod/streams/<stream>/builds/<version>/release.json.
type release struct {
	Release       string `json:"release"`
	Architectures map[string]struct {
		Media map[string]struct {
			Artifacts map[string]formats `json:"artifacts"`
		} `json:"media"`
	} `json:"architectures"`
}

// formats is a platform's artifact: its parts by name (kernel, initramfs, rootfs; disk).
type formats map[string]struct {
	Location  string `json:"location"`
	Signature string `json:"signature"`
	SHA256    string `json:"sha256"`
}

// fedoraCoreOS plans the live system and the image of a version, the newest of the stream or any that was released.
func (s *syncer) fedoraCoreOS(ctx context.Context) (tree, error) {
	t := tree{os: FedoraCoreOS, channel: s.spec.Channel, version: s.spec.Version, arch: s.spec.Arch}
	var artifacts map[string]formats
	var err error
	if t.version == "" || t.version == Current {
		artifacts, t.version, err = s.newestCoreOS(ctx)
	} else {
		artifacts, err = s.releasedCoreOS(ctx, t.version)
		if errors.Is(err, fs.ErrNotExist) {
			// A mirror of the newest version alone.
			var newest string
			if artifacts, newest, err = s.newestCoreOS(ctx); err == nil && newest != t.version {
				err = fmt.Errorf("%s has no version %s; its newest is %s", s.source, t.version, newest)
			}
		}
	}
	if err != nil {
		return tree{}, err
	}
	if !versions.MatchString(t.version) {
		return tree{}, fmt.Errorf("%s names a version %q, which is none", s.source, t.version)
	}
	for _, x := range []struct{ artifact, part, name string }{
		{"pxe", "kernel", "live-kernel.%s"}, {"pxe", "initramfs", "live-initramfs.%s.img"}, {"pxe", "rootfs", "live-rootfs.%s.img"},
		{"raw.xz", "disk", "metal.%s.raw.xz"},
	} {
		// The name that a machine's profile asks for; releases before 2025 called the kernel live-kernel-<arch>.
		name := "fedora-coreos-" + t.version + "-" + fmt.Sprintf(x.name, t.arch)
		a, ok := artifacts[x.artifact][x.part]
		if !ok {
			return tree{}, fmt.Errorf("%s has no %s %s of %s for %s", s.source, x.artifact, x.part, t.version, t.arch)
		}
		f := file{path: name, size: -1, keepSignature: true}
		if f.from, err = below(a.Location); err == nil && a.Signature != "" {
			f.signature, err = below(a.Signature)
		}
		if err == nil && f.signature == "" && !s.spec.SkipSignatures {
			err = fmt.Errorf("%s names no signature of %s", s.source, name)
		}
		if err != nil {
			return tree{}, err
		}
		d, err := newDigest("sha256", a.SHA256)
		if err != nil {
			return tree{}, fmt.Errorf("%s names no right digest of %s: %w", s.source, name, err)
		}
		f.digests = []digest{d}
		if original := path.Base(f.from); original != name {
			f.alias = original
		}
		if err := t.add(f); err != nil {
			return tree{}, err
		}
	}
	return t, nil
}

func (s *syncer) newestCoreOS(ctx context.Context) (map[string]formats, string, error) {
	name := "streams/" + s.spec.Channel + ".json"
	text, err := s.small(ctx, name)
	if err != nil {
		return nil, "", err
	}
	var st stream
	if err := json.Unmarshal(text, &st); err != nil {
		return nil, "", fmt.Errorf("cannot read %s of %s: %w", name, s.source, err)
	}
	metal, ok := st.Architectures[s.spec.Arch].Artifacts["metal"]
	if !ok {
		return nil, "", fmt.Errorf("%s of %s has no metal images for %s", name, s.source, s.spec.Arch)
	}
	return metal.Formats, metal.Release, nil
}

func (s *syncer) releasedCoreOS(ctx context.Context, version string) (map[string]formats, error) {
	name := path.Join("prod/streams", s.spec.Channel, "builds", version, "release.json")
	text, err := s.small(ctx, name)
	if err != nil {
		return nil, err
	}
	var r release
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("cannot read %s of %s: %w", name, s.source, err)
	}
	if r.Release != version {
		return nil, fmt.Errorf("%s of %s is about version %q", name, s.source, r.Release)
	}
	metal, ok := r.Architectures[s.spec.Arch].Media["metal"]
	if !ok {
		return nil, fmt.Errorf("%s of %s has no metal images for %s", name, s.source, s.spec.Arch)
	}
	return metal.Artifacts, nil
}

// below is a location's path: a mirror has the same paths as the server that the metadata names.
func below(location string) (string, error) {
	u, err := url.Parse(location)
	if err != nil || u.Scheme != "https" || u.RawQuery != "" {
		return "", fmt.Errorf("the metadata names a location %q, which is no https URL", location)
	}
	return strings.TrimPrefix(u.Path, "/"), nil
}
