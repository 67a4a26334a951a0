package sysconfig

// The values of the keys that are a choice.
const (
	RuntimeAuto   = "auto" // rkt where it is installed, else podman
	RuntimeRkt    = "rkt"
	RuntimePodman = "podman"

	SELinuxAuto       = "auto" // enforcing stays where a policy for the worker is loaded, else permissive
	SELinuxPermissive = "permissive"
	SELinuxEnforcing  = "enforcing"
	SELinuxLeave      = "leave"

	FirewallManage = "manage"
	FirewallLeave  = "leave"

	DriftRepair = "repair" // what drifted is made as it was wanted
	DriftReport = "report" // it is told of, and left as it is
)

// KeyDoc describes one key. The shipped files, the manual page, docs/settings.md and the reader are
// all checked against this one list.
type KeyDoc struct {
	Name    string
	File    string // Path or KubeletEnvPath: where it is shipped; it is understood in both
	Flag    string // join's flag for it, without dashes; empty where there is none
	Syntax  string // what a value looks like
	Default string // in force where the key is unset or empty
	Help    string // one line

	check func(*Settings, string) []fault
}

// fault is why a value is refused and what to write instead.
type fault struct{ why, remedy string }

// Keys lists every key, in the order of the shipped files.
func Keys() []KeyDoc {
	out := make([]KeyDoc, len(keys))
	copy(out, keys)
	return out
}

var keys = []KeyDoc{
	{Name: "KUBERNETES_DNS_SERVICE_IP", File: Path, Flag: "dns-service-ip", Syntax: "an IP address",
		Help:  "Address of the cluster's DNS Service (tectonic_kube_dns_service_ip in terraform.tfvars); join finds it where it is empty.",
		check: checkDNSServiceIP},
	{Name: "CLUSTER_DOMAIN", File: Path, Flag: "cluster-domain", Syntax: "a domain name", Default: "cluster.local",
		Help:  "DNS domain of the cluster.",
		check: checkClusterDomain},
	{Name: "KUBELET_RUNTIME", File: Path, Flag: "runtime", Syntax: "auto|rkt|podman", Default: RuntimeAuto,
		Help:  "What runs the kubelet's image; auto is rkt where it is installed, else podman.",
		check: choice(func(s *Settings) *string { return &s.Runtime }, RuntimeAuto, RuntimeRkt, RuntimePodman)},
	{Name: "SELINUX_MODE", File: Path, Flag: "selinux", Syntax: "auto|permissive|enforcing|leave", Default: SELinuxAuto,
		Help:  "SELinux mode of the host; auto keeps enforcing where a policy for the worker is loaded, else sets permissive.",
		check: choice(func(s *Settings) *string { return &s.SELinuxMode }, SELinuxAuto, SELinuxPermissive, SELinuxEnforcing, SELinuxLeave)},
	{Name: "FIREWALL", File: Path, Syntax: "manage|leave", Default: FirewallManage,
		Help:  "Whether the worker opens its ports in firewalld.",
		check: choice(func(s *Settings) *string { return &s.Firewall }, FirewallManage, FirewallLeave)},
	{Name: "FIREWALL_ZONE", File: Path, Flag: "zone", Syntax: "a firewalld zone",
		Help:  "Zone to open the ports in; empty is the zone of the interface that reaches the API server, else the default zone.",
		check: checkZone},
	{Name: "FIREWALL_PORTS", File: Path, Syntax: "PORT[-PORT]/PROTOCOL …", Default: "10250/tcp 4789/udp",
		Help:  "Ports to open, separated by spaces or commas.",
		check: checkPorts},
	{Name: "FIREWALL_RESTORE", File: Path, Syntax: "no|yes", Default: "no",
		Help:  "Whether the agent restarts this node's kube-proxy and network plug-in pods when a firewalld reload destroyed their rules.",
		check: yesNo(func(s *Settings) *bool { return &s.FirewallRestore })},
	{Name: "DRIFT", File: Path, Syntax: "repair|report", Default: DriftRepair,
		Help:  "What the agent does when something that join set up is no longer so: put it right, or report it alone.",
		check: choice(func(s *Settings) *string { return &s.Drift }, DriftRepair, DriftReport)},
	{Name: "DRIFT_FILES", File: Path, Syntax: "repair|report",
		Help:  "The same for files alone; empty is as DRIFT.",
		check: choice(func(s *Settings) *string { return &s.DriftFiles }, DriftRepair, DriftReport)},
	{Name: "DRIFT_PORTS", File: Path, Syntax: "repair|report",
		Help:  "The same for firewalld's ports alone; empty is as DRIFT.",
		check: choice(func(s *Settings) *string { return &s.DriftPorts }, DriftRepair, DriftReport)},
	{Name: "DRIFT_SELINUX", File: Path, Syntax: "repair|report",
		Help:  "The same for the SELinux mode alone; empty is as DRIFT.",
		check: choice(func(s *Settings) *string { return &s.DriftSELinux }, DriftRepair, DriftReport)},
	{Name: "DRIFT_UNITS", File: Path, Syntax: "repair|report",
		Help:  "The same for the state of systemd units alone; empty is as DRIFT.",
		check: choice(func(s *Settings) *string { return &s.DriftUnits }, DriftRepair, DriftReport)},
	{Name: "NODE_NAME", File: Path, Flag: "node-name", Syntax: "a lower case DNS name",
		Help:  "Name of the Node; empty is the name the kubelet finds by itself, which is right for nearly every host.",
		check: checkNodeName},
	{Name: "NODE_IP", File: Path, Flag: "node-ip", Syntax: "ADDRESS[,ADDRESS]",
		Help:  "Address of the Node, or one IPv4 and one IPv6 address; empty is what the kubelet finds by itself.",
		check: checkNodeIPs},
	{Name: "NODE_LABELS", File: Path, Flag: "node-label", Syntax: "KEY=VALUE,…",
		Help:  "Labels of the Node, separated by commas or spaces.",
		check: checkLabels},
	{Name: "NODE_TAINTS", File: Path, Flag: "node-taint", Syntax: "KEY[=VALUE]:EFFECT,…",
		Help:  "Taints of the Node, separated by commas or spaces; effects are NoSchedule, PreferNoSchedule and NoExecute.",
		check: checkTaints},
	{Name: "CONTAINER_RUNTIME_ENDPOINT", File: Path, Flag: "cri-socket", Syntax: "unix:///PATH",
		Help:  "CRI socket for the kubelet; empty is the containerd or CRI-O socket found, or docker for kubelets before 1.24.",
		check: checkEndpoint},
	{Name: "KUBELET_EXTRA_ARGS", File: Path, Syntax: "--FLAG=VALUE …",
		Help:  "Further flags for the kubelet, split at white space; quotes keep a value together.",
		check: words(func(s *Settings) *[]string { return &s.KubeletExtraArgs })},
	{Name: "HTTP_PROXY", File: Path, Syntax: "URL",
		Help:  "Proxy for HTTP, for the kubelet and for fetching its image.",
		check: proxy(func(s *Settings) *string { return &s.HTTPProxy })},
	{Name: "HTTPS_PROXY", File: Path, Syntax: "URL",
		Help:  "Proxy for HTTPS.",
		check: proxy(func(s *Settings) *string { return &s.HTTPSProxy })},
	{Name: "NO_PROXY", File: Path, Syntax: "HOST,DOMAIN,CIDR,…",
		Help:  "What to reach without a proxy, separated by commas.",
		check: checkNoProxy},

	{Name: "KUBELET_IMAGE_URL", File: KubeletEnvPath, Syntax: "REGISTRY/REPOSITORY",
		Help:  "Repository of the kubelet's image, without a tag; empty is the worker's choice for the control plane's version.",
		check: checkImage(func(s *Settings) *string { return &s.Image.URL })},
	{Name: "KUBELET_IMAGE_TAG", File: KubeletEnvPath, Syntax: "TAG",
		Help:  "Tag of the image, for instance v1.8.9_coreos.0; without KUBELET_IMAGE_URL it is one of quay.io/coreos/hyperkube.",
		check: checkImageTag},
	{Name: "KUBELET_IMAGE", File: KubeletEnvPath, Flag: "image", Syntax: "REGISTRY/REPOSITORY:TAG",
		Help:  "The whole reference in one; it wins over the two above.",
		check: checkImage(func(s *Settings) *string { return &s.Image.Image })},
	{Name: "KUBELET_IMAGE_ARGS", File: KubeletEnvPath, Syntax: "OPTION …",
		Help:  "rkt's options for the image, placed after it.",
		check: words(func(s *Settings) *[]string { return &s.Image.ImageArgs })},
	{Name: "RKT_RUN_ARGS", File: KubeletEnvPath, Syntax: "OPTION …",
		Help:  "Further options of rkt run, for instance volumes and mounts.",
		check: words(func(s *Settings) *[]string { return &s.Image.RktRunArgs })},
	{Name: "RKT_OPTS", File: KubeletEnvPath, Syntax: "OPTION …",
		Help:  "The same under its older name; both are used.",
		check: words(func(s *Settings) *[]string { return &s.Image.RktOpts })},
	{Name: "RKT_GLOBAL_ARGS", File: KubeletEnvPath, Syntax: "OPTION …",
		Help:  "rkt's global options, placed before run.",
		check: words(func(s *Settings) *[]string { return &s.Image.RktGlobalArgs })},
	{Name: "RKT_STAGE1_ARG", File: KubeletEnvPath, Syntax: "OPTION", Default: "--stage1-from-dir=stage1-fly.aci",
		Help:  "rkt's option that chooses the stage1 image.",
		check: words(func(s *Settings) *[]string { return &s.Image.RktStage1Args })},
}
