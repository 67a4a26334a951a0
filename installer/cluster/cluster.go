// Package cluster owns the cluster file: its schema, its defaults, what is valid in it, and how Tectonic's
// terraform.tfvars become one. It reads and writes text; it never talks to the network.
package cluster

import "net/netip"

const (
	APIVersion = "installer.tectonic/v1alpha1"
	Kind       = "Cluster"
)

// Cluster is the whole cluster file, its defaults filled in.
type Cluster struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	// Name is a DNS label (RFC 1123); every id that this cluster has in matchbox begins with it.
	Name         string         `yaml:"name"`
	DNS          DNS            `yaml:"dns"`
	PodCIDRs     []netip.Prefix `yaml:"podCIDRs"`     // at most one of each IP family
	ServiceCIDRs []netip.Prefix `yaml:"serviceCIDRs"` // the same families, in the same order
	SSHKeys      []string       `yaml:"sshKeys"`      // lines of authorized_keys (sshd(8))
	Matchbox     Matchbox       `yaml:"matchbox"`
	Network      Network        `yaml:"network"`
	OS           OS             `yaml:"os"`
	Install      Install        `yaml:"install"`
	Proxy        Proxy          `yaml:"proxy"`
	NTP          []string       `yaml:"ntp"`      // host names or addresses; none: what the OS has
	Files        []File         `yaml:"files"`    // on every machine
	Machines     []Machine      `yaml:"machines"` // at least three, an odd number of controllers

	// Path is the file that this was read from; paths in it are relative to that file's directory.
	Path string `yaml:"-"`

	lines    map[string]int
	warnings Findings
}

// DNS holds the names that users of the cluster know.
type DNS struct {
	Controller string `yaml:"controller"` // the API server; resolves to controllers
	Ingress    string `yaml:"ingress"`    // resolves to workers
}

// Matchbox is the provisioner: where machines boot from, and where an operator writes.
type Matchbox struct {
	HTTP string `yaml:"http"` // URL of the read-only API, http://host:8080
	RPC  string `yaml:"rpc"`  // host:port of the gRPC API, 8081
	// Machines is the host:port of the machines' own API (HTTPS, 8443), which "tectonic-installer serve" answers.
	Machines string `yaml:"machines"`
	// External says that HTTP and RPC are a matchbox, which knows no state of a machine: install groups are then
	// added when a machine is armed and removed when its installation begins.
	External bool `yaml:"external"`
	TLS      TLS  `yaml:"tls"`
}

// TLS names the operator's credentials, PEM files.
type TLS struct {
	CA          string `yaml:"ca"`
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
}

// DHCP modes.
const (
	DHCPFull  = "full"  // we answer with addresses
	DHCPProxy = "proxy" // another server gives addresses; we add the boot file (PXE specification 2.1, proxyDHCP)
	DHCPNone  = "none"  // the site's own servers do all of it
)

// Network is the machines' network as the provisioner serves it.
type Network struct {
	DHCP      string       `yaml:"dhcp"`
	Interface string       `yaml:"interface"` // of the provisioner
	Subnet    netip.Prefix `yaml:"subnet"`    // IPv4, as PXE is
	Range     Range        `yaml:"range"`     // addresses for machines without a reservation; full mode only
	Gateway   netip.Addr   `yaml:"gateway"`   // full mode only
	LeaseTime string       `yaml:"leaseTime"` // as in dnsmasq(8), 1h
	// DNS answers for the names in this file; other questions go to Upstream.
	DNS      bool         `yaml:"dns"`
	Upstream []netip.Addr `yaml:"upstream"`
}

// Range is first and last address, both inclusive.
type Range struct {
	Start netip.Addr `yaml:"start"`
	End   netip.Addr `yaml:"end"`
}

// Operating systems that can be installed.
const (
	Flatcar      = "flatcar"
	FedoraCoreOS = "fedora-coreos"
	RHEL         = "rhel"
)

// OS is what is installed, and from where.
type OS struct {
	Name    string `yaml:"name"`
	Channel string `yaml:"channel"` // flatcar: stable, beta, alpha, lts; fedora-coreos: stable, testing, next; rhel: none
	Version string `yaml:"version"`
	Arch    string `yaml:"arch"` // x86_64 or aarch64
	// Images is the URL of the tree that "images sync" makes, <matchbox.http>/assets by default.
	Images string `yaml:"images"`
	// KernelArgs are added to the install system's command line and, where its installer can, to the installed one's.
	KernelArgs []string `yaml:"kernelArgs"`
	// Packages are URLs of RPMs to install on rhel, tectonic-worker's among them.
	Packages []string `yaml:"packages"`
}

// Install is what a machine must have, and which of its disks is taken.
type Install struct {
	Minimum Minimum `yaml:"minimum"`
	Disk    Disk    `yaml:"disk"`
}

// Minimum is checked on the machine before anything is written. Sizes take the suffixes of Kubernetes quantities or
// a B: 8Gi, 8GiB, 30GB.
type Minimum struct {
	Memory Bytes `yaml:"memory"`
	Cores  int   `yaml:"cores"`
	Disk   Bytes `yaml:"disk"`
}

// Disk are hints; all that are given must hold, and exactly one disk must be left, or the smallest of equals that
// Minimum allows when only sizes or rotational were given. No hint at all: the only disk, or nothing is done.
type Disk struct {
	Serial     string `yaml:"serial"`
	WWN        string `yaml:"wwn"`
	Model      string `yaml:"model"`
	MinSize    Bytes  `yaml:"minSize"`
	MaxSize    Bytes  `yaml:"maxSize"`
	Rotational *bool  `yaml:"rotational"`
}

// Proxy is for the machines' way out; nil fields mean none.
type Proxy struct {
	HTTP    string   `yaml:"http"`
	HTTPS   string   `yaml:"https"`
	NoProxy []string `yaml:"noProxy"`
}

// File is put on a machine's disk. It may hold secrets: it travels over TLS with the machine's one-time token, never
// in Ignition or Kickstart over plain HTTP.
type File struct {
	Path   string `yaml:"path"`   // absolute, on the machine
	Source string `yaml:"source"` // on the operator's side, relative to the cluster file
	Mode   string `yaml:"mode"`   // octal, "0600" by default
}

// Roles.
const (
	Controller = "controller"
	Worker     = "worker"
)

// Machine is one host.
type Machine struct {
	Name    string     `yaml:"name"` // a DNS label
	MACs    []MAC      `yaml:"macs"` // any of its cards may boot
	DNSName string     `yaml:"dnsName"`
	Address netip.Addr `yaml:"address"` // its reservation in full mode; required when network.dns is true
	Role    string     `yaml:"role"`
	Power   Power      `yaml:"power"`
	// Firmware is what its BMC is asked to boot: uefi or bios.
	Firmware string `yaml:"firmware"`
	// Exit is how "boot from disk" is said to its firmware: auto, exit, http-404, sanboot.
	Exit   string            `yaml:"exit"`
	Labels map[string]string `yaml:"labels"`
	Arch   string            `yaml:"arch"`
	Disk   *Disk             `yaml:"disk"`  // instead of install.disk
	Files  []File            `yaml:"files"` // besides the cluster's
	// KernelArgs are added to the cluster's.
	KernelArgs []string `yaml:"kernelArgs"`

	// Line is where the machine begins in the file.
	Line int `yaml:"-"`
}

// Firmware types.
const (
	FirmwareUEFI = "uefi"
	FirmwareBIOS = "bios"
)

// Ways to say "boot from disk".
const (
	ExitAuto    = "auto"
	ExitIPXE    = "exit"
	ExitHTTP404 = "http-404"
	ExitSanboot = "sanboot"
)

// Power drivers.
const (
	PowerIPMI   = "ipmi"
	PowerManual = "manual"
)

// Power is how the machine is switched.
type Power struct {
	Driver      string      `yaml:"driver"`  // ipmi, or manual: print what to press and wait
	Address     string      `yaml:"address"` // of the BMC, host or host:port (623)
	Credentials Credentials `yaml:"credentials"`
}

// Credentials is a reference, never the credentials themselves. Exactly one field is set.
type Credentials struct {
	File string `yaml:"file"` // YAML with username and password, mode 0600
	Env  string `yaml:"env"`  // a prefix: <Env>_USERNAME and <Env>_PASSWORD
}
