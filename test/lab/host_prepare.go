package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// KubeletDropIn is where the lab says what a kubelet needs only because it runs in the lab.
const KubeletDropIn = "/etc/tectonic-worker/kubelet.d/50-lab.yaml"

// LabKubeletConfig is that drop-in for a kubelet version ("v1.36.3"): the cgroup tree here is v1, belongs to a container
// and has no swap limit. failCgroupV1 is younger than the oldest kubelets, which refuse fields they do not know.
func LabKubeletConfig(version string) string {
	config := `cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failSwapOn: false
`
	parts := strings.Split(strings.TrimPrefix(version, "v"), ".")
	if len(parts) > 1 {
		if minor, err := strconv.Atoi(parts[1]); err == nil && minor >= 31 {
			config += "failCgroupV1: false\n"
		}
	}
	return config
}

// prepare fills the overlay's upper directory before anything is mounted.
func (h *Host) prepare(ctx context.Context, lower string, o WorkerOptions) error {
	version := o.KubeletVersion
	if version == "" {
		version = ControlPlaneVersion
	}
	// A host without a machine-id would be on its first boot, with presets applied and questions asked.
	var machineID [16]byte
	rand.Read(machineID[:])
	files := []File{
		{Path: "/etc/machine-id", Content: []byte(hex.EncodeToString(machineID[:]) + "\n"), Mode: 0o444},
		{Path: "/etc/hostname", Content: []byte(h.Name + "\n")},
		{Path: KubeletDropIn, Content: []byte(LabKubeletConfig(version))},
	}
	remove := o.Remove
	if o.NoPodman {
		remove = append(remove, "/usr/bin/podman")
	}
	if o.Rkt {
		rkt, err := h.lab.Cache.Rkt(ctx)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(rkt)
		if err != nil {
			return err
		}
		files = append(files, File{Path: "/usr/bin/rkt", Content: data, Mode: 0o755},
			// The stage1 images that the rkt package installs; the double looks no further than their names.
			File{Path: "/usr/libexec/rkt/stage1-fly.aci"}, File{Path: "/usr/libexec/rkt/stage1-coreos.aci"})
	}
	upper := filepath.Join(h.dir, "upper")
	for _, f := range append(files, o.Files...) {
		if err := makeParents(lower, upper, f.Path); err != nil {
			return err
		}
		if f.Mode == 0 {
			f.Mode = 0o644
		}
		path := filepath.Join(upper, f.Path)
		if err := os.WriteFile(path, f.Content, f.Mode); err != nil {
			return err
		}
		if err := os.Chmod(path, f.Mode); err != nil {
			return err
		}
	}
	for _, path := range remove {
		if !exists(filepath.Join(lower, path)) {
			continue
		}
		if err := makeParents(lower, upper, path); err != nil {
			return err
		}
		// A character device 0:0 is overlayfs's whiteout: the file below it is gone.
		if err := unix.Mknod(filepath.Join(upper, path), unix.S_IFCHR, 0); err != nil {
			return fmt.Errorf("cannot remove %s: %w", path, err)
		}
	}
	return nil
}

// makeParents makes the directories of path in upper with the modes that they have in lower.
func makeParents(lower, upper, path string) error {
	dir := ""
	for _, name := range strings.Split(strings.Trim(filepath.Dir(path), "/"), "/") {
		dir = filepath.Join(dir, name)
		mode := os.FileMode(0o755)
		if info, err := os.Stat(filepath.Join(lower, dir)); err == nil {
			mode = info.Mode().Perm()
		}
		if err := os.Mkdir(filepath.Join(upper, dir), mode); err != nil && !os.IsExist(err) {
			return err
		}
	}
	return nil
}
