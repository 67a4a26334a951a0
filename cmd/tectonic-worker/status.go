package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/tectonic-worker/tectonic-worker/agent"
	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
)

// watchInterval is how often --watch looks again.
const watchInterval = 2 * time.Second

func newStatus(std cli.Stdio) *cobra.Command {
	var output string
	var watch bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show how the worker is",
		Long: `status shows on one screen the node, the kubelet, the certificate, the firewall,
SELinux, what is not as it should be on this host, what the agent repaired, and
whether the kubelet waits for a restart. It changes nothing, and shows what it
can without root, without D-Bus and without the agent.

It exits with 0 when the worker is healthy, 1 when it is degraded and 3 when
this host has not joined a cluster. docs/status.md describes its JSON.`,
		Example: `  tectonic-worker status
  tectonic-worker status --watch
  tectonic-worker status -o json`,
		Args: cli.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if output != "text" && output != "json" && output != "yaml" {
				return cli.Usage(fmt.Errorf("unknown output %q: it is text, json or yaml", output))
			}
			look := func(ctx context.Context) *agent.WorkerStatus { return agent.Status(ctx, newSystem(std), os.Environ()) }
			if watch {
				return watchStatus(c.Context(), std.Out, output, look)
			}
			s := look(c.Context())
			page, err := statusPage(s, output, cli.PaintFor(std.Out))
			if err != nil {
				return err
			}
			if _, err := std.Out.Write(page); err != nil {
				return fmt.Errorf("cannot write the status: %w", err)
			}
			return healthCode(s)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "text", "how to print: text, json or yaml")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
	c.Flags().BoolVarP(&watch, "watch", "w", false, "show it again and again, until interrupted")
	return c
}

// healthCode is the exit code of a status.
func healthCode(s *agent.WorkerStatus) error {
	switch s.Health {
	case agent.Healthy:
		return nil
	case agent.NotJoined:
		return cli.Reported(3)
	}
	return cli.Reported(1)
}

func statusPage(s *agent.WorkerStatus, output string, p cli.Paint) ([]byte, error) {
	var b bytes.Buffer
	switch output {
	case "json":
		err := cli.WriteJSON(&b, s)
		return b.Bytes(), err
	case "yaml":
		data, err := yaml.Marshal(s)
		if err != nil {
			return nil, fmt.Errorf("cannot write the status: %w", err)
		}
		return append([]byte("---\n"), data...), nil
	}
	statusText(&b, s, p)
	return b.Bytes(), nil
}

// watchStatus shows the status until ctx ends, which is how it is meant to
// end: on a terminal as one page that is drawn over, else as a new page
// whenever something changed.
func watchStatus(ctx context.Context, w *os.File, output string, look func(context.Context) *agent.WorkerStatus) error {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	screen := cli.IsTerminal(w) && output == "text"
	var before []byte
	for {
		s := look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		at := s.Time
		if !screen {
			s.Time = time.Time{} // it changes with every look
		}
		page, err := statusPage(s, output, cli.PaintFor(w))
		if err != nil {
			return err
		}
		switch {
		case screen:
			// Home, the page with each line cleared to its end, and the rest of
			// the screen cleared: no flicker.
			draw := append([]byte("\x1b[H"), bytes.ReplaceAll(page, []byte("\n"), []byte("\x1b[K\n"))...)
			_, err = fmt.Fprintf(w, "%s\x1b[K\n%s\x1b[J", draw, at.Format("2006-01-02 15:04:05 MST"))
		case !bytes.Equal(page, before):
			s.Time = at
			var full []byte
			if full, err = statusPage(s, output, cli.PaintFor(w)); err == nil {
				if before != nil && output == "text" {
					full = append([]byte("\n"), full...)
				}
				_, err = w.Write(full)
			}
			before = page
		}
		if err != nil {
			return fmt.Errorf("cannot write the status: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
