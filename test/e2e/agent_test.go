package e2e

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

// agentStatus is what the agent's socket says, as far as the tests look.
type agentStatus struct {
	Joined, Drift bool
	Why           string
	Problems      []string
	Resources     []struct{ Kind, Name, State, Drift, Why string }
	Repairs       []struct {
		Resource        struct{ Kind, Name string }
		Evidence, Cause string
	}
	Firewall struct {
		State, Zone       string
		Bus               bool
		Reloads           int
		LastReloadSeconds float64
	}
	Kubelet struct {
		Active, Why string
		Healthy     bool
	}
	Node struct {
		Name  string
		Ready bool
	}
	API struct {
		Connected bool
		Why       string
	}
	Certificate struct{ NotAfter *time.Time }
	LastLook    struct{ Looks int }
}

func (h *host) agent() agentStatus {
	h.t.Helper()
	r := h.run("curl", "-s", "--max-time", "10", "--unix-socket", "/run/tectonic-worker/agent.sock", "http://agent/status")
	var s agentStatus
	if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil {
		h.t.Fatalf("the agent's status: %v: %s", err, r)
	}
	return s
}

// soon waits until what holds; the host's own events can't be waited for from here.
func (h *host) soon(what string, limit time.Duration, holds func() bool) {
	h.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); !holds(); {
		if time.Now().After(end) {
			h.t.Fatalf("not within %s: %s\nstatus: %+v\n%s", limit, what, h.agent(), h.Journal(h.t.Context(), "tectonic-worker", 40))
		}
		<-tick.C
	}
}

func (h *host) open(layer, port string) bool {
	h.t.Helper()
	args := []string{"firewall-cmd", "--zone=public", "--query-port=" + port}
	if layer == "permanent" {
		args = append(args, "--permanent")
	}
	return h.run(args...).Code == 0
}

// repaired counts the agent's Events on the Node that speak of what, each as
// often as it was reported.
func (h *host) events(reason, what string) int {
	h.t.Helper()
	out := kubectl(h.t, "get", "events", "-n", "default", "--field-selector", "involvedObject.name="+h.Name+",reason="+reason, "-o", `jsonpath={range .items[*]}{.count}{"\t"}{.message}{"\n"}{end}`)
	n := 0
	for _, l := range strings.Split(out, "\n") {
		if count, message, ok := strings.Cut(l, "\t"); ok && strings.Contains(message, what) {
			c, _ := strconv.Atoi(count)
			n += c
		}
	}
	return n
}

func (h *host) condition() string {
	h.t.Helper()
	return kubectl(h.t, "get", "node", h.Name, "-o", "jsonpath={.status.conditions[?(@.type=='TectonicWorkerDrift')].status} {.status.conditions[?(@.type=='TectonicWorkerDrift')].reason}")
}

// The agent on a joined host, against everything that happens to such hosts.
func TestAgent(t *testing.T) {
	t.Parallel()
	h := worker(t, lab.WorkerOptions{})
	h.putAssets("/root/assets")
	if r := h.run("tectonic-worker", "metrics"); r.Code != 69 || !strings.Contains(r.Stderr, "no agent") {
		t.Errorf("metrics without an agent: %s", r)
	}
	h.join("--assets", "/root/assets")
	if got := strings.TrimSpace(h.must("systemctl", "show", "-p", "ActiveState,SubState,UnitFileState", "--value", "tectonic-worker")); !strings.Contains(got, "active\nrunning\nenabled") && !strings.Contains(got, "active") {
		t.Fatalf("tectonic-worker.service after join: %s", got)
	}
	settled := func(h *host) {
		h.t.Helper()
		h.soon("the agent finds everything as wanted", 30*time.Second, func() bool {
			s := h.agent()
			return s.Joined && !s.Drift && s.API.Connected && s.Kubelet.Healthy && s.Firewall.Bus && s.Node.Ready && len(s.Resources) > 8
		})
	}
	settled(h)
	sub := func(name string, f func(t *testing.T, h *host)) {
		t.Run(name, func(t *testing.T) { f(t, &host{h.Host, t}) })
	}

	sub("says that all is well", func(t *testing.T, h *host) {
		h.soon("the condition is False", 10*time.Second, func() bool { return h.condition() == "False AsWanted" })
		if got := h.must("systemctl", "show", "-p", "StatusText", "--value", "tectonic-worker"); !strings.Contains(got, "as wanted; node "+h.Name+" is Ready") {
			t.Errorf("STATUS=%s", got)
		}
		m := h.must("tectonic-worker", "metrics")
		for _, want := range []string{"tectonic_worker_joined 1", "tectonic_worker_drift 0", "tectonic_worker_kubelet_healthy 1", "tectonic_worker_node_ready 1",
			`tectonic_worker_resources{kind="port",state="as-wanted"} 4`, "tectonic_worker_certificate_expiry_timestamp_seconds ", `tectonic_worker_build_info{version="v0.1.0"`} {
			if !strings.Contains(m, want) {
				t.Errorf("the metrics have no %q:\n%s", want, m)
			}
		}
		for _, l := range strings.Split(strings.TrimSpace(m), "\n") {
			if !regexp.MustCompile(`^(# (HELP|TYPE) tectonic_worker_\w+ .+|tectonic_worker_\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? [0-9.]+)$`).MatchString(l) {
				t.Errorf("not in Prometheus' format: %q", l)
			}
		}
		if got := strings.TrimSpace(h.must("stat", "-c", "%a %U", "/run/tectonic-worker/agent.sock")); got != "600 root" {
			t.Errorf("the socket is %s", got)
		}
	})
	sub("a reload takes a runtime port", func(t *testing.T, h *host) {
		h.must("firewall-cmd", "--permanent", "--remove-port=10250/tcp")
		h.must("firewall-cmd", "--reload")
		h.soon("10250/tcp is open again in both layers", 10*time.Second, func() bool { return h.open("runtime", "10250/tcp") && h.open("permanent", "10250/tcp") })
		s := h.agent()
		if s.Firewall.Reloads == 0 {
			t.Errorf("no reload was seen: %+v", s.Firewall)
		}
		t.Logf("the runtime ports stood %.1f ms after the signal", s.Firewall.LastReloadSeconds*1000)
		settled(h)
	})
	sub("an administrator removes a port", func(t *testing.T, h *host) {
		before := h.events("TectonicWorkerRepaired", "4789/udp")
		h.must("firewall-cmd", "--remove-port=4789/udp")
		h.soon("4789/udp is open again", 10*time.Second, func() bool { return h.open("runtime", "4789/udp") })
		h.soon("one Event tells of it", 20*time.Second, func() bool { return h.events("TectonicWorkerRepaired", "4789/udp") > before })
		if n := h.events("TectonicWorkerRepaired", "4789/udp"); n != before+1 {
			t.Errorf("%d Events for one repair", n-before)
		}
	})
	sub("kubelet.yaml is edited", func(t *testing.T, h *host) {
		was := h.read("/etc/kubernetes/kubelet.yaml")
		h.must("sh", "-c", "echo 'readOnlyPort: 10255' >>/etc/kubernetes/kubelet.yaml; chmod 0644 /etc/kubernetes/kubelet.yaml")
		h.soon("the file is back", 10*time.Second, func() bool { return h.read("/etc/kubernetes/kubelet.yaml") == was })
		if got := strings.TrimSpace(h.must("stat", "-c", "%a", "/etc/kubernetes/kubelet.yaml")); got != "600" {
			t.Errorf("its mode is %s", got)
		}
		h.must("rm", "/etc/kubernetes/ca.crt")
		h.soon("ca.crt is back", 10*time.Second, func() bool { return h.run("test", "-s", "/etc/kubernetes/ca.crt").Code == 0 })
	})
	sub("new settings wait for the kubelet's restart", func(t *testing.T, h *host) {
		was := h.read("/etc/kubernetes/kubelet.yaml")
		h.must("sh", "-c", "echo 'maxPods: 33' >/etc/tectonic-worker/kubelet.d/10-pods.yaml")
		h.soon("kubelet.yaml is pending", 10*time.Second, func() bool {
			for _, r := range h.agent().Resources {
				if r.Name == "/etc/kubernetes/kubelet.yaml" {
					return r.State == "pending"
				}
			}
			return false
		})
		if h.read("/etc/kubernetes/kubelet.yaml") != was || h.condition() != "False AsWanted" {
			t.Errorf("the agent applied new settings, or calls them drift: %s", h.condition())
		}
		h.must("rm", "/etc/tectonic-worker/kubelet.d/10-pods.yaml")
		settled(h)
	})
	sub("the kubelet's unit is disabled", func(t *testing.T, h *host) {
		h.must("systemctl", "disable", "kubelet.service")
		h.soon("it is enabled again", 10*time.Second, func() bool { return h.run("systemctl", "is-enabled", "-q", "kubelet.service").Code == 0 })
		h.must("systemctl", "stop", "kubelet.path")
		h.soon("kubelet.path runs again", 10*time.Second, func() bool { return h.run("systemctl", "is-active", "-q", "kubelet.path").Code == 0 })
	})
	sub("a stopped kubelet is told of, not started", func(t *testing.T, h *host) {
		h.must("systemctl", "stop", "kubelet.service")
		h.soon("the condition says so", 20*time.Second, func() bool { return h.condition() == "True KubeletNotHealthy" })
		if h.run("systemctl", "is-active", "-q", "kubelet.service").Code == 0 {
			t.Error("the agent started the kubelet")
		}
		h.must("systemctl", "start", "kubelet.service")
		h.waitHealthy()
		settled(h)
		h.soon("the condition is False again", 30*time.Second, func() bool { return h.condition() == "False AsWanted" })
	})
	sub("firewalld is stopped, started, killed", func(t *testing.T, h *host) {
		h.must("systemctl", "stop", "firewalld")
		h.soon("the agent sees it", 10*time.Second, func() bool { return h.agent().Firewall.State == "stopped" })
		if s := h.agent(); s.Drift {
			t.Errorf("a host without firewalld is called drifted: %s", s.Why)
		}
		h.must("systemctl", "start", "firewalld")
		h.soon("the ports are kept again", 20*time.Second, func() bool { return h.agent().Firewall.State == "running" && h.open("runtime", "10250/tcp") })
		h.must("firewall-cmd", "--permanent", "--remove-port=10250/tcp")
		h.must("systemctl", "kill", "-s", "KILL", "firewalld")
		h.must("sh", "-c", "for i in $(seq 50); do systemctl -q is-active firewalld || break; sleep 0.1; done; systemctl reset-failed firewalld; systemctl start firewalld")
		h.soon("the port is open again", 20*time.Second, func() bool { return h.open("runtime", "10250/tcp") && h.open("permanent", "10250/tcp") })
		settled(h)
	})
	sub("journald is killed", func(t *testing.T, h *host) {
		pid := h.must("systemctl", "show", "-p", "MainPID", "tectonic-worker")
		h.must("systemctl", "kill", "-s", "KILL", "systemd-journald")
		h.must("sh", "-c", "for i in $(seq 50); do systemctl -q is-active systemd-journald && exit 0; sleep 0.1; done; exit 1")
		h.must("firewall-cmd", "--remove-port=4789/udp")
		h.soon("4789/udp is open again", 10*time.Second, func() bool { return h.open("runtime", "4789/udp") })
		if got := h.must("systemctl", "show", "-p", "MainPID", "tectonic-worker"); got != pid {
			t.Errorf("the agent did not outlive journald: %s, then %s", pid, got)
		}
	})
	sub("somebody fights", func(t *testing.T, h *host) {
		// The file was repaired before; the third repair within ten minutes is the last one.
		fought := false
		for i := 0; i < 4 && !fought; i++ {
			h.must("rm", "-f", "/etc/kubernetes/ca.crt")
			h.soon(fmt.Sprintf("an answer to removal %d", i+1), 10*time.Second, func() bool {
				fought = h.agent().Drift
				return fought || h.run("test", "-e", "/etc/kubernetes/ca.crt").Code == 0
			})
		}
		h.soon("the agent gives up and says so", 15*time.Second, func() bool { return h.condition() == "True RepairsAreUndone" })
		repairs := 0
		for _, r := range h.agent().Repairs {
			if r.Resource.Name == "/etc/kubernetes/ca.crt" {
				repairs++
			}
		}
		if repairs != 3 {
			t.Errorf("%d repairs before it gave up, want 3", repairs)
		}
		if h.run("test", "-e", "/etc/kubernetes/ca.crt").Code == 0 {
			t.Error("the agent goes on")
		}
		if err := h.WriteFile("/etc/kubernetes/ca.crt", plane.CA.Cert, 0o644); err != nil {
			t.Fatal(err)
		}
		settled(h)
	})
	sub("dbus is restarted", func(t *testing.T, h *host) {
		h.must("systemctl", "restart", "dbus")
		h.soon("the bus is watched again", 30*time.Second, func() bool { s := h.agent(); return s.Firewall.Bus && s.Kubelet.Active == "active" })
		h.must("systemctl", "restart", "firewalld")
		h.must("firewall-cmd", "--remove-port=4789/udp")
		h.soon("4789/udp is open again", 20*time.Second, func() bool { return h.open("runtime", "4789/udp") })
		settled(h)
	})
	sub("DRIFT=report changes nothing", func(t *testing.T, h *host) {
		// The ports were shut so often above that once more would be a fight.
		h.must("systemctl", "restart", "tectonic-worker")
		settled(h)
		h.must("sh", "-c", "echo DRIFT=report >>/etc/sysconfig/tectonic-worker")
		h.soon("the agent knows", 10*time.Second, func() bool { s := h.agent(); return len(s.Resources) > 0 && s.Resources[0].Drift == "report" })
		h.must("firewall-cmd", "--remove-port=4789/udp")
		h.must("systemctl", "disable", "kubelet.service")
		h.soon("the condition names it", 20*time.Second, func() bool { return h.condition() == "True NotRepaired" })
		h.soon("an Event names it", 20*time.Second, func() bool {
			return h.events("TectonicWorkerDrift", "4789/udp") == 1 && h.events("TectonicWorkerDrift", "kubelet.service") == 1
		})
		if h.open("runtime", "4789/udp") || h.run("systemctl", "is-enabled", "-q", "kubelet.service").Code == 0 {
			t.Error("it was repaired all the same")
		}
		h.must("sed", "-i", "/^DRIFT=report/d", "/etc/sysconfig/tectonic-worker")
		h.soon("with DRIFT=repair it is repaired", 10*time.Second, func() bool { return h.open("runtime", "4789/udp") })
		settled(h)
	})
	sub("join while the agent runs", func(t *testing.T, h *host) { h.joinAgain() })
	sub("SELinux", func(t *testing.T, h *host) {
		t.Skip("the lab's hosts share a kernel without SELinux; agent/selinux has a machine of its own")
	})
	sub("costs little", func(t *testing.T, h *host) {
		h.must("systemctl", "restart", "tectonic-worker")
		settled(h)
		h.must("sleep", "25")
		pid := strings.TrimSpace(h.must("systemctl", "show", "-p", "MainPID", "--value", "tectonic-worker"))
		rss, err := strconv.Atoi(strings.TrimSpace(h.must("sh", "-c", "awk '/^VmRSS/ {print $2}' /proc/"+pid+"/status")))
		if err != nil {
			t.Fatal(err)
		}
		wakes := func() int {
			n, err := strconv.Atoi(strings.TrimSpace(h.must("sh", "-c", "cat /proc/"+pid+"/task/*/status | awk '/^voluntary_ctxt/ {n += $2} END {print n}'")))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		const window = 30
		before := wakes()
		h.must("sleep", strconv.Itoa(window))
		woken := wakes() - before
		t.Logf("%.1f MiB resident; woken %d times in %d s\n%s", float64(rss)/1024, woken, window, h.must("sh", "-c", "grep -E '^(Rss|VmHWM)' /proc/"+pid+"/status"))
		if rss > 20<<10 {
			t.Errorf("%d KiB resident, want at most 20 MiB", rss)
		}
		if woken > 20 {
			t.Errorf("an idle agent woke %d times in %d s", woken, window)
		}
	})
	sub("stops at once", func(t *testing.T, h *host) {
		begin := time.Now()
		h.must("systemctl", "stop", "tectonic-worker")
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("the stop took %s", took)
		}
		if got := strings.TrimSpace(h.must("systemctl", "show", "-p", "Result", "--value", "tectonic-worker")); got != "success" {
			t.Errorf("it ended as %s", got)
		}
		if r := h.run("test", "-e", "/run/tectonic-worker/agent.sock"); r.Code == 0 {
			t.Error("the socket stays")
		}
	})
}

// An API server that goes away and comes back: the host is kept meanwhile, and
// what happened is told afterwards.
func TestAgentWithoutAPI(t *testing.T) {
	t.Parallel()
	h := worker(t, lab.WorkerOptions{})
	proxy := must[*lab.Proxy](t)(plane.ControlPlane.Proxy(t.Context()))
	defer proxy.Close()
	h.write("/root/kubeconfig", string(plane.WithServer(must[[]byte](t)(plane.SharedKubeconfig()), proxy.Server)))
	h.join("--kubeconfig", "/root/kubeconfig", "--dns-service-ip", lab.DNSServiceIP)
	h.soon("the API server is watched", 30*time.Second, func() bool { return h.agent().API.Connected })
	for _, mode := range []lab.Mode{lab.Hang, lab.Refuse} {
		if err := proxy.Set(mode); err != nil {
			t.Fatal(err)
		}
		h.soon("the agent notices", 60*time.Second, func() bool { return !h.agent().API.Connected })
		before := h.events("TectonicWorkerRepaired", "4789/udp")
		h.must("firewall-cmd", "--remove-port=4789/udp")
		h.soon("4789/udp is open again", 10*time.Second, func() bool { return h.open("runtime", "4789/udp") })
		h.must("systemctl", "restart", "tectonic-worker")
		h.soon("it starts without the API server", 10*time.Second, func() bool { return h.agent().Joined })
		h.must("firewall-cmd", "--remove-port=4789/udp")
		h.soon("4789/udp is open again", 10*time.Second, func() bool { return h.open("runtime", "4789/udp") })
		if err := proxy.Set(lab.Forward); err != nil {
			t.Fatal(err)
		}
		h.soon("the API server is watched again", 90*time.Second, func() bool { return h.agent().API.Connected })
		h.soon("the Event arrives", 60*time.Second, func() bool { return h.events("TectonicWorkerRepaired", "4789/udp") > before })
	}
}
