package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/tectonic-worker/tectonic-worker/agent"
	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
)

func newRenew(std cli.Stdio) *cobra.Command {
	var o agent.RenewOptions
	var kubeconfig, output string
	c := &cobra.Command{
		Use:   "renew",
		Short: "Get the kubelet a new client certificate",
		Long: `renew asks the cluster for a new client certificate for this node's kubelet,
waits until it is approved and issued, puts it where the kubelet keeps it,
restarts the kubelet and waits until the Node is Ready with it.

It asks with the node's own certificate while that is valid. When it has
expired, it takes the kubeconfig given with --kubeconfig (one with a bootstrap
token), else the bootstrap credential in /etc/kubernetes/kubeconfig.

Kubelets renew their certificate by themselves long before its end; renew is for
those that could not. A node that uses a client certificate shared with other
workers has none of its own to renew: it needs a new kubeconfig.`,
		Example: `  tectonic-worker renew
  tectonic-worker renew --kubeconfig bootstrap.conf
  ssh controller sudo cat bootstrap.conf | tectonic-worker renew --kubeconfig -
  tectonic-worker renew --dry-run`,
		Args: cli.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&kubeconfig, "kubeconfig", "", "a kubeconfig `FILE` to ask with once the node's own certificate has expired, or - for standard input")
	f.DurationVar(&o.Timeout, "timeout", 5*time.Minute, "how long the whole may take, somebody's approval of the request included")
	f.BoolVar(&o.DryRun, "dry-run", false, "find out what it would be asked with, and change nothing")
	cli.OutputFlag(c, &output)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := cli.CheckOutput(output); err != nil {
			return err
		}
		if o.Timeout <= 0 {
			return cli.Usage(fmt.Errorf("--timeout %s: it must be more than nothing", o.Timeout))
		}
		o.Environ = os.Environ()
		var err error
		if o.Kubeconfig, o.KubeconfigFrom, err = readKubeconfig(c.Context(), std, kubeconfig); err != nil {
			return err
		}
		report, end := reporterFor(std, output)
		defer end()
		res, err := agent.Renew(c.Context(), newSystem(std), o, report)
		if output == "json" {
			return printResult(std, struct {
				*agent.RenewResult
				Error *failure `json:"error,omitempty"`
			}{res, failureOf(err)}, err)
		}
		return renewText(std, res, err)
	}
	return c
}

func renewText(std cli.Stdio, res *agent.RenewResult, err error) error {
	switch {
	case err != nil:
		fmt.Fprintf(std.Err, "\nrenew failed: %v\n", err)
		if res.Changed {
			fmt.Fprintf(std.Err, "The new certificate (%s) is in place and stays.\n", res.File)
		}
		return cli.Reported(agent.ExitCode(err))
	case res.DryRun:
		fmt.Fprintln(std.Out, "\nNothing was changed: this was a dry run.")
	case res.Ready:
		fmt.Fprintf(std.Out, "\nNode %s is Ready with its new certificate, valid until %s (%.1f s).\n", res.Node, res.NotAfter.UTC().Format("2006-01-02 15:04 MST"), res.Seconds)
	default:
		fmt.Fprintf(std.Out, "\nThe new certificate of node %s is in place (%.1f s).\n", res.Node, res.Seconds)
	}
	return nil
}
