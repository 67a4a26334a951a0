package lab

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// kubeletImagePackages are what a kubelet calls: mount(8), iptables, conntrack and so on.
var kubeletImagePackages = []string{
	"mount", "util-linux", "iptables", "nftables", "conntrack", "ethtool", "socat", "kmod", "ca-certificates", "netbase",
}

const (
	kubeletRepository = "quay.io/poseidon/kubelet"
	kubeletInImage    = "/usr/local/bin/kubelet"
	// quaySigningKey is the fingerprint of the key that signs Quay's ACIs.
	quaySigningKey = "bff313cdaa560b16a8987b8f72abf5f6799d33bc"
	// QuayKeyPath is where rkt looks for that key.
	QuayKeyPath = "/etc/rkt/trustedkeys/prefix.d/quay.io/" + quaySigningKey
	// rktRemoteMount is the registry that the rkt double fetches from.
	rktRemoteMount = "/usr/lib/lab/rkt-registry"
)

// KubeletImage is the reference of the image that the lab made of a kubelet.
func KubeletImage(version string) string { return kubeletRepository + ":" + version }

func (c *Cache) kubeletImagesPath() (string, error) {
	parts := []string{"2", debianSuite, strings.Join(kubeletImagePackages, " ")}
	for _, r := range Releases {
		path, err := c.kubernetesPath(r, "kubelet")
		if err != nil {
			return "", err
		}
		parts = append(parts, path)
	}
	return filepath.Join(c.Dir, "images-"+digest(parts...)), nil
}

// KubeletImages gives a directory with podman/, an image store that podman reads as an additional one, and rkt/, the
// registry of the rkt double. Both have every release's kubelet.
func (c *Cache) KubeletImages(ctx context.Context) (string, error) {
	path, err := c.kubeletImagesPath()
	if err != nil {
		return "", err
	}
	worker, err := c.WorkerRoot(ctx)
	if err != nil {
		return "", err
	}
	kubelets := map[string]string{}
	for _, r := range Releases {
		if kubelets[r.Version], err = c.Kubernetes(ctx, r.Version, "kubelet"); err != nil {
			return "", err
		}
	}
	return path, c.make(ctx, "kubelet images", path, func(ctx context.Context, dir string) error {
		base := filepath.Join(dir, "base.tar")
		if err := mmdebstrap(ctx, base, kubeletImagePackages); err != nil {
			return err
		}
		root := filepath.Join(dir, "base")
		if err := os.Mkdir(root, 0o755); err != nil {
			return err
		}
		if out, err := exec.CommandContext(ctx, "tar", "-C", root, "--exclude=./dev/*", "-xf", base).CombinedOutput(); err != nil {
			return fmt.Errorf("tar: %w\n%s", err, out)
		}
		for _, version := range sortedKeys(kubelets) {
			archive := filepath.Join(dir, version+".tar")
			if err := writeImage(archive, KubeletImage(version), base, kubelets[version]); err != nil {
				return fmt.Errorf("%s: %w", KubeletImage(version), err)
			}
			if err := loadImage(ctx, worker, dir, archive); err != nil {
				return err
			}
			if err := writeRktImage(ctx, filepath.Join(dir, "rkt"), KubeletImage(version), root, kubelets[version]); err != nil {
				return err
			}
			if err := os.Remove(archive); err != nil {
				return err
			}
		}
		return os.Remove(base)
	})
}

// writeImage writes a docker-archive(5) of two layers: the base, and the kubelet.
func writeImage(archive, reference, base, kubelet string) error {
	layer := archive + ".kubelet"
	if err := writeLayer(layer, kubelet); err != nil {
		return err
	}
	defer os.Remove(layer)
	var diffIDs []string
	for _, path := range []string{base, layer} {
		sum, err := sha256File(path)
		if err != nil {
			return err
		}
		diffIDs = append(diffIDs, "sha256:"+sum)
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": []string{kubeletInImage}, "Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{
		"Config": "config.json", "RepoTags": []string{reference}, "Layers": []string{"base.tar", "kubelet.tar"},
	}})
	if err != nil {
		return err
	}
	out, err := os.Create(archive)
	if err != nil {
		return err
	}
	defer out.Close()
	w := tar.NewWriter(out)
	for name, path := range map[string]string{"base.tar": base, "kubelet.tar": layer} {
		if err := addFile(w, name, path, 0o644); err != nil {
			return err
		}
	}
	for name, data := range map[string][]byte{"config.json": config, "manifest.json": manifest} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
	return w.Close()
}

func writeLayer(path, kubelet string) error {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close()
	w := tar.NewWriter(out)
	if err := addFile(w, strings.TrimPrefix(kubeletInImage, "/"), kubelet, 0o755); err != nil {
		return err
	}
	return w.Close()
}

func addFile(w *tar.Writer, name, path string, mode int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: info.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}

func sha256File(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// loadImage loads the archive into dir/podman with the worker's own podman, in a mount namespace that ends with it.
func loadImage(ctx context.Context, worker, dir, archive string) error {
	const script = `set -e
worker=$1 dir=$2 archive=$3
mkdir -p "$dir/podman" "$dir/scratch"
mount -t tmpfs tmpfs "$dir/scratch"
mkdir "$dir/scratch/upper" "$dir/scratch/work" "$dir/scratch/root"
mount -t overlay overlay -o "lowerdir=$worker,upperdir=$dir/scratch/upper,workdir=$dir/scratch/work" "$dir/scratch/root"
cd "$dir/scratch/root"
mount --rbind /proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mkdir -p images
mount --bind "$dir" images
rm -f etc/containers/storage.conf
exec chroot . /usr/bin/podman --root /images/podman --runroot /run/load --storage-driver overlay --events-backend file \
	load --quiet --input "/images/${archive##*/}"
`
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", script, "lab", worker, dir, archive)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TMPDIR=/images"}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("podman load: %w\n%s", err, out)
	}
	os.Remove(filepath.Join(dir, "scratch"))
	return nil
}

// RktImage is the manifest of an image in the registry of the rkt double.
type RktImage struct {
	Name     string   // "quay.io/poseidon/kubelet:v1.36.3"
	Exec     []string // the app's own command
	SignedBy string   // fingerprint of the key that signed it
}

// writeRktImage adds an image to the registry of the rkt double: a directory with manifest.json and rootfs. Files of
// the base are hard links.
func writeRktImage(ctx context.Context, registry, reference, base, kubelet string) error {
	dir := filepath.Join(registry, strings.NewReplacer("/", "_", ":", "_").Replace(reference))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root := filepath.Join(dir, "rootfs")
	if out, err := exec.CommandContext(ctx, "cp", "-al", base, root).CombinedOutput(); err != nil {
		return fmt.Errorf("cp: %w\n%s", err, out)
	}
	if out, err := exec.CommandContext(ctx, "cp", kubelet, filepath.Join(root, kubeletInImage)).CombinedOutput(); err != nil {
		return fmt.Errorf("cp: %w\n%s", err, out)
	}
	data, err := json.MarshalIndent(RktImage{Name: reference, Exec: []string{kubeletInImage}, SignedBy: quaySigningKey}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "manifest.json"), append(data, '\n'), 0o644)
}

// Rkt is the rkt that workers get: the one on PATH, else the double, built.
func (c *Cache) Rkt(ctx context.Context) (string, error) {
	if real, err := exec.LookPath("rkt"); err == nil {
		return real, nil
	}
	src, err := sourceDir()
	if err != nil {
		return "", err
	}
	out := filepath.Join(c.Dir, "rkt-double")
	// go build has its own cache; the double follows its source.
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", out, "./test/rkt-double")
	cmd.Dir = filepath.Dir(filepath.Dir(src))
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build the rkt double: %w\n%s", err, text)
	}
	return out, nil
}
