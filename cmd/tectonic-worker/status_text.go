package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent"
	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
)

func statusText(w io.Writer, s *agent.WorkerStatus, p cli.Paint) {
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-11s %s\n", name, fmt.Sprintf(format, args...))
	}
	switch s.Health {
	case agent.NotJoined:
		row("Worker", "not joined; run \"tectonic-worker join\"")
	case agent.Healthy:
		row("Worker", "%s", p(cli.Green, string(s.Health)))
	default:
		row("Worker", "%s", p(cli.Red, string(s.Health)))
	}
	if s.Health != agent.NotJoined {
		joinedText(row, s, p)
	}
	row("Firewall", "%s", firewallText(s.Firewall, p))
	for _, port := range s.Firewall.Ports {
		row("", "%-12s now %s, after a reload %s%s", port.Port, openShut(port.Runtime, p), openShut(port.Permanent, p), ours(port.Ours))
	}
	by := ""
	if s.SELinux.Ours {
		by = ", set by us"
	}
	row("SELinux", "%s now, %s at boot%s", orNone(s.SELinux.Runtime), orNone(s.SELinux.Boot), by)
	if s.Health != agent.NotJoined {
		keptText(row, s, p)
	}
	if len(s.Problems)+len(s.Notes) > 0 {
		fmt.Fprintln(w)
	}
	for _, t := range s.Problems {
		fmt.Fprintf(w, "%s %s\n", p(cli.Red, "!"), t)
	}
	for _, t := range s.Notes {
		fmt.Fprintf(w, "· %s\n", t)
	}
}

// joinedText is what a host has that joined: the node, the kubelet, its rights.
func joinedText(row func(string, string, ...any), s *agent.WorkerStatus, p cli.Paint) {
	n, k := s.Node, s.Kubelet
	switch {
	case n.Ready && n.Unschedulable:
		row("Node", "%s: Ready, %s", n.Name, p(cli.Yellow, "cordoned"))
	case n.Ready:
		row("Node", "%s: %s%s", n.Name, p(cli.Green, "Ready"), since(n.Since, s.Time))
	case n.Why != "":
		row("Node", "%s: %s", n.Name, p(cli.Red, n.Why))
	default:
		row("Node", "%s: %s", n.Name, p(cli.Red, "not Ready"))
	}
	healthy := p(cli.Green, "healthy")
	if !k.Healthy {
		healthy = p(cli.Red, "not healthy")
	}
	at := p(cli.Yellow, "not enabled at boot")
	if k.Enabled {
		at = "enabled at boot"
	}
	row("Kubelet", "%s%s", joinWords(", ", n.KubeletVersion, joinWords(" under ", orNone(k.Active), k.Runtime), healthy, at), since(k.Since, s.Time))
	if k.Restarts > 0 {
		row("", "started again %d times by systemd", k.Restarts)
	}
	row("", "%s", orNone(k.Image))
	if n.ContainerRuntime != "" {
		row("", "pods under %s", n.ContainerRuntime)
	}
	if s.Restart.Pending {
		row("", "%s", p(cli.Yellow, "restart pending"))
		for _, r := range s.Restart.Reasons {
			row("", "  %s", r)
		}
	}
	row("Credential", "%s", credentialText(s.Credential))
	if c := s.Certificate; c.NotAfter != nil {
		left := fmt.Sprintf("%d days left", *c.Days)
		switch c.Severity {
		case agent.SeverityFail:
			left = p(cli.Red, left)
		case agent.SeverityWarn, agent.SeverityNote:
			left = p(cli.Yellow, left)
		}
		row("Certificate", "until %s (%s)%s", c.NotAfter.UTC().Format("2006-01-02 15:04 MST"), left, inBrackets(c.Subject))
	}
}

// keptText is about what keeps the host so: drift, and the agent.
func keptText(row func(string, string, ...any), s *agent.WorkerStatus, p cli.Paint) {
	if len(s.Drift) == 0 {
		row("Drift", "none")
	}
	for i, d := range s.Drift {
		name := ""
		if i == 0 {
			name = "Drift"
		}
		row(name, "%s", p(cli.Yellow, d.What))
	}
	a := s.Agent
	if !a.Running {
		row("Agent", "%s", orNone(a.Why))
		return
	}
	said := "runs"
	if a.LastReconcile != nil {
		said += ", last looked " + ago(a.LastReconcile.Format(time.RFC3339), s.Time)
	}
	row("Agent", "%s; %d reloads of firewalld seen", said, a.Reloads)
	for _, r := range a.Repairs {
		row("", "repaired %s: %s", ago(r.Time.Format(time.RFC3339), s.Time), r.What)
	}
}

// since is ", for 3 h"; nothing where the time is not known, or in a watch.
func since(at string, now time.Time) string {
	t, err := time.Parse(time.RFC3339, at)
	if err != nil || now.IsZero() {
		return ""
	}
	return ", for " + span(now.Sub(t))
}

func ago(at string, now time.Time) string {
	t, err := time.Parse(time.RFC3339, at)
	if err != nil {
		return "-"
	}
	if now.IsZero() {
		return "at " + t.UTC().Format(time.RFC3339)
	}
	return span(now.Sub(t)) + " ago"
}

// span is a duration in its largest unit.
func span(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int(max(d, 0).Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

func credentialText(c agent.CredentialStatus) string {
	if c.Kind == "" {
		return "none that can be read"
	}
	text := c.Kind
	if c.Shared {
		text += ", SHARED with other workers"
	}
	return text + inBrackets(c.Subject) + " for " + orNone(c.Server)
}

func inBrackets(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}

func firewallText(f agent.FirewallStatus, p cli.Paint) string {
	if f.Zone == "" {
		return orNone(f.State)
	}
	text := fmt.Sprintf("%s, zone %s", joinWords(" ", "firewalld", f.Version, f.State), f.Zone)
	if f.Panic {
		text += ", " + p(cli.Red, "PANIC MODE")
	}
	return text
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

func openShut(open bool, p cli.Paint) string {
	if open {
		return "open"
	}
	return p(cli.Red, "SHUT")
}

func ours(o bool) string {
	if o {
		return ", by us"
	}
	return ""
}
