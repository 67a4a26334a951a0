// Package world opens the lab the way programs need it that show or measure the product: a control plane, and hosts that
// are as an administrator has them before the first command, with the package and the installer's assets at hand. It owns
// that setting, and the choice of the package. It must not install ours: that is the first thing there is to see.
package world

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

// AssetsDir is where a host has what the Tectonic Installer left for the cluster.
const AssetsDir = "/root/tectonic"

// World is a lab with its control plane.
type World struct {
	*lab.Lab
	Plane *lab.ControlPlane
}

// Missing says why no lab can be opened here and what to do, or is empty.
func Missing() string {
	if os.Geteuid() != 0 {
		return "it boots machines, which needs root; try it with sudo"
	}
	if tools := lab.MissingTools(); len(tools) > 0 {
		return "missing " + strings.Join(tools, ", ") + "; run \"make lab\""
	}
	if part := (&lab.Cache{Dir: lab.DefaultCacheDir()}).Missing(); part != "" {
		return "the lab lacks " + part + "; run \"make lab\""
	}
	return ""
}

// Open starts the control plane. logf gets the lab's progress and may be nil. It builds nothing: where something is
// missing, the error says what.
func Open(ctx context.Context, logf func(string, ...any)) (*World, error) {
	if why := Missing(); why != "" {
		return nil, errors.New("cannot open the lab: " + why)
	}
	l, err := lab.Open(ctx, lab.DefaultCacheDir(), logf)
	if err != nil {
		return nil, err
	}
	plane, err := l.ControlPlane(ctx)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &World{l, plane}, nil
}

// Host boots a host. The distribution's packages are in rpm's database; the package rpm (a path on this machine) and the
// assets are in /root.
func (w *World) Host(ctx context.Context, rpm string) (*lab.Host, error) {
	h, err := w.Worker(ctx, lab.WorkerOptions{})
	if err != nil {
		return nil, err
	}
	kubeconfig, err := w.Plane.SharedKubeconfig()
	if err == nil {
		err = errors.Join(
			h.InstallDistribution(ctx),
			h.CopyIn(rpm, "/root/"+filepath.Base(rpm)),
			h.PutAssets(AssetsDir, lab.Assets{Kubeconfig: kubeconfig, DNSServiceIP: lab.DNSServiceIP, ServiceCIDR: "10.3.0.0/16"}))
	}
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// Package is the package to install: path itself, or, where that is a directory, the one in it for EL 9, which is nearest
// to the lab's hosts, and for this architecture. Of several, the one that was built last.
func Package(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("cannot find the package: %w; run \"make rpm\"", err)
	}
	if !info.IsDir() {
		return path, nil
	}
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	found, err := filepath.Glob(filepath.Join(path, "tectonic-worker-*.el9."+arch+".rpm"))
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "", fmt.Errorf("cannot find a package for el9 and %s in %s; run \"make rpm\"", arch, path)
	}
	return slices.MaxFunc(found, func(a, b string) int { return built(a).Compare(built(b)) }), nil
}

func built(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}
