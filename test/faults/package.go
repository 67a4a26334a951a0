package faults

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/tectonic-worker/tectonic-worker/packaging"
)

// BuildPackage builds the commands from the sources in repository as version, and packs them in dir. It gives the
// package's path.
func BuildPackage(ctx context.Context, repository, dir, version string) (string, error) {
	binary := filepath.Join(dir, "tectonic-worker-"+version)
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+version, "-o", binary, "./cmd/tectonic-worker")
	build.Dir, build.Env = repository, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build the package: %w: %s", err, out)
	}
	drain := filepath.Join(dir, "tectonic-worker-drain")
	build = exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", drain, "./cmd/tectonic-worker-drain")
	build.Dir, build.Env = repository, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build the package: %w: %s", err, out)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		out, err := exec.CommandContext(ctx, binary, "completion", shell).Output()
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "tectonic-worker."+shell), out, 0o644)
		}
		if err != nil {
			return "", fmt.Errorf("cannot build the package: %w", err)
		}
	}
	p, err := packaging.Build(packaging.Options{
		Binary: binary, Drain: drain, Completions: dir, Source: repository, Version: version, Dist: "el9", Quick: true, Time: time.Unix(1700000000, 0),
		Arch: map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH],
	})
	if err != nil {
		return "", fmt.Errorf("cannot build the package: %w", err)
	}
	data, err := packaging.Encode(p)
	if err != nil {
		return "", fmt.Errorf("cannot build the package: %w", err)
	}
	path := filepath.Join(dir, "tectonic-worker-"+version+".rpm")
	return path, os.WriteFile(path, data, 0o644)
}
