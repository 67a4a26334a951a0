// Package units owns the systemd units as the package installs them, and their names. It holds text
// alone: it must not talk to systemd and imports nothing else of this project.
//
// Every directive is either known to systemd 219, the oldest release supported, or one that it
// ignores with a line in its log.
package units

import "embed"

// The names of the units.
const (
	Kubelet     = "kubelet.service"
	KubeletPath = "kubelet.path"
	// Kubeconfig checks a new kubeconfig and starts Kubelet; KubeletPath starts it.
	Kubeconfig = "kubelet-kubeconfig.service"
	WaitForDNS = "wait-for-dns.service"
	// Agent keeps the host a worker.
	Agent = "tectonic-worker.service"
	// SELinux sets the running SELinux mode to its instance's name for Agent, whose sandbox cannot.
	SELinux = "tectonic-worker-selinux@.service"

	// Installer is the provisioner: matchbox's APIs and the machines' own. A matchbox.service is left alone.
	Installer = "tectonic-installer.service"
	// Netboot runs dnsmasq on the provisioner.
	Netboot = "tectonic-installer-netboot.service"
)

// Dir is where the units are installed.
const Dir = "/usr/lib/systemd/system"

// Files holds the units under their names.
//
//go:embed *.service *.path
var Files embed.FS

// Names lists the worker's units in a stable order.
func Names() []string { return []string{Kubelet, KubeletPath, Kubeconfig, WaitForDNS, Agent, SELinux} }

// InstallerNames lists the provisioner's.
func InstallerNames() []string { return []string{Installer, Netboot} }

// SELinuxFor is the unit that sets the running SELinux mode: permissive or enforcing.
func SELinuxFor(mode string) string { return "tectonic-worker-selinux@" + mode + ".service" }
