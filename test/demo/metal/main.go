// Command metal shows tectonic-installer as its user sees it: two machines with empty disks, one with a BIOS and one with
// UEFI, boot over the network through their BMCs, are installed, and report in; then they boot over the network once more,
// and their disks stay as they are. It owns what is shown. It is a check as well: a step that fails ends it with exit code 1.
// It must not leave anything behind, and must not do by hand what the product is there for.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
	"github.com/tectonic-worker/tectonic-worker/test/metal"
)

func main() {
	source := flag.String("source", ".", "the root `directory` of the repository, whose programs are built")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first Ctrl-C cleans up; a second one does not wait for that.
	context.AfterFunc(ctx, stop)
	// Everything is emulated: two minutes a boot on a busy machine.
	ctx, cancel := context.WithTimeout(ctx, 30*time.Minute)
	defer cancel()
	if err := run(ctx, *source); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, source string) (err error) {
	begin := time.Now()
	if why := metal.Missing(); why != "" {
		return errors.New("cannot show it: " + why)
	}
	heading("A site: a provisioner, and machines with empty disks, emulated; each has a BMC (ipmi_sim) that switches it")
	quiet := func(string, ...any) {}
	l, err := lab.Open(ctx, lab.DefaultCacheDir(), quiet)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && errors.Is(ctx.Err(), context.Canceled) {
			err = errors.New("interrupted")
		}
		heading("Everything is taken away again")
		if closeErr := l.Close(); closeErr != nil {
			err = errors.Join(err, closeErr)
			return
		}
		fmt.Printf("done after %.0f s\n", time.Since(begin).Seconds())
	}()
	site, err := metal.Open(ctx, l, source, []*metal.Node{
		{Options: lab.MachineOptions{Name: "node1", MAC: "52:54:00:a1:9c:01"}, Address: 21, Role: "controller"},
		{Options: lab.MachineOptions{Name: "node2", MAC: "52:54:00:a1:9c:02", UEFI: true}, Address: 22},
		{Options: lab.MachineOptions{Name: "node3", MAC: "52:54:00:a1:9c:03"}, Address: 23},
	}, quiet)
	if err != nil {
		return err
	}
	s := &stage{ctx: ctx, site: site, prints: map[string]string{}}
	for _, step := range []struct {
		why  string
		show func() error
	}{
		{"What the operator wrote", s.file("cluster.yaml")},
		{"Credentials for the provisioner and its operators", s.installer("certs")},
		{"The operating system, verified, from a mirror (the lab's own, which stands for Flatcar)", s.installer("images", "sync", "--source", metal.Mirror, "--key", metal.Key)},
		{"On the provisioner: matchbox's API with the machines' own, and dnsmasq", s.serve},
		{"Is all as the cluster file says?", s.installer("check")},
		{"What the provisioner does not know yet, and now does", s.both([]string{"plan"}, []string{"apply"})},
		{"The machines are off; node1 and node2 may be installed, once", s.both([]string{"power", "status", "--all"}, []string{"arm", "node1", "node2"})},
		{"Their BMCs boot them from the network (node1: BIOS, node2: UEFI)", s.installer("power", "pxe", "node1", "node2")},
		{"They are checked, installed, started from their disks, and report (some minutes: all of it is emulated)", s.installer("watch", "node1", "node2", "--until", "ready", "--timeout", "20m")},
		{"All that happened to node2", s.installer("timeline", "node2")},
		{"What is on their disks is remembered", s.remember},
		{"Somebody boots them from the network again, without arming them", s.installer("power", "pxe", "--force", "node1", "node2")},
		{"They are told to start from their disks", s.started},
		{"Their disks are as they were", s.compare},
		{"How it ended", s.installer("watch", "--once")},
	} {
		heading(step.why)
		if err := step.show(); err != nil {
			return err
		}
	}
	return nil
}

func heading(text string) { fmt.Printf("\n# %s\n", text) }

// stage is where commands are shown.
type stage struct {
	ctx    context.Context
	site   *metal.Site
	prints map[string]string // of the disks, by machine
}

// installer gives a step that runs tectonic-installer, live, under a terminal of its own where this is one.
func (s *stage) installer(args ...string) func() error {
	return func() error {
		fmt.Println("$ tectonic-installer " + strings.Join(args, " "))
		c := metal.Installer(args...)
		if width, height, err := term.GetSize(int(os.Stdout.Fd())); err == nil {
			// No word of any argv here needs quoting.
			line := fmt.Sprintf("stty cols %d rows %d; cd %s; exec tectonic-installer %s", width, height, metal.Directory, strings.Join(args, " "))
			c = lab.Command{Args: []string{"script", "-qec", line, "/dev/null"}, Env: []string{"TERM=" + os.Getenv("TERM")}}
		}
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		r, err := s.site.Provisioner.Command(s.ctx, c)
		if err == nil && r.Code != 0 {
			err = fmt.Errorf("tectonic-installer %s: exit code %d", strings.Join(args, " "), r.Code)
		}
		return err
	}
}

func (s *stage) both(first, second []string) func() error {
	return func() error {
		if err := s.installer(first...)(); err != nil {
			return err
		}
		return s.installer(second...)()
	}
}

func (s *stage) file(name string) func() error {
	return func() error {
		text, err := s.site.Provisioner.ReadFile(filepath.Join(metal.Directory, name))
		if err != nil {
			return err
		}
		fmt.Printf("$ cat %s\n%s", name, text)
		return nil
	}
}

func (s *stage) serve() error {
	fmt.Println("$ tectonic-installer serve -address=0.0.0.0:8080 -rpc-address=0.0.0.0:8081 -machine-address=0.0.0.0:8443 &\n$ tectonic-installer netboot run &")
	// The lab's end ends them.
	_, err := s.site.Serve(s.ctx)
	return err
}

// nodes are the machines that are installed.
var nodes = []string{"node1", "node2"}

func (s *stage) remember() error {
	for _, name := range nodes {
		print, err := metal.Fingerprint(s.ctx, s.site.Node(name).DiskPath(0))
		if err != nil {
			return err
		}
		s.prints[name] = print
		fmt.Printf("  %s: partitions, boot loader, system and config: sha256 %.16s…\n", name, print)
	}
	return nil
}

func (s *stage) started() error {
	for _, name := range nodes {
		if err := s.site.AwaitLine(s.ctx, s.site.Node(name), "Reached target multi-user.target"); err != nil {
			return err
		}
		fmt.Printf("  %s: started from its disk\n", name)
	}
	return nil
}

func (s *stage) compare() error {
	for _, name := range nodes {
		print, err := metal.Fingerprint(s.ctx, s.site.Node(name).DiskPath(0))
		if err != nil {
			return err
		}
		if print != s.prints[name] {
			return fmt.Errorf("the disk of %s is not what it was", name)
		}
		fmt.Printf("  %s: sha256 %.16s…, the same\n", name, print)
	}
	return nil
}
