package matchbox_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/tectonic-worker/tectonic-worker/installer/matchbox"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/server"
)

// target is something that speaks matchbox's API: our server, and each real matchbox that this machine has.
type target struct {
	name  string
	start func(t testing.TB, s setting) *running
}

// setting is what a target is started with.
type setting struct {
	data string // the data directory
	ca   *authority
	pair tls.Certificate
	port int // 0: a free one
	// intercept is for our server alone.
	intercept grpc.UnaryServerInterceptor
}

type running struct {
	endpoint string
	port     int
	kill     func() // at once, as SIGKILL does
}

// targets are our server and what $MATCHBOX names (a list as $PATH is), or the matchbox on $PATH.
func targets(t testing.TB) []target {
	t.Helper()
	all := []target{{"ours", startOurs}}
	real := realMatchboxes()
	if len(real) == 0 {
		t.Log("no matchbox on $PATH or in $MATCHBOX: only our server is tried")
	}
	for _, path := range real {
		all = append(all, target{filepath.Base(path), func(t testing.TB, s setting) *running { return startReal(t, path, s) }})
	}
	return all
}

func realMatchboxes() []string {
	if named := os.Getenv("MATCHBOX"); named != "" {
		return filepath.SplitList(named)
	}
	if path, err := exec.LookPath("matchbox"); err == nil {
		return []string{path}
	}
	return nil
}

// onTargets runs a test on all of them, on a fresh directory and with right certificates.
func onTargets(t *testing.T, test func(t *testing.T, run *running, c *matchbox.Client, data string)) {
	for _, target := range targets(t) {
		t.Run(target.name, func(t *testing.T) {
			ca := newAuthority(t, "test authority")
			s := setting{data: dataDir(t), ca: ca, pair: ca.server(t, nil)}
			run := target.start(t, s)
			test(t, run, dial(t, run.endpoint, ca), s.data)
		})
	}
}

func dataDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "assets"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func dial(t testing.TB, endpoint string, ca *authority) *matchbox.Client {
	t.Helper()
	c, err := matchbox.Dial(t.Context(), matchbox.Options{Endpoint: endpoint, TLS: ca.operator(t), Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func startOurs(t testing.TB, s setting) *running {
	t.Helper()
	return serve(t, s, &tls.Config{
		MinVersion: tls.VersionTLS12, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: s.ca.pool(), Certificates: []tls.Certificate{s.pair},
	})
}

func startOursTLS(t testing.TB, data string, config *tls.Config) (endpoint string) {
	t.Helper()
	return serve(t, setting{data: data}, config).endpoint
}

func serve(t testing.TB, s setting, config *tls.Config) *running {
	t.Helper()
	handler, err := server.New(server.Options{DataPath: s.data, AssetsPath: filepath.Join(s.data, "assets")})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
	if err != nil {
		t.Fatal(err)
	}
	options := append(handler.ServerOptions(), grpc.Creds(credentials.NewTLS(config)))
	if s.intercept != nil {
		options = append(options, grpc.ChainUnaryInterceptor(s.intercept))
	}
	g := grpc.NewServer(options...)
	handler.RegisterGRPC(g)
	var serving sync.WaitGroup
	serving.Go(func() { g.Serve(listener) })
	stop := sync.OnceFunc(func() { g.Stop(); serving.Wait(); handler.Close() })
	t.Cleanup(stop)
	return &running{endpoint: listener.Addr().String(), port: listener.Addr().(*net.TCPAddr).Port, kill: stop}
}

func startReal(t testing.TB, path string, s setting) *running {
	t.Helper()
	if s.port == 0 {
		s.port = freePort(t)
	}
	ca, certificate, key := s.ca.write(t, t.TempDir(), s.pair)
	endpoint := fmt.Sprintf("127.0.0.1:%d", s.port)
	var log bytes.Buffer
	cmd := exec.Command(path, "-address", fmt.Sprintf("127.0.0.1:%d", freePort(t)), "-rpc-address", endpoint,
		"-data-path", s.data, "-assets-path", filepath.Join(s.data, "assets"), "-ca-file", ca, "-cert-file", certificate, "-key-file", key)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() { cmd.Process.Kill(); cmd.Wait() })
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("%s:\n%s", path, log.String())
		}
	})
	waitFor(t, path+" listens", func() bool {
		conn, err := net.DialTimeout("tcp", endpoint, time.Second)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return &running{endpoint: endpoint, port: s.port, kill: stop}
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// waitFor looks until it is so; there is no event to wait for.
func waitFor(t testing.TB, what string, so func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}
