package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tectonic-worker/tectonic-worker/agent"
	"github.com/tectonic-worker/tectonic-worker/agent/selinux"
	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
)

func newMetrics(std cli.Stdio) *cobra.Command {
	return &cobra.Command{
		Use:   "metrics",
		Short: "Print the agent's metrics in Prometheus' text format",
		Long: `metrics asks the running agent and prints its metrics, for node_exporter's
textfile collector. It exits with 69 when no agent runs.`,
		Example: `  tectonic-worker metrics >/var/lib/node_exporter/tectonic-worker.prom.new &&
    mv /var/lib/node_exporter/tectonic-worker.prom.new /var/lib/node_exporter/tectonic-worker.prom`,
		Args: cli.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			data, err := agent.AgentMetrics(c.Context(), newSystem(std))
			if err != nil {
				return err
			}
			if _, err := std.Out.Write(data); err != nil {
				return fmt.Errorf("cannot write the metrics: %w", err)
			}
			return nil
		},
	}
}

// selinuxTimeout bounds the unit that newSELinux runs in.
const selinuxTimeout = 30 * time.Second

func newSELinux(std cli.Stdio) *cobra.Command {
	return &cobra.Command{
		Use:    "selinux-mode permissive|enforcing",
		Short:  "Set the running SELinux mode",
		Hidden: true, // what tectonic-worker-selinux@.service runs for the agent
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return cli.Usage(fmt.Errorf("name one mode: permissive or enforcing"))
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			return newSystem(std).SELinux.SetRuntime(selinux.Mode(args[0]))
		},
	}
}
