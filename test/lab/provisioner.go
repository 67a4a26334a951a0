package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// ProvisionerAddress is the provisioner's on the bridge. Addresses from 10.77.0.100 on are free for machines that boot
// from the network; nobody else gives addresses there.
const ProvisionerAddress = "10.77.0.3"

// Provisioner is the host that machines boot from: the machine's own programs in a network namespace on the bridge,
// with /etc, /usr, /root,
// /tmp and /var of its own. Nothing of the product runs there until somebody starts it.
type Provisioner struct {
	*Host
	holder *exec.Cmd
}

// provisionerScript is process 1 of the provisioner's process namespace. What is written to /etc and /usr goes to layers
// of the lab's; the other directories are the lab's own.
const provisionerScript = `set -e
dir=$1 cache=$2
mount --make-rprivate /
mount -t proc proc /proc
for name in etc usr; do mount -t overlay overlay -o "lowerdir=/$name,upperdir=$dir/$name,workdir=$dir/work/$name" "/$name"; done
mount --bind "$cache" "$dir/var/lab"
mount -o remount,bind,ro "$dir/var/lab"
for name in root tmp var; do mount --rbind "$dir/$name" "/$name"; done
echo up
exec sleep infinity
`

// Provisioner gives the lab's provisioner, made by the first call. It ends with the lab.
func (l *Lab) Provisioner(ctx context.Context) (*Provisioner, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.provisioner != nil {
		return l.provisioner, nil
	}
	h := &Host{Name: "provisioner", Address: ProvisionerAddress, lab: l, dir: filepath.Join(l.dir, "provisioner"), ended: make(chan error, 1)}
	p := &Provisioner{Host: h}
	if err := p.start(ctx); err != nil {
		p.close()
		return nil, fmt.Errorf("cannot make the provisioner: %w", err)
	}
	l.provisioner = p
	return p, nil
}

func (p *Provisioner) start(ctx context.Context) error {
	for _, dir := range []string{"etc", "usr", "work/etc", "work/usr", "root", "tmp", "var/lib", "var/tmp", "var/log", "var/cache", "var/lab"} {
		if err := os.MkdirAll(filepath.Join(p.dir, dir), 0o755); err != nil {
			return err
		}
	}
	// DNS is what the provisioner serves itself; until it does, nothing answers, at once.
	files := map[string]string{
		"resolv.conf": "nameserver " + ProvisionerAddress + "\noptions timeout:1 attempts:1\n",
		"hosts":       "127.0.0.1 localhost\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(p.dir, "etc", name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	var err error
	if p.netns, err = p.lab.attach(ctx, "provisioner", p.Address); err != nil {
		return err
	}
	console, err := os.Create(p.console())
	if err != nil {
		return err
	}
	defer console.Close()
	// It outlives the caller's context; close ends it, or the lab's end.
	p.holder = exec.CommandContext(context.Background(), "/bin/sh", "-c", provisionerScript, "provisioner", p.dir, p.lab.Cache.Dir)
	p.holder.Stderr = console
	stdout, err := p.holder.StdoutPipe()
	if err != nil {
		return err
	}
	p.holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Unshareflags: syscall.CLONE_NEWNS}
	if err := p.lab.spawn.start(p.netns, p.holder); err != nil {
		return err
	}
	up := make(chan error, 1)
	go func() {
		line, err := bufio.NewReader(stdout).ReadString('\n')
		if err == nil && strings.TrimSpace(line) != "up" {
			err = errors.New("it is not up")
		}
		up <- err
		p.ended <- p.holder.Wait()
		close(p.ended)
	}()
	select {
	case err = <-up:
	case <-time.After(20 * time.Second):
		err = errors.New("it is not up in time")
	}
	if err != nil {
		return fmt.Errorf("%w\n%s", err, tail(p.console(), 10))
	}
	p.leader = p.holder.Process.Pid
	return nil
}

func (p *Provisioner) close() error {
	if p.holder != nil && p.holder.Process != nil {
		killGroup(p.holder)
		for range p.ended {
		}
	}
	if p.netns != nil {
		p.netns.Close()
	}
	return os.RemoveAll(p.dir)
}

// CachePath is where the provisioner sees a path of the lab's cache, read-only.
func (p *Provisioner) CachePath(path string) string {
	rest, err := filepath.Rel(p.lab.Cache.Dir, path)
	if err != nil {
		return path
	}
	return filepath.Join("/var/lab", rest)
}
