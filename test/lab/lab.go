package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Addresses on the lab's bridge. Each lab has its own network namespaces, so all labs use the same ones.
const (
	bridgeAddress       = "10.77.0.1"
	controlPlaneAddress = "10.77.0.2"
	firstWorker         = 11 // 10.77.0.11
	// UnusedAddress is on the bridge's subnet and nobody has it: a connection to it ends with "no route to host".
	UnusedAddress = "10.77.0.250"
	// controlPlaneName resolves to the control plane by /etc/hosts in every worker.
	controlPlaneName = "api.lab.example"
)

// Lab is a bridge with a control plane and workers on it. Close ends all of it.
type Lab struct {
	Cache *Cache
	id    string
	dir   string // state of this lab; gone after Close
	lock  *os.File
	spawn *spawner
	net   *os.File // the network namespace that has the bridge

	mu      sync.Mutex
	hosts   map[string]*Host
	ordinal int

	machines    []*Machine
	provisioner *Provisioner

	planeOnce sync.Once
	plane     *ControlPlane
	planeErr  error
}

// Open makes an empty lab: the bridge and nothing on it. It removes what labs that were killed left in the cache.
// logf gets progress lines and may be nil.
func Open(ctx context.Context, cacheDir string, logf func(format string, args ...any)) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("cannot open the lab: it makes namespaces and mounts; run it as root")
	}
	cache := &Cache{Dir: cacheDir, Log: logf}
	if err := Sweep(cacheDir); err != nil {
		return nil, err
	}
	var random [3]byte
	rand.Read(random[:])
	l := &Lab{Cache: cache, id: hex.EncodeToString(random[:]), spawn: newSpawner(), hosts: map[string]*Host{}}
	l.dir = filepath.Join(cacheDir, "run", l.id)
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot open the lab: %w", err)
	}
	var err error
	if l.lock, err = os.OpenFile(filepath.Join(l.dir, "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600); err != nil {
		return nil, fmt.Errorf("cannot open the lab: %w", err)
	}
	if err := unix.Flock(int(l.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("cannot lock the lab's directory %s: %w", l.dir, err)
	}
	if l.net, err = newNetns(); err != nil {
		l.Close()
		return nil, err
	}
	if err := l.bridge(ctx); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Close ends everything in the lab.
func (l *Lab) Close() error {
	var errs []error
	l.mu.Lock()
	hosts := l.hosts
	l.hosts = map[string]*Host{}
	l.mu.Unlock()
	for _, h := range hosts {
		errs = append(errs, h.Close())
	}
	for _, m := range l.machines {
		errs = append(errs, m.Close())
	}
	if l.provisioner != nil {
		errs = append(errs, l.provisioner.close())
	}
	if l.plane != nil {
		errs = append(errs, l.plane.close())
	}
	if l.net != nil {
		l.net.Close()
	}
	errs = append(errs, os.RemoveAll(l.dir))
	l.lock.Close()
	close(l.spawn.calls)
	return errors.Join(errs...)
}

// ControlPlane gives the lab's control plane, started by the first call.
func (l *Lab) ControlPlane(ctx context.Context) (*ControlPlane, error) {
	l.planeOnce.Do(func() {
		start := time.Now()
		l.plane, l.planeErr = l.startControlPlane(ctx)
		if l.planeErr == nil {
			l.Cache.logf("control plane %s: ready in %.1fs", ControlPlaneVersion, time.Since(start).Seconds())
		}
	})
	return l.plane, l.planeErr
}

// bridge makes the bridge in the namespace that nothing else lives in.
func (l *Lab) bridge(ctx context.Context) error {
	_, err := l.spawn.output(ctx, l.net, "link set lo up\n"+
		"link add br0 type bridge\n"+
		"addr add "+bridgeAddress+"/24 dev br0\n"+
		"link set br0 up\n", "ip", "-batch", "-")
	if err == nil {
		// Nothing answers DNS here. A host is to be told so at once, each time: by default the kernel says it once a second
		// (icmp(7)), and a kubelet that looks up its own name, as all do, waits for a timeout instead.
		err = l.spawn.on(l.net, func() error { return os.WriteFile("/proc/sys/net/ipv4/icmp_ratelimit", []byte("0"), 0) })
	}
	if err != nil {
		return fmt.Errorf("cannot make the lab's bridge: %w", err)
	}
	return nil
}

// attach makes a network namespace with eth0 on the bridge.
func (l *Lab) attach(ctx context.Context, name, address string) (*os.File, error) {
	ns, err := newNetns()
	if err != nil {
		return nil, err
	}
	_, err = l.spawn.output(ctx, l.net, fmt.Sprintf("link add %s type veth peer name eth0 netns %s\n"+
		"link set %s master br0 up\n", name, fdPath(ns), name), "ip", "-batch", "-")
	if err == nil {
		_, err = l.spawn.output(ctx, ns, fmt.Sprintf("link set lo up\naddr add %s/24 dev eth0\nlink set eth0 up\n"+
			"route add default via %s\n", address, bridgeAddress), "ip", "-batch", "-")
	}
	if err != nil {
		ns.Close()
		return nil, fmt.Errorf("cannot put %s on the lab's bridge: %w", name, err)
	}
	return ns, nil
}

// Sweep removes what labs that were killed left behind: their directories and their (empty) cgroups. Their
// processes, mounts and namespaces died with them. A lab that is open is told by its lock and left alone.
func Sweep(cacheDir string) error {
	dirs, err := filepath.Glob(filepath.Join(cacheDir, "run", "*"))
	if err != nil {
		return fmt.Errorf("cannot look for labs that were left behind: %w", err)
	}
	for _, dir := range dirs {
		lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			// Between Mkdir and the lock of a lab that is being opened; a later sweep takes it if it is not.
			if info, statErr := os.Stat(dir); statErr == nil && time.Since(info.ModTime()) < time.Minute {
				continue
			}
		} else if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
			lock.Close()
			continue
		}
		removeCgroups(cgroupPrefix + filepath.Base(dir) + "-*")
		err = os.RemoveAll(dir)
		if lock != nil {
			lock.Close()
		}
		if err != nil {
			return fmt.Errorf("cannot remove a lab that was left behind: %w", err)
		}
	}
	return nil
}

// openLabs tells whether any lab is open on this cache.
func openLabs(cacheDir string) (bool, error) {
	locks, err := filepath.Glob(filepath.Join(cacheDir, "run", "*", "lock"))
	if err != nil {
		return false, fmt.Errorf("cannot look for open labs: %w", err)
	}
	for _, path := range locks {
		lock, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		held := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil
		lock.Close()
		if held {
			return true, nil
		}
	}
	return false, nil
}
