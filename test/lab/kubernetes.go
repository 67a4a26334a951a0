package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// Release is a Kubernetes release that the lab builds from its Go module.
type Release struct {
	Version  string // "v1.36.3"
	Module   string // directory below test/lab/kubernetes
	Commands []string
}

// Releases are built by nested modules, so that the requirements of Kubernetes never meet the project's own. The
// first one is the control plane's.
var Releases = []Release{
	{"v1.36.3", "v1.36", []string{"kubelet", "kube-apiserver", "kube-controller-manager", "kubectl"}},
	{"v1.34.4", "v1.34", []string{"kubelet"}},
	{"v1.29.6", "v1.29", []string{"kubelet"}},
}

// ControlPlaneVersion is the version that the lab's API server reports.
var ControlPlaneVersion = Releases[0].Version

// Kubernetes gives the path of a built Kubernetes command, building it when it is not in the cache.
func (c *Cache) Kubernetes(ctx context.Context, version, command string) (string, error) {
	for _, r := range Releases {
		if r.Version != version {
			continue
		}
		path, err := c.kubernetesPath(r, command)
		if err != nil {
			return "", err
		}
		err = c.make(ctx, command+" "+version, path, func(ctx context.Context, dir string) error {
			return buildKubernetes(ctx, r, command, dir)
		})
		return filepath.Join(path, command), err
	}
	return "", fmt.Errorf("cannot build %s %s: the lab has no module for that version", command, version)
}

// kubernetesPath is the directory a command is built into. Its name has what decides the bytes: the module's
// checksums and the compiler.
func (c *Cache) kubernetesPath(r Release, command string) (string, error) {
	src, err := sourceDir()
	if err != nil {
		return "", err
	}
	module := filepath.Join(src, "kubernetes", r.Module)
	var parts []string
	for _, name := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join(module, name))
		if err != nil {
			return "", fmt.Errorf("cannot read the module that builds Kubernetes: %w", err)
		}
		parts = append(parts, string(data))
	}
	parts = append(parts, runtime.Version(), runtime.GOARCH, strings.Join(kubernetesFlags(r), " "))
	return filepath.Join(c.Dir, "kubernetes", r.Version, command+"-"+digest(parts...)), nil
}

// kubernetesFlags give a static stripped binary that reports its release. providerless leaves out the in-tree
// cloud providers, whose vSphere part of 1.29 no longer resolves.
func kubernetesFlags(r Release) []string {
	const pkg = "k8s.io/component-base/version"
	minor := strings.Split(r.Version, ".")[1]
	return []string{
		"-mod=readonly", "-trimpath", "-buildvcs=false", "-tags=providerless",
		"-ldflags=-s -w" +
			" -X " + pkg + ".gitVersion=" + r.Version +
			" -X " + pkg + ".gitMajor=1" +
			" -X " + pkg + ".gitMinor=" + minor +
			" -X " + pkg + ".gitTreeState=clean",
	}
}

func buildKubernetes(ctx context.Context, r Release, command, dir string) error {
	src, err := sourceDir()
	if err != nil {
		return err
	}
	args := append([]string{"build"}, kubernetesFlags(r)...)
	args = append(args, "-o", dir+"/", "k8s.io/kubernetes/cmd/"+command)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Join(src, "kubernetes", r.Module)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// sourceDir finds this package's source: tests run in their package's directory and commands anywhere in the module.
func sourceDir() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("cannot find the lab's source: %w", err)
	}
	for {
		if exists(filepath.Join(dir, "test", "lab", "kubernetes")) {
			return filepath.Join(dir, "test", "lab"), nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("cannot find test/lab/kubernetes above the working directory: run it inside the repository")
		}
		dir = parent
	}
}
