package kubelet

import "net/netip"

// Paths on the host, the same inside the kubelet's container.
const (
	KubeconfigPath     = "/etc/kubernetes/kubeconfig"     // what the administrator gave: any kind
	BootstrapPath      = KubeconfigPath                   // the same file, where it holds a bootstrap token
	NodeKubeconfigPath = "/var/lib/kubelet/kubeconfig"    // written by the kubelet after a bootstrap
	CAPath             = "/etc/kubernetes/ca.crt"         // who may call the kubelet's API
	ConfigPath         = "/etc/kubernetes/kubelet.yaml"   // rendered KubeletConfiguration, kubelets >= 1.10
	DropInDir          = "/etc/tectonic-worker/kubelet.d" // the administrator's changes to it
	RootDir            = "/var/lib/kubelet"               // the kubelet's state, and pods' volumes
	PKIDir             = "/var/lib/kubelet/pki"           // serving certificate, and the client's where it rotates
	StaticPodDir       = "/etc/kubernetes/manifests"      // as the original unit had it
	CNIConfDir         = "/etc/kubernetes/cni/net.d"      // dockershim's CNI configuration, as the original unit had it
	VolumePluginDir    = "/var/lib/kubelet/volumeplugins" // flexvolume drivers, seen by the host and the container
	HealthzAddress     = "127.0.0.1"                      // where /healthz is served, without TLS
	HealthzPort        = 10248                            //
	RoleLabel          = "node-role.kubernetes.io/node"   // the original unit's label; see AllowedLabel
	PodPidsLimit       = 4096                             // processes in one pod; CIS 4.2.13
	StreamingIdle      = "4h0m0s"                         // idle exec, attach and port-forward; CIS 4.2.5
	configAPIVersion   = "kubelet.config.k8s.io/v1beta1"
	configKind         = "KubeletConfiguration"
)

// Input is what the kubelet's command line and configuration depend on.
type Input struct {
	Version Version

	DNS      []netip.Addr      // addresses of the cluster's DNS service; at least one
	Domain   string            // cluster domain, cluster.local
	Hostname string            // NODE_NAME; empty: the kubelet uses the host's own name (CIS 4.2.7)
	NodeIPs  []netip.Addr      // none, one, or one of each family from 1.21 on
	Labels   map[string]string // labels that the kubelet gives its Node
	Taints   []string          // "key=value:Effect"; the value may be empty

	Endpoint      string // CRI socket, unix:///run/containerd/containerd.sock; empty: docker, up to 1.23
	CgroupVersion int    // 1 or 2, what the host runs; 0: not known
	CgroupDriver  string // systemd (the default) or cgroupfs
	ResolvConf    string // resolv.conf for pods; empty: the kubelet's own default, /etc/resolv.conf

	// Kubeconfig is where the administrator's kubeconfig is read instead of
	// KubeconfigPath: a copy, while the file itself is no good. Empty: there.
	Kubeconfig string
	// Bootstrap: the kubeconfig holds a bootstrap token; the kubelet asks for a
	// certificate of its own and renews it.
	Bootstrap bool
	// NodeCertificate: the kubeconfig's client certificate is this node's own,
	// system:node:<name>, so the kubelet can renew it. Leave false for a
	// certificate or token shared by the workers: with rotation on, the kubelet
	// would at once ask for a certificate as system:node:<name> and change its
	// identity in the cluster.
	NodeCertificate bool

	DropIns   []DropIn // in the order in which they apply
	ExtraArgs []string // KUBELET_EXTRA_ARGS, last on the command line
}

// DropIn is one file of DropInDir: a piece of a KubeletConfiguration.
type DropIn struct {
	Name string // for messages; the file's path
	Data []byte
}

// Output is what the kubelet gets.
type Output struct {
	Flags  []string // all arguments after the kubelet's name, in a stable order
	Config []byte   // KubeletConfiguration as YAML for ConfigPath; nil below 1.10
	Notes  []string // what an administrator should know, one sentence each
	Dirs   []string // directories that must exist on the host before the kubelet starts
}
