package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/cri"
	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/units"
)

func (x *examiner) checkRuntime(context.Context) (Severity, string, string) {
	if x.runtimeErr != nil && x.f.Runtime.Path != "" && os.Geteuid() != 0 {
		return SeverityNote, x.f.Runtime.Path + "; whether it works is not known without root", ""
	}
	if x.runtimeErr != nil {
		return SeverityFail, x.runtimeErr.Error(), ""
	}
	return SeverityOK, strings.TrimSpace(x.f.Runtime.Path + " " + x.f.Runtime.Version), ""
}

const startRuntime = "start the container runtime (systemctl enable --now containerd)"

func (x *examiner) checkEndpoint(ctx context.Context) (Severity, string, string) {
	if x.endpointErr != nil {
		return SeverityFail, x.endpointErr.Error(), ""
	}
	if x.f.Endpoint == "" && x.f.Version.Major == 0 {
		return SeverityWarn, "neither " + strings.Join(criSockets, " nor ") + " is there", startRuntime
	}
	if x.f.Endpoint == "" {
		return SeverityOK, "docker, through the kubelet's dockershim", ""
	}
	path, isUnix := strings.CutPrefix(x.f.Endpoint, "unix://")
	if !isUnix {
		return SeverityOK, x.f.Endpoint, ""
	}
	d := net.Dialer{Timeout: 2 * time.Second}
	conn, err := d.DialContext(ctx, "unix", x.sys.Root.Path(path))
	if errors.Is(err, syscall.EACCES) && os.Geteuid() != 0 {
		return SeverityNote, x.f.Endpoint + " is there; only root may speak to it", ""
	}
	if err != nil {
		return SeverityFail, fmt.Sprintf("nothing answers at %s: %v", x.f.Endpoint, errors.Unwrap(err)), startRuntime
	}
	conn.Close()
	return SeverityOK, x.f.Endpoint + " answers", ""
}

// driverFromCRI is the first release whose kubelet takes the cgroup driver from
// the container runtime, where that tells it, whatever its own configuration
// says: KubeletCgroupDriverFromCRI became beta, and on, in 1.31.
const driverFromCRI = 31

func (x *examiner) checkCRI(ctx context.Context) (Severity, string, string) {
	path, isUnix := strings.CutPrefix(x.f.Endpoint, "unix://")
	if x.endpointErr != nil || !isUnix {
		return SeverityNote, "not asked: there is no socket of a container runtime; see cri-socket", ""
	}
	c := cri.New(x.sys.Root.Path(path))
	defer c.Close()
	name, version, err := c.Version(ctx)
	if errors.Is(err, syscall.EACCES) && os.Geteuid() != 0 {
		return SeverityNote, "not asked: only root may speak to " + x.f.Endpoint, ""
	}
	if err != nil {
		if cri.Unimplemented(err) {
			return SeverityFail, x.f.Endpoint + " answers, but its CRI is switched off", "take \"cri\" out of disabled_plugins in /etc/containerd/config.toml, and restart containerd"
		}
		return SeverityFail, err.Error(), startRuntime
	}
	who := name + " " + version
	conditions, err := c.Status(ctx)
	if err != nil {
		return SeverityFail, who + ": " + err.Error(), "read its log: journalctl -u " + name
	}
	note := ""
	for _, one := range conditions {
		switch {
		case one.OK:
		case one.Type == "RuntimeReady":
			return SeverityFail, fmt.Sprintf("%s is not ready: %s %s", who, one.Reason, one.Message), "read its log: journalctl -u " + name
		case one.Type == "NetworkReady":
			note = "has no network plugin yet"
		}
	}
	driver, err := c.CgroupDriver(ctx)
	switch {
	case cri.Unimplemented(err):
		return SeverityNote, joinComma(joinComma(who, note), "does not tell its cgroup driver"), "see that it is the kubelet's (SystemdCgroup = true in /etc/containerd/config.toml); containerd 2.0 tells it, and later kubelets ask for it"
	case err != nil:
		return SeverityWarn, who + ": " + err.Error(), "read its log: journalctl -u " + name
	}
	ours, _ := configField(x.f.Kubelet.Config, "cgroupDriver").(string)
	if ours != "" && ours != driver && x.f.Version.Minor < driverFromCRI {
		return SeverityFail, fmt.Sprintf("%s has the cgroup driver %s, and the kubelet %s", who, driver, ours),
			"set SystemdCgroup = true in /etc/containerd/config.toml (cgroup_manager = \"systemd\" in CRI-O's), and restart it"
	}
	said := joinComma(who, "cgroup driver "+driver)
	if note != "" {
		return SeverityNote, said + "; " + note, ""
	}
	return SeverityOK, said, ""
}

func (x *examiner) checkCNI(context.Context) (Severity, string, string) {
	entries, _ := os.ReadDir(x.sys.Root.Path("/etc/cni/net.d"))
	for _, e := range entries {
		n := e.Name()
		if strings.Contains(n, "podman") {
			continue // its own, not the cluster's
		}
		if strings.HasSuffix(n, ".conflist") || strings.HasSuffix(n, ".conf") || strings.HasSuffix(n, ".json") {
			if plugins, _ := os.ReadDir(x.sys.Root.Path("/opt/cni/bin")); len(plugins) == 0 {
				return SeverityWarn, "/etc/cni/net.d/" + n + " is there, but /opt/cni/bin has no plugin", "install containernetworking-plugins, or look at the network plugin's DaemonSet"
			}
			return SeverityOK, "/etc/cni/net.d/" + n, ""
		}
	}
	return SeverityNote, "none yet: the cluster's network plugin brings one when the Node is registered", ""
}

func (x *examiner) checkKubelet(ctx context.Context) (Severity, string, string) {
	if !x.sys.Root.Exists(kubelet.KubeconfigPath) {
		return SeverityNote, "this host has not joined", ""
	}
	us, err := x.units(ctx)
	if err != nil {
		return SeverityWarn, err.Error(), ""
	}
	st, err := us.Unit(ctx, units.Kubelet)
	if err != nil {
		return SeverityWarn, err.Error(), ""
	}
	if !st.Running() {
		return SeverityFail, fmt.Sprintf("%s is %s (%s)", units.Kubelet, st.Active, orWord(st.Result, st.Sub)), "read its log: journalctl -u " + units.Kubelet
	}
	if ok, why := healthz(ctx, healthzURL); !ok {
		return SeverityFail, "runs, but is not healthy: " + why, "read its log: journalctl -u " + units.Kubelet
	}
	if !st.Enabled() {
		return SeverityWarn, "runs and is healthy, but does not start at boot", "run \"systemctl enable " + units.Kubelet + "\""
	}
	return SeverityOK, "runs and is healthy", ""
}

// orWord is the first of the words that says something.
func orWord(words ...string) string {
	for _, w := range words {
		if w != "" {
			return w
		}
	}
	return "-"
}
