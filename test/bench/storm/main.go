// Command storm switches many machines on at once: each asks for its boot script, its Ignition and its installer's
// calls, as a machine does, of one provisioner that is set up and runs as in production ("tectonic-installer serve" with
// its state on the disk). It owns the figures of that (docs/benchmarks.md). It fails when a machine is not served, or
// served twice; a target of time that is missed is said loudly and is no failure.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

type settings struct {
	machines int
	dir      string        // for the provisioner's data; what is made in it is removed
	over     time.Duration // machines are switched on evenly over it
	target   time.Duration
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == serveWord {
		if err := serve(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "storm's provisioner:", err)
			os.Exit(1)
		}
		return
	}
	var s settings
	flag.IntVar(&s.machines, "machines", 10_000, "how many machines there are")
	flag.StringVar(&s.dir, "dir", os.TempDir(), "`directory` on the disk that the provisioner keeps its state on")
	flag.DurationVar(&s.over, "over", 0, "switch the machines on evenly over this time; 0: all at once")
	flag.DurationVar(&s.target, "target", time.Minute, "the time in which all are to be ready")
	flag.Parse()
	if flag.NArg() > 0 || s.machines < 1 || s.machines > 1<<20 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute+s.over)
	defer cancel()
	r, err := run(ctx, s)
	if err != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			err = errors.New("interrupted")
		}
		fmt.Fprintf(os.Stderr, "storm: %v\n", err)
		os.Exit(1)
	}
	r.show(os.Stdout, s)
}
