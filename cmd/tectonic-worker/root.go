package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/tectonic-worker/tectonic-worker/agent"
)

// stdio is what the process was given to talk through.
type stdio struct {
	in       *os.File
	out, err *os.File
}

// usageError is an error in how the command was called: exit code 2.
type usageError struct{ error }

// errReported marks an error that was shown already; it carries the code.
type errReported struct{ code int }

func (e errReported) Error() string { return "reported" }

// run is the whole program: it returns the exit code.
func run(ctx context.Context, args []string, io stdio) int {
	root := newRoot(io)
	root.SetArgs(args)
	root.SetIn(io.in)
	root.SetOut(io.out)
	root.SetErr(io.err)
	err := root.ExecuteContext(ctx)
	var reported errReported
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &reported):
		return reported.code
	case errors.As(err, &usage):
		fmt.Fprintf(io.err, "%v; see \"tectonic-worker %s--help\"\n", err, commandOf(root, args))
		return 2
	}
	fmt.Fprintln(io.err, err)
	return agent.ExitCode(err)
}

func commandOf(root *cobra.Command, args []string) string {
	c, _, err := root.Find(args)
	if err != nil || c == root {
		return ""
	}
	return c.CommandPath()[len(root.CommandPath())+1:] + " "
}

func newRoot(io stdio) *cobra.Command {
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
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage(err) })
	root.AddCommand(newJoin(io), newRenew(io), newLeave(io), newStatus(io), newDoctor(io), newSupport(io), newAgent(io), newMetrics(io), newSELinux(io), newKubelet(io), newWaitForDNS(io), newVersion(io))
	return root
}

// noArgs refuses words that no flag takes.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage(fmt.Errorf("unknown command or argument %q", args[0]))
	}
	return nil
}

func usage(err error) error { return usageError{err} }

// writeAll prints s, and ignores a reader that went away.
func writeAll(w io.Writer, s string) { _, _ = io.WriteString(w, s) }
