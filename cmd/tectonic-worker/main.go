// Command tectonic-worker makes a RHEL host a Kubernetes worker and keeps it
// one. This package holds the command line alone: flags, help, and how results
// are shown. What is done lies in the agent package.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], cli.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	stop()
	os.Exit(code)
}
