package kubelet

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// setting is one thing that a kubelet is told, in every version that knows it.
//
// Numbers are minor releases of Kubernetes 1. Where the kubelet's
// KubeletConfiguration has the field (release >= fieldSince), the setting goes
// there; otherwise it is a flag; and outside since…until it is left out.
type setting struct {
	flag       string           // name of the flag; every row has one
	since      int              // first release that gets this setting; 0: all
	until      int              // last release whose kubelet has it; 0: all
	field      string           // path in KubeletConfiguration; "": flag only
	fieldSince int              // first release with that field
	value      func(*Input) any // nil result: left out. string, bool, int, []string, map[string]string or []taint
	why        string           // reason and source
}

// cipherSuites are the four with ECDHE and AES-GCM: forward secret, allowed
// under FIPS, and known by name to every kubelet since 1.10. TLS 1.3 chooses
// its own.
var cipherSuites = []string{
	"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
	"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
	"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
	"TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
}

// settings is the table. Pull requests are kubernetes/kubernetes; items are
// the CIS Kubernetes Benchmark's. A test compares since, until and fieldSince
// with the sources of every release (flags.txt, fields.txt).
var settings = []setting{
	// Credentials and identity.
	{flag: "require-kubeconfig", until: 9, value: always(true), why: "1.8 and 1.9 run without an API server otherwise; default and gone with 1.10 (#58367)"},
	{flag: "bootstrap-kubeconfig", value: str(bootstrapPath), why: "a bootstrap token becomes the node's own certificate through the CSR API"},
	{flag: "kubeconfig", value: str(kubeconfigPath), why: "the default went with 1.10 (#58367); always named"},
	{flag: "cert-dir", value: always(PKIDir), why: "1.8 defaults to /var/run/kubernetes, lost at reboot"},
	{flag: "config", since: 10, value: always(ConfigPath), why: "KubeletConfiguration v1beta1 (#58978)"},
	{flag: "hostname-override", value: str(func(in *Input) string { return in.Hostname }), why: "only where NODE_NAME is set: item 4.2.7"},
	{flag: "node-ip", value: str(nodeIP), why: "only where NODE_IP is set; a pair of both families from 1.21 on"},
	{flag: "node-labels", value: labels, why: "NODE_LABELS, and the original's role label up to 1.15"},
	{flag: "register-with-taints", field: "registerWithTaints", fieldSince: 23, value: taints, why: "NODE_TAINTS"},

	// Container runtime.
	{flag: "allow-privileged", until: 14, value: always(true), why: "kube-proxy and CNI need it; default since 1.11, gone with 1.15 (#77820)"},
	{flag: "container-runtime", until: 23, value: ifCRI("remote", ""), why: "a CRI runtime; the only kind from 1.24 on, flag gone with 1.27 (#114017)"},
	{flag: "container-runtime-endpoint", field: "containerRuntimeEndpoint", fieldSince: 27, value: str(endpoint), why: "field since 1.27 (#112136)"},
	{flag: "network-plugin", until: 23, value: ifCRI("", "cni"), why: "dockershim's; gone with it in 1.24 (#106907)"},
	{flag: "cni-conf-dir", until: 23, value: ifCRI("", CNIConfDir), why: "dockershim's; where Tectonic's flannel writes"},
	{flag: "cgroup-driver", field: "cgroupDriver", fieldSince: 10, value: str(cgroupDriver), why: "systemd owns the cgroups of a RHEL host; from 1.34 the runtime's answer wins (#133157)"},
	{flag: "fail-cgroupv1", since: 31, field: "failCgroupV1", fieldSince: 31, value: failCgroupV1, why: "default true from 1.35 (#134298); RHEL 7 and 8 boot with cgroup v1"},

	// Who may call the kubelet, and how. Without a configuration file the
	// defaults are anonymous, AlwaysAllow and port 10255.
	{flag: "anonymous-auth", field: "authentication.anonymous.enabled", fieldSince: 10, value: always(false), why: "item 4.2.1"},
	{flag: "authentication-token-webhook", field: "authentication.webhook.enabled", fieldSince: 10, value: always(true), why: "bearer tokens are checked by the API server (TokenReview)"},
	{flag: "client-ca-file", field: "authentication.x509.clientCAFile", fieldSince: 10, value: always(CAPath), why: "item 4.2.3"},
	{flag: "authorization-mode", field: "authorization.mode", fieldSince: 10, value: always("Webhook"), why: "item 4.2.2: the API server decides (SubjectAccessReview)"},
	{flag: "read-only-port", field: "readOnlyPort", fieldSince: 10, value: always(0), why: "item 4.2.4"},
	{flag: "rotate-certificates", field: "rotateCertificates", fieldSince: 11, value: rotate, why: "item 4.2.10; only a certificate of the node's own can be renewed"},
	{flag: "tls-min-version", since: 10, field: "tlsMinVersion", fieldSince: 10, value: always("VersionTLS12"), why: "1.8 and 1.9 have 1.2 built in and no flag"},
	{flag: "tls-cipher-suites", since: 10, field: "tlsCipherSuites", fieldSince: 10, value: always(cipherSuites), why: "item 4.2.12"},
	{flag: "streaming-connection-idle-timeout", field: "streamingConnectionIdleTimeout", fieldSince: 10, value: always(StreamingIdle), why: "item 4.2.5"},
	{flag: "healthz-bind-address", field: "healthzBindAddress", fieldSince: 10, value: always(HealthzAddress), why: "join and status probe it; never from outside"},
	{flag: "healthz-port", field: "healthzPort", fieldSince: 10, value: always(HealthzPort), why: "as above"},

	// What the kubelet does to the host and to pods.
	{flag: "make-iptables-util-chains", field: "makeIPTablesUtilChains", fieldSince: 10, value: always(true), why: "item 4.2.6"},
	{flag: "pod-max-pids", since: 14, field: "podPidsLimit", fieldSince: 10, value: always(PodPidsLimit), why: "item 4.2.13; behind an alpha gate before 1.14"},
	{flag: "seccomp-default", since: 25, field: "seccompDefault", fieldSince: 22, value: always(true), why: "item 4.2.14; from 1.22 to 1.24 the kubelet exits unless an alpha gate is on"},
	{flag: "pod-manifest-path", field: "staticPodPath", fieldSince: 10, value: always(StaticPodDir), why: "as the original unit"},
	{flag: "volume-plugin-dir", field: "volumePluginDir", fieldSince: 19, value: always(VolumePluginDir), why: "the default lies inside the image, where no driver can be installed"},
	{flag: "resolv-conf", field: "resolvConf", fieldSince: 10, value: str(func(in *Input) string { return in.ResolvConf }), why: "a host whose resolv.conf names a local stub"},

	// The cluster.
	{flag: "cluster-dns", field: "clusterDNS", fieldSince: 10, value: dns, why: "KUBERNETES_DNS_SERVICE_IP"},
	{flag: "cluster-domain", field: "clusterDomain", fieldSince: 10, value: str(func(in *Input) string { return in.Domain }), why: "CLUSTER_DOMAIN"},
}

type taint struct {
	Key    string `json:"key"`
	Value  string `json:"value,omitempty"`
	Effect string `json:"effect"`
}

func always(v any) func(*Input) any { return func(*Input) any { return v } }

func str(f func(*Input) string) func(*Input) any {
	return func(in *Input) any {
		if s := f(in); s != "" {
			return s
		}
		return nil
	}
}

func bootstrapPath(in *Input) string {
	switch {
	case !in.Bootstrap:
		return ""
	case in.Kubeconfig != "":
		return in.Kubeconfig
	}
	return BootstrapPath
}

func kubeconfigPath(in *Input) string {
	switch {
	case in.Bootstrap:
		return NodeKubeconfigPath
	case in.Kubeconfig != "":
		return in.Kubeconfig
	}
	return KubeconfigPath
}

func ifCRI(yes, no string) func(*Input) any {
	return str(func(in *Input) string {
		if in.Endpoint != "" {
			return yes
		}
		return no
	})
}

func endpoint(in *Input) string {
	path, ok := strings.CutPrefix(in.Endpoint, "unix://")
	if !ok && !strings.HasPrefix(path, "/") {
		return in.Endpoint // tcp://…
	}
	// /var/run is a link to /run on the host, and perhaps not in the image.
	if below, ok := strings.CutPrefix(path, "/var/run/"); ok {
		path = "/run/" + below
	}
	return "unix://" + path
}

func rotate(in *Input) any { return in.Bootstrap || in.NodeCertificate }

func cgroupDriver(in *Input) string {
	if in.CgroupDriver == "" {
		return "systemd"
	}
	return in.CgroupDriver
}

func failCgroupV1(in *Input) any {
	if in.CgroupVersion == 1 {
		return false
	}
	return nil
}

func nodeIP(in *Input) string {
	return join(in.NodeIPs)
}

func dns(in *Input) any {
	var all []string
	for _, a := range in.DNS {
		all = append(all, a.String())
	}
	return all
}

func labels(in *Input) any {
	all := maps.Clone(in.Labels)
	if all == nil {
		all = map[string]string{}
	}
	for key := range all {
		if AllowedLabel(in.Version, key) != nil {
			delete(all, key) // Render has noted or refused it
		}
	}
	if in.Version.Minor <= 15 && !slices.ContainsFunc(slices.Collect(maps.Keys(all)), isRoleLabel) {
		all[RoleLabel] = ""
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

func taints(in *Input) any {
	var all []taint
	for _, s := range in.Taints {
		if t, err := parseTaint(s); err == nil { // Render has refused a bad one
			all = append(all, t)
		}
	}
	if all == nil {
		return nil
	}
	return all
}

func parseTaint(s string) (taint, error) {
	i := strings.LastIndex(s, ":")
	if i < 0 {
		return taint{}, fmt.Errorf("the taint %q has no effect: want key=value:NoSchedule", s)
	}
	key, value, _ := strings.Cut(s[:i], "=")
	t := taint{key, value, s[i+1:]}
	if key == "" || !slices.Contains([]string{"NoSchedule", "PreferNoSchedule", "NoExecute"}, t.Effect) {
		return taint{}, fmt.Errorf("the taint %q is not key=value:Effect with the effect NoSchedule, PreferNoSchedule or NoExecute", s)
	}
	return t, nil
}

func join(addrs []netip.Addr) string {
	var all []string
	for _, a := range addrs {
		all = append(all, a.String())
	}
	return strings.Join(all, ",")
}
