package sysconfig

import (
	"net/netip"
	"strings"
)

// Settings are the worker's settings, checked and typed.
type Settings struct {
	// DNSServiceIP is the zero Addr where it is not set: join finds it out, kubelet.service refuses.
	DNSServiceIP  netip.Addr
	ClusterDomain string
	Runtime       string // one of the Runtime constants
	SELinuxMode   string // one of the SELinux constants
	Firewall      string // one of the Firewall constants
	FirewallZone  string
	FirewallPorts []Port
	// FirewallRestore: the pods whose rules a reload of firewalld destroyed are restarted.
	FirewallRestore bool
	// Drift is DriftRepair or DriftReport, and so is each of the others: where its key is empty, it is as Drift.
	Drift, DriftFiles, DriftPorts, DriftSELinux, DriftUnits string

	NodeName   string
	NodeIPs    []netip.Addr // none, one, or two of different families
	NodeLabels map[string]string
	NodeTaints []Taint
	// ContainerRuntimeEndpoint is a unix:// URL, or empty.
	ContainerRuntimeEndpoint string
	KubeletExtraArgs         []string
	// The proxies may hold a password: they must not reach a command line, a log or an error.
	HTTPProxy, HTTPSProxy, NoProxy string

	Image Image

	origin map[string]string
}

// Image is what kubelet.env says: the kubelet's image and the options for rkt.
type Image struct {
	URL, Tag, Image string
	ImageArgs       []string
	RktRunArgs      []string
	RktOpts         []string
	RktGlobalArgs   []string
	RktStage1Args   []string
}

// DefaultImageURL is the repository that a KUBELET_IMAGE_TAG alone belongs to, as it did for the
// original package.
const DefaultImageURL = "quay.io/coreos/hyperkube"

// Reference is the image the administrator asked for: KUBELET_IMAGE, else KUBELET_IMAGE_URL and
// KUBELET_IMAGE_TAG; empty where they asked for none.
func (i Image) Reference() string {
	switch {
	case i.Image != "":
		return i.Image
	case i.Tag == "":
		return i.URL
	case i.URL == "":
		return DefaultImageURL + ":" + i.Tag
	}
	return i.URL + ":" + i.Tag
}

// Origin says where key's value comes from: "/etc/sysconfig/tectonic-worker:12", "flag",
// "environment" or "default". It is empty for a key that does not exist.
func (s Settings) Origin(key string) string { return s.origin[key] }

// Port is a port, or a range of ports, and its protocol.
type Port struct {
	Port     string // "10250" or "30000-32767"
	Protocol string // tcp, udp, sctp or dccp
}

// String is the port as firewalld writes it: 10250/tcp.
func (p Port) String() string { return p.Port + "/" + p.Protocol }

// Taint is a Node's taint.
type Taint struct{ Key, Value, Effect string }

// String is the taint as --register-with-taints takes it. The "=" is always there: kubelets before
// 1.18 demand it.
func (t Taint) String() string { return t.Key + "=" + t.Value + ":" + t.Effect }

// split splits a list at commas and white space.
func split(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' })
}
