package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
)

// WaitForDNS waits until the name of the API server can be resolved, or, where
// it is an address or not known, until /etc/resolv.conf names a server. It
// says what it waits for, once, and ends with ctx.
func WaitForDNS(ctx context.Context, sys *System) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for said := false; ; {
		err := resolves(ctx, sys)
		if err == nil {
			return nil
		}
		if !said {
			sys.Log.Info("waiting for name resolution", "why", err)
			said = true
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("gave up waiting for name resolution: %w", err)
		case <-tick.C:
		}
	}
}

func resolves(ctx context.Context, sys *System) error {
	name := apiServerName(sys)
	if name == "" {
		return hasNameserver(sys)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	// /etc/hosts counts: net.Resolver reads it first.
	if _, err := net.DefaultResolver.LookupHost(ctx, name); err != nil {
		return fmt.Errorf("cannot resolve the API server's name: %w", err)
	}
	return nil
}

// apiServerName is the DNS name of the API server, empty where it has none.
func apiServerName(sys *System) string {
	data, err := sys.Root.ReadFile(kubelet.KubeconfigPath)
	if err != nil {
		return ""
	}
	k, err := node.Parse(data)
	if err != nil {
		return ""
	}
	u, err := url.Parse(k.Server)
	if err != nil {
		return ""
	}
	if _, err := netip.ParseAddr(u.Hostname()); err == nil {
		return ""
	}
	return u.Hostname()
}

var nameserverLine = regexp.MustCompile(`(?m)^[ \t]*nameserver[ \t]+[0-9a-fA-F:.]+`)

func hasNameserver(sys *System) error {
	data, err := sys.Root.ReadFile("/etc/resolv.conf")
	if err != nil {
		return fmt.Errorf("cannot read /etc/resolv.conf: %w", err)
	}
	if !nameserverLine.Match(data) {
		return errors.New("/etc/resolv.conf names no server")
	}
	return nil
}
