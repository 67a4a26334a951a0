// Command tectonic-worker-drain cordons a node and evicts its pods. It is
// installed as /usr/libexec/tectonic-worker/drain, where "tectonic-worker leave"
// runs it. This package holds its flags alone; what is done lies in agent/drain.
//
// Exit codes: 0 drained, 1 pods stay, 2 usage, 69 the API server cannot be
// reached, 77 the credential may not, 78 the kubeconfig is no good.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/drain"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	f := flag.NewFlagSet("drain", flag.ContinueOnError)
	f.SetOutput(stderr)
	o := drain.Options{Out: stdout}
	f.StringVar(&o.Kubeconfig, "kubeconfig", "", "the `FILE` with the credential to use")
	f.StringVar(&o.Node, "node", "", "the Node's `name`")
	f.DurationVar(&o.Timeout, "timeout", 4*time.Minute, "how long the whole may take")
	f.BoolVar(&o.Force, "force", false, "also delete pods that no controller will make again")
	f.BoolVar(&o.NoWait, "no-wait", false, "do not wait for the end of evicted pods")
	if err := f.Parse(args); err != nil {
		return drain.CodeUsage
	}
	if f.NArg() > 0 || o.Kubeconfig == "" || o.Node == "" || o.Timeout <= 0 {
		fmt.Fprintln(stderr, "cannot drain: --kubeconfig and --node are needed, a --timeout above nothing, and no words beside the flags")
		return drain.CodeUsage
	}
	err := drain.Run(ctx, o)
	if err != nil {
		fmt.Fprintln(stderr, err)
	}
	return drain.ExitCode(err)
}
