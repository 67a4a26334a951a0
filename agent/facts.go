package agent

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
	"github.com/tectonic-worker/tectonic-worker/agent/selinux"
	"github.com/tectonic-worker/tectonic-worker/sysconfig"
)

// Facts is all that the plan is made from: the settings, the cluster's answers
// and how the host is. Gathering them changes nothing.
type Facts struct {
	Settings sysconfig.Settings
	// Set is what join writes into the settings files, by key.
	Set map[string]string
	// SettingsFile and ImageFile are the two files as they will be.
	SettingsFile, ImageFile []byte

	// Warnings are about the settings, for the operator.
	Warnings []string

	Kubeconfig     *node.Kubeconfig
	KubeconfigData []byte
	KubeconfigFrom string // where it came from: a path, "standard input", an archive
	// KubeconfigInUse is where the kubelet reads it, where that is not
	// kubelet.KubeconfigPath.
	KubeconfigInUse string
	Server          node.Server
	ServerVersion   kubelet.Version
	Online          bool // the API server was asked

	DNS     netip.Addr
	DNSFrom string

	Image     string // the reference that will run
	ImageFrom string
	Version   kubelet.Version // the kubelet's, from the image's tag
	Runtime   Runtime
	Endpoint  string // the CRI socket's URL; empty for dockershim
	NodeName  string
	Cgroup    int // version of the host's cgroup hierarchy: 1 or 2

	Kubelet kubelet.Output

	SELinuxRuntime, SELinuxBoot selinux.Mode
	SELinuxConfig               []byte
	SELinuxWant                 selinux.Want
	SELinuxPolicy               string // evidence

	Now time.Time
}

// Runtime is the program that runs the kubelet's image.
type Runtime struct {
	Name    string // sysconfig.RuntimeRkt or RuntimePodman
	Path    string
	Version string // of podman, "4.3.1"; empty where it was not asked
}

// gatherer collects facts, one idea a method, in an order that asks the
// cheapest and most often wrong first.
type gatherer struct {
	sys *System
	h   *handles
	f   *Facts
}

// handles are the connections of one run, made when first needed.
type handles struct {
	sys        *System
	mu         sync.Mutex // of the connections: checks look at once
	fw         Firewall
	us         Units
	kubeletRan bool // kubelet.service ran when the run began
}

func (h *handles) firewall(ctx context.Context) (Firewall, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fw == nil {
		fw, err := h.sys.Firewall(ctx)
		if err != nil {
			return nil, err
		}
		h.fw = fw
	}
	return h.fw, nil
}

func (h *handles) units(ctx context.Context) (Units, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.us == nil {
		us, err := h.sys.Units(ctx)
		if err != nil {
			return nil, err
		}
		h.us = us
	}
	return h.us, nil
}

func (h *handles) close() {
	if h.fw != nil {
		_ = h.fw.Close()
	}
	if h.us != nil {
		h.us.Close()
	}
}
