package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// registryDir holds the images that can be "fetched": directories with manifest.json and rootfs.
func registryDir() string {
	if dir := os.Getenv("RKT_DOUBLE_REGISTRY"); dir != "" {
		return dir
	}
	return "/usr/lib/lab/rkt-registry"
}

// image is a manifest, and where its rootfs is.
type image struct {
	Name     string
	Exec     []string
	SignedBy string // fingerprint
	dir      string
}

var errNotFound = errors.New("not found")

// storeDir holds the fetched images: symlinks into the registry.
func (c *cli) storeDir() string { return filepath.Join(c.dir(), "double") }

// lookup finds a reference among the images of a directory.
func lookup(dir, reference string) (*image, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		img := &image{dir: filepath.Join(dir, e.Name())}
		data, err := os.ReadFile(filepath.Join(img.dir, "manifest.json"))
		if err != nil {
			continue
		}
		if err := json.Unmarshal(data, img); err != nil {
			return nil, fmt.Errorf("bad image manifest in %s: %w", img.dir, err)
		}
		if img.Name == strings.TrimPrefix(reference, "docker://") {
			return img, nil
		}
	}
	return nil, errNotFound
}

// find gives the image for a reference under a pull policy: never, new, update.
func (c *cli) find(reference, policy string) (*image, error) {
	stored, err := lookup(c.storeDir(), reference)
	switch {
	case err == nil && policy != "update":
		return stored, nil
	case err != nil && !errors.Is(err, errNotFound):
		return nil, err
	case policy == "never":
		return nil, fmt.Errorf("unable to fetch: image %q not found in the store and --pull-policy=never", reference)
	}
	remote, err := lookup(registryDir(), reference)
	if err != nil {
		return nil, fmt.Errorf("discovery failed for %q: %w", reference, err)
	}
	if err := c.verify(reference, remote); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.storeDir(), 0o755); err != nil {
		return nil, err
	}
	link := filepath.Join(c.storeDir(), filepath.Base(remote.dir))
	if err := os.Symlink(remote.dir, link); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return lookup(c.storeDir(), reference)
}

// verify looks for the image's key among the trusted ones: for its prefix or one above, or for all images.
func (c *cli) verify(reference string, img *image) error {
	if c.insecure("image") {
		fmt.Fprintf(c.stderr, "image: warning: image signature verification has been disabled\n")
		return nil
	}
	if strings.HasPrefix(reference, "docker://") {
		return errors.New("signature verification for docker images is not supported (try --insecure-options=image)")
	}
	if c.global.bool("trust-keys-from-https") {
		return errors.New("cannot fetch the key: the double has no network")
	}
	name, _, _ := strings.Cut(img.Name, ":")
	for _, base := range []string{c.configDir(), "/usr/lib/rkt"} {
		keys := filepath.Join(base, "trustedkeys")
		dirs := []string{filepath.Join(keys, "root.d")}
		for prefix := name; prefix != "." && prefix != "/"; prefix = filepath.Dir(prefix) {
			dirs = append(dirs, filepath.Join(keys, "prefix.d", prefix))
		}
		for _, dir := range dirs {
			info, err := os.Stat(filepath.Join(dir, img.SignedBy))
			if err == nil && info.Mode().IsRegular() && info.Size() > 0 {
				fmt.Fprintf(c.stderr, "image: signature verified:\n  Quay.io ACI Converter (ACI conversion signing key) <support@quay.io>\n")
				return nil
			}
		}
	}
	return errors.New("openpgp: signature made by unknown entity")
}

func (c *cli) fetch(args []string) error {
	v := values{}
	args, err := c.parseWithGlobals(options{
		"full": {kind: boolean}, "no-store": {kind: boolean}, "store-only": {kind: boolean}, "signature": {},
		"pull-policy": {check: oneOf("never", "new", "update")},
	}, args, v)
	if err != nil {
		return err
	}
	if len(args) == 0 {
		return usagef("must provide at least one image")
	}
	policy := v.last("pull-policy")
	if policy == "" {
		policy = "update"
	}
	for _, reference := range args {
		if strings.HasPrefix(reference, "-") {
			return usagef("flags must come before images: %s", reference)
		}
		img, err := c.find(reference, policy)
		if err != nil {
			return err
		}
		fmt.Fprintln(c.stdout, img.id())
	}
	return nil
}

// id has the form of an image's hash.
func (img *image) id() string { return fmt.Sprintf("sha512-%016x", fnv(img.Name)) }

func fnv(s string) uint64 {
	h := uint64(14695981039346656037)
	for _, b := range []byte(s) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return h
}

func (c *cli) image(args []string) error {
	if len(args) == 0 {
		return usagef("no image command")
	}
	c.command = "image " + args[0]
	v := values{}
	sub := args[0]
	known := map[string]options{
		"cat-manifest": {"pretty-print": {kind: boolean}, "quiet": {kind: boolean}},
		"list":         {"fields": {}, "full": {kind: boolean}, "no-legend": {kind: boolean}, "order": {}, "sort": {}},
		"rm":           {},
	}
	set, ok := known[sub]
	if !ok {
		return usagef("unknown command %q for \"rkt image\"", sub)
	}
	args, err := c.parseWithGlobals(set, args[1:], v)
	if err != nil {
		return err
	}
	if sub == "list" {
		if len(args) > 0 {
			return usagef("image list: unexpected argument %q", args[0])
		}
		return c.listImages(!v.bool("no-legend"))
	}
	if len(args) == 0 {
		return usagef("must provide at least one image")
	}
	for _, reference := range args {
		img, err := lookup(c.storeDir(), reference)
		if err != nil {
			return fmt.Errorf("cannot find image %q: %w", reference, err)
		}
		if sub == "rm" {
			if err := os.Remove(img.dir); err != nil {
				return err
			}
			fmt.Fprintf(c.stderr, "successfully removed aci for image: %q\n", img.id())
			continue
		}
		name, tag, _ := strings.Cut(img.Name, ":")
		manifest := map[string]any{
			"acKind": "ImageManifest", "acVersion": "0.8.11", "name": name,
			"labels": []map[string]string{{"name": "version", "value": tag}, {"name": "os", "value": "linux"}},
			"app":    map[string]any{"exec": img.Exec, "user": "0", "group": "0"},
		}
		data, err := json.Marshal(manifest)
		if err != nil {
			return err
		}
		fmt.Fprintln(c.stdout, string(data))
	}
	return nil
}

func (c *cli) listImages(legend bool) error {
	if legend {
		fmt.Fprintln(c.stdout, "ID\t\t\tNAME")
	}
	entries, err := os.ReadDir(c.storeDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(c.storeDir(), e.Name(), "manifest.json"))
		if err != nil {
			continue
		}
		var img image
		if err := json.Unmarshal(data, &img); err != nil {
			return err
		}
		fmt.Fprintf(c.stdout, "%s\t%s\n", img.id(), img.Name)
	}
	return nil
}

// trust installs a key that is a local file. Its fingerprint cannot be read without OpenPGP, so the file has to be named
// by it, which real rkt does not ask for.
func (c *cli) trust(args []string) error {
	v := values{}
	args, err := c.parseWithGlobals(options{
		"prefix": {}, "root": {kind: boolean}, "skip-fingerprint-review": {kind: boolean}, "insecure-allow-http": {kind: boolean},
	}, args, v)
	if err != nil {
		return err
	}
	if v.last("prefix") == "" && !v.bool("root") {
		return usagef("--root required for non-prefixed (root) keys")
	}
	if v.last("prefix") != "" && v.bool("root") {
		return usagef("--root and --prefix usage mutually exclusive")
	}
	if len(args) == 0 {
		return errors.New("cannot fetch the key: the double has no network")
	}
	if !v.bool("skip-fingerprint-review") {
		return errors.New("fingerprint review needs a terminal (try --skip-fingerprint-review)")
	}
	for _, path := range args {
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("error retrieving key: %w", err)
		}
		dir := filepath.Join(c.configDir(), "trustedkeys", "root.d")
		if prefix := v.last("prefix"); prefix != "" {
			dir = filepath.Join(c.configDir(), "trustedkeys", "prefix.d", prefix)
		}
		if err := os.MkdirAll(dir, 0o775); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), data, 0o664); err != nil {
			return err
		}
		fmt.Fprintf(c.stderr, "Added key for prefix %q at %q\n", v.last("prefix"), filepath.Join(dir, filepath.Base(path)))
	}
	return nil
}
