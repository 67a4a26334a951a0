package agent

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

// writeMetrics prints the status in Prometheus' text format 0.0.4. It is
// written out here because the client library for it would take a good part of
// the memory that the whole agent may have.
func writeMetrics(w io.Writer, s *AgentStatus) {
	m := &metrics{}
	m.gauge("build_info", "What this agent is; always 1.", 1, "version", s.Version, "goversion", s.GoVersion)
	m.gauge("start_time_seconds", "When the agent was started.", float64(s.Started.UnixMilli())/1000)
	m.gauge("joined", "Whether this host has joined a cluster.", flag(s.Joined))
	m.gauge("drift", "Whether something is not as wanted and is not repaired.", flag(s.Drift))

	m.head("resources", "gauge", "What the agent keeps, by kind and state.")
	count := map[[2]string]int{}
	for _, r := range s.Resources {
		count[[2]string{string(r.Kind), string(r.State)}]++
	}
	keys := make([][2]string, 0, len(count))
	for k := range count {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b [2]string) int { return strings.Compare(a[0]+a[1], b[0]+b[1]) })
	for _, k := range keys {
		m.value("resources", float64(count[k]), "kind", k[0], "state", k[1])
	}
	m.head("repairs_total", "counter", "What was repaired, by kind.")
	for _, k := range []Kind{KindFile, KindDir, KindPort, KindSELinux, KindEnabled, KindStarted} {
		m.value("repairs_total", float64(s.Repaired[k]), "kind", string(k))
	}
	m.counter("looks_total", "How often the agent looked at the host.", float64(s.LastLook.Looks))
	if !s.LastLook.Time.IsZero() {
		m.gauge("last_look_timestamp_seconds", "When the agent last looked at the whole host.", float64(s.LastLook.Time.UnixMilli())/1000)
		m.gauge("last_look_duration_seconds", "How long that took.", s.LastLook.Seconds)
	}
	m.counter("firewalld_reloads_total", "Reloads of firewalld seen.", float64(s.Firewall.Reloads))
	m.gauge("firewalld_last_reload_repair_seconds", "From the last reload's signal until the runtime ports stood.", s.Firewall.LastRepair)
	m.gauge("bus_connected", "Whether the system bus is watched.", flag(s.Firewall.Bus))
	m.gauge("api_connected", "Whether the Node is watched at the API server.", flag(s.API.Connected))
	m.counter("events_dropped_total", "Events that the API server could not be told of.", float64(s.API.EventsDropped))
	m.gauge("node_ready", "Whether the API server has the Node as Ready.", flag(s.Node.Ready))
	m.gauge("kubelet_running", "Whether kubelet.service is active.", flag(s.Kubelet.Active == "active"))
	m.gauge("kubelet_healthy", "Whether the kubelet said so when it was last asked.", flag(s.Kubelet.Healthy))
	if s.Cert.NotAfter != nil {
		m.gauge("certificate_expiry_timestamp_seconds", "When the credential ends that the node speaks with.", float64(s.Cert.NotAfter.Unix()))
	}
	if rss, ok := residentBytes(); ok {
		m.gauge("resident_memory_bytes", "The agent's resident memory.", rss)
	}
	_, _ = w.Write(m.Bytes())
}

const metricPrefix = "tectonic_worker_"

type metrics struct{ bytes.Buffer }

func (m *metrics) head(name, kind, help string) {
	fmt.Fprintf(m, "# HELP %s%s %s\n# TYPE %s%s %s\n", metricPrefix, name, help, metricPrefix, name, kind)
}

func (m *metrics) gauge(name, help string, v float64, labels ...string) {
	m.head(name, "gauge", help)
	m.value(name, v, labels...)
}

func (m *metrics) counter(name, help string, v float64) {
	m.head(name, "counter", help)
	m.value(name, v)
}

// labelEscape is what the format wants in a label's value.
var labelEscape = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

func (m *metrics) value(name string, v float64, labels ...string) {
	m.WriteString(metricPrefix + name)
	for i := 0; i+1 < len(labels); i += 2 {
		sep := ","
		if i == 0 {
			sep = "{"
		}
		m.WriteString(sep + labels[i] + `="` + labelEscape.Replace(labels[i+1]) + `"`)
	}
	if len(labels) > 0 {
		m.WriteByte('}')
	}
	m.WriteString(" " + strconv.FormatFloat(v, 'f', -1, 64) + "\n")
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// residentBytes is this process's own resident memory, proc_pid_statm(5).
func residentBytes() (float64, bool) {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, false
	}
	var size, resident float64
	if _, err := fmt.Sscan(string(data), &size, &resident); err != nil {
		return 0, false
	}
	return resident * float64(os.Getpagesize()), true
}
