package check

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/credentials"
)

// Each thing that is wrong is found, said with what to do, and nothing else is said to be wrong.
func TestFaults(t *testing.T) {
	t.Parallel()
	write := func(s *site, name, content string, mode os.FileMode) error {
		path := filepath.Join(s.dir, name)
		return errors.Join(os.Remove(path), os.WriteFile(path, []byte(content), mode))
	}
	for _, tt := range []struct {
		name string
		harm func(t *testing.T, s *site) error
		want []string // of what is not well: parts of a line "level name target: message; what to do", in order
	}{
		{"the client's key may be read by others", func(_ *testing.T, s *site) error {
			return os.Chmod(filepath.Join(s.dir, "tls/client.key"), 0o644)
		}, []string{"failed tls client.crt: has no usable key"}},
		{"no credentials", func(_ *testing.T, s *site) error { return os.RemoveAll(filepath.Join(s.dir, "tls")) },
			[]string{"failed tls client.crt: ca.crt tectonic-installer certs"}},
		{"credentials of another authority", func(_ *testing.T, s *site) error {
			dir := filepath.Join(s.dir, "tls")
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
			_, err := credentials.Create(dir, credentials.Options{Cluster: "other", Names: []string{"127.0.0.1"}})
			return err
		}, []string{"failed matchbox authority", "failed machines authority"}},
		{"credentials that soon expire", func(_ *testing.T, s *site) error {
			s.options.Now = func() time.Time { return time.Now().Add(credentials.DefaultValidity - 10*24*time.Hour) }
			return nil
		}, []string{"warning tls client.crt: expires in 9 days certs rotate", "warning tls expires in 9 days certs rotate", "warning tls expires in 9 days certs rotate"}},
		{"credentials that expired", func(_ *testing.T, s *site) error {
			s.options.Now = func() time.Time { return time.Now().Add(credentials.DefaultValidity + 10*24*time.Hour) }
			return nil
		}, []string{"failed tls client.crt: has expired", "warning tls expires in", "warning tls expires in"}},
		{"a file is missing", func(_ *testing.T, s *site) error { return os.Remove(filepath.Join(s.dir, "pull-secret")) },
			[]string{"failed files pull-secret: cannot be read correct its source"}},
		{"a file is a directory", func(_ *testing.T, s *site) error {
			path := filepath.Join(s.dir, "pull-secret")
			return errors.Join(os.Remove(path), os.Mkdir(path, 0o755))
		}, []string{"failed files pull-secret: is not a regular file"}},

		{"a name is missing", func(t *testing.T, s *site) error {
			s.options.Resolver = startDNS(t, "node1.lab.example,127.1.0.1", "node2.lab.example,127.1.0.2", "k8s.lab.example,127.1.0.1", "apps.lab.example,127.1.0.2")
			return nil
		}, []string{"failed dns node3.lab.example: does not resolve 127.1.0.3"}},
		{"a name is another address", func(t *testing.T, s *site) error {
			s.options.Resolver = startDNS(t, "node1.lab.example,127.1.0.1", "node2.lab.example,127.9.9.9", "node3.lab.example,127.1.0.3", "k8s.lab.example,127.1.0.1", "apps.lab.example,127.1.0.2")
			return nil
		}, []string{"failed dns node2.lab.example: is 127.9.9.9 gives node2 the address 127.1.0.2 correct the record"}},
		{"two names are one address", func(t *testing.T, s *site) error {
			for i := range s.cluster.Machines {
				s.cluster.Machines[i].Address = netip.Addr{}
			}
			s.options.Resolver = startDNS(t, "node1.lab.example,127.1.0.1", "node2.lab.example,127.1.0.2", "node3.lab.example,127.1.0.2", "k8s.lab.example,127.1.0.1", "apps.lab.example,127.1.0.2")
			return nil
		}, []string{"failed dns node2.lab.example: node3.lab.example", "failed dns node3.lab.example: node2.lab.example"}},
		{"the cluster's names lead elsewhere", func(t *testing.T, s *site) error {
			s.options.Resolver = startDNS(t, "node1.lab.example,127.1.0.1", "node2.lab.example,127.1.0.2", "node3.lab.example,127.1.0.3", "k8s.lab.example,127.1.0.2", "apps.lab.example,127.9.9.9")
			return nil
		}, []string{"warning dns k8s.lab.example: no controller's address load balancer", "warning dns apps.lab.example: no worker's address"}},
		{"no DNS server", func(_ *testing.T, s *site) error {
			s.options.Timeout = time.Second
			s.options.Resolver = nowhere
			return nil
		}, []string{"failed dns k8s resolv.conf", "failed dns apps", "failed dns node1", "failed dns node2", "failed dns node3"}},
		{"the provisioner answers DNS itself, and does", func(t *testing.T, s *site) error {
			s.options.DNSPort = portOf(t, s.options.Resolver)
			s.cluster.Network.DNS, s.options.Resolver = true, nowhere
			return nil
		}, nil},
		{"the provisioner answers DNS itself, and does not yet", func(_ *testing.T, s *site) error {
			s.cluster.Network.DNS, s.options.DNSPort = true, 1
			return nil
		}, []string{"warning dns k8s netboot run", "warning dns apps", "warning dns node1", "warning dns node2", "warning dns node3"}},

		{"no HTTP", func(_ *testing.T, s *site) error { s.stopHTTP(); return nil },
			[]string{"failed port nothing listens tectonic-installer serve", "failed matchbox boot.ipxe: nothing listens"}},
		{"no gRPC", func(_ *testing.T, s *site) error { s.stopRPC(); return nil },
			[]string{"failed port nothing listens", "failed matchbox connection refused"}},
		{"no machines' API", func(_ *testing.T, s *site) error { s.stopMachines(); return nil },
			[]string{"failed port nothing listens --machine-address", "failed machines connection refused"}},
		{"something else answers HTTP", func(t *testing.T, s *site) error {
			login := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>please log in") }))
			t.Cleanup(login.Close)
			s.cluster.Matchbox.HTTP = login.URL
			return nil
		}, []string{"failed matchbox something that is not a boot script"}},
		{"HTTP is not found", func(t *testing.T, s *site) error {
			empty := httptest.NewServer(http.NotFoundHandler())
			t.Cleanup(empty.Close)
			s.cluster.Matchbox.HTTP = empty.URL
			return nil
		}, []string{"failed matchbox answers 404"}},
		{"HTTP stalls", func(t *testing.T, s *site) error {
			s.options.Timeout = time.Second
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err == nil {
				t.Cleanup(func() { l.Close() })
				s.cluster.Matchbox.HTTP = "http://" + l.Addr().String()
			}
			return err
		}, []string{"failed matchbox no answer came"}},

		{"BMC credentials may be read by others", func(_ *testing.T, s *site) error { return os.Chmod(filepath.Join(s.dir, "bmc.yaml"), 0o640) },
			[]string{"failed bmc bmc.yaml: chmod 600 mode 0600"}},
		{"BMC credentials are wrong", func(_ *testing.T, s *site) error {
			return write(s, "bmc.yaml", "username: ADMIN\npassword: s3cret-but-wrong\n", 0o600)
		}, []string{"failed bmc node1 the password is wrong", "failed bmc node2 the password is wrong"}},
		{"a BMC is gone", func(_ *testing.T, s *site) error { s.other.Kill(); return nil },
			[]string{"failed bmc node2 nothing listens IPMI over LAN"}},
		{"a BMC hangs", func(_ *testing.T, s *site) error { return s.bmc.Hang() },
			[]string{"failed bmc node1 does not answer"}},

		{"a registry cannot be reached", func(_ *testing.T, s *site) error { s.options.Registries = []string{"127.0.0.1:1"}; return nil },
			[]string{"warning egress 127.0.0.1:1: nothing listens proxy.https"}},
		{"a registry wants a login", func(t *testing.T, s *site) error {
			registry(t, s, http.StatusUnauthorized)
			return nil
		}, nil},
		{"a registry is down", func(t *testing.T, s *site) error {
			registry(t, s, http.StatusServiceUnavailable)
			return nil
		}, []string{"warning egress answers 503"}},
		{"somebody else answers for a registry", func(t *testing.T, s *site) error {
			registry(t, s, http.StatusOK)
			s.options.Roots = x509.NewCertPool()
			return nil
		}, []string{"warning egress certificate"}},

		{"a machine that is ready cannot be reached", func(t *testing.T, s *site) error {
			s.becomeReady(t, "node1", "52:54:00:00:00:01")
			// No route leads there from any host, and nothing is sent.
			s.cluster.Machines[0].Address = netip.AddrFrom4([4]byte{255, 255, 255, 255})
			s.options.Resolver = startDNS(t, "node1.lab.example,255.255.255.255", "node2.lab.example,127.1.0.2", "node3.lab.example,127.1.0.3",
				"k8s.lab.example,255.255.255.255", "apps.lab.example,127.1.0.2")
			return nil
		}, []string{"warning port :443: open it in the firewalls", "warning port :2379:", "warning port :2380:"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			if err := tt.harm(t, s); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			results := Run(t.Context(), s.cluster, s.options)
			if took := time.Since(start); took > 3*s.options.Timeout {
				t.Errorf("that took %s", took)
			}
			var got []Result
			for _, r := range results {
				if r.Level == Failed || r.Level == Warning {
					got = append(got, r)
				}
				if strings.Contains(fmt.Sprintf("%+v", r), "s3cret") {
					t.Errorf("a secret is in %+v", r)
				}
			}
			for i := range max(len(got), len(tt.want)) {
				switch {
				case i >= len(got):
					t.Errorf("nothing says %q", tt.want[i])
				case i >= len(tt.want):
					t.Errorf("too much: %+v", got[i])
				default:
					line := fmt.Sprintf("%s %s %s: %s; %s", got[i].Level, got[i].Name, got[i].Target, got[i].Message, got[i].Do)
					if !hasParts(line, tt.want[i]) {
						t.Errorf("%q\nlacks one of %q", line, tt.want[i])
					}
					if got[i].Do == "" && !strings.ContainsAny(got[i].Message, ";") {
						t.Errorf("%q does not say what to do", line)
					}
				}
			}
		})
	}
}

// hasParts tells whether all words of want are in line; a word's colon ends the target.
func hasParts(line, want string) bool {
	for _, word := range strings.Fields(want) {
		if !strings.Contains(line, word) {
			return false
		}
	}
	return true
}

// nowhere is a DNS server that refuses.
var nowhere = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, "127.0.0.1:1")
}}

func portOf(t *testing.T, r *net.Resolver) int {
	t.Helper()
	conn, err := r.Dial(t.Context(), "udp", "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.RemoteAddr().(*net.UDPAddr).Port
}

func registry(t *testing.T, s *site, status int) {
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		w.WriteHeader(status)
	}))
	front.Config.ErrorLog = log.New(io.Discard, "", 0) // of those that do not trust it
	front.StartTLS()
	t.Cleanup(front.Close)
	s.options.Roots = x509.NewCertPool()
	s.options.Roots.AddCert(front.Certificate())
	s.options.Registries = []string{strings.TrimPrefix(front.URL, "https://")}
}

// Offline asks nobody, and says so.
func TestOffline(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.stopHTTP()
	s.stopRPC()
	s.stopMachines()
	s.bmc.Kill()
	s.options.Offline = true
	s.options.Resolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		t.Error("DNS was asked")
		return nil, errors.New("offline")
	}}
	results := Run(t.Context(), s.cluster, s.options)
	if got := lines(results, Failed, Warning); got != nil {
		t.Errorf("%q", got)
	}
	if got := lines(results, Skipped); len(got) != 1 || !strings.Contains(got[0], "--offline") {
		t.Errorf("%q", got)
	}
	if len(results) != 5 {
		t.Errorf("%d results, want those of four files and the note", len(results))
	}
}

// An interrupted run ends at once.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	if err := errors.Join(s.bmc.Hang(), s.other.Hang()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	Run(ctx, s.cluster, s.options)
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("that took %s", took)
	}
}
