package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// WorkerOptions say what a worker host has. The zero value is a host as an administrator would have it: podman,
// containerd, firewalld and rpm, and the kubelet images at hand.
type WorkerOptions struct {
	Name           string   // hostname; "worker-1", "worker-2", ... when empty
	KubeletVersion string   // decides the lab's kubelet drop-in; the control plane's version when empty
	NoImages       bool     // neither podman nor rkt finds a kubelet image
	Rkt            bool     // /usr/bin/rkt is the rkt on PATH, or else the double
	NoPodman       bool     // there is no podman
	Files          []File   // written before the machine boots
	Remove         []string // paths of the root filesystem that are not there when it boots
}

// File is a file on a host. Its directories are made where missing, with mode 0755.
type File struct {
	Path    string
	Content []byte
	Mode    os.FileMode // 0644 when zero
}

// Host is one booted worker.
type Host struct {
	Name    string
	Address string // IPv4 address on the bridge
	Boot    time.Duration

	lab     *Lab
	dir     string
	netns   *os.File
	cgroups []string // of the commands that the lab runs inside
	nspawn  *exec.Cmd
	leader  int // systemd's process id, as seen from outside
	ended   chan error
}

// Worker boots a worker host. It returns when systemd has reached its default target.
func (l *Lab) Worker(ctx context.Context, o WorkerOptions) (*Host, error) {
	start := time.Now()
	l.mu.Lock()
	l.ordinal++
	ordinal := l.ordinal
	l.mu.Unlock()
	if o.Name == "" {
		o.Name = "worker-" + strconv.Itoa(ordinal)
	}
	root, err := l.Cache.WorkerRoot(ctx)
	if err != nil {
		return nil, err
	}
	h := &Host{
		Name: o.Name, Address: fmt.Sprintf("10.77.0.%d", firstWorker+ordinal-1),
		lab: l, dir: filepath.Join(l.dir, "host-"+strconv.Itoa(ordinal)), ended: make(chan error, 1),
	}
	for _, dir := range []string{"upper", "work", "root", "containers", "containerd", "rkt"} {
		if err := os.MkdirAll(filepath.Join(h.dir, dir), 0o755); err != nil {
			return nil, fmt.Errorf("cannot boot %s: %w", h.Name, err)
		}
	}
	if err := h.prepare(ctx, root, o); err != nil {
		h.Close()
		return nil, fmt.Errorf("cannot prepare %s: %w", h.Name, err)
	}
	if h.netns, err = l.attach(ctx, "w"+strconv.Itoa(ordinal), h.Address); err != nil {
		h.Close()
		return nil, err
	}
	if err := h.boot(ctx, root, o); err != nil {
		h.Close()
		return nil, fmt.Errorf("cannot boot %s: %w", h.Name, err)
	}
	l.mu.Lock()
	l.hosts[h.dir] = h
	l.mu.Unlock()
	h.Boot = time.Since(start)
	l.Cache.logf("worker %s: up in %.1fs at %s", h.Name, h.Boot.Seconds(), h.Address)
	return h, nil
}

// enterScript puts itself into the host's cgroup, mounts the overlay where only the host sees it, and becomes
// systemd-nspawn. It is process 1 of a process namespace: when it is killed, the kernel kills the whole machine.
const enterScript = `set -e
lower=$1 dir=$2 cgroups=$3; shift 3
for group in $cgroups; do echo $$ >"$group/cgroup.procs" || [ "${group#*/unified/}" != "$group" ]; done
mount -t proc proc /proc
options=lowerdir=$lower,upperdir=$dir/upper,workdir=$dir/work
mount -t overlay overlay -o "$options,volatile" "$dir/root" 2>/dev/null || mount -t overlay overlay -o "$options" "$dir/root"
exec systemd-nspawn --directory="$dir/root" --network-namespace-path=/proc/self/ns/net "$@"
`

func (h *Host) boot(ctx context.Context, root string, o WorkerOptions) error {
	group := cgroupPrefix + h.lab.id + "-" + filepath.Base(h.dir)
	cgroups, err := makeCgroup(group)
	if err != nil {
		return fmt.Errorf("cannot make its cgroups: %w", err)
	}
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: filepath.Join(h.dir, "notify")})
	if err != nil {
		return fmt.Errorf("cannot listen for its readiness: %w", err)
	}
	defer ready.Close()
	console, err := os.Create(h.console())
	if err != nil {
		return err
	}
	defer console.Close()

	args := []string{"-c", enterScript, "lab", root, h.dir, strings.Join(cgroups, " "),
		"--boot", "--register=no", "--keep-unit", "--notify-ready=yes", "--console=pipe", "--resolv-conf=off",
		"--timezone=off", "--link-journal=no", "--capability=all", "--system-call-filter=@known", "--bind=/dev/kmsg",
		"--hostname=" + h.Name,
		"--bind=" + filepath.Join(h.dir, "containers") + ":/var/lib/containers",
		"--bind=" + filepath.Join(h.dir, "containerd") + ":/var/lib/containerd",
		"--bind=" + filepath.Join(h.dir, "rkt") + ":/var/lib/rkt",
	}
	if !o.NoImages {
		images, err := h.lab.Cache.KubeletImages(ctx)
		if err != nil {
			return err
		}
		args = append(args, "--bind-ro="+filepath.Join(images, "podman")+":"+imageStoreMount,
			"--bind-ro="+filepath.Join(images, "rkt")+":"+rktRemoteMount)
	}
	h.nspawn = exec.CommandContext(context.Background(), "/bin/sh", args...)
	h.nspawn.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(h.dir, "notify"))
	h.nspawn.Stdout, h.nspawn.Stderr = console, console
	h.nspawn.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Unshareflags: syscall.CLONE_NEWNS}
	if err := h.lab.spawn.start(h.netns, h.nspawn); err != nil {
		return err
	}
	go func() { h.ended <- h.nspawn.Wait(); close(h.ended) }()
	if err := h.waitReady(ctx, ready); err != nil {
		return fmt.Errorf("%w\n%s", err, tail(h.console(), 30))
	}
	return h.makeExecCgroups(cgroups)
}

// waitReady waits for what systemd-nspawn tells its NOTIFY_SOCKET (sd_notify(3)): READY=1 when the machine's systemd
// reached its default target.
func (h *Host) waitReady(ctx context.Context, ready *net.UnixConn) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { ready.Close() })
	defer stop()
	messages := make(chan error, 1)
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := ready.Read(buf)
			if err != nil {
				messages <- fmt.Errorf("it did not report that it is up: %w", err)
				return
			}
			if strings.Contains("\n"+string(buf[:n])+"\n", "\nREADY=1\n") {
				messages <- nil
				return
			}
		}
	}()
	select {
	case err := <-messages:
		if err != nil {
			return err
		}
	case err := <-h.ended:
		return fmt.Errorf("systemd-nspawn ended: %v", err)
	}
	pid := h.nspawn.Process.Pid
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return fmt.Errorf("cannot find its systemd: %w", err)
	}
	for _, field := range strings.Fields(string(children)) {
		h.leader, err = strconv.Atoi(field)
		if err == nil {
			return nil
		}
	}
	return errors.New("cannot find its systemd: systemd-nspawn has no child")
}

// Close powers the machine off, hard, and removes all of it. A second call does nothing.
func (h *Host) Close() error {
	h.lab.mu.Lock()
	delete(h.lab.hosts, h.dir)
	h.lab.mu.Unlock()
	if h.nspawn != nil && h.nspawn.Process != nil {
		killGroup(h.nspawn)
		for range h.ended {
		}
	}
	if h.netns != nil {
		h.netns.Close()
		h.netns = nil
	}
	removeCgroups(cgroupPrefix + h.lab.id + "-" + filepath.Base(h.dir))
	if err := os.RemoveAll(h.dir); err != nil {
		return fmt.Errorf("cannot remove %s: %w", h.Name, err)
	}
	return nil
}

func (h *Host) console() string { return filepath.Join(h.dir, "console") }

// tail gives the last n lines of a file, or why it cannot.
func tail(path string, n int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}
