// Command lab builds the lab's cache, and opens a lab by hand. It owns nothing but its arguments; the package lab does
// the work.
package main

import (
	"context"
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
	if len(args) != 1 {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	var err error
	switch args[0] {
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
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "lab: %v\n", err)
		return 1
	}
	return 0
}

const usage = `Usage: go run ./test/lab/cmd/lab build|smoke|sweep

  build   install the tools the lab needs and build its cache ($TECTONIC_LAB_CACHE, default /var/cache/tectonic-worker-lab)
  smoke   boot a control plane and a worker, run a kubelet by hand and wait until its Node is Ready
  sweep   remove what labs that were killed left behind
`
