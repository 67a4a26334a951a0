// Package sysconfig owns the worker's settings: the two files an administrator edits
// (/etc/sysconfig/tectonic-worker and /etc/kubernetes/kubelet.env), the Go type they become, and the
// editor that changes them without disturbing a byte more than needed.
//
// The files are data. They are read as systemd reads an EnvironmentFile= (systemd.exec(5)), because
// systemd reads the same files for kubelet.service; nothing in them is ever expanded or run. The
// package does no more than read, check and edit text: it must not look at the host, the network or
// the cluster, and it imports nothing else of this project.
package sysconfig

import _ "embed"

const (
	// Path is the settings file, relative to the host's root.
	Path = "/etc/sysconfig/tectonic-worker"
	// KubeletEnvPath is the file with the kubelet's image and rkt's options, relative to the host's
	// root. kubelet.service reads it after Path, so where both set a key, this one wins.
	KubeletEnvPath = "/etc/kubernetes/kubelet.env"
)

// Shipped is the settings file as the package installs it.
//
//go:embed tectonic-worker
var Shipped []byte

// ShippedKubeletEnv is kubelet.env as the package installs it.
//
//go:embed kubelet.env
var ShippedKubeletEnv []byte
