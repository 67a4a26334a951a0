package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
	"github.com/tectonic-worker/tectonic-worker/installer"
	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
)

// run is the whole program: it returns the exit code.
func run(ctx context.Context, args []string, std cli.Stdio) int {
	return cli.Run(ctx, newRoot(std), args, std, installer.ExitCode)
}

func newRoot(std cli.Stdio) *cobra.Command {
	var file string
	root := &cobra.Command{
		Use:   "tectonic-installer",
		Short: "Turn one cluster file into installed machines",
		Long: `tectonic-installer boots machines over PXE, installs them once and only once, and
shows how far each of them is.

On the operator's machine, with cluster.yaml:
  tectonic-installer init > cluster.yaml    a commented cluster file to fill in
  tectonic-installer check                  what is wrong with it, and around it
  tectonic-installer certs                  TLS credentials for the provisioner
  tectonic-installer plan, apply            what matchbox has to know
  tectonic-installer arm node1              let node1 be installed, once
  tectonic-installer power pxe node1        boot it from the network
  tectonic-installer watch                  see it happen

On the provisioner:
  tectonic-installer serve                  the matchbox API, and the machines' own
  tectonic-installer netboot run            DHCP, TFTP and DNS by dnsmasq
  tectonic-installer images sync            what is installed, verified

Exit codes: 0 done, 1 failed, 2 usage, 69 not reachable, 75 busy, 78 bad
configuration.`,
		Args: cli.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.PersistentFlags().StringVarP(&file, "file", "f", "cluster.yaml", "the cluster `FILE`")
	s := &session{Stdio: std, file: &file}
	root.AddCommand(
		newInit(s), newImport(s), newCheck(s), newCerts(s), newPlan(s), newApply(s),
		newArm(s), newDisarm(s), newAccept(s), newWipe(s), newWatch(s), newTimeline(s), newPower(s),
		newServe(s), newExplain(s), newNetboot(s), newImages(s), cli.Version(std, "tectonic-installer", version),
	)
	return root
}

// session is what the commands share: how to talk, and the cluster file.
type session struct {
	cli.Stdio
	file *string
}

// load reads the cluster file.
func (s *session) load() (*cluster.Cluster, error) { return cluster.Load(*s.file) }

// print writes a JSON document.
func (s *session) print(doc any) error { return cli.WriteJSON(s.Out, doc) }

// say writes a line of the result; a reader that went away ends nothing that is under way.
func (s *session) say(format string, args ...any) { _, _ = fmt.Fprintf(s.Out, format+"\n", args...) }

// note writes a line that is not the result.
func (s *session) note(format string, args ...any) { _, _ = fmt.Fprintf(s.Err, format+"\n", args...) }

// someMachines wants one name at least.
func someMachines(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cli.Usage(errors.New("name one machine at least"))
	}
	return nil
}
