package cri

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// containerd starts the real one on a socket of its own, and stops it.
func containerd(t *testing.T, config string) string {
	t.Helper()
	path, err := exec.LookPath("containerd")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("containerd is not installed")
		}
		t.Skip("containerd is not installed")
	}
	if os.Geteuid() != 0 {
		t.Skip("containerd needs root")
	}
	dir := t.TempDir()
	socket := filepath.Join(dir, "c.sock")
	file := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(file, []byte("version = 2\n"+config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "--config", file, "--address", socket, "--root", filepath.Join(dir, "root"), "--state", filepath.Join(dir, "state"))
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(30 * time.Second); ; {
		// It listens before its CRI is served.
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			client := New(socket)
			_, _, err := client.Version(ctx)
			client.Close()
			cancel()
			if err == nil || Unimplemented(err) && strings.Contains(config, "disabled") {
				return socket
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("containerd does not answer: %s", log.String())
		}
		time.Sleep(50 * time.Millisecond) // nothing tells when it serves
	}
}

func TestContainerd(t *testing.T) {
	c := New(containerd(t, ""))
	defer c.Close()
	name, version, err := c.Version(t.Context())
	if err != nil || name != "containerd" || version == "" {
		t.Fatalf("%q %q %v", name, version, err)
	}
	conditions, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]Condition{}
	for _, one := range conditions {
		seen[one.Type] = one
	}
	if !seen["RuntimeReady"].OK {
		t.Errorf("%+v", conditions)
	}
	if n, ok := seen["NetworkReady"]; !ok || !n.OK && n.Reason == "" {
		t.Errorf("%+v", conditions)
	}
	driver, err := c.CgroupDriver(t.Context())
	switch {
	case strings.HasPrefix(strings.TrimPrefix(version, "v"), "1."):
		if !Unimplemented(err) {
			t.Errorf("%s told its driver: %q %v", version, driver, err)
		}
	case err != nil || driver != "systemd" && driver != "cgroupfs":
		t.Errorf("%q %v", driver, err)
	}
}

func TestContainerdWithoutCRI(t *testing.T) {
	c := New(containerd(t, "disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"))
	defer c.Close()
	if _, _, err := c.Version(t.Context()); !Unimplemented(err) {
		t.Errorf("%v", err)
	}
}

// serve answers on a socket as told.
func serve(t *testing.T, answer http.HandlerFunc) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: answer, Protocols: &p}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	c := New(socket)
	t.Cleanup(c.Close)
	return c
}

func message(fields ...[]byte) []byte {
	var m []byte
	for _, f := range fields {
		m = append(m, f...)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(m))), m...)
}

func text(n protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(nil, n, protowire.BytesType), s)
}

func ok(w http.ResponseWriter, body []byte) {
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	_, _ = w.Write(body)
	w.Header().Set("Grpc-Status", "0")
}

// Both drivers, as containerd 2 sends them; the older name of the service; and
// what is no answer.
func TestAnswers(t *testing.T) {
	version := message(text(2, "containerd"), text(3, "v2.1.0"))
	tests := []struct {
		name   string
		config []byte
		driver string
		says   string
	}{
		{"systemd", message(text(1, "")), "systemd", ""},
		{"cgroupfs", message(text(1, string(protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1)))), "cgroupfs", ""},
		{"empty", message(), "", "names no cgroup driver"},
		{"short", []byte{0, 0, 0, 0, 9, 1}, "", "no gRPC message"},
		{"compressed", []byte{1, 0, 0, 0, 0}, "", "no gRPC message"},
		{"garbage", message([]byte{0xff, 0xff, 0xff}), "", "cannot be read"},
		{"too long", make([]byte, maxAnswer+10), "", "broke off"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if body, _ := io.ReadAll(r.Body); string(body) != "\x00\x00\x00\x00\x00" || r.ProtoMajor != 2 {
					t.Errorf("asked with %q over HTTP/%d", body, r.ProtoMajor)
				}
				switch r.URL.Path {
				case "/runtime.v1alpha2.RuntimeService/Version":
					ok(w, version)
				case "/runtime.v1alpha2.RuntimeService/RuntimeConfig":
					ok(w, tt.config)
				default: // an answer without a message has its status in the header
					w.Header().Set("Content-Type", "application/grpc")
					w.Header().Set("Grpc-Status", "12")
					w.Header().Set("Grpc-Message", "unknown%20service")
				}
			})
			driver, err := c.CgroupDriver(t.Context())
			if driver != tt.driver || (tt.says == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%q %v", driver, err)
			}
		})
	}
}

// A runtime that accepts and says nothing, one that is not there, and a server
// of something else.
func TestNoAnswer(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, _, err := New(socket).Version(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if _, _, err := New(socket + "x").Version(t.Context()); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("%v", err)
	}
	other := serve(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusTeapot) })
	if _, _, err := other.Version(t.Context()); err == nil || !strings.Contains(err.Error(), "418") {
		t.Errorf("%v", err)
	}
}
