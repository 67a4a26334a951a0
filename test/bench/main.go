// Command bench measures the product against what it replaces, both in one run on one machine, and prints ratios: the
// seed's four firewall-cmd commands, a bare restart of the kubelet, and the sizes that are promised. It owns the figures'
// definitions and targets. It must not measure a stand-in: host, firewalld, kubelet and API server are the lab's real
// ones.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

const rounds = 5

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// figure is one line of the result.
type figure struct {
	what, ours, theirs, got, target string
	met                             bool
}

func run(ctx context.Context) error {
	l, err := lab.Open(ctx, lab.DefaultCacheDir(), func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) })
	if err != nil {
		return err
	}
	defer l.Close()
	rpm, err := packageFile()
	if err != nil {
		return err
	}
	var figures []figure
	for _, measure := range []func(context.Context, *lab.Lab, string) ([]figure, error){firewall, join, sizes} {
		got, err := measure(ctx, l, rpm)
		if err != nil {
			return err
		}
		figures = append(figures, got...)
	}
	fmt.Printf("%-44s %12s %12s %10s %16s\n", "", "ours", "theirs", "ratio", "target")
	missed := 0
	for _, f := range figures {
		verdict := "met"
		if !f.met {
			verdict = "MISSED"
			missed++
		}
		if f.target == "" {
			verdict = ""
		}
		fmt.Printf("%-44s %12s %12s %10s %16s %s\n", f.what, f.ours, f.theirs, f.got, f.target, verdict)
	}
	if missed > 0 {
		return fmt.Errorf("%d targets missed", missed)
	}
	return nil
}

// firewall compares the seed's four commands with the same four changes by the package firewall, the start of its
// process included. Both are timed on the host, in turn, so that both see the same firewalld.
func firewall(ctx context.Context, l *lab.Lab, _ string) ([]figure, error) {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "fourports")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./test/bench/fourports")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot build fourports: %w\n%s", err, out)
	}
	h, err := l.Worker(ctx, lab.WorkerOptions{})
	if err != nil {
		return nil, err
	}
	defer h.Close()
	if err := h.CopyIn(program, "/usr/local/bin/fourports"); err != nil {
		return nil, err
	}
	const seed = `firewall-cmd -q --add-port 10250/tcp
firewall-cmd -q --add-port 10250/tcp --permanent
firewall-cmd -q --add-port 4789/udp
firewall-cmd -q --add-port 4789/udp --permanent`
	const undo = `firewall-cmd -q --remove-port 10250/tcp --remove-port 4789/udp
firewall-cmd -q --permanent --remove-port 10250/tcp --remove-port 4789/udp`
	var ours, theirs []time.Duration
	for range rounds {
		for _, side := range []struct {
			script string
			times  *[]time.Duration
		}{{seed, &theirs}, {"fourports", &ours}} {
			took, err := timed(ctx, h, side.script)
			if err != nil {
				return nil, err
			}
			*side.times = append(*side.times, took)
			if _, err := h.Must(ctx, "sh", "-ec", undo); err != nil {
				return nil, err
			}
		}
	}
	ratio := float64(median(theirs)) / float64(median(ours))
	return []figure{{"four firewall changes / firewall-cmd, faster", seconds(ours), seconds(theirs), fmt.Sprintf("%.1fx", ratio), "at least 20x", ratio >= 20}}, nil
}

// timed runs a script on the host and gives how long it took there, the lab's way in left out.
func timed(ctx context.Context, h *lab.Host, script string) (time.Duration, error) {
	r, err := h.Must(ctx, "bash", "-ec", "s=$EPOCHREALTIME\n"+script+"\ne=$EPOCHREALTIME\necho $(( ${e/./} - ${s/./} ))")
	if err != nil {
		return 0, err
	}
	us, err := strconv.Atoi(strings.TrimSpace(r.Stdout))
	if err != nil {
		return 0, fmt.Errorf("cannot read the time of %q: %w", script, err)
	}
	return time.Duration(us) * time.Microsecond, nil
}

// join compares a join from nothing to a Ready node with a bare restart of that host's kubelet to a Ready node, both with
// the image present and no Node before. The restart has the stop of the old kubelet in it, about 0.6 s. It also takes the memory that join needs.
func join(ctx context.Context, l *lab.Lab, rpm string) ([]figure, error) {
	cp, err := l.ControlPlane(ctx)
	if err != nil {
		return nil, err
	}
	kubeconfig, err := cp.SharedKubeconfig()
	if err != nil {
		return nil, err
	}
	var ours, theirs []time.Duration
	memory := 0
	for range rounds {
		h, err := l.Worker(ctx, lab.WorkerOptions{})
		if err != nil {
			return nil, err
		}
		if err := errors.Join(h.PutAssets("/root/assets", lab.Assets{Kubeconfig: kubeconfig, DNSServiceIP: lab.DNSServiceIP}), h.InstallRPM(ctx, rpm)); err != nil {
			return nil, err
		}
		// VmHWM is the peak (proc(5)); getrusage would count podman, join's child, too.
		const script = `tectonic-worker join --assets /root/assets >/root/join.log 2>&1 & pid=$!
while line=$(grep VmHWM "/proc/$pid/status" 2>/dev/null); do set -- $line; peak=$2; sleep 0.02; done
wait $pid || { cat /root/join.log; exit 1; }
echo "$peak" >/root/peak`
		took, err := timed(ctx, h, script)
		if err != nil {
			return nil, err
		}
		ours = append(ours, took)
		data, err := h.ReadFile("/root/peak")
		if err != nil {
			return nil, err
		}
		kib, err := strconv.Atoi(strings.TrimSpace(string(data)))
		if err != nil {
			return nil, fmt.Errorf("cannot read the memory of join: %w", err)
		}
		memory = max(memory, kib)
		if took, err = restart(ctx, cp, h); err != nil {
			return nil, err
		}
		theirs = append(theirs, took)
		if err := h.Close(); err != nil {
			return nil, err
		}
	}
	// All of them: a median of five hides two humps.
	fmt.Fprintf(os.Stderr, "join to Ready: %v\nrestart to Ready: %v\n", ours, theirs)
	ratio := float64(median(ours)) / float64(median(theirs))
	return []figure{
		{"join to Ready / systemctl restart kubelet", seconds(ours), seconds(theirs), fmt.Sprintf("%.2fx", ratio), "at most 1.25x", ratio <= 1.25},
		{"memory that join needs, peak resident", fmt.Sprintf("%.1f MB", float64(memory)/1024), "", "", "", true},
	}, nil
}

// restart gives the time of a restart to a Ready node, as its two halves: the Node is deleted between them, so that no
// running kubelet sees it go. Some restarts take 5 s instead of 3, and why is not known; all times are printed for that.
func restart(ctx context.Context, cp *lab.ControlPlane, h *lab.Host) (time.Duration, error) {
	stop, err := timed(ctx, h, "systemctl stop kubelet")
	if err != nil {
		return 0, err
	}
	if _, err := cp.Kubectl(ctx, "delete", "node", h.Name); err != nil {
		return 0, err
	}
	start := time.Now()
	if _, err := h.Must(ctx, "systemctl", "start", "kubelet"); err != nil {
		return 0, err
	}
	// Not by kubectl: its own start would count, and it looks only once a second for a Node that is not there yet.
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ready(ctx, cp, h.Name) {
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("%s is not Ready after a restart of its kubelet: %w", h.Name, ctx.Err())
		case <-tick.C:
		}
	}
	return stop + time.Since(start), nil
}

// ready asks the API server; no Node is not Ready.
func ready(ctx context.Context, cp *lab.ControlPlane, name string) bool {
	data, err := cp.Get(ctx, "/api/v1/nodes/"+name)
	if err != nil {
		return false
	}
	var node struct {
		Status struct {
			Conditions []struct{ Type, Status string }
		}
	}
	if err := json.Unmarshal(data, &node); err != nil {
		return false
	}
	for _, c := range node.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True"
		}
	}
	return false
}

// sizes compares with kubeadm and kubectl 1.34, stripped: 75 and 61 MB.
func sizes(_ context.Context, _ *lab.Lab, rpm string) ([]figure, error) {
	binary := filepath.Join("bin", "linux-"+runtime.GOARCH, "tectonic-worker")
	var out []figure
	for _, f := range []struct {
		what, path string
		limit      float64
	}{{"size of the binary", binary, 40}, {"size of the package", rpm, 15}} {
		info, err := os.Stat(f.path)
		if err != nil {
			return nil, fmt.Errorf("%w: run \"make rpm\"", err)
		}
		mb := float64(info.Size()) / 1e6
		out = append(out, figure{f.what, fmt.Sprintf("%.1f MB", mb), "", "", fmt.Sprintf("at most %.0f MB", f.limit), mb <= f.limit})
	}
	return out, nil
}

func packageFile() (string, error) {
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	found, err := filepath.Glob(filepath.Join("dist", "tectonic-worker-*.el9."+arch+".rpm"))
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("cannot find a package for el9 and %s in dist: run \"make rpm\"", arch)
	}
	slices.SortFunc(found, func(a, b string) int { return built(b).Compare(built(a)) })
	return found[0], nil
}

func built(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

func median(times []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[len(sorted)/2]
}

func seconds(times []time.Duration) string { return fmt.Sprintf("%.3f s", median(times).Seconds()) }
