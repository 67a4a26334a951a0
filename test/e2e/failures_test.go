package e2e

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

// must fails the test on an error in what a test needs.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// Every way in which what join is given can be wrong: its exit code, a
// sentence that names the cause and the remedy, and a host that is as before.
func TestJoinRefuses(t *testing.T) {
	t.Parallel()
	h := worker(t, lab.WorkerOptions{})
	proxy := must[*lab.Proxy](t)(plane.ControlPlane.Proxy(t.Context()))
	defer proxy.Close()
	data := must[[]byte](t)
	good := data(plane.SharedKubeconfig())
	before := h.snapshot()

	for _, tt := range []struct {
		name       string
		kubeconfig []byte
		proxy      lab.Mode
		args       []string
		code       int
		says       []string
	}{
		{name: "no kubeconfig", args: []string{}, code: 78, says: []string{"no kubeconfig", "--kubeconfig FILE or --assets DIR"}},
		{name: "file that is not there", args: []string{"--kubeconfig", "/root/nothing"}, code: 78, says: []string{"/root/nothing", "no such file"}},
		{name: "assets that are not there", args: []string{"--assets", "/root/nothing"}, code: 78, says: []string{"/root/nothing"}},
		{name: "empty", kubeconfig: []byte("\n"), code: 78, says: []string{"empty"}},
		{name: "garbage", kubeconfig: []byte("\x00\x01not yaml: ["), code: 78, says: []string{"kubeconfig"}},
		{name: "login page", kubeconfig: []byte("<!DOCTYPE html><html><body>Sign in</body></html>"), code: 78, says: []string{"HTML"}},
		{name: "half", kubeconfig: good[:len(good)/2], code: 78, says: []string{"kubeconfig"}},
		{name: "insecure", kubeconfig: []byte(strings.Replace(string(good), "    certificate-authority-data", "    insecure-skip-tls-verify: true\n    #", 1)), code: 78, says: []string{"insecure-skip-tls-verify"}},
		{name: "wrong CA", kubeconfig: data(plane.WrongCAKubeconfig()), code: 69, says: []string{"CA"}},
		{name: "expired", kubeconfig: data(plane.ExpiredKubeconfig()), code: 78, says: []string{"expired"}},
		{name: "401", kubeconfig: data(plane.UnauthorizedKubeconfig()), code: 78, says: []string{"401"}},
		{name: "403", kubeconfig: data(plane.ForbiddenKubeconfig()), code: 78, says: []string{"nobody"}},
		{name: "unreachable", kubeconfig: plane.WithServer(good, "https://"+lab.UnusedAddress+":6443"), args: []string{"--timeout", "60s"}, code: 69, says: []string{lab.UnusedAddress}},
		{name: "refused", kubeconfig: plane.WithServer(good, proxy.Server), proxy: lab.Refuse, code: 69, says: []string{"refused"}},
		{name: "hangs", kubeconfig: plane.WithServer(good, proxy.Server), proxy: lab.Hang, args: []string{"--timeout", "60s"}, code: 69, says: []string{"did not answer within"}},
		{name: "resets", kubeconfig: plane.WithServer(good, proxy.Server), proxy: lab.Reset, args: []string{"--timeout", "60s"}, code: 69, says: []string{"cut the connection"}},
		{name: "no such name", kubeconfig: plane.WithServer(good, "https://no-such-host.lab.example:6443"), args: []string{"--timeout", "60s"}, code: 69, says: []string{"no-such-host.lab.example"}},
		{name: "DNS address that is none", kubeconfig: good, args: []string{"--dns-service-ip", "a.b"}, code: 78, says: []string{"a.b", "IP address"}},
		{name: "DNS address that nobody tells", kubeconfig: data(plane.BootstrapKubeconfig(t.Context(), time.Hour)), code: 78, says: []string{"DNS Service address", "--dns-service-ip"}},
		{name: "all settings wrong at once", kubeconfig: good, code: 78,
			args: []string{"--cluster-domain", "Bad_Domain", "--node-label", "a b=c", "--node-taint", "x", "--node-ip", "300.1.1.1", "--runtime", "docker"},
			says: []string{"Bad_Domain", "a b=c", "300.1.1.1", "docker", "NODE_TAINTS"}},
		{name: "image newer than the cluster", kubeconfig: good, args: []string{"--image", "quay.io/poseidon/kubelet:v1.99.0"}, code: 78, says: []string{"1.99", "newer"}},
		{name: "image too old for the cluster", kubeconfig: good, args: []string{"--image", lab.KubeletImage("v1.29.6")}, code: 78, says: []string{"1.29.6"}},
		{name: "image without a version", kubeconfig: good, args: []string{"--image", "quay.io/poseidon/kubelet:latest"}, code: 78, says: []string{"latest"}},
		{name: "no such zone", kubeconfig: good, args: []string{"--zone", "nowhere"}, code: 78, says: []string{"nowhere", "zone"}},
		{name: "usage", args: []string{"--no-such-flag"}, code: 2, says: []string{"--no-such-flag", "join --help"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &host{h.Host, t}
			if err := proxy.Set(tt.proxy); err != nil {
				t.Fatal(err)
			}
			args := append([]string{"tectonic-worker", "join"}, tt.args...)
			if tt.kubeconfig != nil {
				h.write("/root/kubeconfig", string(tt.kubeconfig))
				args = append(args, "--kubeconfig", "/root/kubeconfig")
			}
			r := h.run(args...)
			if r.Code != tt.code {
				t.Errorf("exit code %d, want %d", r.Code, tt.code)
			}
			for _, s := range tt.says {
				if !strings.Contains(r.Stderr, s) {
					t.Errorf("the message does not say %q", s)
				}
			}
			if strings.Contains(r.Output(), "client-key-data") || strings.Contains(r.Output(), "PRIVATE KEY") {
				t.Error("the message shows a secret")
			}
			t.Logf("%s", r)
		})
	}
	h.unchanged(before)
}

// What is wrong with the host shows before anything is changed.
func TestJoinChecksHost(t *testing.T) {
	t.Parallel()
	t.Run("no runtime", func(t *testing.T) {
		h := worker(t, lab.WorkerOptions{NoPodman: true})
		h.putAssets("/root/assets")
		before := h.snapshot()
		r := h.run("tectonic-worker", "join", "--assets", "/root/assets")
		if r.Code != 1 || !strings.Contains(r.Stderr, "neither rkt nor podman is installed") {
			t.Errorf("%s", r)
		}
		h.unchanged(before)
	})
	h := worker(t, lab.WorkerOptions{})
	h.putAssets("/root/assets")
	t.Run("all at once", func(t *testing.T) {
		h := &host{h.Host, t}
		h.must("systemctl", "stop", "containerd")
		h.must("systemd-run", "--unit=squatter", "socat", "TCP-LISTEN:10250,fork", "EXEC:true")
		defer h.must("sh", "-c", "systemctl stop squatter; systemctl start containerd")
		h.must("sh", "-c", "for i in $(seq 50); do ss -ltn | grep -q :10250 && exit 0; sleep 0.1; done; exit 1")
		before := h.snapshot()
		r := h.run("tectonic-worker", "join", "--assets", "/root/assets")
		if r.Code != 1 || !strings.Contains(r.Stderr, "10250/tcp is in use") || !strings.Contains(r.Stderr, "containerd") {
			t.Errorf("%s", r)
		}
		h.unchanged(before)
	})
	t.Run("firewalld in panic mode", func(t *testing.T) {
		h := &host{h.Host, t}
		// It cuts the network, the API server with it.
		before := h.snapshot()
		h.must("firewall-cmd", "--panic-on")
		r := h.run("tectonic-worker", "join", "--assets", "/root/assets", "--timeout", "30s")
		h.must("firewall-cmd", "--panic-off")
		if r.Code == 0 {
			t.Errorf("%s", r)
		}
		if !strings.Contains(r.Stderr, "panic") {
			t.Errorf("the message does not name panic mode: %s", r)
		}
		h.unchanged(before)
	})
	t.Run("masked unit", func(t *testing.T) {
		h := &host{h.Host, t}
		h.must("systemctl", "mask", "kubelet.service")
		defer h.must("systemctl", "unmask", "kubelet.service")
		r := h.run("tectonic-worker", "join", "--assets", "/root/assets")
		if r.Code != 1 || !strings.Contains(r.Stderr, "systemctl unmask kubelet.service") {
			t.Errorf("%s", r)
		}
	})
	t.Run("not root", func(t *testing.T) {
		h := &host{h.Host, t}
		r := h.run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "tectonic-worker", "join")
		if r.Code != 1 || !strings.Contains(r.Stderr, "root") {
			t.Errorf("%s", r)
		}
	})
}

// A firewalld that is not there is a note, not a failure.
func TestJoinWithoutFirewalld(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		remove []string
		setup  string
		says   string
	}{
		{name: "stopped", setup: "systemctl disable --now firewalld", says: "firewalld is installed but not running"},
		{name: "masked", setup: "systemctl stop firewalld; systemctl mask firewalld", says: "firewalld is masked"},
		{name: "absent", remove: []string{"/usr/lib/systemd/system/firewalld.service", "/usr/sbin/firewalld"}, setup: "true", says: "firewalld is not installed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := worker(t, lab.WorkerOptions{Remove: tt.remove})
			h.putAssets("/root/assets")
			h.must("sh", "-c", tt.setup)
			r := h.join("--assets", "/root/assets")
			if !strings.Contains(r.Stdout, tt.says) {
				t.Errorf("join does not say %q: %s", tt.says, r)
			}
			h.ready(lab.ControlPlaneVersion)
			if got := strings.TrimSpace(h.run("systemctl", "is-active", "firewalld").Stdout); got != "inactive" {
				t.Errorf("join made firewalld %s", got)
			}
		})
	}
}

// Where the kubelet does not come up, everything is put back.
func TestJoinRollsBack(t *testing.T) {
	t.Parallel()
	h := worker(t, lab.WorkerOptions{})
	h.putAssets("/root/assets")
	except := []string{
		"/var/lib/kubelet",             // what a kubelet that ran wrote itself; leave takes it away
		"/etc/cni/net.d/cni.lock",      // podman's
		"/etc/firewalld/zones/public.", // firewalld writes the zone's file at its first permanent change, and keeps it
	}
	for _, tt := range []struct {
		name  string
		args  []string
		setup string
		undo  string
		stage string
		says  string
	}{
		{"image missing", []string{"--image", "quay.io/poseidon/kubelet:v1.36.0", "--timeout", "60s"}, "true", "true", "image", "cannot fetch the kubelet's image"},
		{"kubelet exits at once", nil, `echo 'KUBELET_EXTRA_ARGS=--no-such-flag' >>/etc/sysconfig/tectonic-worker`,
			`sed -i /no-such-flag/d /etc/sysconfig/tectonic-worker`, "kubelet", "no-such-flag"},
		{"network plugin missing", []string{"--timeout", "20s"}, `mv /etc/cni/net.d /etc/cni/away; systemctl restart containerd`,
			`mv /etc/cni/away /etc/cni/net.d; systemctl restart containerd`, "cni", "network plugin"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &host{h.Host, t}
			h.must("sh", "-c", tt.setup)
			defer func() { h.must("sh", "-c", tt.undo) }()
			before := h.snapshot()
			r := h.run(append([]string{"tectonic-worker", "join", "--assets", "/root/assets", "-o", "json"}, tt.args...)...)
			var doc struct {
				Error      struct{ Message, Stage string }
				RolledBack []struct{ Error string }
			}
			if err := json.Unmarshal([]byte(r.Stdout), &doc); err != nil {
				t.Fatalf("%v: %s", err, r)
			}
			if r.Code != 1 || doc.Error.Stage != tt.stage || !strings.Contains(doc.Error.Message, tt.says) {
				t.Errorf("exit code %d, stage %q, want %q saying %q: %s", r.Code, doc.Error.Stage, tt.stage, tt.says, doc.Error.Message)
			}
			if len(doc.RolledBack) == 0 {
				t.Error("nothing was put back")
			}
			for _, u := range doc.RolledBack {
				if u.Error != "" {
					t.Errorf("could not put back: %s", u.Error)
				}
			}
			h.unchanged(before, except...)
			kubectl(t, "delete", "node", h.Name, "--ignore-not-found")
		})
	}
}

// A join that fails on a worker leaves it the worker that it was.
func TestJoinFailsOnWorker(t *testing.T) {
	t.Parallel()
	h := worker(t, lab.WorkerOptions{})
	h.putAssets("/root/assets")
	h.join("--assets", "/root/assets")
	before := h.snapshot()
	h.must("sh", "-c", `mkdir -p /etc/tectonic-worker/kubelet.d; echo 'noSuchField: 1' >/etc/tectonic-worker/kubelet.d/99-bad.yaml`)
	r := h.run("tectonic-worker", "join", "--timeout", "60s")
	h.must("rm", "/etc/tectonic-worker/kubelet.d/99-bad.yaml")
	if r.Code == 0 || !strings.Contains(r.Output(), "noSuchField") {
		t.Errorf("%s", r)
	}
	h.unchanged(before)
	h.waitHealthy()
	h.joinAgain()
}

// Disk full under /etc: a clear error, the old files whole, nothing left over.
func TestJoinDiskFull(t *testing.T) {
	t.Parallel()
	h := worker(t, lab.WorkerOptions{})
	h.putAssets("/root/assets")
	h.must("sh", "-c", `mkdir /tmp/keep && cp -a /etc/kubernetes/. /tmp/keep/ && mount -t tmpfs -o size=16k tmpfs /etc/kubernetes &&
		cp -a /tmp/keep/. /etc/kubernetes/ && dd if=/dev/zero of=/etc/kubernetes/filler bs=1k 2>/dev/null; test -s /etc/kubernetes/kubelet.env`)
	before := h.snapshot()
	// Without the directory's own times: a file that was created and taken back changes them.
	entries := []string{"find", "/etc/kubernetes", "-mindepth", "1", "-printf", "%P %M %u:%g %s %T@\n"}
	list := h.must(entries...)
	r := h.run("tectonic-worker", "join", "--assets", "/root/assets", "--timeout", "60s")
	if r.Code != 1 || !strings.Contains(r.Stderr, "no space left on device") {
		t.Errorf("%s", r)
	}
	h.unchanged(before)
	if got := h.must(entries...); got != list {
		t.Errorf("/etc/kubernetes held\n%s\nand holds\n%s", list, got)
	}
}

// Two joins at once: one works, the other waits or says that it is busy.
func TestTwoJoins(t *testing.T) {
	t.Parallel()
	h := worker(t, lab.WorkerOptions{})
	h.putAssets("/root/assets")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	results := make([]lab.Result, 2)
	var wg sync.WaitGroup
	for i := range results {
		wg.Add(1)
		go func() {
			defer wg.Done()
			results[i], _ = h.Exec(ctx, "tectonic-worker", "join", "--assets", "/root/assets", "--timeout", "90s")
		}()
	}
	wg.Wait()
	joined := 0
	for _, r := range results {
		switch {
		case r.Code == 0:
			joined++
		case r.Code == 75 && strings.Contains(r.Stderr, "another tectonic-worker"):
		default:
			t.Errorf("%s", r)
		}
	}
	if joined == 0 {
		t.Error("neither of two joins at once joined")
	}
	h.ready(lab.ControlPlaneVersion)
	// While the lock is held, a join says by whom.
	h.must("sh", "-c", `systemd-run --unit=holder flock /run/tectonic-worker/lock sleep 60; for i in $(seq 50); do flock -n /run/tectonic-worker/lock true || exit 0; sleep 0.1; done; exit 1`)
	if r := h.run("tectonic-worker", "join"); r.Code != 75 {
		t.Errorf("join under somebody's lock: %s", r)
	}
	h.must("systemctl", "stop", "holder")
}

// A power cut in the ledger's last line, and a leftover of a killed write.
func TestJoinAfterKill(t *testing.T) {
	t.Parallel()
	h := worker(t, lab.WorkerOptions{})
	h.putAssets("/root/assets")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p, err := h.Start(ctx, lab.Command{Args: []string{"tectonic-worker", "join", "--assets", "/root/assets"}})
	if err != nil {
		t.Fatal(err)
	}
	// As soon as the ledger has an entry, the plug is pulled.
	for ctx.Err() == nil {
		if fi, err := os.Stat(h.Path("/var/lib/tectonic-worker/ledger.jsonl")); err == nil && fi.Size() > 0 {
			break
		}
		time.Sleep(time.Millisecond) // the file system of another mount namespace has no event for us
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = p.Wait()
	h.must("sh", "-c", `printf '{"time":"2026-01-01T00:00:00Z","op":"int' >>/var/lib/tectonic-worker/ledger.jsonl; echo x >/etc/kubernetes/.tectonic-worker-tmp-kubeconfig-abc`)
	h.join("--assets", "/root/assets")
	h.ready(lab.ControlPlaneVersion)
	if r := h.run("sh", "-c", "ls -a /etc/kubernetes | grep tectonic-worker-tmp"); r.Code == 0 {
		t.Errorf("a temporary file stays: %s", r.Stdout)
	}
	for i, l := range strings.Split(strings.TrimSpace(h.read("/var/lib/tectonic-worker/ledger.jsonl")), "\n") {
		if !json.Valid([]byte(l)) {
			t.Errorf("line %d of the ledger is torn: %s", i+1, l)
		}
	}
}
