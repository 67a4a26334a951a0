package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
	"github.com/tectonic-worker/tectonic-worker/installer"
	"github.com/tectonic-worker/tectonic-worker/installer/machine"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/server"
)

func newServe(s *session) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Serve machines that boot: the matchbox API, and their own",
		Long: `serve answers matchbox's protocol with matchbox's flags and MATCHBOX_ variables,
from matchbox's directory: a unit or script written for matchbox works with it.

With --machine-address it also keeps each machine's state, and only an armed
machine gets an installer. Without, it serves what matchbox would.

` + indent(server.Usage()),
		Example: `  tectonic-installer serve -address=0.0.0.0:8080 -rpc-address=0.0.0.0:8081 -machine-address=0.0.0.0:8443`,
		// matchbox's users write one dash.
		DisableFlagParsing: true,
		RunE: func(c *cobra.Command, args []string) error {
			config, err := server.ParseArgs(args, os.Environ())
			if err != nil {
				return cli.Usage(err)
			}
			switch {
			case config.Help:
				return c.Help()
			case config.Version:
				s.say("%s", version)
				return nil
			}
			log, err := config.Logger(s.Err)
			if err != nil {
				return err
			}
			return installer.Serve(c.Context(), installer.ServeOptions{
				Config: config, Log: log,
				Started: server.NotifyReady,
			})
		},
	}
}

// bootsInto says what the state of a machine means for its next network boot.
func bootsInto(m *machine.Status) string {
	if m.State == machine.Armed {
		return fmt.Sprintf("its next network boot is served what follows, to %s it", m.Action)
	}
	return "a network boot is sent to its disk, whatever follows"
}

// indent makes a flag list part of a help text.
func indent(text string) string {
	return "Flags:\n" + strings.TrimRight(text, "\n")
}

func newExplain(s *session) *cobra.Command {
	var mac, dataPath, output string
	var labels map[string]string
	c := &cobra.Command{
		Use:   "explain",
		Short: "Say which group a machine matches, and why no other",
		Long: `explain asks the provisioner of the cluster file, or looks into matchbox's
directory with --data-path, and changes nothing.`,
		Example: `  tectonic-installer explain --mac 52:54:00:a1:9c:ae
  tectonic-installer explain --mac 52:54:00:a1:9c:ae --label os=installed --data-path /var/lib/matchbox`,
		Args: cli.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := cli.CheckOutput(output); err != nil {
				return err
			}
			if mac == "" && len(labels) == 0 {
				return cli.Usage(errors.New("say what a machine would send: --mac, or --label KEY=VALUE"))
			}
			all := map[string]string{}
			for k, v := range labels {
				all[k] = v
			}
			if mac != "" {
				all["mac"] = mac
			}
			var explained installer.Explained
			if dataPath != "" {
				e, err := installer.ExplainDirectory(dataPath, all)
				if err != nil {
					return err
				}
				explained = e
			} else {
				cl, err := s.load()
				if err != nil {
					return err
				}
				if explained, err = installer.Explain(c.Context(), cl, all); err != nil {
					return err
				}
			}
			if output == "json" {
				return s.print(explained)
			}
			if m := explained.Machine; m != nil {
				s.say("The machine %s is %s: %s.", m.Name, m.State, bootsInto(m))
			}
			s.say("%s", strings.TrimRight(explained.String(), "\n"))
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&mac, "mac", "", "the `MAC` address that it would send")
	f.StringToStringVar(&labels, "label", nil, "another `KEY=VALUE` that it would send (repeatable)")
	f.StringVar(&dataPath, "data-path", "", "matchbox's `DIR`, instead of asking the provisioner")
	_ = c.MarkFlagDirname("data-path")
	cli.OutputFlag(c, &output)
	return c
}
