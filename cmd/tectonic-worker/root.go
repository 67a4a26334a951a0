package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/tectonic-worker/tectonic-worker/agent"
	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
)

// run is the whole program: it returns the exit code.
func run(ctx context.Context, args []string, std cli.Stdio) int {
	return cli.Run(ctx, newRoot(std), args, std, agent.ExitCode)
}

func newRoot(io cli.Stdio) *cobra.Command {
	root := &cobra.Command{
		Use:   "tectonic-worker",
		Short: "Make this RHEL host a Kubernetes worker, and keep it one",
		Long: `tectonic-worker makes this host a node of a Kubernetes cluster.

  tectonic-worker join --assets DIR    what the Tectonic Installer left
  tectonic-worker join --kubeconfig F  any kubeconfig that may register nodes
  tectonic-worker status               how the worker is
  tectonic-worker doctor               what is wrong with this host
  tectonic-worker leave                take this host out of the cluster again
  tectonic-worker metrics              what the agent counts, for Prometheus
  tectonic-worker renew                a new client certificate

Settings are in /etc/sysconfig/tectonic-worker and /etc/kubernetes/kubelet.env.
Exit codes: 0 done, 1 failed, 2 usage, 69 not reachable, 75 busy, 78 bad
configuration.`,
		Args: cli.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.AddCommand(newJoin(io), newRenew(io), newLeave(io), newStatus(io), newDoctor(io), newSupport(io), newAgent(io), newMetrics(io), newSELinux(io), newKubelet(io), newWaitForDNS(io), cli.Version(io, "tectonic-worker", version))
	return root
}

// writeAll prints s, and ignores a reader that went away.
func writeAll(w io.Writer, s string) { _, _ = io.WriteString(w, s) }
