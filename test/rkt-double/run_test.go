package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// As a subprocess the test binary is the double, in a mount namespace that ends with it.
func TestMain(m *testing.M) {
	if os.Getenv("RKT_DOUBLE_REGISTRY") != "" {
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// bench is a rkt of its own, with one image whose only content is links into /usr.
type bench struct {
	t                      *testing.T
	dir, registry, stage1  string
	reference, uuid, share string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: the double mounts")
	}
	dir := t.TempDir()
	b := &bench{
		t: t, dir: filepath.Join(dir, "rkt"), registry: filepath.Join(dir, "registry"), stage1: filepath.Join(dir, "stage1-fly.aci"),
		reference: "quay.io/test/app:v1", uuid: filepath.Join(dir, "uuid"), share: filepath.Join(dir, "share"),
	}
	rootfs := filepath.Join(b.registry, "app", "rootfs")
	manifest, err := json.Marshal(image{Name: b.reference, Exec: []string{"/usr/bin/echo", "default"}, SignedBy: "f00d"})
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(
		os.MkdirAll(rootfs, 0o755), os.MkdirAll(b.share, 0o755), os.MkdirAll(b.dir, 0o755), os.WriteFile(b.stage1, nil, 0o644),
		os.WriteFile(filepath.Join(b.registry, "app", "manifest.json"), manifest, 0o644))
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		err = errors.Join(err, os.Symlink("usr/"+name, filepath.Join(rootfs, name)))
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// args is a whole command line: rkt run, with /usr from the host.
func (b *bench) args(more []string, app ...string) []string {
	args := []string{
		"--dir=" + b.dir, "--insecure-options=image", "run", "--net=host", "--stage1-path=" + b.stage1, "--uuid-file-save=" + b.uuid,
		"--volume=usr,kind=host,source=/usr,readOnly=true", "--mount=volume=usr,target=/usr",
	}
	args = append(append(args, more...), b.reference)
	return append(args, app...)
}

// command makes a command in a mount namespace whose first act is a tmpfs or a bind mount for the pods: an overlay's
// upper directory must not be an overlay itself.
func (b *bench) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(b.t.Context(), "/bin/sh", append([]string{"-c", `mount -t tmpfs tmpfs "$1"; shift; exec "$@"`, "sh", b.dir, os.Args[0]}, args...)...)
	cmd.Env = append(os.Environ(), "RKT_DOUBLE_REGISTRY="+b.registry, "FROM_HOST=yes")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// output runs a command to its end.
func (b *bench) output(args ...string) (stdout, stderr string, code int) {
	b.t.Helper()
	cmd := b.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		b.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestRun(t *testing.T) {
	tests := []struct {
		name      string
		options   []string
		app       []string
		stdout    string
		stderr    string
		code      int
		untrusted bool
	}{
		{name: "the image's own command", stdout: "default\n"},
		{name: "with arguments", app: []string{"--", "a", "b"}, stdout: "default a b\n"},
		{name: "another command", app: []string{"--exec=/usr/bin/printf", "--", "%s", "x"}, stdout: "x"},
		{name: "its exit code", app: []string{"--exec=/bin/sh", "--", "-c", "exit 78"}, code: 78},
		{name: "command missing", app: []string{"--exec=/kubelet"}, stderr: "no such file", code: failure},
		{name: "no environment of the host", app: []string{"--exec=/bin/sh", "--", "-c", "echo $FROM_HOST"}, stdout: "\n"},
		{name: "the environment of the host", options: []string{"--inherit-env"}, app: []string{"--exec=/bin/sh", "--", "-c", "echo $FROM_HOST"}, stdout: "yes\n"},
		{name: "set-env", options: []string{"--inherit-env", "--set-env=FROM_HOST=no"}, app: []string{"--exec=/bin/sh", "--", "-c", "echo $FROM_HOST"}, stdout: "no\n"},
		{name: "working directory", app: []string{"--working-dir=/usr", "--exec=/bin/pwd"}, stdout: "/usr\n"},
		{name: "read-only volume", app: []string{"--exec=/usr/bin/touch", "--", "/usr/x"}, stderr: "Read-only file system", code: 1},
		{name: "host's processes and devices", app: []string{"--exec=/usr/bin/test", "--", "-d", "/proc/1", "-a", "-c", "/dev/null", "-a", "-d", "/sys/class"}},
		{name: "missing source", options: []string{"--volume=x,kind=host,source=/nowhere", "--mount=volume=x,target=/x"}, stderr: "stat of host path /nowhere", code: failure},
		{name: "not fetched", options: []string{"--pull-policy=never"}, stderr: "pull-policy=never", code: failure},
		{name: "untrusted", untrusted: true, stderr: "signature made by unknown entity", code: failure},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			args := b.args(tt.options, tt.app...)
			if tt.untrusted {
				args[1] = "--local-config=" + t.TempDir()
			}
			stdout, stderr, code := b.output(args...)
			if code != tt.code || stdout != tt.stdout || !strings.Contains(stderr, tt.stderr) {
				t.Errorf("exit code %d, stdout %q, stderr %q; want %d, %q, %q", code, stdout, stderr, tt.code, tt.stdout, tt.stderr)
			}
		})
	}
}

// One pod's life: rkt becomes the app, so that its process id is the app's; rm refuses while it runs; stop ends it; rm
// then leaves no mount, and the host's own mounts alone.
func TestPod(t *testing.T) {
	b := newBench(t)
	run := b.args([]string{"--volume=share,kind=host,source=" + b.share, "--mount=volume=share,target=/share"},
		"--exec=/bin/sh", "--", "-c", "echo $$; echo inside >/share/file; trap 'exit 3' TERM; while :; do sleep 0.05; done")
	// All of it happens in one mount namespace, as on a host.
	script := `mount -t tmpfs tmpfs "$1"; mount --bind "$2" "$2"; mount --make-rshared /; rkt=$3; dir=$1; uuid=$4; shift 4
"$rkt" "$@" & pid=$!
read -r _; echo "pid $pid"
"$rkt" --dir="$dir" list --no-legend
"$rkt" --dir="$dir" rm --uuid-file="$uuid"; echo "rm $?"
"$rkt" --dir="$dir" stop --uuid-file="$uuid"; echo "stop $?"
wait $pid; echo "app $?"
grep -c "$dir/pods" /proc/self/mountinfo
grep -c ' /dev/pts ' /proc/self/mountinfo
"$rkt" --dir="$dir" rm --uuid-file="$uuid"; echo "rm $?"
grep -c "$dir/pods" /proc/self/mountinfo
grep -c ' /dev/pts ' /proc/self/mountinfo
ls "$dir/pods/run" | wc -l
`
	cmd := exec.CommandContext(t.Context(), "/bin/sh", append([]string{"-c", script, "sh", b.dir, b.share, os.Args[0], b.uuid}, run...)...)
	cmd.Env = append(os.Environ(), "RKT_DOUBLE_REGISTRY="+b.registry)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	watchdog := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
	defer watchdog.Stop()
	lines := bufio.NewScanner(stdout)
	var got []string
	for lines.Scan() {
		if len(got) == 0 {
			// The app is up: it has told its process id.
			stdin.Write([]byte("\n"))
		}
		got = append(got, lines.Text())
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(got, "\n"))
	}
	uuid, err := os.ReadFile(b.uuid)
	if err != nil {
		t.Fatal(err)
	}
	id := string(uuid)
	if len(got) < 11 {
		t.Fatalf("only %d lines:\n%s", len(got), strings.Join(got, "\n"))
	}
	if got[1] != "pid "+got[0] {
		t.Errorf("the app's process id is %s, rkt's was %s", got[0], got[1])
	}
	pts := got[8]
	mounts := got[7]
	want := []string{got[0], got[1], id + "\tapp\tquay.io/test/app:v1\trunning", "rm 254", `"` + id + `"`, "stop 0", "app 3", mounts, pts, `"` + id + `"`, "rm 0", "0", pts, "0"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if mounts == "0" {
		t.Error("the running pod had no mounts")
	}
	if data, err := os.ReadFile(filepath.Join(b.share, "file")); err != nil || string(data) != "inside\n" {
		t.Errorf("the host's share after rm: %q, %v", data, err)
	}
}

// A fetched image is there for run and image cat-manifest until it is removed.
func TestImages(t *testing.T) {
	b := newBench(t)
	script := `mount -t tmpfs tmpfs "$1"; rkt="$3 --dir=$1"; ref=$2
$rkt image cat-manifest "$ref" 2>/dev/null; echo $?
$rkt fetch --insecure-options=image "$ref" >/dev/null; echo $?
$rkt image cat-manifest "$ref" | grep -c '"version","value":"v1"'
$rkt image list --no-legend | grep -c "$ref"
$rkt image rm "$ref" 2>/dev/null; echo $?
$rkt image cat-manifest "$ref" 2>/dev/null; echo $?
$rkt fetch --insecure-options=image quay.io/test/none:v1 2>&1; echo $?
`
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", script, "sh", b.dir, b.reference, os.Args[0])
	cmd.Env = append(os.Environ(), "RKT_DOUBLE_REGISTRY="+b.registry)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	const want = "254\n0\n1\n1\n0\n254\n"
	if got := string(out); !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "not found\n254\n") {
		t.Errorf("got\n%s", got)
	}
}
