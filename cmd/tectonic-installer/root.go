package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/tectonic-worker/tectonic-worker/installer"
	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
)

// stdio is what the process was given to talk through.
type stdio struct {
	in       *os.File
	out, err *os.File
}

// usageError is an error in how the command was called: exit code 2.
type usageError struct{ error }

// errReported marks a failure that was shown already; it carries the exit code.
type errReported struct{ code int }

func (e errReported) Error() string { return "reported" }

// run is the whole program: it returns the exit code.
func run(ctx context.Context, args []string, std stdio) int {
	root := newRoot(std)
	root.SetArgs(args)
	root.SetIn(std.in)
	root.SetOut(std.out)
	root.SetErr(std.err)
	err := root.ExecuteContext(ctx)
	var reported errReported
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &reported):
		return reported.code
	case errors.As(err, &usage):
		fmt.Fprintf(std.err, "%v; see \"tectonic-installer %s--help\"\n", err, commandOf(root, args))
		return 2
	}
	fmt.Fprintln(std.err, err)
	return installer.ExitCode(err)
}

func commandOf(root *cobra.Command, args []string) string {
	c, _, err := root.Find(args)
	if err != nil || c == root {
		return ""
	}
	return c.CommandPath()[len(root.CommandPath())+1:] + " "
}

func newRoot(std stdio) *cobra.Command {
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
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.PersistentFlags().StringVarP(&file, "file", "f", "cluster.yaml", "the cluster `FILE`")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	s := &session{stdio: std, file: &file}
	root.AddCommand(
		newInit(s), newImport(s), newCheck(s), newCerts(s), newPlan(s), newApply(s),
		newArm(s), newDisarm(s), newAccept(s), newWipe(s), newTimeline(s), newPower(s),
		newServe(s), newExplain(s), newNetboot(s), newImages(s), newVersion(s),
	)
	return root
}

// session is what the commands share: how to talk, and the cluster file.
type session struct {
	stdio
	file *string
}

// load reads the cluster file; warnings go to the standard error.
func (s *session) load() (*cluster.Cluster, error) {
	c, err := cluster.Load(*s.file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w; make one with \"tectonic-installer init > %s\", or name another with --file", err, *s.file)
	}
	return c, err
}

// print writes a JSON document.
func (s *session) print(doc any) error {
	e := json.NewEncoder(s.out)
	e.SetIndent("", "  ")
	if err := e.Encode(doc); err != nil {
		return fmt.Errorf("cannot write the result: %w", err)
	}
	return nil
}

// say writes a line of the result; a reader that went away ends nothing that is under way.
func (s *session) say(format string, args ...any) { _, _ = fmt.Fprintf(s.out, format+"\n", args...) }

// note writes a line that is not the result.
func (s *session) note(format string, args ...any) { _, _ = fmt.Fprintf(s.err, format+"\n", args...) }

// noArgs refuses words that no flag takes.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unknown command or argument %q", args[0])}
	}
	return nil
}

// someMachines wants one name at least.
func someMachines(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usageError{errors.New("name one machine at least")}
	}
	return nil
}

func outputFlag(c *cobra.Command, output *string) {
	c.Flags().StringVarP(output, "output", "o", "text", "how to print: text or json")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
}

func checkOutput(output string) error {
	if output != "text" && output != "json" {
		return usageError{fmt.Errorf("unknown output %q: it is text or json", output)}
	}
	return nil
}
