package server

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// usageOf reads the flags of a matchbox and their defaults from its usage.
func usageOf(t *testing.T, program string) map[string]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	out, _ := exec.CommandContext(ctx, program, "-help").CombinedOutput() // it ends with 1 or 2
	flags := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^  -([a-z-]+)[^\n]*\n[^\n]*?(?:\(default "?([^")]*)"?\))?$`).FindAllStringSubmatch(string(out), -1) {
		flags[m[1]] = m[2]
	}
	return flags
}

// TestActivated starts this test as systemd starts a service with sockets, and has it answer on them.
func TestActivated(t *testing.T) {
	if os.Getenv("TEST_ACTIVATED") != "" {
		activatedChild(t)
		return
	}
	for _, c := range []struct {
		name, names string
		sockets     int
		want        string // what answers on the first two sockets, or a part of the error
	}{
		{"by name", "rpc:http", 2, "rpc http"},
		{"by order", "matchbox.socket:matchbox.socket", 2, "http rpc"},
		{"an unknown name", "http:ftp", 2, `a socket named "ftp"`},
		{"twice", "http:http", 2, `a socket named "http"`},
		{"too many", "a:b:c:d", 4, "systemd passed 4 sockets"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			// LISTEN_PID is the process's own number, which sh can set before it becomes that process.
			cmd := exec.CommandContext(ctx, "/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" -test.run='^TestActivated$'`, os.Args[0])
			cmd.Env = append(os.Environ(), "TEST_ACTIVATED=1", "LISTEN_FDS="+string(rune('0'+c.sockets)), "LISTEN_FDNAMES="+c.names)
			var addresses []string
			for range c.sockets {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				file, err := l.(*net.TCPListener).File()
				if err != nil {
					t.Fatal(err)
				}
				addresses = append(addresses, l.Addr().String())
				cmd.ExtraFiles = append(cmd.ExtraFiles, file)
				l.Close()
				defer file.Close()
			}
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			for _, f := range cmd.ExtraFiles {
				f.Close()
			}
			var got []string
			for _, a := range addresses[:2] {
				// The socket listens already: this waits for the child, and fails when the child gave the socket up.
				resp, err := http.Get("http://" + a)
				if err != nil {
					break
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				got = append(got, string(body))
			}
			stdin.Close()
			_ = cmd.Wait()
			if answer := strings.Join(got, " "); answer != c.want && !strings.Contains(out.String(), c.want) {
				t.Errorf("answers %q, want %q; it said:\n%s", answer, c.want, out.String())
			}
		})
	}
}

func activatedChild(t *testing.T) {
	sockets, err := Activated()
	if err != nil {
		t.Log(err)
		t.Fail()
		return
	}
	for name, l := range map[string]net.Listener{"http": sockets.HTTP, "rpc": sockets.RPC, "machine": sockets.Machine} {
		got, err := Listen(t.Context(), l, "")
		if err != nil || got != l {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if l != nil {
			go func() {
				_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) }))
			}()
		}
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func TestListen(t *testing.T) {
	l, err := Listen(t.Context(), nil, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Listen(t.Context(), nil, l.Addr().String()); err == nil || !strings.Contains(err.Error(), "another matchbox") {
		t.Errorf("a port that is taken: %v", err)
	}
	if l, err := Listen(t.Context(), nil, ""); l != nil || err != nil {
		t.Errorf("nothing to listen on: %v, %v", l, err)
	}
}
