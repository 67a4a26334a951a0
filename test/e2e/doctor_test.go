package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

type finding struct{ Name, Severity, Evidence, Remedy string }

// doctor runs doctor -o json and gives its findings by name.
func (h *host) doctor(code int, args ...string) map[string]finding {
	h.t.Helper()
	r := h.run(append([]string{"tectonic-worker", "doctor", "-o", "json"}, args...)...)
	return h.findings(r, code)
}

func (h *host) findings(r lab.Result, code int) map[string]finding {
	h.t.Helper()
	var doc struct {
		APIVersion string
		Failures   int
		Checks     []finding
	}
	if err := json.Unmarshal([]byte(r.Stdout), &doc); err != nil {
		h.t.Fatalf("%v: %s", err, r)
	}
	out := map[string]finding{}
	failed := 0
	for _, f := range doc.Checks {
		out[f.Name] = f
		if f.Severity == "failure" {
			failed++
		}
	}
	if r.Code != code || failed != doc.Failures || doc.APIVersion != "tectonic-worker/v1" {
		h.t.Errorf("exit code %d, want %d; %d failures counted, %d there: %s", r.Code, code, doc.Failures, failed, r)
	}
	return out
}

// expect fails the test unless a finding has that severity and says so.
func (h *host) expect(all map[string]finding, name, severity, says string) {
	h.t.Helper()
	f, ok := all[name]
	if !ok || f.Severity != severity || !strings.Contains(f.Evidence+" "+f.Remedy, says) {
		h.t.Errorf("%s: %+v, want %s saying %q", name, f, severity, says)
	}
}

// status runs status -o json.
func (h *host) status(code int) map[string]any {
	h.t.Helper()
	r := h.run("tectonic-worker", "status", "-o", "json")
	var doc map[string]any
	if err := json.Unmarshal([]byte(r.Stdout), &doc); err != nil {
		h.t.Fatalf("%v: %s", err, r)
	}
	if r.Code != code {
		h.t.Errorf("status ends with %d, want %d: %s", r.Code, code, r)
	}
	return doc
}

// Doctor on a real host, before and after join, with one real fault after the
// other: each shows in the check that is for it, and goes with its cause.
func TestDoctor(t *testing.T) {
	t.Parallel()
	h := worker(t, lab.WorkerOptions{})
	h.putAssets("/root/assets")
	before := h.snapshot()

	t.Run("before join", func(t *testing.T) {
		h := &host{h.Host, t}
		all := h.doctor(0)
		h.expect(all, "root", "ok", "")
		h.expect(all, "systemd", "ok", "")
		h.expect(all, "kubeconfig", "note", "none yet")
		h.expect(all, "api", "note", "not asked")
		h.expect(all, "cri", "note", "containerd") // the lab's is too old to tell its cgroup driver
		h.expect(all, "time-sync", "warning", "chrony")
		if got := h.run("tectonic-worker", "status"); got.Code != 3 || !strings.Contains(got.Stdout, "not joined") {
			t.Errorf("%s", got)
		}
		h.unchanged(before)
	})
	t.Run("names", func(t *testing.T) {
		h := &host{h.Host, t}
		if all := h.doctor(0, "--only", "root", "--only", "swap", "--skip", "swap"); len(all) != 2 || all["swap"].Severity != "skipped" {
			t.Errorf("%+v", all)
		}
		if r := h.run("tectonic-worker", "doctor", "--only", "no-such"); r.Code != 2 || !strings.Contains(r.Stderr, "no-such") {
			t.Errorf("%s", r)
		}
	})
	t.Run("join skips", func(t *testing.T) {
		h := &host{h.Host, t}
		h.must("systemd-run", "--unit=squatter", "socat", "TCP-LISTEN:10248,fork,bind=127.0.0.1", "EXEC:true")
		defer h.must("systemctl", "stop", "squatter")
		h.must("sh", "-c", "for i in $(seq 50); do ss -ltn | grep -q :10248 && exit 0; sleep 0.1; done; exit 1")
		if r := h.run("tectonic-worker", "join", "--assets", "/root/assets", "--dry-run"); r.Code != 1 || !strings.Contains(r.Stderr, "10248/tcp is in use") {
			t.Errorf("%s", r)
		}
		r := h.run("tectonic-worker", "join", "--assets", "/root/assets", "--dry-run", "--skip", "ports")
		if r.Code != 0 || !strings.Contains(r.Stdout, "ports: skipped, as asked") {
			t.Errorf("%s", r)
		}
		if r := h.run("tectonic-worker", "join", "--skip", "no-such"); r.Code != 2 {
			t.Errorf("%s", r)
		}
		h.expect(h.doctor(1, "--only", "ports"), "ports", "failure", "10248/tcp is in use")
	})

	h.join("--assets", "/root/assets")
	h.statusHasAgent(t)
	// Else it repairs what is broken here.
	h.must("systemctl", "stop", "tectonic-worker.service")
	t.Run("joined", func(t *testing.T) {
		h := &host{h.Host, t}
		all := h.doctor(0)
		for _, name := range []string{"kubelet", "api", "clock", "version-skew", "dns-service", "cri-socket", "firewalld", "certificate", "ports"} {
			h.expect(all, name, "ok", "")
		}
		h.expect(all, "kubeconfig", "note", "shared")
		h.expect(all, "registry", "warning", "quay.io") // nothing outside can be reached from the lab
		doc := h.status(0)
		if doc["health"] != "healthy" || len(doc["drift"].([]any)) != 0 || doc["restart"].(map[string]any)["pending"] != false {
			t.Errorf("%v", doc)
		}
	})
	h.doctorFaults(t)
	h.statusFaults(t)
}

// statusHasAgent: what the agent repaired is on the screen.
func (h *host) statusHasAgent(t *testing.T) {
	h.must("firewall-cmd", "--remove-port=10250/tcp")
	// The repair has no event that a shell could wait for.
	h.must("sh", "-c", "for i in $(seq 100); do firewall-cmd --query-port=10250/tcp && exit 0; sleep 0.1; done; exit 1")
	r := h.run("sh", "-c", "for i in $(seq 50); do tectonic-worker status | grep -q repaired && break; sleep 0.1; done; tectonic-worker status")
	if !strings.Contains(r.Stdout, "Agent       runs") || !strings.Contains(r.Stdout, "repaired") || !strings.Contains(r.Stdout, "10250/tcp") {
		t.Errorf("%s", r)
	}
}

// doctorFaults breaks one thing after the other on a joined host.
func (h *host) doctorFaults(t *testing.T) {
	good, err := plane.SharedKubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := plane.ControlPlane.Proxy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	expired, err := plane.ExpiredKubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	wrongCA, err := plane.WrongCAKubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	others := 0
	kubeconfig := func(data []byte) string {
		others++
		path := fmt.Sprintf("/root/other-%d", others)
		h.write(path, string(data))
		return "mount --bind " + path + " /etc/kubernetes/kubeconfig"
	}
	const back = "umount /etc/kubernetes/kubeconfig"
	for _, tt := range []struct {
		name, setup, undo string
		mode              lab.Mode
		check             string
		severity, says    string
	}{
		{name: "containerd stopped", setup: "systemctl stop containerd", undo: "systemctl start containerd", check: "cri-socket", severity: "failure", says: "containerd"},
		{name: "containerd hangs", setup: "systemctl kill -s STOP containerd", undo: "systemctl kill -s CONT containerd", check: "cri", severity: "failure", says: "Version"},
		{name: "panic", setup: "firewall-cmd --panic-on", undo: "firewall-cmd --panic-off", check: "firewalld", severity: "failure", says: "panic"},
		{name: "port shut", setup: "firewall-cmd --remove-port=10250/tcp", undo: "firewall-cmd --add-port=10250/tcp", check: "firewalld", severity: "failure", says: "10250/tcp (runtime)"},
		{name: "firewalld stopped", setup: "systemctl stop firewalld", undo: "systemctl start firewalld; firewall-cmd --state", check: "firewalld", severity: "note", says: "not running"},
		{name: "read-only /etc", setup: "mount --bind /etc /etc; mount -o remount,ro,bind /etc", undo: "umount /etc", check: "read-only", severity: "failure", says: "/etc/kubernetes"},
		{name: "noexec", setup: "mount --bind /var/lib/kubelet /var/lib/kubelet; mount -o remount,noexec,bind /var/lib/kubelet", undo: "umount -l /var/lib/kubelet", check: "noexec", severity: "warning", says: "/var/lib/kubelet"},
		{name: "no resolv.conf", setup: "mv /etc/resolv.conf /etc/resolv.away; ln -s /run/nowhere /etc/resolv.conf", undo: "mv -f /etc/resolv.away /etc/resolv.conf", check: "resolv-conf", severity: "failure", says: "/run/nowhere"},
		{name: "DNS", setup: kubeconfig(plane.WithServer(good, "https://no-such-host.lab.example:6443")), undo: back, check: "dns", severity: "failure", says: "no-such-host.lab.example"},
		{name: "API hangs", setup: kubeconfig(plane.WithServer(good, proxy.Server)), undo: back, mode: lab.Hang, check: "api", severity: "failure", says: "tls"},
		{name: "API refuses", setup: kubeconfig(plane.WithServer(good, proxy.Server)), undo: back, mode: lab.Refuse, check: "api", severity: "failure", says: "connection-refused"},
		{name: "wrong CA", setup: kubeconfig(wrongCA), undo: back, check: "api", severity: "failure", says: "wrong-ca"},
		{name: "expired", setup: kubeconfig(expired), undo: back, check: "certificate", severity: "failure", says: "expired"},
		{name: "readable by all", setup: "chmod 0644 /etc/kubernetes/kubeconfig", undo: "chmod 0600 /etc/kubernetes/kubeconfig", check: "kubeconfig", severity: "warning", says: "0644"},
		{name: "leftovers", setup: "mkdir -p /etc/kubernetes/manifests /var/lib/rancher/k3s; touch /etc/kubernetes/manifests/etcd.yaml", undo: "rm -r /etc/kubernetes/manifests /var/lib/rancher", check: "leftovers", severity: "warning", says: "k3s"},
		{name: "drop-in", setup: "mkdir -p /etc/systemd/system/kubelet.service.d; printf '[Service]\\nExecStart=\\nExecStart=/bin/true\\n' >/etc/systemd/system/kubelet.service.d/10-x.conf; systemctl daemon-reload",
			undo: "rm -r /etc/systemd/system/kubelet.service.d; systemctl daemon-reload", check: "systemd", severity: "warning", says: "10-x.conf"},
		{name: "settings", setup: "echo NODE_IP=1.2.3 >>/etc/sysconfig/tectonic-worker", undo: "sed -i /NODE_IP=1.2.3/d /etc/sysconfig/tectonic-worker", check: "settings", severity: "failure", says: "1.2.3"},
		{name: "foreign address", setup: "echo NODE_IP=192.0.2.1 >>/etc/sysconfig/tectonic-worker", undo: "sed -i /NODE_IP=192/d /etc/sysconfig/tectonic-worker", check: "node-ip", severity: "failure", says: "192.0.2.1"},
		{name: "proxy", setup: "echo HTTPS_PROXY=http://u:planted@192.0.2.9:3128 >>/etc/sysconfig/tectonic-worker", undo: "sed -i /HTTPS_PROXY=http/d /etc/sysconfig/tectonic-worker", check: "proxy", severity: "warning", says: "API server"},
		{name: "DNS address", setup: "cp -a /etc/sysconfig/tectonic-worker /root/kept; echo KUBERNETES_DNS_SERVICE_IP=10.3.0.99 >>/etc/sysconfig/tectonic-worker", undo: "mv /root/kept /etc/sysconfig/tectonic-worker", check: "dns-service", severity: "warning", says: "10.3.0.10"},
		{name: "NodePort taken", setup: "systemctl stop kubelet; systemd-run --unit=nodeport socat TCP-LISTEN:30080,fork EXEC:true; for i in $(seq 50); do ss -ltn | grep -q :30080 && break; sleep 0.1; done",
			undo: "systemctl stop nodeport; systemctl start kubelet", check: "node-ports", severity: "warning", says: "30080"},
		{name: "kubelet stopped", setup: "systemctl stop kubelet", undo: "systemctl start kubelet", check: "kubelet", severity: "failure", says: "inactive"},
		{name: "no D-Bus", setup: "systemctl stop dbus.socket dbus.service; mv /run/dbus/system_bus_socket /run/dbus/away 2>/dev/null; true", undo: "systemctl start dbus.socket dbus.service; for i in $(seq 100); do firewall-cmd --state && break; systemctl restart firewalld; done", check: "firewalld", severity: "note", says: "not known"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &host{h.Host, t}
			if err := proxy.Set(tt.mode); err != nil {
				t.Fatal(err)
			}
			h.must("sh", "-c", tt.setup)
			begin := time.Now()
			r := h.run("tectonic-worker", "doctor", "-o", "json", "--skip", "registry")
			took := time.Since(begin)
			h.must("sh", "-c", tt.undo)
			want := 0
			if tt.severity == "failure" || strings.Contains(r.Stdout, `"severity": "failure"`) {
				want = 1
			}
			h.expect(h.findings(r, want), tt.check, tt.severity, tt.says)
			if took > 75*time.Second {
				t.Errorf("took %v", took)
			}
			if strings.Contains(r.Output(), "planted") {
				t.Errorf("shows the proxy's password: %s", r)
			}
		})
	}
	t.Run("not root", func(t *testing.T) {
		h := &host{h.Host, t}
		all := h.findings(h.run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "tectonic-worker", "doctor", "-o", "json", "--skip", "registry"), 1)
		h.expect(all, "root", "failure", "65534")
		h.expect(all, "kubeconfig", "note", "only root")
		for name, f := range all {
			if f.Severity == "failure" && name != "root" {
				t.Errorf("%+v", f)
			}
		}
	})
}

// statusFaults looks at a joined host through status.
func (h *host) statusFaults(t *testing.T) {
	h.waitHealthy()
	status := func(t *testing.T, setup, undo string, code int, says ...string) {
		h := &host{h.Host, t}
		h.must("sh", "-c", setup)
		r := h.run("tectonic-worker", "status")
		h.must("sh", "-c", undo)
		if r.Code != code {
			t.Errorf("exit code %d, want %d", r.Code, code)
		}
		for _, s := range says {
			if !strings.Contains(r.Output(), s) {
				t.Errorf("it does not say %q", s)
			}
		}
		if strings.Contains(r.Stdout, "\x1b") {
			t.Error("colours, and this is no terminal")
		}
		if t.Failed() {
			t.Logf("%s", r)
		}
	}
	t.Run("status/port shut", func(t *testing.T) {
		status(t, "firewall-cmd --remove-port=10250/tcp", "firewall-cmd --add-port=10250/tcp", 1, "SHUT", "Drift", "open 10250/tcp in zone public (runtime)")
	})
	t.Run("status/file edited", func(t *testing.T) {
		status(t, "cp -a /etc/kubernetes/kubelet.yaml /root/kept; echo '# x' >>/etc/kubernetes/kubelet.yaml", "cp -a /root/kept /etc/kubernetes/kubelet.yaml; rm /root/kept",
			1, "/etc/kubernetes/kubelet.yaml was changed", "restart pending")
	})
	t.Run("status/package updated", func(t *testing.T) {
		h.must("systemctl", "restart", "kubelet")
		h.waitHealthy()
		status(t, "touch /usr/bin/tectonic-worker", "systemctl restart kubelet", 0, "restart pending", "/usr/bin/tectonic-worker changed at")
		h.waitHealthy()
	})
	t.Run("status/kubelet stopped", func(t *testing.T) {
		status(t, "systemctl stop kubelet", "systemctl start kubelet", 1, "kubelet.service is inactive", "start kubelet.service")
		h.waitHealthy()
	})
	t.Run("status/read-only etc", func(t *testing.T) {
		status(t, "mount --bind /etc /etc; mount -o remount,ro,bind /etc", "umount /etc", 0, "healthy", "does not run")
	})
	t.Run("status/not root", func(t *testing.T) {
		h := &host{h.Host, t}
		r := h.run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "tectonic-worker", "status")
		if !strings.Contains(r.Stdout, "run status as root") || !strings.Contains(r.Stdout, "active") {
			t.Errorf("%s", r)
		}
	})
	t.Run("status/no D-Bus", func(t *testing.T) {
		status(t, "systemctl stop dbus.socket dbus.service", "systemctl start dbus.socket dbus.service; systemctl restart firewalld", 1, "firewalld", "Ready")
	})
	t.Run("status/watch", func(t *testing.T) {
		h := &host{h.Host, t}
		r := h.run("timeout", "--signal=INT", "5", "tectonic-worker", "status", "--watch")
		if n := strings.Count(r.Stdout, "Worker "); n < 1 || n > 2 {
			t.Errorf("%d pages, of which nothing changed: %s", n, r)
		}
	})
	t.Run("support", func(t *testing.T) { (&host{h.Host, t}).supportArchive() })
}

// supportArchive makes one on a real worker and looks for the credential in it.
func (h *host) supportArchive() {
	h.t.Helper()
	h.must("sh", "-c", "cd /root && tectonic-worker support -o out.tar.gz && [ $(stat -c %a out.tar.gz) = 600 ]")
	if r := h.run("tectonic-worker", "support", "-o", "/root/out.tar.gz"); r.Code != 1 || !strings.Contains(r.Stderr, "there already") {
		h.t.Errorf("%s", r)
	}
	z, err := gzip.NewReader(bytes.NewReader([]byte(h.read("/root/out.tar.gz"))))
	if err != nil {
		h.t.Fatal(err)
	}
	var secrets []string
	for _, line := range strings.Split(h.read("/etc/kubernetes/kubeconfig"), "\n") {
		if _, v, ok := strings.Cut(line, "client-key-data: "); ok {
			secrets = append(secrets, strings.TrimSpace(v))
		}
	}
	if len(secrets) == 0 || len(secrets[0]) < 100 {
		h.t.Fatal("the kubeconfig has no key to look for")
	}
	want := map[string]string{"kubelet/arguments.txt": "--kubeconfig=/etc/kubernetes/kubeconfig", "journal/kubelet.service.txt": "kubelet",
		"firewall/runtime.txt": "10250/tcp", "systemd/kubelet.service.cat.txt": "ExecStart=", "index.txt": "doctor.json", "status.json": "healthy",
		"files/etc/kubernetes/kubelet.yaml": "clusterDNS", "ledger.txt": "port"}
	for r := tar.NewReader(z); ; {
		head, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			h.t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			h.t.Fatal(err)
		}
		_, name, _ := strings.Cut(head.Name, "/")
		for _, s := range append(secrets, "PRIVATE KEY-----") {
			if bytes.Contains(data, []byte(s)) {
				h.t.Errorf("%s has the key", name)
			}
		}
		if !strings.Contains(string(data), want[name]) {
			h.t.Errorf("%s does not say %q", name, want[name])
		}
		delete(want, name)
	}
	for name := range want {
		h.t.Errorf("there is no %s", name)
	}
	if err := os.Remove(h.Path("/root/out.tar.gz")); err != nil {
		h.t.Error(err)
	}
}
