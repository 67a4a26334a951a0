package kubelet

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The kubelets that the lab builds. Each is the last of its band in the table
// that could be had: endpoint as a field, cgroup driver from the runtime,
// everything of today.
var realReleases = []string{"v1.29.6", "v1.34.4", "v1.36.3"}

// missing skips, and fails where everything is meant to be there.
func missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

func needTools(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			missing(t, "%s is not installed", name)
		}
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: namespaces, mounts")
	}
}

func realKubelet(t testing.TB, release string) string {
	t.Helper()
	cache := os.Getenv("TECTONIC_LAB_CACHE")
	if cache == "" {
		cache = "/var/cache/tectonic-worker-lab"
	}
	for _, at := range []string{"kubelet", "kubelet-*/kubelet"} {
		found, err := filepath.Glob(filepath.Join(cache, "kubernetes", release, at))
		if err != nil {
			t.Fatal(err)
		}
		if len(found) > 0 {
			return found[len(found)-1]
		}
	}
	missing(t, "no kubelet %s in %s: run \"make lab\"", release, cache)
	return ""
}

var flagInHelp = regexp.MustCompile(`(?m)^ +(?:-\w, )?--([a-z0-9-]+)`)

// Every flag that is passed to a real kubelet is one that it knows, and those
// that the table drops are really gone.
func TestRealFlags(t *testing.T) {
	for _, release := range realReleases {
		t.Run(release, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			help, err := exec.CommandContext(ctx, realKubelet(t, release), "--help").Output()
			if err != nil {
				t.Fatal(err)
			}
			has := map[string]bool{}
			for _, m := range flagInHelp.FindAllSubmatch(help, -1) {
				has[string(m[1])] = true
			}
			if len(has) < 100 {
				t.Fatalf("found %d flags in the help of kubelet %s:\n%s", len(has), release, help)
			}
			v := version(t, release)
			passed := 0
			for _, in := range inputs(t, v.Minor) {
				in.DropIns, in.ExtraArgs = nil, nil
				out, err := Render(in)
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range out.Flags {
					name, _, _ := strings.Cut(strings.TrimPrefix(f, "--"), "=")
					passed++
					if !has[name] {
						t.Errorf("kubelet %s does not know --%s", release, name)
					}
				}
			}
			if passed == 0 {
				t.Error("nothing was passed")
			}
			for name, f := range knownFlags() {
				if !f.in(v.Minor) && has[name] {
					t.Errorf("flags.txt says that kubelet %s has no --%s, and it has", release, name)
				}
			}
			for _, s := range settings { // a flag of ours that became a field is still there, deprecated
				if knownFlags()[s.flag].in(v.Minor) && !has[s.flag] {
					t.Errorf("flags.txt says that kubelet %s has --%s, and its help does not list it", release, s.flag)
				}
			}
		})
	}
}

// lenient is what a kubelet from 1.17 on logs when its configuration has a
// field that it does not know; it then starts without that field.
const lenient = "enient decoding as strict decoding failed"

// A real kubelet starts with what is rendered for it, as far as a healthy
// /healthz, and finds nothing unknown in it; and the same start fails over a
// flag that is gone and a value of the wrong kind, and complains about a field
// that does not exist: so the test can fail.
func TestRealStart(t *testing.T) {
	needRoot(t)
	needTools(t, "ip", "nsenter", "unshare", "containerd", "mount", "iptables")
	for _, release := range realReleases {
		t.Run(release, func(t *testing.T) {
			binary := realKubelet(t, release)
			host := newTestHost(t, binary)
			in := host.input(t, release)
			t.Run("healthy", func(t *testing.T) {
				out, err := Render(in)
				if err != nil {
					t.Fatal(err)
				}
				k := host.start(t, out)
				k.awaitHealthy(t)
				if bytes.Contains(k.output(), []byte(lenient)) {
					t.Errorf("the kubelet does not know all that it was told:\n%s", k.output())
				}
				k.checkDoors(t)
			})
			t.Run("a removed flag", func(t *testing.T) {
				out, err := Render(in)
				if err != nil {
					t.Fatal(err)
				}
				out.Flags = append(out.Flags, "--container-runtime=remote")
				host.start(t, out).awaitExit(t, "unknown flag: --container-runtime")
			})
			t.Run("an unknown field", func(t *testing.T) {
				out, err := Render(in)
				if err != nil {
					t.Fatal(err)
				}
				out.Config = append(out.Config, "noSuchField: 1\n"...)
				k := host.start(t, out)
				k.awaitHealthy(t)
				if !bytes.Contains(k.output(), []byte(lenient)) || !bytes.Contains(k.output(), []byte("noSuchField")) {
					t.Errorf("the kubelet does not complain about noSuchField, so its silence proves nothing:\n%s", k.tail())
				}
			})
			t.Run("a value of the wrong kind", func(t *testing.T) {
				out, err := Render(in)
				if err != nil {
					t.Fatal(err)
				}
				out.Config = append(out.Config, "maxPods: many\n"...)
				host.start(t, out).awaitExit(t, "maxPods")
			})
		})
	}
}

// With rotation on, a real kubelet asks for a certificate as system:node:NAME
// at once, whoever it was before. That is right for a bootstrap token, and
// would change the identity behind a certificate that all workers share: so
// there rotation is off, and the kubelet stays who it was.
func TestRealIdentity(t *testing.T) {
	needRoot(t)
	needTools(t, "ip", "nsenter", "unshare", "containerd", "mount", "iptables")
	for _, release := range realReleases {
		t.Run(release, func(t *testing.T) {
			binary := realKubelet(t, release)
			t.Run("shared certificate", func(t *testing.T) {
				host := newTestHost(t, binary)
				out, err := Render(host.input(t, release))
				if err != nil {
					t.Fatal(err)
				}
				k := host.start(t, out)
				k.awaitHealthy(t)
				k.await(t, "a request to register the node", func() bool {
					return host.api.count(http.MethodPost, "/api/v1/nodes") > 0
				})
				if n := host.api.count(http.MethodPost, "/certificatesigningrequests"); n > 0 {
					t.Errorf("%d certificate requests with a shared certificate", n)
				}
				if diff := host.api.others("cert:kubelet"); diff != nil {
					t.Errorf("the kubelet called the API as somebody else too: %v", diff)
				}
			})
			t.Run("shared certificate, rotation forced", func(t *testing.T) {
				host := newTestHost(t, binary)
				in := host.input(t, release)
				in.NodeCertificate = true // which it is not
				out, err := Render(in)
				if err != nil {
					t.Fatal(err)
				}
				k := host.start(t, out)
				k.await(t, "a certificate request", func() bool {
					return slices.Contains(host.api.requested(), "system:node:"+testNode)
				})
			})
			t.Run("bootstrap token", func(t *testing.T) {
				host := newTestHost(t, binary)
				in := host.input(t, release)
				in.Bootstrap = true
				host.write(t, BootstrapPath, host.api.kubeconfig("", "", "abcdef.0123456789abcdef"))
				out, err := Render(in)
				if err != nil {
					t.Fatal(err)
				}
				k := host.start(t, out)
				k.await(t, "a certificate request", func() bool {
					return slices.Contains(host.api.requested(), "system:node:"+testNode)
				})
				if diff := host.api.others("token:abcdef"); diff != nil {
					t.Errorf("the kubelet called the API as somebody else too: %v", diff)
				}
			})
		})
	}
}

// testNode is the node's name in these tests, and the host's.
const testNode = "worker-under-test"

// kubeletProcess is one running kubelet.
type kubeletProcess struct {
	host *testHost
	log  *os.File
	done chan struct{}
	err  error
}

// start puts the rendered files in place and runs the kubelet with exactly the
// rendered flags, in namespaces and a root of its own.
func (h *testHost) start(t *testing.T, out Output) *kubeletProcess {
	t.Helper()
	for _, d := range out.Dirs {
		if err := os.MkdirAll(filepath.Join(h.root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.write(t, ConfigPath, out.Config)
	log, err := os.Create(filepath.Join(t.TempDir(), "kubelet.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	k := &kubeletProcess{host: h, log: log, done: make(chan struct{})}
	args := append([]string{"--net=" + h.netns, "unshare", "--mount", "--uts", "sh", "-ec", enterRoot, h.root, testNode}, out.Flags...)
	cmd := exec.Command("nsenter", args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// Pdeathsig counts the thread that started the process.
		lockThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			k.err = cmd.Wait()
			close(k.done)
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be gone already
		<-k.done
	})
	return k
}

// enterRoot becomes the kubelet in the root $0 on a host named $1. What the
// kubelet would set for the whole machine goes into files instead.
const enterRoot = `
hostname "$1"; shift
mount --make-rprivate /
mount --bind "$0" "$0"
mount -t proc proc "$0/proc"
for f in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
	[ -e "$0/proc/sys/$f" ] || continue
	mkdir -p "$0/sysctl/${f%/*}"
	cat "$0/proc/sys/$f" > "$0/sysctl/$f"
	mount --bind "$0/sysctl/$f" "$0/proc/sys/$f"
done
mount --rbind /sys "$0/sys"
mount --rbind /dev "$0/dev"
exec chroot "$0" /usr/bin/kubelet "$@"
`

func (k *kubeletProcess) awaitHealthy(t *testing.T) {
	t.Helper()
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       k.dial,
	}}
	url := fmt.Sprintf("http://%s:%d/healthz", HealthzAddress, HealthzPort)
	k.await(t, url, func() bool {
		res, err := client.Get(url)
		if err != nil {
			return false
		}
		defer res.Body.Close()
		body, err := io.ReadAll(io.LimitReader(res.Body, 100))
		return err == nil && res.StatusCode == http.StatusOK && string(body) == "ok"
	})
}

func (k *kubeletProcess) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(90 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-k.done:
			t.Fatalf("the kubelet ended (%v) before %s:\n%s", k.err, what, k.tail())
		case <-deadline:
			t.Fatalf("no sign of %s:\n%s", what, k.tail())
		}
	}
}

func (k *kubeletProcess) awaitExit(t *testing.T, why string) {
	t.Helper()
	select {
	case <-k.done:
	case <-time.After(30 * time.Second):
		t.Fatalf("the kubelet runs, although %s:\n%s", why, k.tail())
	}
	if k.err == nil || !bytes.Contains(k.output(), []byte(why)) {
		t.Fatalf("the kubelet ended with %v and does not say %s:\n%s", k.err, why, k.tail())
	}
}

func (k *kubeletProcess) output() []byte {
	b, err := os.ReadFile(k.log.Name())
	if err != nil {
		return []byte(err.Error())
	}
	return b
}

func (k *kubeletProcess) tail() []byte {
	b := k.output()
	return b[max(0, len(b)-4000):]
}
