// Command soak injects faults at random into the commands of one host, one after the other, until its time is over or an
// invariant breaks. It prints its seed and each step; the last line of a failure is all that is needed to see it again.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/faults"
	"github.com/tectonic-worker/tectonic-worker/test/world"
)

func main() {
	duration := flag.Duration("duration", 30*time.Minute, "how long")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "what a run is repeated by")
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
	err := run(ctx, *rpm, *duration, *seed)
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "soak: interrupted")
		os.Exit(130)
	case err != nil:
		fmt.Fprintf(os.Stderr, "soak: %v\nsoak: failed with -seed %d\n", err, *seed)
		os.Exit(1)
	}
}

func run(ctx context.Context, rpm string, duration time.Duration, seed uint64) (err error) {
	fmt.Printf("seed %d\n", seed)
	if rpm, err = world.Package(rpm); err != nil {
		return err
	}
	w, err := world.Open(ctx, func(format string, args ...any) { fmt.Printf(format+"\n", args...) })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	h, err := w.Host(ctx, rpm)
	if err != nil {
		return err
	}
	if _, err := h.Must(ctx, "/bin/sh", "-c", "rpm -i /root/*.rpm"); err != nil {
		return err
	}
	t, err := faults.Prepare(ctx, h, w.Plane)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	return faults.Soak(ctx, t, rand.New(rand.NewPCG(seed, 0)), duration, os.Stdout)
}
