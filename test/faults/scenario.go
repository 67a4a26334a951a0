package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

// Scenario breaks something around a join, and says what it did and what that broke. It leaves nothing broken on purpose.
type Scenario struct {
	Name string
	Run  func(ctx context.Context, t *Target, random *rand.Rand) (Step, error)
}

// Scenarios are what "make soak" chooses from, beside the faults of system calls.
var Scenarios = []Scenario{
	{"killed at random", during(func(ctx context.Context, t *Target, p *lab.Process) error { return p.Kill() }, nil)},
	{"firewalld reloaded", during(on("firewall-cmd", "--reload"), nil)},
	{"firewalld restarted", during(on("systemctl", "restart", "firewalld"), nil)},
	{"firewalld killed", during(on("systemctl", "kill", "--signal=KILL", "--kill-who=main", "firewalld"),
		on("systemctl", "restart", "firewalld"))},
	{"firewalld stopped for two seconds", during(on("/bin/sh", "-c", "systemctl kill -s STOP firewalld; sleep 2; systemctl kill -s CONT firewalld"), nil)},
	{"firewalld reloaded with a broken zone", during(
		on("/bin/sh", "-c", "mkdir -p /etc/firewalld/zones && echo '<zone><broken' >/etc/firewalld/zones/broken.xml; firewall-cmd --reload; true"),
		on("/bin/sh", "-c", "rm -f /etc/firewalld/zones/broken.xml; systemctl restart firewalld"))},
	{"D-Bus killed", during(on("systemctl", "kill", "--signal=KILL", "--kill-who=main", "dbus"),
		// What has lost its bus does not always find a new one: polkit and firewalld are started anew, as systemd would.
		on("/bin/sh", "-ec", "systemctl restart dbus.socket dbus; systemctl restart polkit firewalld; busctl --timeout=10 status org.fedoraproject.FirewallD1 >/dev/null"))},
	{"journald killed", during(on("systemctl", "kill", "--signal=KILL", "--kill-who=main", "systemd-journald"), nil)},
	{"API server hangs", duringProxy(lab.Hang)},
	{"API server resets", duringProxy(lab.Reset)},
	{"API server refuses", duringProxy(lab.Refuse)},
	{"/etc/kubernetes fills up", onSmallDisk("/etc/kubernetes", "size")},
	{"/var/lib/tectonic-worker fills up", onSmallDisk("/var/lib/tectonic-worker", "size")},
	{"/run/tectonic-worker fills up", onSmallDisk("/run/tectonic-worker", "size")},
	{"/etc/kubernetes runs out of inodes", onSmallDisk("/etc/kubernetes", "nr_inodes")},
	{"/etc/sysconfig runs out of inodes", onSmallDisk("/etc/sysconfig", "nr_inodes")},
}

type action func(ctx context.Context, t *Target, p *lab.Process) error

// on runs a command on the host. That it fails is part of the fault.
func on(argv ...string) action {
	return func(ctx context.Context, t *Target, _ *lab.Process) error {
		_, err := t.Host.Exec(ctx, argv...)
		return err
	}
}

// most is a little more than what a join takes that does not wait.
const most = 700 * time.Millisecond

// longest is what a join may take whatever breaks: well below its --timeout, so that it is seen to end by itself.
const longest = 45 * time.Second

// during does something at a random moment of a join, and undoes it after the join's end.
func during(do, undo action) func(context.Context, *Target, *rand.Rand) (Step, error) {
	return func(ctx context.Context, t *Target, random *rand.Rand) (Step, error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		if err := t.Reset(ctx); err != nil {
			return Step{}, err
		}
		after := time.Duration(random.Int64N(int64(most)))
		p, err := t.Host.Start(ctx, lab.Command{Args: JoinArgs})
		if err != nil {
			return Step{}, err
		}
		// Nothing happens at this moment: it is the fault's random moment.
		time.Sleep(after)
		doErr := do(ctx, t, p)
		r, err := p.Wait()
		if err == nil {
			err = doErr
		}
		s := Step{What: fmt.Sprintf("after %s: exit code %d", after.Round(time.Millisecond), r.Code)}
		if undo != nil {
			if undoErr := undo(ctx, t, nil); err == nil {
				err = undoErr
			}
		}
		if err != nil {
			return s, err
		}
		s.Broken = t.Broken(r)
		s.Broken = append(s.Broken, t.NotPutBack(r)...)
		if r.Took > longest {
			s.Broken = append(s.Broken, fmt.Sprintf("it went on for %s", r.Took.Round(time.Second)))
		}
		if len(s.Broken) > 0 {
			s.Broken = append(s.Broken, r.String())
		}
		return t.converge(ctx, s)
	}
}

// duringProxy changes what the API server's address does, at a random moment.
func duringProxy(mode lab.Mode) func(context.Context, *Target, *rand.Rand) (Step, error) {
	return func(ctx context.Context, t *Target, random *rand.Rand) (Step, error) {
		set := func(m lab.Mode) action {
			return func(context.Context, *Target, *lab.Process) error { return t.Proxy.Set(m) }
		}
		return during(set(mode), set(lab.Forward))(ctx, t, random)
	}
}

// onSmallDisk joins with a file system at dir that has room for its files and for a few more pages or inodes.
func onSmallDisk(dir, what string) func(context.Context, *Target, *rand.Rand) (Step, error) {
	return func(ctx context.Context, t *Target, random *rand.Rand) (s Step, err error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		if err := t.Reset(ctx); err != nil {
			return s, err
		}
		room := random.IntN(4)
		if _, err := t.Host.Must(ctx, "/usr/lib/faults/small", dir, what, fmt.Sprint(room)); err != nil {
			return s, err
		}
		defer func() {
			// The agent has its socket and its lock in there.
			if _, undo := t.Host.Must(ctx, "/bin/sh", "-c", `systemctl stop tectonic-worker.service kubelet.path kubelet.service; umount "$1"`, "umount", dir); err == nil {
				err = undo
			}
		}()
		r, err := t.Host.Exec(ctx, JoinArgs...)
		if err != nil {
			return s, err
		}
		s.What = fmt.Sprintf("room for %d: exit code %d", room, r.Code)
		s.Broken = append(t.Broken(r), t.NotPutBack(r)...)
		if len(s.Broken) > 0 {
			s.Broken = append(s.Broken, r.String())
		}
		if _, err := t.Host.Must(ctx, "mount", "-o", "remount,size=4m,nr_inodes=1000", dir); err != nil {
			return s, err
		}
		return t.converge(ctx, s)
	}
}

// smallScript mounts a tmpfs at $1 with what is there, and lets it be as large as that and $3 more pages or inodes.
const smallScript = `#!/bin/sh -e
mkdir -p "$1"
rm -rf /root/keep
cp -a "$1" /root/keep
mode=$(stat -c %a "$1")
mount -t tmpfs -o "mode=$mode,size=4m,nr_inodes=1000" tmpfs "$1"
cp -a /root/keep/. "$1"
case $2 in
size) mount -o "remount,size=$((($(df --output=used -k "$1" | tail -n 1) / 4 + $3) * 4 + 4))k" "$1" ;;
nr_inodes) mount -o "remount,nr_inodes=$(($(df --output=iused "$1" | tail -n 1) + $3))" "$1" ;;
esac
`
