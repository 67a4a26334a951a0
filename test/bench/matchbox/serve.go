package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/server"
)

// serve is the server side, a process of its own: "ours DIR" or "bare DIR". It prints its address and ends with its
// standard input.
func serve(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: serve ours|bare DIRECTORY")
	}
	log, err := os.Create(filepath.Join(args[1], "access.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	s, err := server.New(server.Options{DataPath: args[1], AssetsPath: filepath.Join(args[1], "assets"), Log: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		return err
	}
	defer s.Close()
	h := s.HTTP()
	if args[0] == "bare" {
		if h, err = bare(h); err != nil {
			return err
		}
		s.Close()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	hs := server.HTTPServer(h, slog.New(slog.DiscardHandler))
	go func() { _ = hs.Serve(l) }()
	fmt.Println(l.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return hs.Close()
}

// bare returns for each endpoint the bytes that h returns for the first machine, and does nothing else.
func bare(h http.Handler) (http.Handler, error) {
	mux := http.NewServeMux()
	for _, path := range endpoints {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, query(path, 0), nil))
		if rec.Code != http.StatusOK {
			return nil, fmt.Errorf("%s answers %d", path, rec.Code)
		}
		body, kind, length := rec.Body.Bytes(), rec.Header()["Content-Type"], []string{strconv.Itoa(rec.Body.Len())}
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = kind
			w.Header()["Content-Length"] = length
			_, _ = w.Write(body)
		})
	}
	return mux, nil
}

// query is what machine i asks.
func query(path string, i int) string {
	m := mac(i)
	return fmt.Sprintf("%s?uuid=4c4c4544-0051-3510-8058-%012d&mac=%s&domain=example.com&hostname=node%d&serial=%d&arch=x86_64", path, i, m, i, i)
}

// process is a server that runs.
type process struct {
	cmd     *exec.Cmd
	stdin   io.Closer
	address string
	started time.Duration
}

func (p *process) stop() {
	if p.stdin != nil {
		_ = p.stdin.Close()
	} else {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
	}
	_ = p.cmd.Wait()
}

// startOwn runs this program as a server.
func startOwn(ctx context.Context, kind, dir string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	cmd := exec.CommandContext(ctx, self, "serve", kind, dir)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, stdin: stdin}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	p.address, p.started = strings.TrimSpace(line), time.Since(began)
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("the server (%s) did not start: %w", kind, err)
	}
	return p, nil
}

// startMatchbox runs a real matchbox.
func startMatchbox(ctx context.Context, program, dir string) (*process, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := l.Addr().String()
	l.Close()
	cmd := exec.CommandContext(ctx, program, "-address", address, "-data-path", dir, "-assets-path", filepath.Join(dir, "assets"))
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, address: address}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return p, nil
		}
		select {
		case <-ctx.Done():
			p.stop()
			return nil, errors.New("matchbox does not answer")
		case <-tick.C:
		}
	}
}

// resident is the memory of a process that is in RAM, in bytes.
func (p *process) resident() int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kib, _ := strconv.ParseInt(fields[0], 10, 64)
	return kib << 10
}

// cpu is the processor time that a process has used, in the kernel's ticks of 10 ms.
func (p *process) cpu() time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	// The name may have spaces: count from behind its parenthesis, where state is field 3; utime and stime are 14 and 15.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond
}
