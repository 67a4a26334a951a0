package container

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// missing skips, and fails where everything is meant to be there.
func missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

func realKubelet(t testing.TB, release string) string {
	t.Helper()
	cache := os.Getenv("TECTONIC_LAB_CACHE")
	if cache == "" {
		cache = "/var/cache/tectonic-worker-lab"
	}
	for _, at := range []string{"kubelet", "kubelet-*/kubelet"} {
		if found, _ := filepath.Glob(filepath.Join(cache, "kubernetes", release, at)); len(found) > 0 {
			return found[len(found)-1]
		}
	}
	missing(t, "no kubelet %s in %s: run \"make lab\"", release, cache)
	return ""
}

// The real podman takes the command line, and what runs in it finds the host
// as a kubelet needs it.
func TestRealPodman(t *testing.T) {
	h := newPodHost(t)
	h.image(t, "localhost/probe:v1.34.4", `ENTRYPOINT ["/probe"]`, map[string]string{"/probe": buildProbe(t)})
	h.image(t, "localhost/hyperkube:v1.14.3", `ENTRYPOINT ["/not-this"]`, map[string]string{"/hyperkube": buildProbe(t)})

	facts := Facts{Minor: 34, Endpoint: "unix:///run/containerd/containerd.sock"}
	t.Run("everything there", func(t *testing.T) {
		spec := Spec{Image: "localhost/probe:v1.34.4", KubeletArgs: []string{"--config=/etc/kubernetes/kubelet.yaml", "--node-labels=a=b,c="},
			Volumes: h.prepare(t, Volumes(facts), true), Env: []string{"HTTPS_PROXY", "PROBE_MOUNT", "NOT_SET"}}
		h.sh(t, "mkdir -p /var/lib/kubelet/probe && mknod -m 600 /dev/worker-probe c 1 3")
		argv := Podman(spec)
		if s := strings.Join(argv, " "); strings.Contains(s, "s3cret") || strings.Contains(s, ":z") || strings.Contains(s, ":Z") {
			t.Errorf("a secret or a relabelling in %s", s)
		}
		r := h.probe(t, argv, 0, "HTTPS_PROXY=http://user:s3cret@proxy:3128", "PROBE_MOUNT=/var/lib/kubelet/probe")
		if want := append([]string{"/probe"}, spec.KubeletArgs...); !slices.Equal(r.Args, want) {
			t.Errorf("arguments %q, want %q", r.Args, want)
		}
		if !slices.Contains(r.Env, "HTTPS_PROXY=http://user:s3cret@proxy:3128") || slices.ContainsFunc(r.Env, func(e string) bool { return strings.HasPrefix(e, "NOT_SET") }) {
			t.Errorf("environment %q", r.Env)
		}
		for ns, inside := range r.Namespaces {
			if outside := strings.TrimSpace(h.sh(t, "readlink /proc/self/ns/"+ns)); inside != outside {
				t.Errorf("%s namespace %s, the host's is %s", ns, inside, outside)
			}
		}
		if !r.Devices {
			t.Error("/dev is not the host's")
		}
		for _, v := range spec.Volumes {
			want := "rw private"
			switch {
			case v.Recursive:
				want = "rw shared"
			case v.ReadOnly:
				want = "ro private"
			}
			if got := r.Mounts[v.Target]; got != want {
				t.Errorf("%s is mounted %q, want %q", v.Target, got, want)
			}
		}
		if got := h.sh(t, "grep -c ' /var/lib/kubelet/probe .*tmpfs' /proc/self/mountinfo"); got != "1\n" {
			t.Errorf("the kubelet's mount is not on the host: %s", got)
		}
		if got := h.sh(t, "ls -A /run/.containerenv 2>/dev/null || true"); got != "" {
			t.Errorf("podman left %s, which makes systemd take the host for a container", got)
		}
	})
	t.Run("nothing optional there", func(t *testing.T) {
		spec := Spec{Image: "localhost/probe:v1.34.4", Volumes: h.prepare(t, Volumes(facts), false)}
		r := h.probe(t, Podman(spec), 0)
		if _, there := r.Mounts["/etc/machine-id"]; there {
			t.Error("the test left an optional file in place")
		}
	})
	t.Run("a volume whose source is missing is refused", func(t *testing.T) { // why Optional exists
		spec := Spec{Image: "localhost/probe:v1.34.4", Volumes: []Volume{{Name: "x", Source: "/no/such", Target: "/x"}}}
		if _, stderr, err := h.podman(t, Podman(spec)); err == nil || !strings.Contains(stderr, "/no/such") {
			t.Errorf("%v, %s", err, stderr)
		}
	})
	t.Run("hyperkube, docker", func(t *testing.T) {
		spec := Spec{Image: "localhost/hyperkube:v1.14.3", Hyperkube: true, KubeletArgs: []string{"--allow-privileged=true"},
			Volumes: h.prepare(t, Volumes(Facts{Minor: 14}), true)}
		r := h.probe(t, Podman(spec), 0)
		if want := []string{"/hyperkube", "kubelet", "--allow-privileged=true"}; !slices.Equal(r.Args, want) {
			t.Errorf("arguments %q, want %q", r.Args, want)
		}
	})
	t.Run("the kubelet's exit code is podman's", func(t *testing.T) {
		h.probe(t, Podman(Spec{Image: "localhost/probe:v1.34.4", KubeletArgs: []string{"--fail"}}), 3)
	})
	t.Run("a container of that name is replaced, and removed", func(t *testing.T) {
		if _, stderr, err := h.podman(t, []string{"podman", "create", "--name=" + Name, "localhost/probe:v1.34.4"}); err != nil {
			t.Fatal(stderr)
		}
		h.probe(t, Podman(Spec{Image: "localhost/probe:v1.34.4"}), 0)
		if _, stderr, err := h.podman(t, []string{"podman", "create", "--name=" + Name, "localhost/probe:v1.34.4"}); err != nil {
			t.Fatal(stderr)
		}
		if _, stderr, err := h.podman(t, PodmanStop()); err != nil {
			t.Errorf("podman stop: %s", stderr)
		}
		if _, stderr, err := h.podman(t, PodmanRemove()); err != nil {
			t.Errorf("podman rm: %s", stderr)
		}
		if out, _, err := h.podman(t, []string{"podman", "ps", "--all", "--quiet"}); err != nil || out != "" {
			t.Errorf("left: %s %v", out, err)
		}
	})
	t.Run("image exists", func(t *testing.T) {
		if _, _, err := h.podman(t, PodmanImageExists(Spec{Image: "localhost/probe:v1.34.4"})); err != nil {
			t.Error(err)
		}
		_, _, err := h.podman(t, PodmanImageExists(Spec{Image: "localhost/probe:v9.9.9"}))
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("%v, want exit code 1", err)
		}
	})
	t.Run("pull without a registry", func(t *testing.T) { // the command is understood, and fails as it must
		_, stderr, err := h.podman(t, PodmanPull(Spec{Image: "127.0.0.1:1/kubelet:v1.34.4"}))
		if err == nil || !strings.Contains(stderr, "refused") {
			t.Errorf("%v: %s", err, stderr)
		}
	})
	t.Run("options as podman 3 has them", func(t *testing.T) {
		h.probe(t, Podman(Spec{Image: "localhost/probe:v1.34.4", PodmanMajor: 3, SELinuxLabel: "disable"}), 0)
	})
}

// A real kubelet runs out of an image by this command line.
func TestRealPodmanKubelet(t *testing.T) {
	binary := realKubelet(t, "v1.34.4")
	h := newPodHost(t)
	h.image(t, "quay.io/poseidon/kubelet:v1.34.4", `ENTRYPOINT ["/usr/local/bin/kubelet"]`, map[string]string{"/usr/local/bin/kubelet": binary})
	spec := Spec{Image: "quay.io/poseidon/kubelet:v1.34.4", KubeletArgs: []string{"--version"},
		Volumes: h.prepare(t, Volumes(Facts{Minor: 34, Endpoint: "unix:///run/containerd/containerd.sock"}), true)}
	out, stderr, err := h.podman(t, Podman(spec))
	if err != nil || out != "Kubernetes v1.34.4\n" {
		t.Errorf("%q, %v\n%s", out, err, stderr)
	}
}

// podHost is a machine's root file system of its own: an overlay of this
// machine's, in a mount namespace, thrown away afterwards.
type podHost struct {
	pid int
	dir string // a directory that both sides see, at /mnt inside
}

// become builds the root in $0 and waits. Like systemd it makes every mount
// shared.
const become = `
mount --make-rprivate /
mount -t tmpfs tmpfs "$0"
mkdir "$0/up" "$0/work" "$0/root"
mount -t overlay -o lowerdir=/,upperdir="$0/up",workdir="$0/work" overlay "$0/root"
cd "$0/root"
mount -t proc proc proc
mount --rbind /sys sys
if [ -d sys/fs/cgroup/unified ]; then # a hybrid of v1 and v2, which crun refuses: show it the v1 half
	mount -t tmpfs tmpfs sys/fs/cgroup
	for c in /sys/fs/cgroup/*; do
		case ${c##*/} in unified) continue ;; esac
		[ -d "$c" ] || continue
		mkdir "sys/fs/cgroup/${c##*/}"
		mount --bind "$c" "sys/fs/cgroup/${c##*/}"
	done
fi
mount -t tmpfs tmpfs dev
for d in null zero full random urandom tty; do cp -a "/dev/$d" "dev/$d"; done
mkdir dev/pts dev/shm dev/mqueue
mount -t devpts devpts dev/pts
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount --bind "$1" mnt
rm -rf var/lib/kubelet var/lib/containerd var/lib/containers var/lib/cni var/lib/docker etc/kubernetes etc/cni etc/pki opt/cni etc/machine-id lib/modules/*
mkdir -p put-old
pivot_root . put-old
cd /
umount -l /put-old
mount --make-rshared /
echo ready
exec sleep infinity
`

func newPodHost(t *testing.T) *podHost {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: namespaces, mounts")
	}
	for _, tool := range []string{"podman", "crun", "unshare", "nsenter", "pivot_root", "mount"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing(t, "%s is not installed", tool)
		}
	}
	h := &podHost{dir: t.TempDir()}
	cmd := exec.Command("unshare", "--mount", "--propagation=private", "sh", "-ec", become, t.TempDir(), h.dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		for _, d := range h.cgroups() {
			_ = syscall.Rmdir(d) // podman's parent of all containers, empty by now
		}
	})
	ready := make(chan string, 1)
	go func() {
		b := make([]byte, 100)
		n, _ := stdout.Read(b)
		ready <- string(b[:n])
	}()
	select {
	case got := <-ready:
		if got != "ready\n" {
			_ = cmd.Wait()
			t.Fatalf("cannot make a root: %s", stderr.String())
		}
	case <-time.After(30 * time.Second):
		t.Fatal("no root after 30 s")
	}
	h.pid = cmd.Process.Pid
	// podman asks for a million open files; a machine that may not raise its
	// own limit says so in the file for that.
	h.sh(t, `mkdir -p /etc/containers && printf '[containers]\ndefault_ulimits = ["nofile=%s:%s", "nproc=%s:%s"]\n' $(ulimit -Hn) $(ulimit -Hn) 4096 4096 >/etc/containers/containers.conf`)
	return h
}

func (h *podHost) cgroups() []string {
	found, _ := filepath.Glob("/sys/fs/cgroup/*/libpod_parent")
	return append(found, "/sys/fs/cgroup/libpod_parent")
}

func (h *podHost) command(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--target", fmt.Sprint(h.pid), "--mount", "--root", "--wdns=/"}, argv...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/root", "TMPDIR=/tmp"}
	return cmd
}

func (h *podHost) sh(t *testing.T, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := h.command(ctx, "sh", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// podman runs a command line of ours. What it takes to keep podman's state in
// the throw-away root, and to do without systemd, goes in as global options.
func (h *podHost) podman(t *testing.T, argv []string, env ...string) (stdout, stderr string, err error) {
	t.Helper()
	if argv[0] != "podman" {
		t.Fatalf("%q is not podman", argv[0])
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	// Splitting the caller's cgroup needs one of its own to split, which a unit
	// has and this test has not; the end-to-end tests run it in kubelet.service.
	argv = slices.Clone(argv)
	if i := slices.Index(argv, "--cgroups=split"); i > 0 {
		argv[i] = "--cgroups=no-conmon"
	}
	cmd := h.command(ctx, append([]string{"podman", "--root=/tmp/pods", "--runroot=/run/pods", "--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--runtime=crun", "--events-backend=none"}, argv[1:]...)...)
	cmd.Env = append(cmd.Env, env...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err = cmd.Run()
	return o.String(), e.String(), err
}

type probeReport struct {
	Args, Env  []string
	Namespaces map[string]string
	Mounts     map[string]string
	Devices    bool
	Error      string
}

func (h *podHost) probe(t *testing.T, argv []string, code int, env ...string) (r probeReport) {
	t.Helper()
	out, stderr, err := h.podman(t, argv, env...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	if got != code {
		t.Fatalf("%s\nexit code %d, want %d\n%s", strings.Join(argv, " "), got, code, stderr)
	}
	// A replaced container's name comes first.
	last := out[strings.LastIndex(strings.TrimSpace(out), "\n")+1:]
	if err := json.Unmarshal([]byte(last), &r); err != nil {
		t.Fatalf("%v in %q\n%s", err, out, stderr)
	}
	if r.Error != "" {
		t.Error(r.Error)
	}
	return r
}

// prepare does what the caller does with volumes: creates, and skips what is
// optional and missing. With all set, it makes every source first.
func (h *podHost) prepare(t *testing.T, all []Volume, full bool) (there []Volume) {
	t.Helper()
	files := []string{"/etc/machine-id", "/etc/os-release", "/etc/resolv.conf"}
	for _, v := range all {
		file := slices.Contains(files, v.Source)
		switch {
		case full && file:
			h.sh(t, "[ -e "+v.Source+" ] || echo x >"+v.Source)
		case full || v.Create:
			h.sh(t, "mkdir -p "+v.Source)
		case v.Optional:
			h.sh(t, "rm -rf "+v.Source)
			continue
		}
		there = append(there, v)
	}
	return there
}

// image imports a root file system that holds the files and the little that a
// kubelet needs beside itself.
func (h *podHost) image(t *testing.T, name, change string, files map[string]string) {
	t.Helper()
	path := filepath.Join(h.dir, "image.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	add := func(name string, size int64, r io.Reader) {
		err := w.WriteHeader(&tar.Header{Name: strings.TrimPrefix(name, "/"), Mode: 0o755, Size: size, Typeflag: tar.TypeReg})
		if err == nil {
			_, err = io.Copy(w, r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	passwd := "root:x:0:0:root:/root:/bin/sh\n"
	add("/etc/passwd", int64(len(passwd)), strings.NewReader(passwd))
	for at, from := range files {
		src, err := os.Open(from)
		if err != nil {
			t.Fatal(err)
		}
		info, err := src.Stat()
		if err != nil {
			t.Fatal(err)
		}
		add(at, info.Size(), src)
		src.Close()
	}
	if err := errors.Join(w.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	if _, stderr, err := h.podman(t, []string{"podman", "import", "--change", change, "/mnt/image.tar", name}); err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
}

func buildProbe(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "probe")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-o", out, "./testdata/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, msg)
	}
	return out
}
