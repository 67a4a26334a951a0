package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
	"github.com/tectonic-worker/tectonic-worker/installer"
	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
	"github.com/tectonic-worker/tectonic-worker/installer/machine"
	"github.com/tectonic-worker/tectonic-worker/installer/watch"
)

// untilStates are those that a machine comes to rest in.
var untilStates = []string{string(machine.Accepted), string(machine.Installed), string(machine.Ready)}

func newWatch(s *session) *cobra.Command {
	var output, until string
	var once bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "watch [MACHINE…]",
		Short: "Show how far machines are, as it happens",
		Long: `watch shows all machines of the provisioner, or those that are named, with what is
expected next and what is overdue: as a table on a terminal, as lines elsewhere,
with -o json as a stream of objects, one a line.

--until ends it with 0 when every machine shown is in that state, and with 1 when
one has failed. Discovered machines are shown, but not waited for.`,
		Example: `  tectonic-installer watch
  tectonic-installer watch node1 node2 --until ready --timeout 1h
  tectonic-installer watch --once`,
		ValidArgsFunction: s.completeMachines,
		RunE: func(c *cobra.Command, args []string) error {
			if err := cli.CheckOutput(output); err != nil {
				return err
			}
			if until != "" && !slices.Contains(untilStates, until) {
				return cli.Usage(fmt.Errorf("--until %s: it is one of %s", until, strings.Join(untilStates, ", ")))
			}
			if timeout < 0 {
				return cli.Usage(fmt.Errorf("--timeout %s: it must be more than nothing", timeout))
			}
			for i, name := range args {
				if mac, err := cluster.ParseMAC(name); err == nil {
					args[i] = string(mac)
				}
			}
			cl, err := s.load()
			if err != nil {
				return err
			}
			if until != "" && len(args) == 0 {
				args = machineNames(cl)
			}
			source, closeSource, err := installer.WatchSource(cl)
			if err != nil {
				return err
			}
			defer closeSource()
			if once {
				return s.showOnce(c.Context(), source, args, output)
			}
			ctx := c.Context()
			if timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, timeout)
				defer cancel()
			}
			o := watch.Options{Source: source, Out: s.Out, Machines: args, Until: machine.State(until), Size: func() (int, int) { return terminalSize(s.Out) }}
			switch {
			case output == "json":
				o.Mode = watch.JSON
			case cli.IsTerminal(s.Out):
				o.Mode, o.Colour = watch.Table, os.Getenv("NO_COLOR") == ""
			}
			err = watch.Run(ctx, o)
			if err == nil && until != "" && errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("not all are %s after %s; \"tectonic-installer watch --once\" shows what is overdue", until, timeout)
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&until, "until", "", "end when all are in this `STATE`: "+strings.Join(untilStates, ", "))
	f.DurationVar(&timeout, "timeout", 0, "give up after so long; 0 waits for ever")
	f.BoolVar(&once, "once", false, "show it once, and end")
	_ = c.RegisterFlagCompletionFunc("until", cobra.FixedCompletions(untilStates, cobra.ShellCompDirectiveNoFileComp))
	cli.OutputFlag(c, &output)
	return c
}

// showOnce prints the table, or the document, as it is now.
func (s *session) showOnce(ctx context.Context, source watch.Source, names []string, output string) error {
	all, _, err := source.List(ctx)
	if err != nil {
		return err
	}
	shown := []machine.Status{}
	for _, m := range all {
		if len(names) == 0 || slices.Contains(names, m.Name) || slices.ContainsFunc(m.MACs, func(mac string) bool { return slices.Contains(names, mac) }) {
			shown = append(shown, m)
		}
	}
	if output == "json" {
		return s.print(shown)
	}
	columns, _ := terminalSize(s.Out)
	_, err = fmt.Fprint(s.Out, watch.Draw(shown, columns, len(shown)+10, time.Now(), cli.IsTerminal(s.Out) && os.Getenv("NO_COLOR") == ""))
	return err
}

// terminalSize is columns and lines; a pipe has room for all columns.
func terminalSize(f *os.File) (columns, lines int) {
	if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 && h > 0 {
		return w, h
	}
	return 160, 24
}
