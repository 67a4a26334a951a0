package selinux

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"
	"golang.org/x/sys/unix"
)

// This file boots machines with a real SELinux: Debian's kernel and policy under QEMU's emulation, with this test binary
// as their init. What it proves cannot be had on a host without SELinux, and must not be done to one that has it.

// TestGuest is one life of a host: it boots enforcing, as its configuration says; its mode is changed and changed back;
// its configuration is edited, and the edit is what the next boot comes up with.
func TestGuest(t *testing.T) {
	g := newGuest(t)
	config := "# SELINUX= is below\nSELINUX=Enforcing \nSELINUX=disabled\nSELINUXTYPE=default\n"
	first := g.boot(t, config, "selinux", "runtime", "permissive", "enforcing", "read-only", "edit", "forbidden")
	first.is(t, "runtime", Enforcing, "")
	first.is(t, "permissive", Permissive, "")
	first.is(t, "enforcing", Enforcing, "")
	first.is(t, "read-only", Enforcing, "cannot set the SELinux mode to permissive: /sys/fs/selinux is mounted read-only here")
	first.is(t, "forbidden", Enforcing, "cannot set the SELinux mode to permissive: the loaded policy does not allow it")
	edited := "# SELINUX= is below\nSELINUX=permissive \nSELINUX=disabled\nSELINUXTYPE=default\n"
	if first["edit"].Config != edited {
		t.Fatalf("the configuration became %q", first["edit"].Config)
	}
	second := g.boot(t, edited, "selinux", "runtime", "enforcing")
	second.is(t, "runtime", Permissive, "")
	second.is(t, "enforcing", Enforcing, "")
}

// TestGuestDisabled boots the same host with another security module in the place of SELinux: what the configuration says is then of no
// account.
func TestGuestDisabled(t *testing.T) {
	g := newGuest(t)
	r := g.boot(t, "SELINUX=enforcing\nSELINUXTYPE=default\n", "apparmor", "runtime", "permissive")
	r.is(t, "runtime", Disabled, "")
	r.is(t, "permissive", Disabled, "cannot set the SELinux mode to permissive: SELinux is disabled in the running kernel")
}

// result is what a step inside of the guest saw.
type result struct {
	Step   string
	Mode   Mode   // what Runtime says after the step
	Kernel string // what the kernel's own file says: 0, 1, or nothing
	Err    string
	Config string // the edited configuration
	Stray  bool   // a file named "enforce" appeared in the working directory
}

type results map[string]result

func (r results) is(t *testing.T, step string, mode Mode, text string) {
	t.Helper()
	got, ok := r[step]
	kernel := map[Mode]string{Enforcing: "1", Permissive: "0", Disabled: ""}[mode]
	if !ok || got.Mode != mode || got.Kernel != kernel || got.Stray || !strings.HasPrefix(got.Err, text) || text == "" && got.Err != "" {
		t.Errorf("step %s: %+v, want %s (kernel %q), error %q", step, got, mode, kernel, text)
	}
}

// guest is what every boot has in common.
type guest struct{ kernel, base, init string }

func newGuest(t *testing.T) guest {
	t.Helper()
	if testing.Short() {
		t.Skip("boots emulated machines; not with -short")
	}
	needTool(t, "qemu-system-x86_64", "mmdebstrap", "go")
	needRoot(t)
	dir := os.Getenv("TECTONIC_LAB_CACHE")
	if dir == "" {
		dir = "/var/cache/tectonic-worker-lab"
	}
	dir = filepath.Join(dir, "selinux-guest-bookworm")
	if err := prepare(t, dir); err != nil {
		missing(t, fmt.Sprintf("needs a guest's kernel and policy from Debian: %v", err))
	}
	g := guest{kernel: filepath.Join(dir, "vmlinuz"), base: filepath.Join(dir, "base.cpio"), init: filepath.Join(t.TempDir(), "init")}
	// Static, because the guest has few libraries; the binary that runs now may have been built with -race.
	build := exec.Command("go", "test", "-c", "-o", g.init, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return g
}

var preparing sync.Mutex

// prepare takes kernel, policy and load_policy out of a Debian that is made for it. About a minute, once.
func prepare(t *testing.T, dir string) error {
	preparing.Lock()
	defer preparing.Unlock()
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	work, err := os.MkdirTemp("", "selinux-guest")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	ctx, done := context.WithTimeout(t.Context(), 8*time.Minute)
	defer done()
	root := filepath.Join(work, "root")
	out, err := exec.CommandContext(ctx, "mmdebstrap", "--variant=minbase",
		"--include=selinux-policy-default,policycoreutils,linux-image-cloud-amd64", "bookworm", root).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mmdebstrap: %w: %s", err, bytes.TrimSpace(out[max(0, len(out)-300):]))
	}
	kernels, _ := filepath.Glob(filepath.Join(root, "boot/vmlinuz-*"))
	if len(kernels) == 0 {
		return errors.New("there is no kernel in it")
	}
	kernel, err := os.ReadFile(kernels[0])
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	w := cpio.NewWriter(&archive)
	for _, d := range []string{"proc", "sys", "dev", "etc", "lib", "lib64", "sbin", "lib/x86_64-linux-gnu"} {
		if err := w.WriteHeader(&cpio.Header{Name: d, Mode: cpio.TypeDir | 0o755}); err != nil {
			return err
		}
	}
	for _, name := range []string{"sbin/load_policy", "lib64/ld-linux-x86-64.so.2", "lib/x86_64-linux-gnu/libsepol.so.2",
		"lib/x86_64-linux-gnu/libselinux.so.1", "lib/x86_64-linux-gnu/libc.so.6", "lib/x86_64-linux-gnu/libpcre2-8.so.0"} {
		if err := addFile(w, name, filepath.Join(root, name)); err != nil {
			return err
		}
	}
	err = filepath.WalkDir(filepath.Join(root, "etc/selinux"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		if d.IsDir() {
			return w.WriteHeader(&cpio.Header{Name: name, Mode: cpio.TypeDir | 0o755})
		}
		return addFile(w, name, path)
	})
	if err := errors.Join(err, w.Close()); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	made, err := os.MkdirTemp(filepath.Dir(dir), "selinux-guest") // beside it, so that it can be renamed
	if err != nil {
		return err
	}
	defer os.RemoveAll(made)
	if err := errors.Join(
		os.WriteFile(filepath.Join(made, "vmlinuz"), kernel, 0o644),
		os.WriteFile(filepath.Join(made, "base.cpio"), archive.Bytes(), 0o644),
	); err != nil {
		return err
	}
	if err := os.Rename(made, dir); err != nil && !errors.Is(err, fs.ErrExist) { // another test was faster
		return err
	}
	return nil
}

func addFile(w *cpio.Writer, name, path string) error {
	data, err := os.ReadFile(path) // through links: the archive holds what they lead to
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&cpio.Header{Name: name, Mode: cpio.TypeReg | 0o755, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

// boot runs one machine from power-on to power-off and gives what the steps saw.
func (g guest) boot(t *testing.T, config, security string, steps ...string) results {
	t.Helper()
	dir := t.TempDir()
	var own bytes.Buffer
	w := cpio.NewWriter(&own)
	configFile := filepath.Join(dir, "config")
	err := errors.Join(
		os.WriteFile(configFile, []byte(config), 0o644),
		addFile(w, "init", g.init), addFile(w, ConfigPath[1:], configFile), w.Close(),
	)
	if err != nil {
		t.Fatal(err)
	}
	base, err := os.ReadFile(g.base)
	if err != nil {
		t.Fatal(err)
	}
	initrd := filepath.Join(dir, "initrd") // the kernel unpacks archives one after the other, the last one wins
	if err := os.WriteFile(initrd, append(base, own.Bytes()...), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, done := context.WithTimeout(t.Context(), 3*time.Minute)
	defer done()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg", "-m", "768", "-nodefaults", "-no-reboot", "-display", "none",
		"-serial", "stdio", "-kernel", g.kernel, "-initrd", initrd,
		"-append", "console=ttyS0 quiet panic=-1 security="+security+" "+guestSteps+"="+strings.Join(steps, ","))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	seen := results{}
	for line := range bytes.Lines(out) {
		if _, text, ok := bytes.Cut(line, []byte(guestMark)); ok {
			var r result
			if err := json.Unmarshal(bytes.TrimSpace(text), &r); err != nil {
				t.Fatalf("%v in %q", err, line)
			}
			seen[r.Step] = r
		}
	}
	if err != nil || len(seen) != len(steps) {
		t.Fatalf("the guest saw %d of %d steps: %v\n%s", len(seen), len(steps), err, out)
	}
	return seen
}

const (
	guestSteps = "SELINUX_GUEST_STEPS" // the kernel hands a parameter it does not know to init's environment
	guestStep  = "SELINUX_GUEST_STEP"
	guestMark  = "guest step: "
)

// TestMain is also the init of a guest, and each of its steps.
func TestMain(m *testing.M) {
	switch steps, step := os.Getenv(guestSteps), os.Getenv(guestStep); {
	case step != "":
		guestRun(step)
	case steps != "" && os.Getpid() == 1:
		guestInit(strings.Split(steps, ","))
	default:
		os.Exit(m.Run())
	}
}

// guestInit does what a distribution's init does first: it has libselinux load the policy and set the mode that the
// configuration names.
func guestInit(steps []string) {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			fmt.Println("cannot mount", m, err)
		}
	}
	if out, err := exec.Command("/sbin/load_policy", "-i").CombinedOutput(); err != nil {
		fmt.Printf("load_policy: %v: %s\n", err, out)
	}
	// One process for each step, because the library asks only once whether SELinux is enabled.
	for _, step := range steps {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{guestStep + "=" + step}
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			fmt.Println("step", step, err)
		}
	}
	unix.Sync()
	fmt.Println(unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART))
}

func guestRun(step string) {
	r := result{Step: step}
	var err error
	switch step {
	case "runtime":
	case "permissive", "enforcing":
		err = SetRuntime(Mode(step))
	case "read-only": // as inside of a container
		if err = errors.Join(
			unix.Mount(mountPoint, mountPoint, "", unix.MS_BIND, ""),
			unix.Mount("", mountPoint, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""),
		); err == nil {
			err = SetRuntime(Permissive)
		}
	case "forbidden": // the policy's own switch for it
		if err = errors.Join(
			os.WriteFile(mountPoint+"/booleans/secure_mode_policyload", []byte("1"), 0),
			os.WriteFile(mountPoint+"/commit_pending_bools", []byte("1"), 0),
		); err == nil {
			err = SetRuntime(Permissive)
		}
	case "edit":
		var data, edited []byte
		if data, err = os.ReadFile(ConfigPath); err == nil {
			edited, err = EditConfig(data, Permissive)
			r.Config = string(edited)
		}
	default:
		err = errors.New("no such step")
	}
	if err != nil {
		r.Err = err.Error()
	}
	mode, err := Runtime()
	if r.Mode = mode; err != nil {
		r.Err += " " + err.Error()
	}
	kernel, _ := os.ReadFile(enforceFile)
	r.Kernel = string(kernel)
	if _, err := os.Lstat("enforce"); err == nil {
		r.Stray = true
	}
	if step == "read-only" {
		_ = unix.Unmount(mountPoint, 0)
	}
	line, _ := json.Marshal(r)
	fmt.Printf("\n%s%s\n", guestMark, line)
}
