package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tectonic-worker/tectonic-worker/agent"
	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
)

func newDoctor(std cli.Stdio) *cobra.Command {
	var o agent.DoctorOptions
	var output string
	var list bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check this host and its way to the cluster",
		Long: `doctor looks at this host, its kernel, its container runtime, its network and its
way to the cluster, and says what is wrong and what to do about it. It changes
nothing, and works before join as well as after. The checks have names that
stay; join runs most of them too, and takes --skip as well.

It exits with 0 when nothing failed (warnings are no failure), and with 1 when
something did.`,
		Example: `  tectonic-worker doctor
  tectonic-worker doctor --only api --only clock
  tectonic-worker doctor --skip registry -o json
  tectonic-worker doctor --list`,
		Args: cli.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := cli.CheckOutput(output); err != nil {
				return err
			}
			if err := agent.UnknownChecks(append(o.Skip, o.Only...)...); err != nil {
				return cli.Usage(err)
			}
			if list {
				return listChecks(std.Out, output)
			}
			o.Environ = os.Environ()
			return showDoctor(std.Out, output, agent.Doctor(c.Context(), newSystem(std), o))
		},
	}
	f := c.Flags()
	f.StringArrayVar(&o.Skip, "skip", nil, "a check `NAME` to do without (repeatable)")
	f.StringArrayVar(&o.Only, "only", nil, "a check `NAME` to run, and no others (repeatable)")
	f.BoolVar(&list, "list", false, "list the checks, and run none")
	cli.OutputFlag(c, &output)
	_ = c.RegisterFlagCompletionFunc("skip", completeChecks)
	_ = c.RegisterFlagCompletionFunc("only", completeChecks)
	return c
}

func completeChecks(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var out []string
	for _, c := range agent.Checks() {
		out = append(out, c.Name+"\t"+c.About)
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func listChecks(w io.Writer, output string) error {
	all := agent.Checks()
	if output == "json" {
		return cli.WriteJSON(w, all)
	}
	for _, c := range all {
		join := ""
		if c.Join {
			join = "join too"
		}
		if _, err := fmt.Fprintf(w, "%-18s %-8s  %s\n", c.Name, join, c.About); err != nil {
			return fmt.Errorf("cannot write the list: %w", err)
		}
	}
	return nil
}

// doctorDoc is the document of "doctor -o json".
type doctorDoc struct {
	APIVersion string              `json:"apiVersion"`
	Failures   int                 `json:"failures"`
	Warnings   int                 `json:"warnings"`
	Checks     []agent.CheckResult `json:"checks"`
}

func showDoctor(w *os.File, output string, results []agent.CheckResult) error {
	doc := doctorDoc{APIVersion: agent.APIVersion, Checks: results}
	for _, r := range results {
		switch r.Severity {
		case agent.SeverityFail:
			doc.Failures++
		case agent.SeverityWarn:
			doc.Warnings++
		}
	}
	if output == "json" {
		if err := cli.WriteJSON(w, doc); err != nil {
			return err
		}
	} else {
		writeAll(w, doctorText(doc, cli.PaintFor(w)))
	}
	if doc.Failures > 0 {
		return cli.Reported(1)
	}
	return nil
}

// marks are what a finding's line begins with.
var marks = map[agent.Severity]struct {
	mark   string
	colour cli.Colour
}{
	agent.SeverityOK: {"✓", cli.Green}, agent.SeverityNote: {"·", cli.Plain}, agent.SeverityWarn: {"!", cli.Yellow},
	agent.SeverityFail: {"✗", cli.Red}, agent.SeveritySkipped: {"-", cli.Plain},
}

func doctorText(doc doctorDoc, p cli.Paint) string {
	var b strings.Builder
	for _, r := range doc.Checks {
		m := marks[r.Severity]
		fmt.Fprintf(&b, "%s %-18s %s\n", p(m.colour, m.mark), r.Name, r.Evidence)
		if r.Remedy != "" {
			fmt.Fprintf(&b, "  %-18s → %s\n", "", r.Remedy)
		}
	}
	fmt.Fprintf(&b, "\n%d checks: %d failures, %d warnings\n", len(doc.Checks), doc.Failures, doc.Warnings)
	return b.String()
}
