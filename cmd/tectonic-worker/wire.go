package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"time"

	"golang.org/x/net/http/httpproxy"

	"github.com/tectonic-worker/tectonic-worker/agent"
	"github.com/tectonic-worker/tectonic-worker/agent/host"
	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
	"github.com/tectonic-worker/tectonic-worker/agent/selinux"
	"github.com/tectonic-worker/tectonic-worker/agent/systemd"
	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
	"github.com/tectonic-worker/tectonic-worker/firewall"
)

// newSystem makes the real connections of every command.
func newSystem(std cli.Stdio) *agent.System {
	options := func(p node.Proxy) node.Options {
		return node.Options{Proxy: p, UserAgent: "tectonic-worker/" + version}
	}
	log := newLog(std.Err)
	return &agent.System{
		Root:     "/",
		Firewall: func(ctx context.Context) (agent.Firewall, error) { return firewall.Connect(ctx) },
		Units:    func(ctx context.Context) (agent.Units, error) { return systemd.Connect(ctx) },
		SELinux:  agent.SELinux{Runtime: selinux.Runtime, SetRuntime: selinux.SetRuntime},
		Cluster: func(k *node.Kubeconfig, p node.Proxy) (agent.Cluster, error) {
			return node.NewClient(k, options(p))
		},
		OwnCluster: func(p node.Proxy) (agent.Cluster, error) { return ownCluster(options(p)) },
		Fetch:      fetch,
		Now:        time.Now,
		WatchFiles: host.Root("/").Watch,
		WatchUnits: systemd.Watch,
		WatchFirewall: func(ctx context.Context) <-chan firewall.Event {
			return firewall.Watch(ctx, func(format string, args ...any) { log.Warn(fmt.Sprintf(format, args...)) })
		},
		Log: log,
	}
}

// newLog logs without the time: journald knows it; on a terminal nobody misses it.
func newLog(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
}

func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// ownCluster uses the kubeconfig that the kubelet wrote after its bootstrap.
func ownCluster(o node.Options) (agent.Cluster, error) {
	root := host.Root("/")
	data, err := root.ReadFile(kubelet.NodeKubeconfigPath)
	if err != nil {
		return nil, err
	}
	k, err := node.ParseFiles(data, filepath.Dir(kubelet.NodeKubeconfigPath), root.ReadFile)
	if err != nil {
		return nil, err
	}
	return node.NewClient(k, o)
}

// fetch gets a small body over https, through the proxy that is set.
func fetch(ctx context.Context, from string, p node.Proxy) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	proxy := (&httpproxy.Config{HTTPProxy: p.HTTP, HTTPSProxy: p.HTTPS, NoProxy: p.No}).ProxyFunc()
	client := &http.Client{Transport: &http.Transport{
		Proxy: func(r *http.Request) (*url.URL, error) { return proxy(r.URL) },
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", from, resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, 1<<20))
}
