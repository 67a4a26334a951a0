package faults

import (
	"fmt"
	"slices"
	"strings"
)

// Item is a recommendation of the CIS Kubernetes Benchmark for worker nodes (sections 4.1 and 4.2 of 1.12).
type Item struct {
	ID, Wants string
	Meets     func(*Kubelet) bool
	Exception string // why it is not met on purpose; empty where it is met
}

// Kubelet is a running kubelet as others see it.
type Kubelet struct {
	Args   []string
	Config map[string]any    // from its /configz, by way of the API server
	Stat   map[string]string // path -> "600 root root", or "" where there is no such file
}

// Paths are the files that the items are about.
var Paths = []string{
	"/usr/lib/systemd/system/kubelet.service", "/etc/kubernetes/proxy.conf", "/etc/kubernetes/kubeconfig",
	"/etc/kubernetes/ca.crt", "/etc/kubernetes/kubelet.yaml",
}

// Items are in the benchmark's order.
var Items = []Item{
	{"4.1.1", "kubelet service file 0600", mode(Paths[0], "600"), "0644, as rpm and systemd have every unit; there is nothing secret in it, and `systemctl cat` works for everybody"},
	{"4.1.2", "kubelet service file root's", owner(Paths[0]), ""},
	{"4.1.3", "kube-proxy's kubeconfig 0600", mode(Paths[1], "", "600"), ""},
	{"4.1.4", "kube-proxy's kubeconfig root's", owner(Paths[1]), ""},
	{"4.1.5", "kubelet's kubeconfig 0600", mode(Paths[2], "600"), ""},
	{"4.1.6", "kubelet's kubeconfig root's", owner(Paths[2]), ""},
	{"4.1.7", "client CA file 0644", mode(Paths[3], "644", "600"), ""},
	{"4.1.8", "client CA file root's", owner(Paths[3]), ""},
	{"4.1.9", "kubelet configuration 0600", mode(Paths[4], "600"), ""},
	{"4.1.10", "kubelet configuration root's", owner(Paths[4]), ""},
	{"4.2.1", "no anonymous requests", is(false, "authentication", "anonymous", "enabled"), ""},
	{"4.2.2", "authorization is not AlwaysAllow", is("Webhook", "authorization", "mode"), ""},
	{"4.2.3", "a client CA", is("/etc/kubernetes/ca.crt", "authentication", "x509", "clientCAFile"), ""},
	{"4.2.4", "no read-only port", func(k *Kubelet) bool { p := k.field("readOnlyPort"); return p == nil || p == 0.0 }, ""},
	{"4.2.5", "idle streams end", func(k *Kubelet) bool {
		v := k.field("streamingConnectionIdleTimeout")
		return v != nil && v != "0s" && v != "0"
	}, ""},
	{"4.2.6", "iptables' chains are made", is(true, "makeIPTablesUtilChains"), ""},
	{"4.2.7", "no other host name", func(k *Kubelet) bool { return !k.has("--hostname-override") }, ""},
	{"4.2.8", "events are recorded, and bounded", func(k *Kubelet) bool { v, ok := k.field("eventRecordQPS").(float64); return ok && v > 0 }, ""},
	{"4.2.9", "a serving certificate of the cluster's", func(k *Kubelet) bool {
		return k.field("tlsCertFile") != nil && k.field("tlsCertFile") != "" && !strings.HasPrefix(fmt.Sprint(k.field("tlsCertFile")), "/var/lib/kubelet/pki/") || k.field("serverTLSBootstrap") == true
	}, "the kubelet signs its serving certificate itself: no controller approves requests for serving certificates unless the cluster's administrator runs one; then set `serverTLSBootstrap: true` in a drop-in"},
	{"4.2.10", "client certificates are renewed", is(true, "rotateCertificates"), "off only with the shared certificate that the Tectonic Installer gives to all workers: it is nobody's to renew; on where the worker joins with a bootstrap token"},
	{"4.2.11", "serving certificates can be renewed", func(k *Kubelet) bool {
		gates, _ := k.field("featureGates").(map[string]any)
		return gates["RotateKubeletServerCertificate"] != false
	}, ""},
	{"4.2.12", "strong ciphers only", strongCiphers, ""},
	{"4.2.13", "a limit of processes in a pod", func(k *Kubelet) bool { v, ok := k.field("podPidsLimit").(float64); return ok && v > 0 }, ""},
	{"4.2.14", "seccomp by default", is(true, "seccompDefault"), ""},
}

// Row is the item's line in docs/security.md.
func (i Item) Row() string {
	met := "yes"
	if i.Exception != "" {
		met = "no: " + i.Exception
	}
	return fmt.Sprintf("| %s | %s | %s |", i.ID, i.Wants, met)
}

func (k *Kubelet) field(path ...string) any {
	var v any = k.Config
	for _, name := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}

func (k *Kubelet) has(flag string) bool {
	return slices.ContainsFunc(k.Args, func(a string) bool { return a == flag || strings.HasPrefix(a, flag+"=") })
}

// mode wants one of the modes; "" stands for no file.
func mode(path string, modes ...string) func(*Kubelet) bool {
	return func(k *Kubelet) bool {
		m, _, _ := strings.Cut(k.Stat[path], " ")
		return slices.Contains(modes, m)
	}
}

func owner(path string) func(*Kubelet) bool {
	return func(k *Kubelet) bool { return k.Stat[path] == "" || strings.HasSuffix(k.Stat[path], " root root") }
}

func is(want any, path ...string) func(*Kubelet) bool {
	return func(k *Kubelet) bool { return k.field(path...) == want }
}

// strongCiphers are those that the benchmark lists and that TLS 1.2 has with forward secrecy.
func strongCiphers(k *Kubelet) bool {
	all, _ := k.field("tlsCipherSuites").([]any)
	for _, c := range all {
		name := fmt.Sprint(c)
		if !strings.HasPrefix(name, "TLS_ECDHE_") || !strings.Contains(name, "_GCM_") && !strings.Contains(name, "CHACHA20") {
			return false
		}
	}
	return len(all) > 0 && k.field("tlsMinVersion") == "VersionTLS12"
}
