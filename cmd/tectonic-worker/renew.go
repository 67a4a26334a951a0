package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/tectonic-worker/tectonic-worker/agent"
)

func newRenew(std stdio) *cobra.Command {
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
		Args: noArgs,
	}
	f := c.Flags()
	f.StringVar(&kubeconfig, "kubeconfig", "", "a kubeconfig `FILE` to ask with once the node's own certificate has expired, or - for standard input")
	f.DurationVar(&o.Timeout, "timeout", 5*time.Minute, "how long the whole may take, somebody's approval of the request included")
	f.BoolVar(&o.DryRun, "dry-run", false, "find out what it would be asked with, and change nothing")
	outputFlag(c, &output)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := checkOutput(output); err != nil {
			return err
		}
		if o.Timeout <= 0 {
			return usage(fmt.Errorf("--timeout %s: it must be more than nothing", o.Timeout))
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

func renewText(std stdio, res *agent.RenewResult, err error) error {
	switch {
	case err != nil:
		fmt.Fprintf(std.err, "\nrenew failed: %v\n", err)
		if res.Changed {
			fmt.Fprintf(std.err, "The new certificate (%s) is in place and stays.\n", res.File)
		}
		return errReported{agent.ExitCode(err)}
	case res.DryRun:
		fmt.Fprintln(std.out, "\nNothing was changed: this was a dry run.")
	case res.Ready:
		fmt.Fprintf(std.out, "\nNode %s is Ready with its new certificate, valid until %s (%.1f s).\n", res.Node, res.NotAfter.UTC().Format("2006-01-02 15:04 MST"), res.Seconds)
	default:
		fmt.Fprintf(std.out, "\nThe new certificate of node %s is in place (%.1f s).\n", res.Node, res.Seconds)
	}
	return nil
}
