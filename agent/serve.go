package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// SocketPath is where the agent answers root: GET /status and GET /metrics.
const SocketPath = RunDir + "/agent.sock"

// ErrNoAgent is a host on which no agent answers.
var ErrNoAgent = errors.New("no agent answers on this host; start it with \"systemctl start tectonic-worker\"")

// serve answers at the socket until ctx ends or stop is called.
func (d *daemon) serve(ctx context.Context) (stop func(), err error) {
	path := d.sys.Root.Path(SocketPath)
	// What a killed agent left; a second one is systemd's to prevent.
	_ = os.Remove(path)
	old := unix.Umask(0o177)
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", SocketPath, err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		_ = e.Encode(d.status.snapshot(d.herald.lost()))
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		writeMetrics(w, d.status.snapshot(d.herald.lost()))
	})
	srv := &http.Server{Handler: mux, ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 8 << 10}
	// A connection is one question: none stays to keep a goroutine for.
	srv.SetKeepAlivesEnabled(false)
	go func() { _ = srv.Serve(l) }()
	return func() {
		_ = srv.Close()
		_ = os.Remove(path)
	}, nil
}

// AskAgent asks the agent on this host how it is. The error is an ErrNoAgent
// where none answers.
func AskAgent(ctx context.Context, sys *System) (*AgentStatus, error) {
	data, err := ask(ctx, sys, "/status")
	if err != nil {
		return nil, err
	}
	var s AgentStatus
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("cannot understand the agent: %w; is it another version? (systemctl restart tectonic-worker)", err)
	}
	return &s, nil
}

// AgentMetrics gives the agent's metrics in Prometheus' text format. The error
// is an ErrNoAgent where none answers.
func AgentMetrics(ctx context.Context, sys *System) ([]byte, error) { return ask(ctx, sys, "/metrics") }

func ask(ctx context.Context, sys *System, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var d net.Dialer
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.DialContext(ctx, "unix", sys.Root.Path(SocketPath))
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("cannot ask the agent: %s is for root alone; try it with sudo", SocketPath)
	}
	if err != nil {
		return nil, ErrNoAgent
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil || resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("cannot ask the agent: it answers %s", resp.Status)
	}
	return data, nil
}
