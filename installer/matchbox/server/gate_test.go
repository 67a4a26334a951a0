package server

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// double is a gate that lets a machine through once and then sends it to its disk.
type double struct {
	mu    sync.Mutex
	asked []map[string]string
	next  []Decision
	err   error
}

func (d *double) Boot(ctx context.Context, labels map[string]string) (Decision, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, labels)
	if len(d.next) == 0 {
		return Decision{Exit: "exit"}, d.err
	}
	decision := d.next[0]
	d.next = d.next[1:]
	return decision, d.err
}

var gateData = map[string]string{
	"groups/m.json":    `{"id":"m","profile":"p","selector":{"mac":"52:54:00:00:00:01"}}`,
	"groups/none.json": `{"id":"none","profile":"noboot","selector":{"mac":"52:54:00:00:00:02"}}`,
	"groups/bare.json": `{"id":"bare","profile":"bare","selector":{"mac":"52:54:00:00:00:03"}}`,
	"profiles/p.json":  `{"id":"p","boot":{"kernel":"/k","initrd":["/i"],"args":["a"]},"ignition_id":"i.ign"}`,
	// It is there for its configs.
	"profiles/bare.json":   `{"id":"bare","boot":{}}`,
	"profiles/noboot.json": `{"id":"noboot"}`,
	"ignition/i.ign":       `{"ignition":{"version":"3.3.0"}}`,
}

func TestGate(t *testing.T) {
	const (
		machine = "/ipxe?mac=52-54-00-00-00-01&uuid=u"
		auto    = "#!ipxe\niseq ${platform} efi && exit 1 ||\nsanboot --no-describe --drive 0x80\n"
	)
	token := []string{"tectonic.server=https://p:8443", "tectonic.token=secret"}
	for _, c := range []struct {
		name, request string
		next          Decision
		err           error
		status        int
		body          string
		asked         int
	}{
		{"armed", machine, Decision{Install: true, Args: token}, nil, 200, "#!ipxe\nkernel /k a tectonic.server=https://p:8443 tectonic.token=secret\ninitrd /i\nboot\n", 1},
		{"armed, no arguments", machine, Decision{Install: true}, nil, 200, "#!ipxe\nkernel /k a\ninitrd /i\nboot\n", 1},
		{"not armed", machine, Decision{Reason: "ready"}, nil, 200, auto, 1},
		{"exit", machine, Decision{Exit: "exit"}, nil, 200, "#!ipxe\nexit\n", 1},
		{"sanboot", machine, Decision{Exit: "sanboot"}, nil, 200, "#!ipxe\nsanboot --no-describe --drive 0x80\n", 1},
		{"404", machine, Decision{Exit: "http-404"}, nil, 404, gone, 1},
		{"an exit nobody knows", machine, Decision{Exit: "x\nshell"}, nil, 200, auto, 1},
		{"the gate fails", machine, Decision{Install: true, Args: token}, errors.New("disk full"), 200, auto, 1},
		{"an argument that would be two", machine, Decision{Install: true, Args: []string{"a b"}}, nil, 200, auto, 1},
		{"an argument that would be a line", machine, Decision{Install: true, Args: []string{"a\nshell"}}, nil, 200, auto, 1},
		{"a machine that nobody knows", "/ipxe?mac=52-54-00-00-00-99", Decision{Install: true}, nil, 200, auto, 0},
		{"no MAC", "/ipxe", Decision{Install: true}, nil, 200, auto, 0},
		{"a profile with nothing to boot", "/ipxe?mac=52-54-00-00-00-02", Decision{Install: true}, nil, 200, auto, 0},
		{"a profile with no kernel", "/ipxe?mac=52-54-00-00-00-03", Decision{Install: true}, nil, 200, auto, 0},
		{"a look", "HEAD " + machine, Decision{Install: true}, nil, 405, "", 0},
		{"not a GET", "POST " + machine, Decision{Install: true}, nil, 405, "only GET\n", 0},
		{"GRUB, armed", "/grub?mac=52:54:00:00:00:01", Decision{Install: true, Args: token[:1]}, nil, 200, "default=0\nfallback=1\ntimeout=1\n" +
			"menuentry \"CoreOS (EFI)\" {\necho \"Loading kernel\"\nlinuxefi \"/k\" a tectonic.server=https://p:8443\necho \"Loading initrd\"\ninitrdefi  \"/i\"\n}\n" +
			"menuentry \"CoreOS (BIOS)\" {\necho \"Loading kernel\"\nlinux \"/k\" a tectonic.server=https://p:8443\necho \"Loading initrd\"\ninitrd  \"/i\"\n}\n", 1},
		{"GRUB, not armed", "/grub?mac=52:54:00:00:00:01", Decision{Exit: "exit"}, nil, 200, "exit\n", 1},
		{"its config is not gated", "/ignition?mac=52:54:00:00:00:01", Decision{}, nil, 200, `{"ignition":{"version":"3.3.0"}}`, 0},
		{"nor its metadata", "/metadata?mac=52:54:00:00:00:01", Decision{}, nil, 200, "MAC=52:54:00:00:00:01\nREQUEST_QUERY_MAC=52:54:00:00:00:01\nREQUEST_RAW_QUERY=mac=52:54:00:00:00:01\n", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log strings.Builder
			gate := &double{next: []Decision{c.next}, err: c.err}
			s := start(t, Options{DataPath: writeData(t, gateData), Gate: gate, Log: slog.New(slog.NewTextHandler(&log, nil))})
			h := httptest.NewServer(s.HTTP())
			got := ask(t, h.Listener.Addr().String(), c.request, "")
			h.Close()
			if got.status != c.status || got.body != c.body {
				t.Errorf("got %d %q, want %d %q", got.status, got.body, c.status, c.body)
			}
			if len(gate.asked) != c.asked {
				t.Errorf("the gate was asked %d times, want %d", len(gate.asked), c.asked)
			}
			if strings.Contains(log.String(), "secret") {
				t.Errorf("a token is in the log:\n%s", log.String())
			}
			if c.err != nil && !strings.Contains(log.String(), "disk full") {
				t.Errorf("the log does not say why the gate failed:\n%s", log.String())
			}
		})
	}
}

// TestGateIsAskedEachTime boots a machine twice: the second answer is the gate's second, from no memory.
func TestGateIsAskedEachTime(t *testing.T) {
	var mu sync.Mutex
	var seen []Event
	gate := &double{next: []Decision{{Install: true, Args: []string{"t=1"}}}}
	s := start(t, Options{DataPath: writeData(t, gateData), Gate: gate, Observe: func(e Event) { mu.Lock(); defer mu.Unlock(); seen = append(seen, e) }})
	h := s.HTTP()
	var bodies []string
	for range 2 {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/ipxe?mac=52:54:00:00:00:01", nil))
		bodies = append(bodies, rec.Body.String())
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/ipxe?mac=52:54:00:00:00:77&hostname=%0ax", nil))
	// There is a profile, with nothing to boot: the gate does not hear of it, the observer does.
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/ipxe?mac=52:54:00:00:00:02", nil))
	if want := []string{"#!ipxe\nkernel /k a t=1\ninitrd /i\nboot\n", "#!ipxe\nexit\n"}; !cmp.Equal(want, bodies) {
		t.Error(cmp.Diff(want, bodies))
	}
	want := []Event{
		{MAC: "52:54:00:00:00:01", Path: "/ipxe", Status: 200, Group: "m", Profile: "p", Asked: true, Install: true},
		{MAC: "52:54:00:00:00:01", Path: "/ipxe", Status: 200, Group: "m", Profile: "p", Asked: true},
		{MAC: "52:54:00:00:00:77", Path: "/ipxe", Status: 200},
		{MAC: "52:54:00:00:00:02", Path: "/ipxe", Status: 200, Group: "none", Profile: "noboot"},
	}
	if diff := cmp.Diff(want, seen, cmpopts.IgnoreFields(Event{}, "Time", "Remote")); diff != "" {
		t.Errorf("observed (-want +got):\n%s", diff)
	}
	if len(seen) > 0 && (seen[0].Remote.String() != "192.0.2.1" || time.Since(seen[0].Time) > time.Minute) {
		t.Errorf("observed at %s from %s", seen[0].Time, seen[0].Remote)
	}
}

// TestGateOutlivesTheMachine hangs up while the gate decides: what it puts on record must not be cut short.
func TestGateOutlivesTheMachine(t *testing.T) {
	decided := make(chan error, 1)
	s := start(t, Options{DataPath: writeData(t, gateData), Gate: gateFunc(func(ctx context.Context) (Decision, error) {
		deadline, has := ctx.Deadline()
		if !has || time.Until(deadline) > gateTime {
			decided <- errors.New("the gate has no deadline")
		} else {
			decided <- ctx.Err()
		}
		return Decision{}, nil
	})})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.HTTP().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/ipxe?mac=52:54:00:00:00:01", nil).WithContext(ctx))
	if err := <-decided; err != nil {
		t.Errorf("the gate's context: %v", err)
	}
}

type gateFunc func(context.Context) (Decision, error)

func (f gateFunc) Boot(ctx context.Context, _ map[string]string) (Decision, error) { return f(ctx) }
