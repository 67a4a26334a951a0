package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
	"github.com/tectonic-worker/tectonic-worker/installer/check"
	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
)

func newCheck(s *session) *cobra.Command {
	var o check.Options
	var output string
	var all bool
	c := &cobra.Command{
		Use:   "check",
		Short: "Check the cluster file, and everything that it names",
		Long: `check reads the cluster file, and says all that is wrong with it at once, with
lines. Then it asks the network: names and their addresses, ports, matchbox with
these credentials on both its APIs, the machines' API, the way to the registries,
BMCs. Nothing is changed.

It exits with 78 when the file is wrong, and with 1 when something else failed;
warnings are no failure.`,
		Example: `  tectonic-installer check
  tectonic-installer check --offline -f cluster.yaml
  tectonic-installer check -o json`,
		Args: cli.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := cli.CheckOutput(output); err != nil {
				return err
			}
			if o.Timeout <= 0 {
				return cli.Usage(fmt.Errorf("--timeout %s: it must be more than nothing", o.Timeout))
			}
			report := struct {
				Findings cluster.Findings `json:"findings"`
				Results  []check.Result   `json:"results"`
			}{cluster.Findings{}, []check.Result{}}
			cl, err := s.load()
			switch {
			case errors.As(err, &report.Findings):
			case err != nil:
				return err
			default:
				report.Findings = append(report.Findings, cl.Warnings()...)
				report.Results = check.Run(c.Context(), cl, o)
			}
			if output == "json" {
				if err := s.print(report); err != nil {
					return err
				}
			} else {
				s.showFindings(report.Findings)
				s.showResults(report.Results, all)
			}
			switch {
			case err != nil:
				return cli.Reported(78)
			case check.Worst(report.Results) == check.Failed:
				return cli.Reported(1)
			}
			return nil
		},
	}
	f := c.Flags()
	f.BoolVar(&o.Offline, "offline", false, "look at files alone, and ask nothing on the network")
	f.DurationVar(&o.Timeout, "timeout", 10*time.Second, "how long each question may take")
	f.BoolVar(&all, "all", false, "show also what is as it should be")
	cli.OutputFlag(c, &output)
	return c
}

func (s *session) showFindings(findings cluster.Findings) {
	for _, f := range findings {
		s.say("%s %v", s.mark(levelOf(f.Severity)), f)
	}
}

func levelOf(severity cluster.Severity) check.Level {
	if severity == cluster.Error {
		return check.Failed
	}
	return check.Warning
}

func (s *session) showResults(results []check.Result, all bool) {
	counts := map[check.Level]int{}
	for _, r := range results {
		counts[r.Level]++
		if !all && r.Level == check.OK {
			continue
		}
		line := ""
		if r.Line > 0 {
			line = fmt.Sprintf(" (%s:%d)", *s.file, r.Line)
		}
		s.say("%s %s %s%s: %s", s.mark(r.Level), r.Name, r.Target, line, r.Message)
		if r.Do != "" && r.Level != check.OK {
			s.say("    %s", r.Do)
		}
	}
	if len(results) > 0 {
		s.say("%d as they should be, %d warnings, %d failed, %d not asked.", counts[check.OK], counts[check.Warning], counts[check.Failed], counts[check.Skipped])
	}
}

// mark is a level in one sign, in colour where that is seen.
func (s *session) mark(level check.Level) string {
	sign, colour := "·", cli.Plain
	switch level {
	case check.OK:
		sign, colour = "✓", cli.Green
	case check.Warning:
		sign, colour = "!", cli.Yellow
	case check.Failed:
		sign, colour = "✗", cli.Red
	}
	return cli.PaintFor(s.Out)(colour, sign)
}
