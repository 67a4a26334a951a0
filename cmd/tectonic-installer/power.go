package main

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
	"github.com/tectonic-worker/tectonic-worker/installer"
	"github.com/tectonic-worker/tectonic-worker/installer/power"
)

func newPower(s *session) *cobra.Command {
	c := &cobra.Command{
		Use:   "power",
		Short: "Switch machines through their BMCs",
		Long: `power speaks IPMI 2.0 over LAN with the BMCs in the cluster file; for a machine
with "power: {driver: manual}" it prints what to press and waits. Credentials come
from the files or the environment that the cluster file names.

A machine that is ready, or being installed, is not switched off without --force.
"power pxe" boots a machine from the network once, and believes it only when its
DHCP request was seen; it wants an armed machine, and a provisioner that answers.`,
		Args: cli.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	for _, a := range []struct {
		action power.Action
		short  string
	}{
		{power.ActionStatus, "Show whether machines are on"},
		{power.ActionOn, "Switch machines on"},
		{power.ActionOff, "Switch machines off: ask the operating system, then cut the power"},
		{power.ActionCycle, "Switch machines off and on again"},
		{power.ActionPXE, "Boot machines from the network, once"},
	} {
		c.AddCommand(newPowerAction(s, a.action, a.short))
	}
	return c
}

func newPowerAction(s *session, action power.Action, short string) *cobra.Command {
	var o installer.PowerOptions
	var output string
	all := false
	c := &cobra.Command{
		Use:               string(action) + " MACHINE…",
		Short:             short,
		ValidArgsFunction: s.completeMachines,
		Args: func(_ *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return cli.Usage(errors.New("name one machine at least, or give --all"))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if err := cli.CheckOutput(output); err != nil {
				return err
			}
			cl, err := s.load()
			if err != nil {
				return err
			}
			if all {
				args = machineNames(cl)
			}
			o.Say = func(machine, text string) { s.note("%s: %s", machine, text) }
			o.Console = power.NewConsole(s.In, s.Err)
			outcomes, err := installer.Power(c.Context(), cl, action, args, o)
			if err != nil {
				return err
			}
			return s.showOutcomes(output, outcomes)
		},
	}
	f := c.Flags()
	f.BoolVar(&all, "all", false, "all machines of the cluster file")
	if action.Disrupts() {
		f.BoolVar(&o.Force, "force", false, "also a machine that is ready, or being installed")
		f.DurationVar(&o.Soft, "soft", 30*time.Second, "how long an operating system may take to end before the power is cut; 0 cuts it at once")
	}
	if action == power.ActionPXE {
		f.DurationVar(&o.Within, "within", 5*time.Minute, "how long after power on the DHCP request may take")
		f.IntVar(&o.Tries, "tries", 2, "how often to try")
	}
	cli.OutputFlag(c, &output)
	return c
}

func (s *session) showOutcomes(output string, outcomes []power.Outcome) error {
	type document struct {
		power.Outcome
		Error string `json:"error,omitempty"`
	}
	var docs []document
	code := 0
	for _, o := range outcomes {
		d := document{Outcome: o}
		if o.Err != nil {
			d.Error = o.Err.Error()
			code = max(code, installer.ExitCode(o.Err))
		}
		docs = append(docs, d)
		if output == "json" {
			continue
		}
		if o.Err != nil {
			s.note("%s: %s", o.Machine, d.Error)
			continue
		}
		s.say("%s  %s", o.Machine, o.State)
	}
	if output == "json" {
		if err := s.print(docs); err != nil {
			return err
		}
	}
	if code != 0 {
		return cli.Reported(code)
	}
	return nil
}
