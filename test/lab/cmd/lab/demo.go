package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

// demo shows the product: a host with nothing on it becomes a Ready node by two commands.
func demo(ctx context.Context, dist string, logf func(string, ...any)) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	rpm, err := findRPM(dist)
	if err != nil {
		return err
	}
	l, err := lab.Open(ctx, lab.DefaultCacheDir(), logf)
	if err != nil {
		return err
	}
	defer func() {
		l.Close()
		logf("cleaned up")
	}()
	cp, err := l.ControlPlane(ctx)
	if err != nil {
		return err
	}
	h, err := l.Worker(ctx, lab.WorkerOptions{})
	if err != nil {
		return err
	}
	kubeconfig, err := cp.SharedKubeconfig()
	if err != nil {
		return err
	}
	assets := lab.Assets{Kubeconfig: kubeconfig, DNSServiceIP: lab.DNSServiceIP, ServiceCIDR: "10.3.0.0/16"}
	if err := h.PutAssets("/root/assets", assets); err != nil {
		return err
	}
	title("On %s: rpm --install %s", h.Name, filepath.Base(rpm))
	if err := h.InstallRPM(ctx, rpm); err != nil {
		return err
	}
	start := time.Now()
	if err := show(ctx, h, "tectonic-worker", "join", "--assets", "/root/assets"); err != nil {
		return fmt.Errorf("%w\n%s", err, h.Journal(ctx, "", 40))
	}
	took := time.Since(start)
	title("On the control plane: kubectl get nodes -o wide")
	nodes, err := cp.Kubectl(ctx, "get", "nodes", "-o", "wide")
	if err != nil {
		return err
	}
	fmt.Print(nodes)
	for _, argv := range [][]string{
		{"firewall-cmd", "--list-ports"}, {"firewall-cmd", "--permanent", "--list-ports"}, {"tectonic-worker", "status"},
	} {
		if err := show(ctx, h, argv...); err != nil {
			return err
		}
	}
	fmt.Println()
	logf("joined in %.1fs", took.Seconds())
	return nil
}

// show runs a command on the host with its output on the terminal.
func show(ctx context.Context, h *lab.Host, argv ...string) error {
	title("On %s: %s", h.Name, strings.Join(argv, " "))
	r, err := h.Command(ctx, lab.Command{Args: argv, Stdout: os.Stdout, Stderr: os.Stderr})
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("%s ended with exit code %d", strings.Join(argv, " "), r.Code)
	}
	return err
}

func title(format string, args ...any) { fmt.Printf("\n>>> %s\n", fmt.Sprintf(format, args...)) }

// findRPM picks the package for EL 9 and this architecture, the one that is nearest to the lab's worker; of several,
// the one that was built last.
func findRPM(dir string) (string, error) {
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	found, err := filepath.Glob(filepath.Join(dir, "tectonic-worker-*.el9."+arch+".rpm"))
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("cannot find a package for el9 and %s in %s: run \"make rpm\"", arch, dir)
	}
	sort.Slice(found, func(i, j int) bool { return built(found[i]).After(built(found[j])) })
	return found[0], nil
}

func built(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}
