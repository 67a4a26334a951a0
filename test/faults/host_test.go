package faults

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

// TestHost breaks the host's own files and units, one after the other, on one host. Each join is one that does not wait.
func TestHost(t *testing.T) {
	tg := target(t)
	for _, tt := range []struct {
		name  string
		setup string
		args  []string // after JoinArgs
		code  int
		says  []string
		undo  string
	}{
		{name: "read-only /etc", setup: `mount -o bind /etc /etc; mount -o remount,ro,bind /etc`, code: 1, says: []string{"read-only", "/etc"}, undo: `umount /etc`},
		{name: "read-only /var/lib/tectonic-worker", setup: `mkdir -p /var/lib/tectonic-worker; mount -o bind /var/lib/tectonic-worker /var/lib/tectonic-worker; mount -o remount,ro,bind /var/lib/tectonic-worker`,
			code: 1, says: []string{"read-only", "/var/lib/tectonic-worker"}, undo: `umount /var/lib/tectonic-worker`},

		{name: "settings missing", setup: `rm /etc/sysconfig/tectonic-worker`, code: 0, undo: `:`},
		{name: "settings with CRLF", setup: `printf 'CLUSTER_DOMAIN=cluster.local\r\n' >/etc/sysconfig/tectonic-worker`, code: 0}, // systemd takes the CR for white space
		{name: "settings with a key twice", setup: `printf 'CLUSTER_DOMAIN=one.local\nCLUSTER_DOMAIN=cluster.local\n' >/etc/sysconfig/tectonic-worker`, code: 0},
		{name: "settings with a command", setup: `printf 'CLUSTER_DOMAIN=$(touch /root/pwned)\n' >/etc/sysconfig/tectonic-worker`, code: 78, says: []string{"/etc/sysconfig/tectonic-worker:1"}, undo: `test ! -e /root/pwned`},
		{name: "settings with an open quote", setup: `printf 'CLUSTER_DOMAIN="cluster.local\n' >/etc/sysconfig/tectonic-worker`, code: 78, says: []string{"/etc/sysconfig/tectonic-worker:1"}},
		{name: "settings that are not UTF-8", setup: `printf 'NODE_LABELS=a=\377\376\n' >/etc/sysconfig/tectonic-worker`, code: 78, says: []string{"/etc/sysconfig/tectonic-worker"}},
		{name: "settings of 10 MiB", setup: `head -c 10485760 /dev/zero | tr '\0' 'x' >/etc/sysconfig/tectonic-worker`, code: 78, says: []string{"/etc/sysconfig/tectonic-worker"}},

		{name: "host name in capitals", setup: `hostname WORKER-9.LAB.Example`, args: []string{"-o", "json"}, code: 0, undo: `hostname "$(cat /etc/hostname)"`},
		{name: "host name localhost", setup: `hostname localhost`, code: 1, says: []string{"localhost", "hostnamectl"}, undo: `hostname "$(cat /etc/hostname)"`},
		{name: "host name that is no node's", setup: `echo worker_9 >/proc/sys/kernel/hostname`, code: 1, says: []string{"worker_9", "NODE_NAME"}, undo: `hostname "$(cat /etc/hostname)"`},
		{name: "host name of 64 characters", setup: `hostname aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa`, code: 1, says: []string{"aaaaaaaa", "63"}, undo: `hostname "$(cat /etc/hostname)"`},

		{name: "kubelet.path masked", setup: `systemctl mask --quiet kubelet.path`, code: 1, says: []string{"systemctl unmask kubelet.path"}, undo: `systemctl unmask --quiet kubelet.path`},
		{name: "another kubelet.service", setup: `printf '[Service]\nExecStart=/bin/sleep infinity\n' >/etc/systemd/system/kubelet.service; systemctl daemon-reload`, code: 0,
			says: []string{"not the one this package ships"}, undo: `systemctl stop kubelet; rm /etc/systemd/system/kubelet.service; systemctl daemon-reload`},
		{name: "ExecStart replaced by a drop-in", setup: `mkdir -p /etc/systemd/system/kubelet.service.d; printf '[Service]\nType=simple\nExecStart=\nExecStart=/bin/sleep infinity\n' >/etc/systemd/system/kubelet.service.d/x.conf; systemctl daemon-reload`, code: 0,
			says: []string{"/etc/systemd/system/kubelet.service.d/x.conf"}, undo: `systemctl stop kubelet; rm -r /etc/systemd/system/kubelet.service.d; systemctl daemon-reload`},

		{name: "ledger of a newer version", setup: `mkdir -p -m 700 /var/lib/tectonic-worker; printf '%s\n' '{"time":"2030-01-01T00:00:00Z","op":"superseded","kind":"file","name":"/etc/x"}' >/var/lib/tectonic-worker/ledger.jsonl; sha256sum /var/lib/tectonic-worker/ledger.jsonl >/root/ledger.sum`,
			code: 1, says: []string{"newer tectonic-worker"}, undo: `sha256sum --quiet -c /root/ledger.sum`},

		{name: "few descriptors", setup: `:`, code: 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &labHost{tg.Host, t}
			if err := tg.Reset(t.Context()); err != nil {
				t.Fatal(err)
			}
			h.sh(tt.setup)
			before := must[map[string]fileState](t)(tg.look())
			argv := append(append([]string{}, JoinArgs...), tt.args...)
			if tt.name == "few descriptors" {
				argv = append([]string{"prlimit", "--nofile=24", "--"}, argv...)
			}
			r := h.try(argv...)
			status, st, err := Status(t.Context(), tg.Host)
			if err != nil {
				t.Error(err)
			}
			if strings.Contains(tt.name, "read-only") && st.Code > 3 {
				t.Errorf("status: %s", st)
			}
			if tt.code != r.Code {
				t.Errorf("exit code %d, want %d: %s", r.Code, tt.code, r)
			}
			for _, s := range tt.says {
				if !strings.Contains(r.Output(), s) {
					t.Errorf("the message does not say %q: %s", s, r)
				}
			}
			if shown := tg.Shown(r.Output() + st.Output()); shown != "" {
				t.Error(shown)
			}
			if r.Code != 0 {
				after := must[map[string]fileState](t)(tg.look())
				for _, path := range managed {
					if before[path] != after[path] {
						t.Errorf("%s was %q and is %q", path, before[path], after[path])
					}
				}
				if status.Health == "healthy" {
					t.Errorf("status of a host whose join failed: %s", st)
				}
			}
			if left := tg.temporary(); len(left) > 0 {
				t.Error(left)
			}
			if tt.name == "host name in capitals" && !strings.Contains(r.Stdout, `"node": "worker-9.lab.example"`) {
				t.Errorf("the Node's name is not the host's in lower case: %s", r)
			}
			if tt.undo != "" {
				h.sh(tt.undo)
			}
		})
	}
	for _, b := range converges(t, tg) {
		t.Error(b)
	}
}

// converges says what is not right after a join from scratch.
func converges(t *testing.T, tg *Target) []string {
	t.Helper()
	if err := tg.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	return must[[]string](t)(tg.NotConverged(t.Context()))
}

// TestKubeconfigFile gives kubeconfigs that are not what they should be, as files.
func TestKubeconfigFile(t *testing.T) {
	tg := target(t)
	h := &labHost{tg.Host, t}
	const path = "/etc/kubernetes/kubeconfig"
	h.sh("tar -C /root -xf /root/after.tar etc/kubernetes/kubeconfig; cp /root/etc/kubernetes/kubeconfig /root/good")
	here := []string{"tectonic-worker", "join", "--no-wait", "--timeout", "60s", "--dns-service-ip", lab.DNSServiceIP}
	for _, tt := range []struct {
		name, setup, stat string
		code              int
	}{
		{"readable by all", "install -m 0644 /root/good " + path, "600 root root regular file", 0},
		{"writable by a group", "install -m 0660 -g games /root/good " + path, "600 root root regular file", 0},
		{"somebody's", "install -m 0600 -o games /root/good " + path, "600 root root regular file", 0},
		{"a link", "ln -s /root/good " + path, "777 root root symbolic link", 1},
		{"a dangling link", "ln -s /root/nothing " + path, "777 root root symbolic link", 78},
		{"a FIFO", "mkfifo -m 0600 " + path, "600 root root fifo", 78},
		{"a directory", "mkdir -m 0755 " + path, "755 root root directory", 78},
		{"a device", "mknod " + path + " c 1 5", "", 78},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &labHost{tg.Host, t}
			if err := tg.Reset(t.Context()); err != nil {
				t.Fatal(err)
			}
			h.sh(tt.setup)
			r := h.try(here...)
			if r.Code != tt.code || r.Took > 20*time.Second {
				t.Errorf("exit code %d, want %d: %s", r.Code, tt.code, r)
			}
			if tt.code != 0 && !strings.Contains(r.Stderr, path) {
				t.Errorf("the message does not name the file: %s", r)
			}
			if got := h.sh("stat -c '%a %U %G %F' " + path); tt.stat != "" && got != tt.stat {
				t.Errorf("the file is now: %s, want %s", got, tt.stat)
			}
			if got := h.sh("sha256sum </root/good"); got != h.sh("sha256sum </root/etc/kubernetes/kubeconfig") {
				t.Error("what a link pointed to was changed")
			}
		})
	}
}

// TestManyJoins starts fifty joins at once and kills some: never does one break another, and no lock stays behind.
func TestManyJoins(t *testing.T) {
	random := random(t)
	tg := target(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	results := make([]lab.Result, 50)
	killed := make([]bool, len(results))
	for i := range results {
		p, err := tg.Host.Start(ctx, lab.Command{Args: JoinArgs})
		if err != nil {
			t.Fatal(err)
		}
		wg.Add(1)
		var after time.Duration
		if killed[i] = random.IntN(3) == 0; killed[i] {
			after = time.Duration(random.Int64N(int64(6 * time.Second)))
			timer := time.AfterFunc(after, func() { p.Kill() })
			defer timer.Stop()
		}
		go func() {
			defer wg.Done()
			results[i], _ = p.Wait()
		}()
	}
	wg.Wait()
	codes := map[int]int{}
	for i, r := range results {
		codes[r.Code]++
		switch {
		case r.Code == 0, killed[i] && r.Code == 137:
		case r.Code == 75 && strings.Contains(r.Stderr, "another tectonic-worker"):
		default:
			t.Errorf("%s", r)
		}
		if shown := tg.Shown(r.Output()); shown != "" {
			t.Error(shown)
		}
	}
	t.Logf("exit codes: %v", codes)
	if codes[0] == 0 {
		t.Error("of fifty joins at once none joined")
	}
	for _, b := range must[[]string](t)(tg.NotConverged(t.Context())) {
		t.Error(b)
	}
}

// TestSlowKubeconfig copies a kubeconfig to where kubelet.path watches, byte by byte as a bad line would, and writes rubbish
// there: the kubelet starts once, when the file is whole.
func TestSlowKubeconfig(t *testing.T) {
	tg := target(t)
	h := &labHost{tg.Host, t}
	h.sh("tar -C / -xf /root/after.tar; mv /etc/kubernetes/kubeconfig /root/good; systemctl start kubelet.path")
	since := h.sh("date '+%Y-%m-%d %H:%M:%S'")
	for _, rubbish := range []string{": >", "printf '<html>Sign in</html>' >", "head -c 700 /root/good >", "printf 'apiVersion: v1\nkind: Config\n' >"} {
		h.sh(rubbish + " /etc/kubernetes/kubeconfig; sleep 0.3")
	}
	size := must[os.FileInfo](t)(os.Stat(h.Path("/root/good"))).Size()
	h.sh(fmt.Sprintf(`: >/etc/kubernetes/kubeconfig; i=0; while [ $i -lt %d ]; do tail -c +$((i+1)) /root/good | head -c 500 >>/etc/kubernetes/kubeconfig; i=$((i+500)); sleep 0.15; done
cmp /root/good /etc/kubernetes/kubeconfig`, size))
	h.sh(`for i in $(seq 200); do systemctl -q is-active kubelet && exit 0; sleep 0.1; done; systemctl status kubelet kubelet-kubeconfig; exit 1`)
	if got := h.sh("systemctl show -p NRestarts --value kubelet"); got != "0" {
		t.Errorf("the kubelet was restarted %s times", got)
	}
	log := h.sh("journalctl --no-pager -o cat -u kubelet.service --since '" + since + "'")
	if n := strings.Count(log, "runtime=podman"); n != 1 {
		t.Errorf("the kubelet was started %d times", n)
	}
	if strings.Contains(log, "exit-code") || strings.Contains(log, "Failed") {
		t.Errorf("the kubelet was started on what is no kubeconfig:\n%s", log)
	}
}
