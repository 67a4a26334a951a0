package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tectonic-worker/tectonic-worker/agent"
	"github.com/tectonic-worker/tectonic-worker/agent/host"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
	"github.com/tectonic-worker/tectonic-worker/agent/selinux"
	"github.com/tectonic-worker/tectonic-worker/agent/systemd"
	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
	"github.com/tectonic-worker/tectonic-worker/firewall"
	"github.com/tectonic-worker/tectonic-worker/units"
)

func newAgent(std cli.Stdio) *cobra.Command {
	return &cobra.Command{
		Use:   "agent",
		Short: "Keep this host a worker (what tectonic-worker.service runs)",
		Long: `agent watches what a worker needs and repairs what drifts: the ports in
firewalld after a reload, the files it rendered, the SELinux mode, the units'
enablement. It says each repair once: in the journal, as an Event on the Node,
and in the Node's condition TectonicWorkerDrift.

DRIFT in /etc/sysconfig/tectonic-worker says whether drift is repaired or only
reported. What is undone three times in ten minutes is reported and left alone.
"tectonic-worker join" enables and starts tectonic-worker.service, which runs it.`,
		Args: cli.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runAgent(c.Context(), std) },
	}
}

// The agent waits for months and works for milliseconds: memory counts for
// more than speed. Two processors are what its work can use.
const (
	gcPercent   = 50
	memoryLimit = 24 << 20 // bytes of Go's own memory above which it collects harder
	processors  = 2
)

func runAgent(ctx context.Context, std cli.Stdio) error {
	// A journald that was killed leaves a broken pipe for standard error.
	signal.Ignore(syscall.SIGPIPE)
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(memoryLimit)
	runtime.GOMAXPROCS(min(processors, runtime.GOMAXPROCS(0)))

	sys := newSystem(std)
	sys.Log = newLog(systemd.Journal(std.Err))
	log := sys.Log
	sys.WatchFirewall = func(ctx context.Context) <-chan firewall.Event {
		return firewall.Watch(ctx, func(format string, args ...any) { log.Warn(fmt.Sprintf(format, args...)) })
	}
	quiet := func(p node.Proxy) node.Options {
		return node.Options{Proxy: p, UserAgent: "tectonic-worker/" + version, Quiet: true}
	}
	sys.Cluster = func(k *node.Kubeconfig, p node.Proxy) (agent.Cluster, error) { return node.NewClient(k, quiet(p)) }
	sys.OwnCluster = func(p node.Proxy) (agent.Cluster, error) { return ownCluster(quiet(p)) }
	// Our sandbox has a read-only /sys; the mode is set by a unit that has not.
	sys.SELinux.SetRuntime = func(m selinux.Mode) error {
		ctx, cancel := context.WithTimeout(ctx, selinuxTimeout)
		defer cancel()
		us, err := systemd.Connect(ctx)
		if err != nil {
			return err
		}
		defer us.Close()
		return us.Start(ctx, units.SELinuxFor(string(m)))
	}
	return agent.Run(ctx, sys, agent.DaemonOptions{Environ: os.Environ(), Version: version, Slim: host.Slim})
}
