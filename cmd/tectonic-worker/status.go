package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tectonic-worker/tectonic-worker/agent"
)

func newStatus(std stdio) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "status",
		Short: "Show how the worker is",
		Long: `status shows the node, the kubelet, the credential, the firewall and SELinux on
one screen. It exits with 0 when the worker is healthy, 1 when it is degraded
and 3 when this host has not joined a cluster.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			s := agent.Status(c.Context(), newSystem(std), os.Environ())
			if output == "json" {
				e := json.NewEncoder(std.out)
				e.SetIndent("", "  ")
				if err := e.Encode(s); err != nil {
					return fmt.Errorf("cannot write the status: %w", err)
				}
			} else {
				statusText(std.out, s)
			}
			switch s.Health {
			case agent.Healthy:
				return nil
			case agent.NotJoined:
				return errReported{3}
			default:
				return errReported{1}
			}
		},
	}
	outputFlag(c, &output)
	return c
}

func statusText(w io.Writer, s *agent.WorkerStatus) {
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-11s %s\n", name, fmt.Sprintf(format, args...))
	}
	if s.Health == agent.NotJoined {
		row("Worker", "not joined; run \"tectonic-worker join\"")
	} else {
		row("Worker", "%s", s.Health)
		ready := "Ready"
		if !s.Node.Ready {
			ready = "not Ready"
			if s.Node.Why != "" {
				ready = s.Node.Why
			}
		}
		row("Node", "%s: %s", s.Node.Name, ready)
		k := s.Kubelet
		at := "not enabled at boot"
		if k.Enabled {
			at = "enabled at boot"
		}
		row("Kubelet", "%s", joinWords(", ", s.Node.KubeletVersion, joinWords(" under ", orNone(k.Active), k.Runtime), at))
		row("", "%s", orNone(k.Image))
		row("Credential", "%s", credentialText(s.Credential))
	}
	row("Firewall", "%s", firewallText(s.Firewall))
	for _, p := range s.Firewall.Ports {
		row("", "%-12s now %s, after a reload %s%s", p.Port, openShut(p.Runtime), openShut(p.Permanent), ours(p.Ours))
	}
	row("SELinux", "%s now, %s at boot", orNone(s.SELinux.Runtime), orNone(s.SELinux.Boot))
	for i, p := range s.Problems {
		if i == 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "! %s\n", p)
	}
}

func credentialText(c agent.CredentialStatus) string {
	if c.Kind == "" {
		return "none that is valid"
	}
	text := c.Kind
	if c.Shared {
		text += ", SHARED with other workers"
	}
	if c.Subject != "" {
		text += " (" + c.Subject + ")"
	}
	if c.NotAfter != nil {
		text += fmt.Sprintf(", until %s (%d days)", c.NotAfter.UTC().Format("2006-01-02 15:04 MST"), int(time.Until(*c.NotAfter).Hours()/24))
	}
	return text
}

func firewallText(f agent.FirewallStatus) string {
	if f.Zone == "" {
		return orNone(f.State)
	}
	return fmt.Sprintf("firewalld %s, zone %s", f.State, f.Zone)
}

// joinWords joins the words that are not empty.
func joinWords(sep string, words ...string) string {
	return strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), sep)
}

func orNone(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func openShut(open bool) string {
	if open {
		return "open"
	}
	return "SHUT"
}

func ours(o bool) string {
	if o {
		return ", by us"
	}
	return ""
}
