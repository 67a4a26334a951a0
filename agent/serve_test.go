package agent

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestFights(t *testing.T) {
	at := func(minutes int) time.Time { return time.Date(2026, 1, 1, 12, minutes, 0, 0, time.UTC) }
	k := Key{KindPort, tcp10250}
	for _, tt := range []struct {
		name     string
		repairs  []int // minutes
		asWanted int   // the minute in which it was seen so; 0: never
		now      int
		refused  bool
	}{
		{name: "never repaired", now: 5},
		{name: "twice in ten minutes", repairs: []int{0, 1}, now: 2},
		{name: "three times in ten minutes", repairs: []int{0, 4, 9}, now: 9, refused: true},
		{name: "three times in eleven", repairs: []int{0, 6, 11}, now: 11},
		{name: "the rest is not over", repairs: []int{0, 1, 2}, now: 50, refused: false}, // nobody undid the third
	} {
		t.Run(tt.name, func(t *testing.T) {
			var f fights
			for _, m := range tt.repairs {
				if why := f.refuse(k, at(m)); why != "" {
					t.Fatalf("minute %d: %s", m, why)
				}
				f.repaired(k, at(m))
			}
			if why := f.refuse(k, at(tt.now)); (why != "") != tt.refused {
				t.Errorf("refused: %q, want %v", why, tt.refused)
			}
			if other := f.refuse(Key{KindPort, "other"}, at(tt.now)); other != "" {
				t.Errorf("another resource is refused: %s", other)
			}
		})
	}
	given := func() *fights {
		f := &fights{}
		for m := range 3 {
			f.repaired(k, at(m))
		}
		if f.refuse(k, at(3)) == "" {
			t.Fatal("not refused")
		}
		return f
	}
	if f := given(); f.refuse(k, at(62)) == "" || f.refuse(k, at(63)) != "" {
		t.Error("a fight ends after another time than an hour")
	}
	f := given()
	f.asWanted(k)
	if why := f.refuse(k, at(4)); why != "" {
		t.Errorf("the other side gave in, and it is refused: %s", why)
	}
	f = &fights{}
	f.repaired(k, at(0))
	f.asWanted(k) // as after every repair
	f.repaired(k, at(1))
	f.repaired(k, at(2))
	if f.refuse(k, at(3)) == "" {
		t.Error("a look between two repairs makes the agent forget")
	}
}

func TestMetrics(t *testing.T) {
	end := time.Unix(1800000000, 0)
	var b strings.Builder
	writeMetrics(&b, &AgentStatus{
		Version: "v1\"\\\n", GoVersion: "go1.26", Started: time.Unix(1700000000, 0), Joined: true,
		Resources: []ResourceStatus{{Key: Key{KindPort, "a"}, State: StateAsWanted}, {Key: Key{KindPort, "b"}, State: StateAsWanted}, {Key: Key{KindFile, "c"}, State: StateFought}},
		Repaired:  map[Kind]int{KindPort: 7}, LastLook: AgentLook{Time: time.Unix(1750000000, 0), Seconds: 0.25, Looks: 9},
		Firewall: AgentFirewall{Reloads: 2, LastRepair: 0.02, Bus: true}, Kubelet: KubeletHealth{Active: "active", Healthy: true},
		Cert: AgentCertificate{NotAfter: &end}, API: AgentAPI{EventsDropped: 3},
	})
	var values []string
	for _, l := range strings.Split(strings.TrimSpace(b.String()), "\n") {
		if !strings.HasPrefix(l, "#") && !strings.Contains(l, "resident_memory") {
			values = append(values, strings.TrimPrefix(l, metricPrefix))
		}
	}
	want := []string{
		`build_info{version="v1\"\\\n",goversion="go1.26"} 1`, "start_time_seconds 1700000000", "joined 1", "drift 0",
		`resources{kind="file",state="fought"} 1`, `resources{kind="port",state="as-wanted"} 2`,
		`repairs_total{kind="file"} 0`, `repairs_total{kind="directory"} 0`, `repairs_total{kind="port"} 7`, `repairs_total{kind="selinux"} 0`,
		`repairs_total{kind="unit-enabled"} 0`, `repairs_total{kind="unit-started"} 0`,
		"looks_total 9", "last_look_timestamp_seconds 1750000000", "last_look_duration_seconds 0.25",
		"firewalld_reloads_total 2", "firewalld_last_reload_repair_seconds 0.02", "bus_connected 1", "api_connected 0", "events_dropped_total 3",
		"node_ready 0", "kubelet_running 1", "kubelet_healthy 1", "certificate_expiry_timestamp_seconds 1800000000",
	}
	if diff := cmp.Diff(want, values); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// The socket is for root, answers two questions, and goes with the agent.
func TestServe(t *testing.T) {
	d := newDoubles(t)
	sys := d.system()
	if _, err := AskAgent(t.Context(), sys); !errors.Is(err, ErrNoAgent) || ExitCode(err) != 69 {
		t.Errorf("without an agent: %v", err)
	}
	if _, err := sys.Root.MkdirAll(RunDir, 0o700); err != nil {
		t.Fatal(err)
	}
	// What a killed agent left is no hindrance.
	write(t, d.root, SocketPath, "", 0o600)
	agent := newDaemon(sys, DaemonOptions{Version: "v9", Notify: func(string) error { return nil }})
	stop, err := agent.serve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(d.root.Path(SocketPath)); err != nil || fi.Mode().Perm() != 0o600 || fi.Mode().Type() != os.ModeSocket {
		t.Errorf("the socket: %v %v", fi, err)
	}
	s, err := AskAgent(t.Context(), sys)
	if err != nil || s.Version != "v9" || s.APIVersion != APIVersion {
		t.Errorf("%+v %v", s, err)
	}
	m, err := AgentMetrics(t.Context(), sys)
	if err != nil || !strings.Contains(string(m), `tectonic_worker_build_info{version="v9"`) || !strings.Contains(string(m), "tectonic_worker_resident_memory_bytes ") {
		t.Errorf("%s %v", m, err)
	}
	if _, err := ask(t.Context(), sys, "/debug/pprof/"); err == nil {
		t.Error("the socket answers more than it should")
	}
	stop()
	if sys.Root.Exists(SocketPath) {
		t.Error("the socket stays")
	}
	if _, err := AgentMetrics(t.Context(), sys); !errors.Is(err, ErrNoAgent) {
		t.Errorf("after the stop: %v", err)
	}
}
