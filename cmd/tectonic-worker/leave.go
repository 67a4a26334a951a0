package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/tectonic-worker/tectonic-worker/agent"
	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
)

func newLeave(std cli.Stdio) *cobra.Command {
	var o agent.LeaveOptions
	var output string
	c := &cobra.Command{
		Use:   "leave",
		Short: "Take this host out of its cluster, and put back what join changed",
		Long: `leave is join backwards: it cordons and drains the node, stops the kubelet,
deletes the Node, unmounts the pods' volumes, removes what the kubelet wrote,
and puts back what was changed on this host, from the record that was kept of it
(/var/lib/tectonic-worker), and nothing else. A file that somebody changed since
is kept beside the former one, as NAME.tectonic-saved.

It removes nothing behind a mount: where one can't be unmounted it stops and
names it. Interrupted, it goes on where it was when it is run again.`,
		Example: `  tectonic-worker leave --dry-run
  tectonic-worker leave
  tectonic-worker leave --timeout 30m        pods may take their time
  tectonic-worker leave --local              the cluster is gone`,
		Args: cli.NoArgs,
	}
	f := c.Flags()
	f.DurationVar(&o.Timeout, "timeout", 5*time.Minute, "how long the whole may take; most of it is for the pods")
	f.BoolVar(&o.Force, "force", false, "go on when the cluster does not answer or the node can't be drained,\nand delete pods that nothing makes again elsewhere")
	f.BoolVar(&o.Local, "local", false, "do not talk to the cluster at all")
	f.BoolVar(&o.KeepNode, "keep-node", false, "drain, but do not delete the Node")
	f.BoolVar(&o.DryRun, "dry-run", false, "show what would be done, and change nothing")
	cli.OutputFlag(c, &output)

	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := cli.CheckOutput(output); err != nil {
			return err
		}
		if o.Timeout <= 0 {
			return cli.Usage(fmt.Errorf("--timeout %s: it must be more than nothing", o.Timeout))
		}
		o.Environ = os.Environ()
		report, end := reporterFor(std, output)
		defer end()
		res, err := agent.Leave(c.Context(), newSystem(std), o, report)
		if output == "json" {
			return printResult(std, struct {
				*agent.LeaveResult
				Error *failure `json:"error,omitempty"`
			}{res, failureOf(err)}, err)
		}
		return leaveText(std, res, err)
	}
	return c
}

func leaveText(std cli.Stdio, res *agent.LeaveResult, err error) error {
	if !res.DryRun {
		for _, u := range res.PutBack {
			if u.Error == "" {
				fmt.Fprintf(std.Out, "    %s: %s\n", u.Key, u.Evidence)
			}
		}
	}
	switch {
	case err != nil:
		fmt.Fprintf(std.Err, "\nleave did not come to its end: %v\n", err)
		return cli.Reported(agent.ExitCode(err))
	case !res.Changed:
		fmt.Fprintln(std.Out, "There is nothing to leave: this host is no worker.")
	case res.DryRun:
		fmt.Fprintln(std.Out, "\nNothing was changed: this was a dry run.")
	default:
		fmt.Fprintf(std.Out, "\nThis host has left; it is as it was before it joined (%.1f s).\n", res.Seconds)
	}
	return nil
}
