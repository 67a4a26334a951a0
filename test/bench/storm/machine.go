package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

func name(i int) string { return fmt.Sprintf("node%06d", i) }
func mac(i int) string {
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", i>>16&0xff, i>>8&0xff, i&0xff)
}

// definition is what is declared of machine i; the hostname is what tells that a claim's answer is its own.
func definition(i int) machine.Definition {
	return machine.Definition{
		Name: name(i), Cluster: "storm", MACs: []string{mac(i)}, DNSName: name(i) + ".example.com", Role: "worker",
		Minimum: machine.Minimum{Memory: 8 << 30, Cores: 2, Disk: 30 << 30}, Disk: machine.Disk{MinSize: 30 << 30},
		Image:  machine.Image{OS: "flatcar", Channel: "stable", Version: "1.2.3", Arch: "x86_64", BaseURL: "http://192.0.2.1:8080/assets/flatcar/1.2.3"},
		Config: json.RawMessage(`{"ignition":{"version":"3.3.0"},"storage":{"files":[{"path":"/etc/hostname","contents":{"source":"data:,` + name(i) + `"}}]}}`),
		Files:  []machine.File{{Path: "/etc/kubernetes/kubeconfig", Mode: 0o600, Content: bytes.Repeat([]byte("secret-of-"+name(i)+"\n"), 128)}},
	}
}

// calls are what a machine does, in its order; what takes how long is told by these names.
var calls = []string{"/boot.ipxe", "/ipxe", "/ignition", "hello", "checks", "claim", "progress", "installed", "/ipxe again", "ready"}

// fleet is all machines.
type fleet struct {
	p       *provisioner
	roots   *x509.CertPool
	retried atomic.Int64
	mu      sync.Mutex
	took    map[string][]time.Duration
}

// session is a connection of one program on a machine: iPXE, Ignition, the installer, curl. HTTP/1.1, as installer/live.
type session struct {
	f         *fleet
	client    *http.Client
	transport *http.Transport
	took      map[string]time.Duration
}

func (f *fleet) session(took map[string]time.Duration) *session {
	t := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: f.roots, MinVersion: tls.VersionTLS12},
		MaxConnsPerHost: 1, ReadBufferSize: 2 << 10, WriteBufferSize: 2 << 10,
	}
	return &session{f: f, transport: t, client: &http.Client{Transport: t}, took: took}
}

// do asks until there is an answer: a machine has minutes. Not answered is not the same as refused, which ends it.
func (s *session) do(ctx context.Context, call string, request func(context.Context) (*http.Request, error)) ([]byte, error) {
	began := time.Now()
	wait := 100 * time.Millisecond
	for try := 1; ; try++ {
		status, body, err := s.once(ctx, request)
		if err == nil && status == http.StatusOK {
			s.took[call] = max(s.took[call], time.Since(began))
			return body, nil
		}
		if err == nil {
			return nil, fmt.Errorf("%s: %d %.300s", call, status, body)
		}
		if try == 10 || ctx.Err() != nil {
			return nil, fmt.Errorf("%s: %w", call, err)
		}
		s.f.retried.Add(1)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
		wait = min(2*wait, 5*time.Second)
	}
}

func (s *session) once(ctx context.Context, request func(context.Context) (*http.Request, error)) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	req, err := request(ctx)
	if err != nil {
		return 0, nil, err
	}
	res, err := s.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	return res.StatusCode, body, err
}

func (s *session) get(ctx context.Context, call, path string) (string, error) {
	body, err := s.do(ctx, call, func(ctx context.Context) (*http.Request, error) {
		return http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.f.p.http+path, nil)
	})
	return string(body), err
}

func (s *session) post(ctx context.Context, call, server, path, token string, in, out any) error {
	text, err := json.Marshal(in)
	if err != nil {
		return err
	}
	body, err := s.do(ctx, call, func(ctx context.Context) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, server+path, bytes.NewReader(text))
		if err == nil {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		return req, err
	})
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(body, out)
}

// live is one machine's whole way.
func (f *fleet) live(ctx context.Context, i int) error {
	took := map[string]time.Duration{}
	err := f.steps(ctx, i, took)
	f.mu.Lock()
	defer f.mu.Unlock()
	for call, d := range took {
		f.took[call] = append(f.took[call], d)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name(i), err)
	}
	return nil
}

func (f *fleet) steps(ctx context.Context, i int, took map[string]time.Duration) error {
	query := "?uuid=4c4c4544-0051-3510-8058-" + fmt.Sprintf("%012d", i) + "&mac=" + strings.ReplaceAll(mac(i), ":", "-") + "&domain=example.com&hostname=&serial=&arch=x86_64"
	script, err := f.netboot(ctx, query, took, "/ipxe")
	if err != nil {
		return err
	}
	args := map[string]string{}
	for word := range strings.FieldsSeq(script) {
		if key, value, ok := strings.Cut(word, "="); ok {
			args[key] = value
		}
	}
	server, token := args[machine.ArgServer], args[machine.ArgToken]
	if server == "" || token == "" || args[machine.ArgMAC] == "" {
		return fmt.Errorf("its boot script is no installer's: %.200q", script)
	}

	ignition := f.session(took)
	config, err := ignition.get(ctx, "/ignition", "/ignition?mac="+strings.ReplaceAll(mac(i), ":", "-"))
	ignition.transport.CloseIdleConnections()
	if err != nil {
		return err
	}
	if !strings.Contains(config, `"3.3.0"`) {
		return fmt.Errorf("its Ignition is %.100q", config)
	}

	ready, err := f.install(ctx, i, server, token, args[machine.ArgMAC], took)
	if err != nil {
		return err
	}
	// Firmware that favours the network asks again, and must not be installed again.
	if script, err = f.netboot(ctx, query, took, "/ipxe again"); err != nil {
		return err
	}
	if strings.Contains(script, machine.ArgToken) || strings.Contains(script, "kernel") {
		return errors.New("served an installer twice")
	}
	curl := f.session(took)
	defer curl.transport.CloseIdleConnections()
	return curl.post(ctx, "ready", server, machine.PathReady, ready, machine.Answer{}, nil)
}

// netboot is what iPXE asks on one connection; call is the name of its second question.
func (f *fleet) netboot(ctx context.Context, query string, took map[string]time.Duration, call string) (string, error) {
	ipxe := f.session(took)
	defer ipxe.transport.CloseIdleConnections()
	first, err := ipxe.get(ctx, "/boot.ipxe", "/boot.ipxe")
	if err != nil {
		return "", err
	}
	if !strings.Contains(first, "chain ipxe?") {
		return "", fmt.Errorf("/boot.ipxe is %.100q", first)
	}
	return ipxe.get(ctx, call, "/ipxe"+query)
}

// install is what tectonic-machine asks on one connection.
func (f *fleet) install(ctx context.Context, i int, server, token, card string, took map[string]time.Duration) (ready string, err error) {
	s := f.session(took)
	defer s.transport.CloseIdleConnections()
	disk := machine.InventoryDisk{Name: "nvme0n1", Size: 960 << 30, Serial: "S" + name(i), Model: "EXAMPLE 960"}
	hello := machine.Hello{MAC: card, Inventory: machine.Inventory{
		Memory: 64 << 30, Cores: 16, Firmware: "uefi", Arch: "x86_64", NICs: map[string]string{"eno1": mac(i), "eno2": "52:54:01:00:00:01"},
		Disks: []machine.InventoryDisk{disk, {Name: "sda", Size: 4 << 40, Serial: "T" + name(i), Model: "EXAMPLE 4T", Rotational: true}},
	}}
	var order machine.Instruction
	if err := s.post(ctx, "hello", server, machine.PathHello, token, hello, &order); err != nil {
		return "", err
	}
	if order.Machine != name(i) || order.Action != machine.ActionInstall {
		return "", fmt.Errorf("it is told to %s %s", order.Action, order.Machine)
	}
	checks := machine.Checks{Checks: []machine.Check{
		{Name: "memory", OK: true, Wanted: "8 GiB", Found: "64 GiB"}, {Name: "cores", OK: true, Wanted: "2", Found: "16"}, {Name: "disk", OK: true, Wanted: "30 GiB", Found: "960 GiB"},
	}}
	if err := s.post(ctx, "checks", server, machine.PathChecks, token, checks, nil); err != nil {
		return "", err
	}
	var claimed machine.Claimed
	if err := s.post(ctx, "claim", server, machine.PathClaim, token, machine.Claim{Disk: disk, Run: fmt.Sprint("run of ", i)}, &claimed); err != nil {
		return "", err
	}
	if !strings.Contains(string(claimed.Config), name(i)) || len(claimed.Files) != 1 || !strings.Contains(string(claimed.Files[0].Content), name(i)) {
		return "", errors.New("the claim's answer is not its own")
	}
	for percent := 0; percent <= 100; percent += 25 {
		if err := s.post(ctx, "progress", server, machine.PathProgress, claimed.Session, machine.Progress{Stage: "write", Percent: percent}, nil); err != nil {
			return "", err
		}
	}
	return claimed.Ready, s.post(ctx, "installed", server, machine.PathInstalled, claimed.Session, machine.Answer{}, nil)
}
