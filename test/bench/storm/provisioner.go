package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer"
	"github.com/tectonic-worker/tectonic-worker/installer/credentials"
	"github.com/tectonic-worker/tectonic-worker/installer/machine/api"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/server"
)

// provisioner is a process of its own, and what it serves.
type provisioner struct {
	dir      string
	http     string // host:port
	machines string // host:port
	operator *api.Client
	process  *exec.Cmd
	stdin    io.Closer
	errors   strings.Builder
}

const (
	serveWord = "serve"
	listening = "listening"
)

// serve is the provisioner's process: it serves DIR as the installed program does, until its standard input ends.
func serve(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, "arguments"))
	if err != nil {
		return err
	}
	config, err := server.ParseArgs(strings.Split(string(text), "\n"), nil)
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); cancel() }()
	return installer.Serve(ctx, installer.ServeOptions{
		Config: config, Log: slog.New(slog.NewTextHandler(log, nil)), Started: func() { fmt.Println(listening) },
	})
}

// install lays out what a provisioner has: credentials, and what "apply" puts into matchbox.
func install(dir string, machines int) (*provisioner, error) {
	p := &provisioner{dir: dir}
	tls := filepath.Join(dir, "tls")
	if _, err := credentials.Create(tls, credentials.Options{Cluster: "storm", Names: []string{"127.0.0.1"}}); err != nil {
		return nil, err
	}
	for _, port := range []*string{&p.http, &p.machines} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		*port = l.Addr().String()
		_ = l.Close()
	}
	data := filepath.Join(dir, "data")
	args := []string{
		"--address=" + p.http, "--rpc-address=", "--machine-address=" + p.machines, "--machine-url=https://" + p.machines, "--data-path=" + data,
		"--assets-path=" + filepath.Join(data, "assets"), "--ca-file=" + filepath.Join(tls, "ca.crt"),
		"--cert-file=" + filepath.Join(tls, "server.crt"), "--key-file=" + filepath.Join(tls, "server.key"),
	}
	files := map[string]any{
		"profiles/storm-install.json": matchbox.Profile{
			ID: "storm-install", IgnitionID: "storm-install.ign",
			Boot: matchbox.NetBoot{
				Kernel: "/assets/flatcar/1.2.3/flatcar_production_pxe.vmlinuz", Initrd: []string{"/assets/flatcar/1.2.3/flatcar_production_pxe_image.cpio.gz"},
				Args: []string{"initrd=flatcar_production_pxe_image.cpio.gz", "ignition.config.url=http://" + p.http + "/ignition?mac=${mac:hexhyp}", "flatcar.first_boot=1"},
			},
		},
		"ignition/storm-install.ign": map[string]any{"ignition": map[string]any{"version": "3.3.0"}},
	}
	for i := range machines {
		id := "storm-install-" + name(i) + "-0"
		files["groups/"+id+".json"] = matchbox.Group{
			ID: id, Profile: "storm-install", Selector: map[string]string{"mac": mac(i)},
			Metadata: json.RawMessage(`{"cluster":"storm","machine":"` + name(i) + `","managed_by":"tectonic-installer"}`),
		}
	}
	for _, d := range []string{"groups", "profiles", "ignition", "assets"} {
		if err := os.MkdirAll(filepath.Join(data, d), 0o755); err != nil {
			return nil, err
		}
	}
	for path, v := range files {
		text, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(data, path), text, 0o644); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "arguments"), []byte(strings.Join(args, "\n")), 0o644); err != nil {
		return nil, err
	}
	config, err := credentials.LoadClient(filepath.Join(tls, "ca.crt"), filepath.Join(tls, "client.crt"), filepath.Join(tls, "client.key"))
	if err != nil {
		return nil, err
	}
	p.operator = api.NewClient(p.machines, config)
	return p, nil
}

// start returns when the provisioner listens.
func (p *provisioner) start(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	p.process = exec.CommandContext(ctx, self, serveWord, p.dir)
	p.process.Stderr = &p.errors
	in, err := p.process.StdinPipe()
	if err != nil {
		return err
	}
	out, err := p.process.StdoutPipe()
	if err != nil {
		return err
	}
	if err := p.process.Start(); err != nil {
		return err
	}
	p.stdin = in
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != listening {
		return errors.Join(errors.New("the provisioner does not start"), p.stop())
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return nil
}

// stop asks the provisioner to end, and waits for it.
func (p *provisioner) stop() error {
	if p.stdin == nil {
		return nil
	}
	_ = p.stdin.Close()
	p.stdin = nil
	end := time.AfterFunc(time.Minute, func() { _ = p.process.Process.Signal(syscall.SIGKILL) })
	defer end.Stop()
	if err := p.process.Wait(); err != nil {
		return fmt.Errorf("the provisioner ended badly: %w: %s", err, &p.errors)
	}
	return nil
}

// memory reads what of the provisioner is resident, now and at most so far, in bytes: proc_pid_status(5).
func (p *provisioner) memory() (now, peak int64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.process.Process.Pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch key {
		case "VmRSS":
			now = n << 10
		case "VmHWM":
			peak = n << 10
		}
	}
	return now, peak, nil
}

// processor is what the provisioner used of the processors so far.
func (p *provisioner) processor() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.process.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, errors.New("/proc/PID/stat is not understood")
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	const tick = time.Second / 100 // USER_HZ, the same on every Linux architecture that Go runs on
	return time.Duration(user+system) * tick, nil
}
