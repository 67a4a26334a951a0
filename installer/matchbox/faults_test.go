package matchbox_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tectonic-worker/tectonic-worker/installer/credentials"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox"
)

// What may pass is tried again; what will not is reported at once.
func TestRepetition(t *testing.T) {
	tests := []struct {
		name  string
		err   error
		tries int // of a call that is answered so twice
		kind  error
	}{
		{"UNAVAILABLE", status.Error(codes.Unavailable, "later"), 3, nil},
		{"RESOURCE_EXHAUSTED", status.Error(codes.ResourceExhausted, "too many"), 3, nil},
		{"DEADLINE_EXCEEDED", status.Error(codes.DeadlineExceeded, "its own"), 3, nil},
		{"INVALID_ARGUMENT", status.Error(codes.InvalidArgument, "no"), 1, nil},
		{"UNKNOWN", status.Error(codes.Unknown, "open /x/y: permission denied"), 1, nil},
		{"too large", status.Error(codes.ResourceExhausted, "grpc: received message larger than max (5 vs. 4)"), 1, nil},
		{"UNIMPLEMENTED", status.Error(codes.Unimplemented, "unknown service rpcpb.Profiles"), 1, matchbox.ErrUntrusted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var tries atomic.Int32
			ca := newAuthority(t, "site authority")
			run := startOurs(t, setting{data: dataDir(t), ca: ca, pair: ca.server(t, nil), intercept: func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
				if tries.Add(1) <= 2 {
					return nil, tt.err
				}
				return handle(ctx, req)
			}})
			err := dial(t, run.endpoint, ca).ProfilePut(t.Context(), matchbox.Profile{ID: "p"})
			if got := int(tries.Load()); got != tt.tries {
				t.Errorf("tried %d times, want %d", got, tt.tries)
			}
			if (err == nil) != (tt.tries == 3) {
				t.Errorf("error: %v", err)
			}
			if tt.kind != nil && !errors.Is(err, tt.kind) {
				t.Errorf("error is not of kind %q: %v", tt.kind, err)
			}
		})
	}
}

// A call ends by its deadline, whatever the server does, and by the caller's if that is earlier.
func TestDeadline(t *testing.T) {
	ca := newAuthority(t, "site authority")
	hang := func(ctx context.Context, _ any, _ *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	run := startOurs(t, setting{data: dataDir(t), ca: ca, pair: ca.server(t, nil), intercept: hang})
	c, err := matchbox.Dial(t.Context(), matchbox.Options{Endpoint: run.endpoint, TLS: ca.operator(t), Timeout: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	begun := time.Now()
	_, err = c.GroupList(t.Context())
	checkError(t, err, matchbox.ErrUnreachable, []string{"no answer in time", "list groups", run.endpoint})
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("took %s with a timeout of 0.3 s", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.GroupList(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error is not the caller's: %v", err)
	}
}

// A server that goes away and comes back within the deadline is not noticed; one that stays away is, by its cause.
func TestServerRestarts(t *testing.T) {
	for _, target := range targets(t) {
		t.Run(target.name, func(t *testing.T) {
			ca := newAuthority(t, "site authority")
			s := setting{data: dataDir(t), ca: ca, pair: ca.server(t, nil)}
			run := target.start(t, s)
			c := dial(t, run.endpoint, ca)
			if err := c.ProfilePut(t.Context(), matchbox.Profile{ID: "before"}); err != nil {
				t.Fatal(err)
			}
			run.kill()

			done := make(chan error, 1)
			go func() { done <- c.ProfilePut(t.Context(), matchbox.Profile{ID: "meanwhile"}) }()
			// It has met nobody at least once.
			select {
			case err := <-done:
				t.Fatalf("without a server: %v", err)
			case <-time.After(300 * time.Millisecond):
			}
			s.port = run.port
			run = target.start(t, s)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if profiles, err := c.ProfileList(t.Context()); err != nil || len(profiles) != 2 {
				t.Errorf("after the restart: %v, %v", profiles, err)
			}

			brief, err := matchbox.Dial(t.Context(), matchbox.Options{Endpoint: run.endpoint, TLS: ca.operator(t), Timeout: 700 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			defer brief.Close()
			run.kill()
			begun := time.Now()
			err = brief.ProfilePut(t.Context(), matchbox.Profile{ID: "after"})
			checkError(t, err, matchbox.ErrUnreachable, []string{"connection refused", `write profile "after"`, "tried "})
			if took := time.Since(begun); took > 5*time.Second {
				t.Errorf("took %s with a timeout of 0.7 s", took)
			}
		})
	}
}

// A server whose certificate becomes wrong while a client is connected is not written to again, and the cause is named
// at once, not when the deadline is over.
func TestServerComesBackWrong(t *testing.T) {
	for _, target := range targets(t) {
		t.Run(target.name, func(t *testing.T) {
			ca, other := newAuthority(t, "site authority"), newAuthority(t, "another authority")
			s := setting{data: dataDir(t), ca: ca, pair: ca.server(t, nil)}
			run := target.start(t, s)
			c := dial(t, run.endpoint, ca)
			if _, err := c.ProfileList(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, wrong := range []struct {
				s    setting
				want string
			}{
				{setting{data: s.data, ca: ca, pair: ca.server(t, expired)}, "its certificate has expired"},
				{setting{data: s.data, ca: other, pair: other.server(t, nil)}, `signed by "CN=another authority"`},
				{setting{data: s.data, ca: other, pair: ca.server(t, nil)}, "it does not accept this client's certificate"},
			} {
				run.kill()
				wrong.s.port = run.port
				run = target.start(t, wrong.s)
				begun := time.Now()
				err := c.ProfilePut(t.Context(), matchbox.Profile{ID: "p"})
				checkError(t, err, matchbox.ErrUntrusted, []string{wrong.want})
				if took := time.Since(begun); took > 5*time.Second {
					t.Errorf("took %s", took)
				}
				if _, err := os.Stat(filepath.Join(s.data, "profiles", "p.json")); err == nil {
					t.Error("was written all the same")
				}
			}
		})
	}
}

// The connection breaks at any byte of the way: the call is done all the same, or fails by its name, and nothing hangs.
func TestConnectionsBreak(t *testing.T) {
	for _, target := range targets(t) {
		t.Run(target.name, func(t *testing.T) {
			ca := newAuthority(t, "site authority")
			run := target.start(t, setting{data: dataDir(t), ca: ca, pair: ca.server(t, nil)})
			// Each connection is cut by RST after so many bytes from the client, growing, until all is said in one.
			var allowed atomic.Int64
			proxy := listen(t, func(conn net.Conn) {
				n := allowed.Add(150)
				up, err := net.Dial("tcp", run.endpoint)
				if err != nil {
					return
				}
				defer up.Close()
				var down sync.WaitGroup
				down.Go(func() { io.Copy(conn, up) })
				// Past 8 KiB there are no more cuts: until the client hangs up.
				if n > 8<<10 {
					io.Copy(up, conn)
				} else {
					io.CopyN(up, conn, n)
					reset(conn)
				}
				up.Close()
				down.Wait()
			})
			var c *matchbox.Client
			refused := 0
			waitFor(t, "a connection is made", func() bool {
				var err error
				c, err = matchbox.Dial(t.Context(), matchbox.Options{Endpoint: proxy, TLS: ca.operator(t), Timeout: 20 * time.Second})
				if err != nil {
					refused++
					checkError(t, err, matchbox.ErrUnreachable, []string{"closed the connection"})
				}
				return err == nil
			})
			defer c.Close()
			if refused == 0 {
				t.Error("no handshake was cut; the test cuts nothing")
			}
			for i := range 5 {
				if err := c.ProfilePut(t.Context(), matchbox.Profile{ID: fmt.Sprintf("p%d", i), Name: strings.Repeat("n", 500)}); err != nil {
					t.Error(err)
				}
			}
			profiles, err := c.ProfileList(t.Context())
			if err != nil || len(profiles) != 5 {
				t.Errorf("%d profiles, %v", len(profiles), err)
			}
		})
	}
}

// The operator's and the server's files together, and a rotation of all of them under a client that never stops.
func TestRotation(t *testing.T) {
	dir := t.TempDir()
	options := credentials.Options{Cluster: "c", Names: []string{"127.0.0.1"}}
	if _, err := credentials.Create(dir, options); err != nil {
		t.Fatal(err)
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	serverTLS, err := credentials.ServerConfig(file("ca.crt"), file("server.crt"), file("server.key"), credentials.ServerOptions{Warn: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	endpoint := startOursTLS(t, dataDir(t), serverTLS)
	connect := func() *matchbox.Client {
		t.Helper()
		config, err := credentials.LoadClient(file("ca.crt"), file("client.crt"), file("client.key"))
		if err != nil {
			t.Fatal(err)
		}
		c, err := matchbox.Dial(t.Context(), matchbox.Options{Endpoint: endpoint, TLS: config})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	old := connect()
	ask := func(step string, clients ...*matchbox.Client) {
		t.Helper()
		for _, c := range clients {
			if _, err := c.GroupList(t.Context()); err != nil {
				t.Errorf("%s: %v", step, err)
			}
		}
	}
	for _, step := range []struct {
		name string
		opts credentials.RotateOptions
	}{
		{"leaves", credentials.RotateOptions{Options: options}},
		{"authority begins", credentials.RotateOptions{Options: options, CA: true}},
		{"leaves of the new authority", credentials.RotateOptions{Options: options}},
		{"authority ends", credentials.RotateOptions{Options: options, Finish: true}},
	} {
		if _, err := credentials.Rotate(dir, step.opts); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		ask(step.name, old, connect())
	}
}
