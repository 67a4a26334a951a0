package agent

// checks is every check, in the order in which they are shown: the host, the
// kernel, what runs containers, the network, the cluster. Names never change
// their meaning; one that goes is not given to another.
var checks = []check{
	// The host.
	{name: "root", about: "the rights of this run", join: true, look: (*examiner).checkRoot},
	{name: "os", about: "a release of RHEL, or of its family, that the package is made for", look: (*examiner).checkOS},
	{name: "systemd", about: "systemd answers, and has this package's units as shipped", join: true, look: (*examiner).checkSystemd},
	{name: "read-only", about: "the directories that a worker writes to can be written to", join: true, look: (*examiner).checkReadOnly},
	{name: "noexec", about: "no noexec mount where programs and images lie", join: true, look: (*examiner).checkNoexec},
	{name: "disk", about: "free space and inodes where images, pods and logs lie", join: true, look: (*examiner).checkDisk},
	{name: "hardware", about: "at least 8 GB of memory, 2 processors, 30 GB of disk", join: true, look: (*examiner).checkHardware},
	{name: "programs", about: "the programs that the worker and the container runtime start", join: true, look: (*examiner).checkPrograms},
	{name: "leftovers", about: "other installers' kubelets and their files", join: true, look: (*examiner).checkLeftovers},
	{name: "settings", about: "the two settings files", look: (*examiner).checkSettings},
	{name: "hostname", about: "a name that a Node can have", join: true, look: (*examiner).checkHostname},
	{name: "machine-id", about: "/etc/machine-id is there and is this machine's own", join: true, look: (*examiner).checkMachineID},
	{name: "time-sync", about: "a service that keeps the clock right", look: (*examiner).checkTimeSync},
	{name: "selinux", about: "SELinux now and at boot, and the policy", join: true, look: (*examiner).checkSELinux},
	{name: "fapolicyd", about: "fapolicyd lets the kubelet's programs run", join: true, look: (*examiner).checkFapolicyd},

	// The kernel.
	{name: "cgroup", about: "the version of the cgroup hierarchy against the kubelet's version", join: true, cluster: true, look: (*examiner).checkCgroup},
	{name: "cgroup-controllers", about: "the controllers that the kubelet needs", join: true, look: (*examiner).checkControllers},
	{name: "swap", about: "swap is off, or the kubelet is set to bear it", join: true, cluster: true, look: (*examiner).checkSwap},
	{name: "kernel-modules", about: "overlay, br_netfilter, nf_conntrack and ip_set are there", join: true, look: (*examiner).checkModules},
	{name: "sysctl", about: "forwarding, and bridges that pass packets to the filter", join: true, look: (*examiner).checkSysctl},
	{name: "kernel-defaults", about: "the sysctls that a kubelet with protectKernelDefaults demands", join: true, cluster: true, look: (*examiner).checkKernelDefaults},

	// What runs containers.
	{name: "runtime", about: "rkt or podman, for the kubelet itself", join: true, look: (*examiner).checkRuntime},
	{name: "cri-socket", about: "the container runtime for pods listens", join: true, look: (*examiner).checkEndpoint},
	{name: "cri", about: "the container runtime answers, is ready, and has the kubelet's cgroup driver", join: true, cluster: true, look: (*examiner).checkCRI},
	{name: "cni", about: "a network plugin is configured", look: (*examiner).checkCNI},
	{name: "kubelet", about: "on a joined host, the kubelet runs and is healthy", look: (*examiner).checkKubelet},

	// The network.
	{name: "ports", about: "the kubelet's ports are free", join: true, look: (*examiner).checkPorts},
	{name: "node-ports", about: "the NodePort range 30000-32767 is nobody else's", join: true, look: (*examiner).checkNodePorts},
	{name: "node-ip", about: "the Node's address is one of this host's", join: true, look: (*examiner).checkNodeIP},
	{name: "firewalld", about: "firewalld's state, and the worker's ports in it", join: true, look: (*examiner).checkFirewalld},
	{name: "resolv-conf", about: "/etc/resolv.conf names servers that pods can use too", join: true, look: (*examiner).checkResolvConf},
	{name: "dns", about: "the API server's name can be resolved", look: (*examiner).checkDNS},
	{name: "proxy", about: "with a proxy, the cluster's addresses go past it", join: true, look: (*examiner).checkProxy},
	{name: "registry", about: "the registry of the kubelet's image answers", cluster: true, look: (*examiner).checkRegistry},

	// The cluster.
	{name: "kubeconfig", about: "the kubeconfig is valid, and no one else can read it", look: (*examiner).checkKubeconfig},
	{name: "certificate", about: "how long the certificates are valid", join: true, look: (*examiner).checkCertificate},
	{name: "api", about: "the API server answers over TLS and accepts the credential", join: true, cluster: true, look: (*examiner).checkAPI},
	{name: "clock", about: "this host's clock against the API server's", join: true, cluster: true, look: (*examiner).checkClock},
	{name: "version-skew", about: "the kubelet's version against the API server's", cluster: true, look: (*examiner).checkSkew},
	{name: "dns-service", about: "the cluster's DNS address against what the cluster says", cluster: true, look: (*examiner).checkDNSService},
	{name: "identity", about: "no other machine has this Node's name, or this machine's ID", join: true, cluster: true, look: (*examiner).checkIdentity},
}
