package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
	"github.com/tectonic-worker/tectonic-worker/installer"
	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox"
)

func newPlan(s *session) *cobra.Command {
	var o installer.ApplyOptions
	var output string
	var diff bool
	c := &cobra.Command{
		Use:   "plan",
		Short: "Show what apply would change on the provisioner",
		Long: `plan compares the cluster file with what matchbox and the machines' API have, and
changes nothing. It exits with 0 whether there is something to do or not; in the
document of "-o json" each change has its action.`,
		Args: cli.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return s.planned(output, diff, false, func(cl *cluster.Cluster) (installer.Plan, error) { return installer.NewPlan(c.Context(), cl, o) })
		},
	}
	pruneFlag(c, &o.Prune)
	c.Flags().BoolVar(&diff, "diff", true, "show the differences line by line")
	cli.OutputFlag(c, &output)
	return c
}

func newApply(s *session) *cobra.Command {
	var o installer.ApplyOptions
	var output string
	c := &cobra.Command{
		Use:   "apply",
		Short: "Make the provisioner what the cluster file says",
		Long: `apply writes Ignition, profiles and groups to matchbox and the machines to the
machines' API: in an order that may be interrupted anywhere, and run again. What
is as it should be is left alone. It arms nothing, so nothing is installed by it.

--prune takes away what is this cluster's and no longer in its file. What others
put there is never touched.`,
		Args: cli.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return s.planned(output, false, true, func(cl *cluster.Cluster) (installer.Plan, error) { return installer.Apply(c.Context(), cl, o) })
		},
	}
	pruneFlag(c, &o.Prune)
	cli.OutputFlag(c, &output)
	return c
}

// planned loads the cluster file, plans or applies, and shows the plan.
func (s *session) planned(output string, diff, done bool, act func(*cluster.Cluster) (installer.Plan, error)) error {
	if err := cli.CheckOutput(output); err != nil {
		return err
	}
	cl, err := s.load()
	if err != nil {
		return err
	}
	plan, err := act(cl)
	if err != nil {
		return err
	}
	return s.showPlan(output, plan, diff, done)
}

func pruneFlag(c *cobra.Command, prune *bool) {
	c.Flags().BoolVar(prune, "prune", false, "take away what is this cluster's and no longer in its file")
}

var marks = map[matchbox.Action]string{matchbox.Create: "+", matchbox.Update: "~", matchbox.Delete: "-", matchbox.Keep: " "}

func (s *session) showPlan(output string, plan installer.Plan, diff, done bool) error {
	if output == "json" {
		return s.print(plan)
	}
	counts := map[matchbox.Action]int{}
	for _, change := range plan.Changes {
		counts[change.Action]++
		if change.Action == matchbox.Keep {
			continue
		}
		s.say("%s %s %s", marks[change.Action], change.Kind, change.ID)
		if diff && change.Diff != "" {
			s.say("    %s", strings.ReplaceAll(strings.TrimRight(change.Diff, "\n"), "\n", "\n    "))
		}
	}
	for _, m := range plan.Machines {
		counts[m.Action]++
		switch {
		case m.Action != matchbox.Keep:
			s.say("%s machine %s%s", marks[m.Action], m.Name, bracket(string(m.State), m.Note))
		case m.Note != "":
			s.say("! machine %s: %s", m.Name, m.Note)
		}
	}
	for _, o := range plan.Orphans {
		s.say("! %s %s is this cluster's and no longer wanted; --prune takes it away", o.Kind, o.ID)
	}
	for _, w := range plan.Warnings {
		s.say("! %s", w)
	}
	if plan.Empty() {
		s.say("Nothing to do: the provisioner has what the cluster file says.")
		return nil
	}
	verb := "would be"
	if done {
		verb = "were"
	}
	s.say("%d %s created, %d updated, %d deleted; %d as they should be.", counts[matchbox.Create], verb, counts[matchbox.Update], counts[matchbox.Delete], counts[matchbox.Keep])
	return nil
}

// bracket joins what is known of something.
func bracket(words ...string) string {
	var known []string
	for _, w := range words {
		if w != "" {
			known = append(known, w)
		}
	}
	if len(known) == 0 {
		return ""
	}
	return fmt.Sprintf(" (%s)", strings.Join(known, ", "))
}
