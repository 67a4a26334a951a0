package server

import (
	"context"
	"fmt"
	"net"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
)

// Sockets are what systemd opened for this process; nil where it opened none.
type Sockets struct{ HTTP, RPC, Machine net.Listener }

// Activated takes over the sockets of socket activation (sd_listen_fds(3)): by FileDescriptorName= http, rpc and machine,
// or, when none has such a name, in this order. Call it once, before anything is started.
func Activated() (Sockets, error) {
	var s Sockets
	slots := map[string]*net.Listener{"http": &s.HTTP, "rpc": &s.RPC, "machine": &s.Machine}
	order := []string{"http", "rpc", "machine"}
	files := activation.Files(true)
	named := false
	for _, f := range files {
		named = named || slots[f.Name()] != nil
	}
	if !named && len(files) > len(order) {
		return Sockets{}, fmt.Errorf("systemd passed %d sockets; HTTP, gRPC and the machines' API are three: give them FileDescriptorName= %s", len(files), strings.Join(order, ", "))
	}
	for i, f := range files {
		name := f.Name()
		if !named {
			name = order[i]
		}
		slot := slots[name]
		if slot == nil || *slot != nil {
			return Sockets{}, fmt.Errorf("systemd passed a socket named %q, which is unknown or there twice; FileDescriptorName= is http, rpc or machine", name)
		}
		listener, err := net.FileListener(f)
		if err != nil {
			return Sockets{}, fmt.Errorf("systemd passed %s, which is not a stream socket that listens: use ListenStream=: %w", name, err)
		}
		_ = f.Close()
		*slot = listener
	}
	return s, nil
}

// Listen gives the activated socket, or opens one at address; both empty: nil.
func Listen(ctx context.Context, activated net.Listener, address string) (net.Listener, error) {
	if activated != nil || address == "" {
		return activated, nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w; another matchbox may run here (\"ss -ltnp\" shows it)", address, err)
	}
	return listener, nil
}

// NotifyReady tells systemd, where it wants to know, that all sockets answer (sd_notify(3)).
func NotifyReady() { _, _ = daemon.SdNotify(false, daemon.SdNotifyReady) }
