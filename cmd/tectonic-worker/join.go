package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tectonic-worker/tectonic-worker/agent"
	"github.com/tectonic-worker/tectonic-worker/agent/host"
	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
)

// settingFlags are join's flags that stand for a key of the settings; join
// writes what they say into the settings files.
var settingFlags = []struct{ flag, key, help string }{
	{"dns-service-ip", "KUBERNETES_DNS_SERVICE_IP", "the cluster's DNS Service `IP` (default: from the assets, the settings, or the API server)"},
	{"cluster-domain", "CLUSTER_DOMAIN", "the cluster's DNS `domain`"},
	{"runtime", "KUBELET_RUNTIME", "what runs the kubelet: auto, rkt or podman"},
	{"image", "KUBELET_IMAGE", "the kubelet's image `reference`, with a version in its tag (default: the control plane's version)"},
	{"zone", "FIREWALL_ZONE", "the firewalld `zone` to open the ports in (default: that of the interface that reaches the API server)"},
	{"selinux", "SELINUX_MODE", "auto, permissive, enforcing or leave"},
	{"node-name", "NODE_NAME", "the Node's `name` (default: the host's)"},
	{"node-ip", "NODE_IP", "the Node's `IP`, or two with a comma between for dual stack"},
	{"cri-socket", "CONTAINER_RUNTIME_ENDPOINT", "the container runtime's socket, as a unix:// `URL` (default: containerd's or CRI-O's)"},
}

// listFlags are like settingFlags, and can be given more than once.
var listFlags = []struct{ flag, key, help string }{
	{"node-label", "NODE_LABELS", "a label `KEY=VALUE` for the Node (repeatable)"},
	{"node-taint", "NODE_TAINTS", "a taint `KEY=VALUE:EFFECT` for the Node (repeatable)"},
}

func newJoin(std cli.Stdio) *cobra.Command {
	var o agent.JoinOptions
	var kubeconfig, output string
	single := map[string]*string{}
	lists := map[string]*[]string{}
	c := &cobra.Command{
		Use:   "join",
		Short: "Make this host a worker, and wait until its Node is Ready",
		Long: `join makes this host a Kubernetes worker: it checks the host and the cluster,
writes the settings and the kubeconfig, sets SELinux, opens the firewall, starts
the kubelet and waits until the Node is Ready.

Everything it changes is written down first (/var/lib/tectonic-worker); when it
fails, it puts everything back. On a host that is a worker already it changes
nothing. Without --assets and --kubeconfig it uses the files on the host.`,
		Example: `  tectonic-worker join --assets ./tectonic
  tectonic-worker join --assets assets.zip --node-label disk=ssd
  tectonic-worker join --kubeconfig bootstrap.conf --dns-service-ip 10.3.0.10
  ssh controller sudo cat /etc/kubernetes/kubeconfig | tectonic-worker join --kubeconfig -
  tectonic-worker join --dry-run`,
		Args: cli.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&o.Assets, "assets", "", "what the Tectonic Installer left: a `DIR`, ZIP or TAR.GZ")
	f.StringVar(&kubeconfig, "kubeconfig", "", "a kubeconfig `FILE`, or - for standard input")
	for _, s := range settingFlags {
		single[s.key] = f.String(s.flag, "", s.help)
	}
	for _, s := range listFlags {
		lists[s.key] = f.StringArray(s.flag, nil, s.help)
	}
	f.BoolVar(&o.DryRun, "dry-run", false, "show what would be changed, and change nothing")
	f.DurationVar(&o.Timeout, "timeout", 10*time.Minute, "how long the whole may take")
	f.BoolVar(&o.NoWait, "no-wait", false, "do not wait for the image, the kubelet and the Node")
	f.StringArrayVar(&o.Skip, "skip", nil, "a check `NAME` to do without (repeatable); \"tectonic-worker doctor --list\" shows all")
	_ = c.RegisterFlagCompletionFunc("skip", completeChecks)
	f.BoolVar(&o.NoRollback, "no-rollback", false, "leave things as they are after a failure")
	cli.OutputFlag(c, &output)
	_ = c.RegisterFlagCompletionFunc("runtime", cobra.FixedCompletions([]string{"auto", "rkt", "podman"}, cobra.ShellCompDirectiveNoFileComp))
	_ = c.RegisterFlagCompletionFunc("selinux", cobra.FixedCompletions([]string{"auto", "permissive", "enforcing", "leave"}, cobra.ShellCompDirectiveNoFileComp))

	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := cli.CheckOutput(output); err != nil {
			return err
		}
		if o.Timeout <= 0 {
			return cli.Usage(fmt.Errorf("--timeout %s: it must be more than nothing", o.Timeout))
		}
		if err := agent.UnknownChecks(o.Skip...); err != nil {
			return cli.Usage(err)
		}
		o.Environ = os.Environ()
		o.Settings = settingsOf(f, single, lists)
		var err error
		if o.Kubeconfig, o.KubeconfigFrom, err = readKubeconfig(c.Context(), std, kubeconfig); err != nil {
			return err
		}
		report, end := reporterFor(std, output)
		defer end()
		sys := newSystem(std)
		res, err := agent.Join(c.Context(), sys, o, report)
		if output == "json" {
			return printResult(std, struct {
				*agent.JoinResult
				Error *failure `json:"error,omitempty"`
			}{res, failureOf(err)}, err)
		}
		return joinText(std, res, err)
	}
	return c
}

// settingsOf collects the flags that were given, by key.
func settingsOf(f *pflag.FlagSet, single map[string]*string, lists map[string]*[]string) map[string]string {
	given := map[string]string{}
	for _, s := range settingFlags {
		if f.Changed(s.flag) {
			given[s.key] = *single[s.key]
		}
	}
	for _, s := range listFlags {
		if f.Changed(s.flag) {
			given[s.key] = strings.Join(*lists[s.key], ",")
		}
	}
	return given
}

// readKubeconfig reads what --kubeconfig names; nothing where it was not given.
func readKubeconfig(ctx context.Context, std cli.Stdio, name string) (data []byte, from string, err error) {
	switch name {
	case "":
		return nil, "", nil
	case "-":
		if data, err = readAll(ctx, std.In); err != nil {
			return nil, "", fmt.Errorf("cannot read the kubeconfig from standard input: %w", err)
		}
		return data, "standard input", nil
	}
	abs := name
	if !strings.HasPrefix(name, "/") {
		wd, err := os.Getwd()
		if err != nil {
			return nil, "", fmt.Errorf("cannot find %s: %w", name, err)
		}
		abs = wd + "/" + name
	}
	data, err = host.Root("/").ReadFile(abs)
	if err != nil {
		return nil, "", &agent.ConfigError{Err: fmt.Errorf("cannot read the kubeconfig: %w", err)}
	}
	return data, name, nil
}

// readAll reads at most 1 MiB, and ends with ctx: a terminal may wait for ever.
func readAll(ctx context.Context, r io.Reader) ([]byte, error) {
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		data, err := io.ReadAll(io.LimitReader(r, 1<<20))
		done <- result{data, err}
	}()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case res := <-done:
		return res.data, res.err
	}
}

func joinText(std cli.Stdio, res *agent.JoinResult, err error) error {
	if err != nil {
		fmt.Fprintf(std.Err, "\njoin failed: %v\n", err)
		left := 0
		for _, u := range res.RolledBack {
			if u.Error != "" {
				left++
				fmt.Fprintf(std.Err, "  could not put back %s: %s\n", u.Key, u.Error)
			} else {
				fmt.Fprintf(std.Err, "  %s: %s\n", u.Key, u.Evidence)
			}
		}
		switch {
		case left > 0:
			fmt.Fprintf(std.Err, "%d of %d changes could not be put back and stay on record: run join again when the cause is gone.\n", left, len(res.RolledBack))
		case res.RolledBack != nil:
			fmt.Fprintln(std.Err, "What was changed has been put back; --no-rollback leaves it for a look.")
		}
		return cli.Reported(agent.ExitCode(err))
	}
	switch {
	case res.DryRun && res.Changed:
		fmt.Fprintln(std.Out, "\nNothing was changed: this was a dry run.")
	case res.DryRun:
		fmt.Fprintln(std.Out, "\nNothing would be changed.")
	case !res.Ready:
		fmt.Fprintf(std.Out, "\nThe kubelet of node %s is started (%.1f s); \"tectonic-worker status\" shows how it goes on.\n", res.Node, res.Seconds)
	case res.Changed:
		fmt.Fprintf(std.Out, "\nNode %s is Ready, kubelet %s (%.1f s).\n", res.Node, res.KubeletVersion, res.Seconds)
	default:
		fmt.Fprintf(std.Out, "\nNode %s is Ready, kubelet %s; nothing had to be changed (%.1f s).\n", res.Node, res.KubeletVersion, res.Seconds)
	}
	return nil
}
