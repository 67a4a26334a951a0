package main

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
	"github.com/tectonic-worker/tectonic-worker/installer"
	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

func newArm(s *session) *cobra.Command {
	o := installer.ArmOptions{Action: machine.ActionInstall}
	var output string
	c := &cobra.Command{
		Use:   "arm MACHINE…",
		Short: "Let the next network boot of machines install them, once",
		Long: `arm is what stands between a network boot and a disk. The next network boot of an
armed machine is served the install profile; every other one is sent to its disk.

A machine that holds an installed system is armed with --force only: its disk
will be overwritten.`,
		Example: `  tectonic-installer arm node1 node2 node3
  tectonic-installer arm --force node1      install it again`,
		Args:              someMachines,
		ValidArgsFunction: s.completeMachines,
		RunE: func(c *cobra.Command, args []string) error {
			return s.onMachines(output, func(cl *cluster.Cluster) ([]installer.Outcome, error) {
				return installer.Arm(c.Context(), cl, args, o)
			})
		},
	}
	c.Flags().BoolVar(&o.Force, "force", false, "also a machine whose disk holds an installed system, or whose installer is dead")
	cli.OutputFlag(c, &output)
	return c
}

func newDisarm(s *session) *cobra.Command {
	var force bool
	var output string
	c := &cobra.Command{
		Use:               "disarm MACHINE…",
		Short:             "Take arming back",
		Args:              someMachines,
		ValidArgsFunction: s.completeMachines,
		RunE: func(c *cobra.Command, args []string) error {
			return s.onMachines(output, func(cl *cluster.Cluster) ([]installer.Outcome, error) {
				return installer.Disarm(c.Context(), cl, args, force)
			})
		},
	}
	c.Flags().BoolVar(&force, "force", false, "also a machine that is writing its disk, which then has failed")
	cli.OutputFlag(c, &output)
	return c
}

func newWipe(s *session) *cobra.Command {
	o := installer.ArmOptions{Action: machine.ActionWipe}
	var yes []string
	var output string
	c := &cobra.Command{
		Use:   "wipe MACHINE…",
		Short: "Let the next network boot of machines erase their disks",
		Long: `wipe arms machines for erasing instead of installing: their next network boot
erases the signatures of the disk that the cluster file chooses, and nothing is
installed. It asks for the name of each machine first.`,
		Example:           "  tectonic-installer wipe node1",
		Args:              someMachines,
		ValidArgsFunction: s.completeMachines,
		RunE: func(c *cobra.Command, args []string) error {
			return s.onMachines(output, func(cl *cluster.Cluster) ([]installer.Outcome, error) {
				if err := s.confirm(args, yes); err != nil {
					return nil, err
				}
				return installer.Arm(c.Context(), cl, args, o)
			})
		},
	}
	c.Flags().StringArrayVar(&yes, "confirm", nil, "the `NAME` of a machine to wipe, given here instead of being asked for (repeatable)")
	c.Flags().BoolVar(&o.Force, "force", false, "also a machine whose disk holds an installed system")
	cli.OutputFlag(c, &output)
	return c
}

// confirm wants the name of each machine to be given again.
func (s *session) confirm(names, given []string) error {
	answers := bufio.NewScanner(s.In)
	for _, name := range names {
		confirmed := false
		for _, g := range given {
			confirmed = confirmed || g == name
		}
		if confirmed {
			continue
		}
		fmt.Fprintf(s.Err, "The disk of %s will be erased at its next network boot. Type its name to go on: ", name)
		if !answers.Scan() {
			return errors.Join(fmt.Errorf("nothing was done: no answer; give --confirm %s where nobody can be asked", name), answers.Err())
		}
		if answer := strings.TrimSpace(answers.Text()); answer != name {
			return fmt.Errorf("nothing was done: %q is not %s", answer, name)
		}
	}
	return nil
}

func newAccept(s *session) *cobra.Command {
	var name, role, dnsName, address string
	var force bool
	var output string
	c := &cobra.Command{
		Use:   "accept MAC|MACHINE…",
		Short: "Make a discovered machine one of the cluster, or clear a failure",
		Long: `accept with a MAC address takes a machine that booted from the network and that
nobody knew: it is written into the cluster file, which keeps its comments, and
applied. Its disk is not touched before it is armed.

accept with names of machines clears the failure of those that have failed.`,
		Example: `  tectonic-installer accept 52:54:00:a1:9c:ae --name node4 --role worker --dns-name node4.example.com
  tectonic-installer accept node4`,
		Args: someMachines,
		RunE: func(c *cobra.Command, args []string) error {
			mac, err := cluster.ParseMAC(args[0])
			if err != nil {
				if name != "" {
					return cli.Usage(fmt.Errorf("--name is for a MAC address: %w", err))
				}
				return s.onMachines(output, func(cl *cluster.Cluster) ([]installer.Outcome, error) {
					return installer.ClearFailure(c.Context(), cl, args)
				})
			}
			if len(args) > 1 || name == "" {
				return cli.Usage(errors.New("one MAC address at a time, with the --name that the machine gets"))
			}
			m := cluster.Machine{Name: name, MACs: []cluster.MAC{mac}, Role: role, DNSName: dnsName}
			if address != "" {
				if m.Address, err = netip.ParseAddr(address); err != nil {
					return cli.Usage(fmt.Errorf("--address: %w", err))
				}
			}
			return s.planned(output, false, true, func(cl *cluster.Cluster) (installer.Plan, error) {
				return installer.AcceptDiscovered(c.Context(), cl, m, force)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&name, "name", "", "the `NAME` of the new machine")
	f.StringVar(&role, "role", cluster.Worker, "its role: controller or worker")
	f.StringVar(&dnsName, "dns-name", "", "its DNS `NAME`")
	f.StringVar(&address, "address", "", "its IP `ADDRESS`, which DHCP reserves for it")
	f.BoolVar(&force, "force", false, "also a machine that has not booted from the network yet")
	_ = c.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{cluster.Worker, cluster.Controller}, cobra.ShellCompDirectiveNoFileComp))
	cli.OutputFlag(c, &output)
	return c
}

// onMachines loads the cluster file, acts on machines, and shows what became of them.
func (s *session) onMachines(output string, act func(*cluster.Cluster) ([]installer.Outcome, error)) error {
	if err := cli.CheckOutput(output); err != nil {
		return err
	}
	cl, err := s.load()
	if err != nil {
		return err
	}
	outcomes, err := act(cl)
	if err != nil {
		return err
	}
	type document struct {
		installer.Outcome
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
		switch {
		case output == "json":
		case o.Err != nil:
			s.note("%s", d.Error)
		case o.Status.Action != "" && o.Status.State == machine.Armed:
			s.say("%s  %s to %s  (next: %s)", o.Machine, o.Status.State, o.Status.Action, o.Status.Next)
		default:
			s.say("%s  %s", o.Machine, o.Status.State)
		}
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

func newTimeline(s *session) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "timeline MACHINE|MAC",
		Short: "Show all that happened to a machine, in its order",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return cli.Usage(errors.New("name one machine, or a MAC address"))
			}
			return nil
		},
		ValidArgsFunction: s.completeMachines,
		RunE: func(c *cobra.Command, args []string) error {
			if err := cli.CheckOutput(output); err != nil {
				return err
			}
			cl, err := s.load()
			if err != nil {
				return err
			}
			name := args[0]
			if mac, err := cluster.ParseMAC(name); err == nil {
				name = string(mac)
			}
			events, err := installer.Timeline(c.Context(), cl, name)
			if err != nil {
				return err
			}
			if output == "json" {
				return s.print(events)
			}
			for _, e := range events {
				s.say("%s  %-9s %-10s %s", e.Time.Local().Format(time.DateTime+".000"), e.Source, e.Kind, e.Message)
			}
			return nil
		},
	}
	cli.OutputFlag(c, &output)
	return c
}

func machineNames(c *cluster.Cluster) []string {
	var names []string
	for _, m := range c.Machines {
		names = append(names, m.Name)
	}
	return names
}

func (s *session) completeMachines(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	c, err := cluster.Load(*s.file)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return machineNames(c), cobra.ShellCompDirectiveNoFileComp
}
