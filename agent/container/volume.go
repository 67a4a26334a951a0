package container

import (
	"path"
	"strings"
)

// Volume is a part of the host that the kubelet's container sees.
type Volume struct {
	Name           string // as rkt wants one: lower-case letters, digits and dashes
	Source, Target string
	ReadOnly       bool
	// Recursive: mounts below Source are seen too, and mounts made on either
	// side are seen on the other (rshared).
	Recursive bool
	// Create: the host directory is made, mode 0755, where it is missing.
	Create bool
	// Optional: left out where the host has no Source. Both runtimes refuse to
	// start over a missing one.
	Optional bool
}

// Facts are what the list of volumes depends on.
type Facts struct {
	Minor      int    // the kubelet's minor release
	Endpoint   string // CRI socket; empty: docker
	ResolvConf string // resolv.conf for pods, where it is not /etc/resolv.conf
}

// Volumes lists what the kubelet needs of the host, in the order in which it
// is mounted. The first ones are the original package's, on RHEL's paths.
func Volumes(f Facts) []Volume {
	all := []Volume{
		{Name: "etc-kubernetes", Source: "/etc/kubernetes", Target: "/etc/kubernetes", Create: true},
		{Name: "etc-ssl-certs", Source: "/etc/pki/tls/certs", Target: "/etc/ssl/certs", ReadOnly: true, Optional: true},
		// The bundles in /etc/pki/tls/certs are links into this directory.
		{Name: "etc-pki-ca-trust", Source: "/etc/pki/ca-trust", Target: "/etc/pki/ca-trust", ReadOnly: true, Optional: true},
		{Name: "usr-share-certs", Source: "/etc/pki/CA/certs", Target: "/usr/share/ca-certificates", ReadOnly: true, Optional: true},
		{Name: "var-lib-kubelet", Source: "/var/lib/kubelet", Target: "/var/lib/kubelet", Recursive: true, Create: true},
		{Name: "var-log", Source: "/var/log", Target: "/var/log", Create: true},
		{Name: "os-release", Source: "/etc/os-release", Target: "/usr/lib/os-release", ReadOnly: true, Optional: true},
		{Name: "run", Source: "/run", Target: "/run"},
		{Name: "lib-modules", Source: "/lib/modules", Target: "/lib/modules", ReadOnly: true, Optional: true},
		{Name: "etc-resolv-conf", Source: "/etc/resolv.conf", Target: "/etc/resolv.conf", ReadOnly: true, Optional: true},
		// The Node's machineID.
		{Name: "etc-machine-id", Source: "/etc/machine-id", Target: "/etc/machine-id", ReadOnly: true, Optional: true},
	}
	if f.Endpoint == "" {
		// dockershim runs CNI itself, with the plugins of the image.
		all = append(all,
			Volume{Name: "var-lib-docker", Source: "/var/lib/docker", Target: "/var/lib/docker", Create: true},
			Volume{Name: "var-lib-cni", Source: "/var/lib/cni", Target: "/var/lib/cni", Create: true},
		)
	} else {
		// The kubelet measures the file system that holds the images; what
		// runs CNI is the runtime, so its directories are for reading.
		all = append(all,
			Volume{Name: "var-lib-containerd", Source: "/var/lib/containerd", Target: "/var/lib/containerd", ReadOnly: true, Optional: true},
			Volume{Name: "var-lib-containers", Source: "/var/lib/containers", Target: "/var/lib/containers", ReadOnly: true, Optional: true},
			Volume{Name: "opt-cni-bin", Source: "/opt/cni/bin", Target: "/opt/cni/bin", ReadOnly: true, Optional: true},
			Volume{Name: "etc-cni-net-d", Source: "/etc/cni/net.d", Target: "/etc/cni/net.d", ReadOnly: true, Optional: true},
		)
		if dir := path.Dir(strings.TrimPrefix(f.Endpoint, "unix://")); !seen(all, dir) {
			all = append(all, Volume{Name: "cri-socket", Source: dir, Target: dir})
		}
	}
	if f.ResolvConf != "" && !seen(all, f.ResolvConf) {
		all = append(all, Volume{Name: "pod-resolv-conf", Source: f.ResolvConf, Target: f.ResolvConf, ReadOnly: true})
	}
	return all
}

// seen tells whether a host path can be reached under the same name inside.
func seen(all []Volume, p string) bool {
	if rest, ok := strings.CutPrefix(p, "/var/run"); ok && (rest == "" || rest[0] == '/') {
		p = "/run" + rest // a link on every RHEL since 7
	}
	for _, v := range all {
		if v.Source == v.Target && (p == v.Source || strings.HasPrefix(p, v.Source+"/")) {
			return true
		}
	}
	return false
}
