// Command tectonic-machine runs in the live system of a machine that booted from the network, and does there what the
// machine was armed for.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/tectonic-worker/tectonic-worker/installer/live"
)

var version = "dev"

const usage = `usage: tectonic-machine COMMAND

Run by a machine's live system, not by people. Reads the kernel's command line and ` + live.PathCA + `.

  install         do what this machine was armed for: install or wipe, then restart or switch off
  wipe            the same, for a machine that is armed to be wiped, and refuse any other
  kickstart-pre   for %pre of a Kickstart: check, claim the disk, write ` + live.PathKickstartDisk + `
  kickstart-post  [SYSROOT] for %post --nochroot: put the machine's files in place and report (default /mnt/sysroot)
  version         print the version
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	l := &live.Live{Out: stdout}
	var err error
	switch {
	case len(args) == 1 && args[0] == "install":
		err = l.Install(ctx)
	case len(args) == 1 && args[0] == "wipe":
		err = l.Wipe(ctx)
	case len(args) == 1 && args[0] == "kickstart-pre":
		err = l.KickstartPre(ctx)
	case len(args) == 1 && args[0] == "kickstart-post":
		err = l.KickstartPost(ctx, "/mnt/sysroot")
	case len(args) == 2 && args[0] == "kickstart-post":
		err = l.KickstartPost(ctx, args[1])
	case len(args) == 1 && args[0] == "version":
		fmt.Fprintln(stdout, version)
	case len(args) == 1 && (args[0] == "help" || args[0] == "--help" || args[0] == "-h"):
		_, _ = io.WriteString(stdout, usage)
	default:
		_, _ = io.WriteString(stderr, usage)
		return 2
	}
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "tectonic-machine:", err)
	switch {
	case errors.Is(err, live.ErrUnreachable):
		return 69
	case errors.Is(err, live.ErrRefused), errors.Is(err, live.ErrArmedOtherwise):
		return 75
	}
	return 1
}
