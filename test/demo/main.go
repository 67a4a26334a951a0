// Command demo shows the product as its user sees it: a host with nothing on it becomes a Ready node by two commands. It
// owns what is shown. It is a check as well: a command that fails, or a node that is not Ready in the end, ends it with
// exit code 1. It must not leave anything behind, and must not do by hand what the product is there for.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
	"github.com/tectonic-worker/tectonic-worker/test/world"
)

func main() {
	rpm := flag.String("rpm", "dist", "the package, or the `directory` that has it")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first Ctrl-C cleans up; a second one does not wait for that.
	context.AfterFunc(ctx, stop)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if err := run(ctx, *rpm); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, rpm string) (err error) {
	begin := time.Now()
	if rpm, err = world.Package(rpm); err != nil {
		return err
	}
	heading("Two throwaway machines: a host with systemd, firewalld and podman, and a control plane")
	w, err := world.Open(ctx, func(format string, args ...any) { fmt.Printf(format+"\n", args...) })
	if err != nil {
		return interrupted(ctx, err)
	}
	defer func() {
		err = interrupted(ctx, err)
		heading("Everything is taken away again")
		if closeErr := w.Close(); closeErr != nil {
			err = errors.Join(err, closeErr)
			return
		}
		fmt.Printf("done after %.1f s\n", time.Since(begin).Seconds())
	}()
	h, err := w.Host(ctx, rpm)
	if err != nil {
		return err
	}
	s := stage{ctx, w, h}
	var before world.Snapshot
	for _, step := range []struct {
		why  string
		show func() error
	}{
		{"On the host: install the package (a RHEL host's rpm does not warn); it starts and opens nothing yet", s.on("rpm", "-i", filepath.Base(rpm))},
		{"The host as it is now is kept, to compare it with later", func() (err error) {
			before, err = world.TakeSnapshot(ctx, h)
			return err
		}},
		{"On the host: join, with what the Tectonic Installer left for the cluster", s.on("tectonic-worker", "join", "--assets", "./"+filepath.Base(world.AssetsDir))},
		{"On the administrator's machine: the API server has a new node, and it is Ready", s.nodes},
		{"On the host: firewalld runs, with the worker's ports open now", s.ports("firewall-cmd", "--list-ports")},
		{"... and after the next boot", s.ports("firewall-cmd", "--permanent", "--list-ports")},
		{"On the host: how it is", s.on("tectonic-worker", "status")},
		{"Somebody shuts a port by mistake; the agent opens it again",
			s.repaired("firewall-cmd --query-port=10250/tcp", []string{"firewall-cmd", "--remove-port=10250/tcp"})},
		{"Somebody makes that last, and reloads; the agent opens it again, now and at boot",
			s.repaired("firewall-cmd --query-port=10250/tcp && firewall-cmd --permanent --query-port=10250/tcp",
				[]string{"firewall-cmd", "--permanent", "--remove-port=10250/tcp"}, []string{"firewall-cmd", "--reload"})},
		{"Somebody edits a file of ours; the agent puts it right",
			s.repaired("grep -q readOnlyPort /etc/kubernetes/kubelet.yaml", []string{"sed", "-i", "/readOnlyPort/d", "/etc/kubernetes/kubelet.yaml"})},
		{"What the agent says it did", s.on("journalctl", "--no-pager", "--output=cat", "--unit=tectonic-worker")},
		{"On the host: leave the cluster again", s.on("tectonic-worker", "leave")},
		{"The host, compared with the one before join", func() error { return s.compare(before) }},
	} {
		heading(step.why)
		if err := step.show(); err != nil {
			return err
		}
	}
	return nil
}

// interrupted is err, unless Ctrl-C is the reason: what broke by that says nothing.
func interrupted(ctx context.Context, err error) error {
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return errors.New("interrupted")
	}
	return err
}

func heading(text string) { fmt.Printf("\n# %s\n", text) }

// stage is where commands are shown.
type stage struct {
	ctx  context.Context
	w    *world.World
	host *lab.Host
}

// on gives a step that runs argv on the host.
func (s stage) on(argv ...string) func() error {
	return func() error { return s.run(os.Stdout, argv) }
}

// ports gives a step that runs argv on the host, whose output has to name the worker's ports.
func (s stage) ports(argv ...string) func() error {
	return func() error {
		var out bytes.Buffer
		if err := s.run(io.MultiWriter(os.Stdout, &out), argv); err != nil {
			return err
		}
		for _, port := range []string{"10250/tcp", "4789/udp"} {
			if !strings.Contains(out.String(), port) {
				return fmt.Errorf("%s is not open", port)
			}
		}
		return nil
	}
}

// repaired gives a step that breaks something by commands, and waits until the agent has made the shell line wanted true
// again.
func (s stage) repaired(wanted string, breaks ...[]string) func() error {
	return func() error {
		for _, argv := range breaks {
			if err := s.run(os.Stdout, argv); err != nil {
				return err
			}
		}
		begin := time.Now()
		for {
			r, err := s.host.Exec(s.ctx, "sh", "-c", wanted)
			if err != nil {
				return err
			}
			if r.Code == 0 {
				fmt.Printf("  repaired: %s holds, seen %.1f s later\n", wanted, time.Since(begin).Seconds())
				return nil
			}
			if time.Since(begin) > 30*time.Second {
				return fmt.Errorf("not repaired: %s; the agent says:\n%s", wanted, s.host.Journal(s.ctx, "tectonic-worker", 20))
			}
		}
	}
}

// excepted are the differences that a host keeps after leave, by the beginning of their lines, each with its reason.
var excepted = []string{
	"/run/tectonic-worker",            // the lock, until the next boot
	"/etc/cni/net.d/cni.lock",         // podman's
	"/etc/firewalld/zones/public.xml", // firewalld writes a zone's file at its first permanent change, and keeps it and a copy
}

// compare shows what is different from before, and fails where that is more than what is excepted.
func (s stage) compare(before world.Snapshot) error {
	after, err := world.TakeSnapshot(s.ctx, s.host)
	if err != nil {
		return err
	}
	for _, d := range before.Diff(after) {
		fmt.Println("  " + d)
	}
	if left := before.Diff(after, excepted...); len(left) > 0 {
		return fmt.Errorf("leave left %d differences that it should not", len(left))
	}
	fmt.Println("  files, firewall, units, sysctls, mounts and SELinux are as before join, but for what is listed")
	return nil
}

// run runs argv in root's home directory on the host, live, and under a terminal of its own where this is one.
func (s stage) run(stdout io.Writer, argv []string) error {
	fmt.Println("$ " + strings.Join(argv, " "))
	c := lab.Command{Args: append([]string{"sh", "-c", `cd && exec "$@"`, "sh"}, argv...), Stdout: stdout, Stderr: os.Stderr}
	if width, height, err := term.GetSize(int(os.Stdout.Fd())); err == nil {
		// No word of any argv here needs quoting.
		line := fmt.Sprintf("stty cols %d rows %d; cd; exec %s", width, height, strings.Join(argv, " "))
		c.Args = []string{"script", "-qec", line, "/dev/null"}
		c.Env = []string{"TERM=" + os.Getenv("TERM")}
	}
	r, err := s.host.Command(s.ctx, c)
	if err != nil {
		return err
	}
	if r.Code != 0 {
		return fmt.Errorf("%s: exit code %d; the end of the host's journal:\n%s", strings.Join(argv, " "), r.Code, s.host.Journal(s.ctx, "", 40))
	}
	return nil
}

func (s stage) nodes() error {
	argv := []string{"get", "nodes", "-o", "wide"}
	fmt.Println("$ kubectl " + strings.Join(argv, " "))
	out, err := s.w.Plane.Kubectl(s.ctx, argv...)
	fmt.Print(out)
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == s.host.Name && f[1] == "Ready" {
			return nil
		}
	}
	return fmt.Errorf("node %s is not Ready", s.host.Name)
}
