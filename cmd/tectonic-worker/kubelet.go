package main

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tectonic-worker/tectonic-worker/agent"
	"github.com/tectonic-worker/tectonic-worker/agent/systemd"
	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
)

func newKubelet(std cli.Stdio) *cobra.Command {
	c := &cobra.Command{
		Use:   "kubelet",
		Short: "What kubelet.service and kubelet.path run",
		Long:  "These commands are what the systemd units run; there is no need to call them by hand.",
		Args:  cli.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(
		&cobra.Command{
			Use: "run", Short: "Prepare the kubelet and become it", Args: cli.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error { return runKubelet(c.Context(), std) },
		},
		&cobra.Command{
			Use: "cleanup", Short: "Remove what the kubelet's container left", Args: cli.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error {
				ctx, cancel := context.WithTimeout(c.Context(), time.Minute)
				defer cancel()
				return agent.Cleanup(ctx, newSystem(std))
			},
		},
		&cobra.Command{
			Use: "admit", Short: "Start the kubelet when the kubeconfig is valid", Args: cli.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error { return agent.Admit(c.Context(), newSystem(std)) },
		},
	)
	return c
}

// runKubelet never returns where all is well: the process becomes rkt or
// podman. The unit is ready as soon as that is certain to be possible.
func runKubelet(ctx context.Context, std cli.Stdio) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	l, err := agent.Prepare(ctx, newSystem(std), os.Environ())
	if err != nil {
		return err
	}
	fmt.Fprintln(std.Err, l.Line)
	if err := systemd.Notify(systemd.Ready + "\nSTATUS=" + l.Line); err != nil {
		return fmt.Errorf("cannot tell systemd that the kubelet starts: %w", err)
	}
	if err := syscall.Exec(l.Path, l.Argv, l.Env); err != nil {
		return fmt.Errorf("cannot start %s: %w", l.Path, err)
	}
	return nil
}

func newWaitForDNS(std cli.Stdio) *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use:    "wait-for-dns",
		Short:  "Wait until the API server's name can be resolved",
		Hidden: true, // what wait-for-dns.service runs
		Args:   cli.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), timeout)
			defer cancel()
			if err := agent.WaitForDNS(ctx, newSystem(std)); err != nil {
				// A kubelet without DNS is better than none: it tries again.
				fmt.Fprintln(std.Err, err)
			}
			return nil
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", time.Minute, "when to give up")
	return c
}
