// Command lab builds the lab's cache, and opens a lab by hand. It owns nothing but its arguments; the package lab does
// the work.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	start := time.Now()
	logf := func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "lab %6.1fs  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
	}
	flags := flag.NewFlagSet("lab", flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	command := ""
	if len(args) > 0 {
		command, args = args[0], args[1:]
	}
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		flags.Usage()
		return 2
	}
	var err error
	switch command {
	case "tools":
		err = lab.InstallTools(ctx, logf)
	case "build":
		cache := &lab.Cache{Dir: lab.DefaultCacheDir(), Log: logf}
		if err = cache.Build(ctx); err == nil {
			logf("everything is in %s", cache.Dir)
		}
	case "smoke":
		err = smoke(ctx, logf)
	case "sweep":
		err = lab.Sweep(lab.DefaultCacheDir())
	default:
		flags.Usage()
		return 2
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "lab: %v\n", err)
		return 1
	}
	return 0
}

const usage = `Usage: go run ./test/lab/cmd/lab COMMAND

  tools   install the programs the lab needs on this machine
  build   install the tools and build the lab's cache ($TECTONIC_LAB_CACHE, default /var/cache/tectonic-worker-lab)
  smoke   boot a control plane and a worker, run a kubelet by hand and wait until its Node is Ready
  sweep   remove what labs that were killed left behind
`
