package labtest

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// The host has a real systemd with a real firewalld, an identity of its own and its own network.
func TestWorker(t *testing.T) {
	h := Worker(t)
	if state := h.Try("systemctl", "is-system-running", "--wait").Stdout; state != "running\n" {
		t.Errorf("systemctl is-system-running: %q\n%s", state, h.Run("systemctl", "--failed").Stdout)
	}
	if got := h.Sh("hostname"); got != h.Name {
		t.Errorf("hostname %q, want %q", got, h.Name)
	}
	if got := h.Sh("firewall-cmd --state"); got != "running" {
		t.Errorf("firewalld is %q", got)
	}
	h.Run("firewall-cmd", "--add-port", "10250/tcp")
	if rules := h.Sh("nft list ruleset"); !strings.Contains(rules, "tcp dport 10250") {
		t.Errorf("firewalld opened 10250/tcp, but nftables has no rule for it:\n%s", rules)
	}
	if routes := h.Sh("ip -4 -o addr show eth0"); !strings.Contains(routes, h.Address+"/24") {
		t.Errorf("eth0: %s, want %s", routes, h.Address)
	}
	h.Run("sysctl", "-w", "net.ipv4.ip_forward=1")
	if images := h.Sh("podman images --format '{{.Repository}}:{{.Tag}}'"); !strings.Contains(images, lab.KubeletImage(lab.ControlPlaneVersion)) {
		t.Errorf("podman has no %s, only:\n%s", lab.KubeletImage(lab.ControlPlaneVersion), images)
	}
}

func TestWorkerOptions(t *testing.T) {
	h := Worker(t, lab.WorkerOptions{
		Name: "bare", NoPodman: true, NoImages: true, KubeletVersion: "v1.29.6",
		Files:  []lab.File{{Path: "/etc/kubernetes/kubeconfig", Content: []byte("garbage"), Mode: 0o640}},
		Remove: []string{"/usr/sbin/firewalld"},
	})
	if r := h.Try("podman", "version"); r.Code != 127 {
		t.Errorf("podman is there: %s", r)
	}
	if got := h.Sh("stat -c '%a %s' /etc/kubernetes/kubeconfig"); got != "640 7" {
		t.Errorf("mode and size of the prepared file: %q", got)
	}
	if got := h.Try("systemctl", "is-active", "firewalld").Stdout; got == "active\n" {
		t.Error("firewalld runs without its program")
	}
	if config := h.Read(lab.KubeletDropIn); strings.Contains(config, "failCgroupV1") {
		t.Errorf("1.29 does not know failCgroupV1:\n%s", config)
	}
}

func TestExec(t *testing.T) {
	h := Worker(t)
	r := h.TryCommand(lab.Command{Args: []string{"sh", "-c", "cat; echo $COLOR >&2; exit 7"}, Env: []string{"COLOR=red"}, Stdin: strings.NewReader("in")})
	if r.Stdout != "in" || r.Stderr != "red\n" || r.Code != 7 {
		t.Errorf("got %s", r)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := h.Exec(ctx, "sh", "-c", "sleep 1234 & sleep 1234"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a command past its deadline: %v", err)
	}
	if r := h.Try("pgrep", "-f", "^sleep 1234"); r.Code != 1 {
		t.Errorf("processes of a command past its deadline: %s", r)
	}
	// A shell inside is in the machine's own cgroup tree, or its systemd would lose sight of what the shell starts.
	if groups := h.Read("/proc/1/cgroup") + h.Sh("cat /proc/self/cgroup"); strings.Contains(groups, "/..") {
		t.Errorf("outside of the machine's cgroups:\n%s", groups)
	}
}

// The package that stands for the distribution's lets rpm check dependencies.
func TestInstallDistribution(t *testing.T) {
	h := Worker(t)
	if err := h.InstallDistribution(t.Context(), "rkt = 1.30.0"); err != nil {
		t.Fatal(err)
	}
	for _, capability := range []string{"systemd", "podman", "rkt", "/bin/sh"} {
		h.Run("rpm", "-q", "--whatprovides", capability)
	}
}

// Two hosts on one bridge see each other, have cgroup trees of their own, and end without a trace.
func TestTwoWorkers(t *testing.T) {
	a, b := Worker(t), Worker(t)
	a.Run("systemctl", "stop", "firewalld")
	b.Run("sh", "-c", "curl -s -m 5 -o /dev/null telnet://"+a.Address+":22; test $? -eq 7")
	if got := b.Sh("systemctl is-active firewalld"); got != "active" {
		t.Errorf("stopping firewalld on one host left the other's %q", got)
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := a.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	t.Logf("orderly power off: %.1fs", time.Since(start).Seconds())
}

// What kubeconfigs of each kind meet at the real API server.
func TestCredentials(t *testing.T) {
	cp := ControlPlane(t)
	h := Worker(t)
	tests := []struct {
		name       string
		kubeconfig []byte
		want       string
	}{
		{"shared", cp.Make(cp.SharedKubeconfig()), "200"},
		{"bootstrap token", cp.Bootstrap(), "403"}, // may make CSRs, not list nodes
		{"expired", cp.Make(cp.ExpiredKubeconfig()), "401"},
		{"unknown CA", cp.Make(cp.UnauthorizedKubeconfig()), "401"},
		{"no rights", cp.Make(cp.ForbiddenKubeconfig()), "403"},
		{"wrong server CA", cp.Make(cp.WrongCAKubeconfig()), "000"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h.Write("/tmp/kubeconfig", string(tt.kubeconfig), 0o600)
			if got := h.Sh(curlNodes); got != tt.want {
				t.Errorf("HTTP status %s, want %s", got, tt.want)
			}
		})
	}
}

// curlNodes lists nodes with the credentials of /tmp/kubeconfig and prints the HTTP status, 000 for none.
const curlNodes = `cd /tmp
key() { sed -n "s/^ *$1: //p" kubeconfig; }
key certificate-authority-data | base64 -d >ca
set -- --cacert ca -s -m 3 -o /dev/null -w '%{http_code}' "$(key server)/api/v1/nodes"
if [ -n "$(key token)" ]; then set -- -H "Authorization: Bearer $(key token)" "$@"; else
	key client-certificate-data | base64 -d >cert; key client-key-data | base64 -d >key; set -- --cert cert --key key "$@"
fi
curl "$@" || :`

func TestProxy(t *testing.T) {
	cp := ControlPlane(t)
	h := Worker(t)
	proxy := cp.Proxy()
	h.Write("/tmp/kubeconfig", string(cp.WithServer(cp.Make(cp.SharedKubeconfig()), proxy.Server)), 0o600)
	curl := "curl -s -k -m 2 -o /dev/null " + proxy.Server + "/version; echo $?"
	// curl(1): 7 no connection, 28 timeout, 35 TLS handshake failed.
	for _, tt := range []struct {
		mode lab.Mode
		want string
	}{{lab.Forward, "0"}, {lab.Hang, "28"}, {lab.Reset, "35"}, {lab.Refuse, "7"}, {lab.Forward, "0"}} {
		if err := proxy.Set(tt.mode); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(h.Try("sh", "-c", curl).Stdout); got != tt.want {
			t.Errorf("mode %d: curl exit code %s, want %s", tt.mode, got, tt.want)
		}
	}
	if got := h.Sh(curlNodes); got != "200" {
		t.Errorf("HTTP status through the proxy %s, want 200", got)
	}
}

// A test can use the API as any Go client would.
func TestDial(t *testing.T) {
	cp := ControlPlane(t)
	body, err := cp.Get(t.Context(), "/api/v1/namespaces/kube-system/services/kube-dns")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(body), `"`+lab.DNSServiceIP+`"`) {
		t.Errorf("the kube-dns Service is not at %s: %s", lab.DNSServiceIP, body)
	}
	if _, err := http.Get(cp.Server); err == nil {
		t.Error("the lab's network can be reached from the machine's")
	}
}

// A lab that is killed takes all of its processes with it; the next one sweeps what is left of its files and cgroups.
func TestKilledLab(t *testing.T) {
	if os.Getenv("LABTEST_VICTIM") != "" {
		h := Worker(t)
		os.WriteFile(os.Getenv("LABTEST_VICTIM"), []byte(h.Sh("cat /proc/sys/kernel/random/boot_id")), 0o600)
		select {}
	}
	l := Lab(t)
	up := filepath.Join(t.TempDir(), "up")
	victim := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledLab$")
	victim.Env = append(os.Environ(), "LABTEST_VICTIM="+up)
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, 30*time.Second, "the other lab's worker", func() bool {
		data, err := os.ReadFile(up)
		return err == nil && len(data) > 0
	})
	running := descendants(t, victim.Process.Pid)
	if len(running) < 5 {
		t.Fatalf("the other lab has only %d processes", len(running))
	}
	victim.Process.Signal(syscall.SIGKILL)
	victim.Wait()
	waitFor(t, 10*time.Second, "the end of the other lab's processes", func() bool {
		for pid, start := range running {
			if startTime(pid) == start {
				return false
			}
		}
		return true
	})
	if err := lab.Sweep(l.Cache.Dir); err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{l.Cache.Dir + "/run/*", "/sys/fs/cgroup/*/tectonic-worker-lab-*"} {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			if info, err := os.Stat(path); err == nil && strings.Contains(path, "-host-") && info.ModTime().Before(time.Now().Add(-time.Hour)) {
				t.Errorf("left behind: %s", path)
			}
		}
	}
}

func waitFor(t *testing.T, timeout time.Duration, what string, done func() bool) {
	t.Helper()
	deadline := time.After(timeout)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline:
			t.Fatalf("%s: not after %s", what, timeout)
		case <-tick.C:
		}
	}
}

// descendants are the processes below pid, with their start times.
func descendants(t *testing.T, pid int) map[int]string {
	found := map[int]string{}
	tasks, _ := filepath.Glob(filepath.Join("/proc", itoa(pid), "task", "*", "children"))
	for _, task := range tasks {
		data, _ := os.ReadFile(task)
		for _, field := range strings.Fields(string(data)) {
			child := atoi(t, field)
			found[child] = startTime(child)
			for p, s := range descendants(t, child) {
				found[p] = s
			}
		}
	}
	return found
}
