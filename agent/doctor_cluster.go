package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
)

func (x *examiner) checkKubeconfig(context.Context) (Severity, string, string) {
	const path = kubelet.KubeconfigPath
	st, err := x.sys.Root.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return SeverityNote, "there is none yet: give join one with --kubeconfig FILE or --assets DIR", ""
	}
	if err == nil && x.credentialErr != nil {
		err = x.credentialErr
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return SeverityNote, "only root can read " + path, ""
	case err != nil:
		return SeverityFail, err.Error(), ""
	case st.Mode&fs.ModeSymlink != 0:
		return SeverityWarn, path + " is a symbolic link", "put the file itself there: mode and owner of what a link leads to are not looked after"
	case st.Mode.Perm()&0o077 != 0 || st.UID != 0:
		return SeverityWarn, fmt.Sprintf("%s has mode %04o and owner %d: others can read the credential", path, st.Mode.Perm(), st.UID),
			"run \"chown root:root " + path + "\" and \"chmod 0600 " + path + "\""
	case x.f.Kubeconfig.Shared:
		return SeverityNote, x.f.Kubeconfig.String() + ": every worker with this kubeconfig has the same", "a bootstrap token would give each its own"
	}
	return SeverityOK, x.f.Kubeconfig.String(), ""
}

func (x *examiner) checkCertificate(context.Context) (Severity, string, string) {
	subject, end, source, err := x.sys.Certificate()
	switch {
	case x.f.Kubeconfig != nil && x.f.KubeconfigFrom != kubelet.KubeconfigPath: // given to join
		subject, end, source = x.f.Kubeconfig.Subject, x.f.Kubeconfig.NotAfter, x.f.KubeconfigFrom
	case errors.Is(err, fs.ErrNotExist):
		return SeverityNote, "there is none yet", ""
	case errors.Is(err, fs.ErrPermission):
		return SeverityNote, "only root can read " + source, ""
	case err != nil:
		return SeverityWarn, err.Error(), ""
	}
	if end.IsZero() {
		return SeverityOK, "the credential in " + source + " does not say when it ends", ""
	}
	if sev, note := CertificateNotice(end, x.f.Now); note != "" {
		// join refuses an expired one itself; one that is valid still makes a worker.
		if sev == SeverityFail && end.After(x.f.Now) {
			sev = SeverityWarn
		}
		return sev, fmt.Sprintf("%s (%s, %s)", note, orWord(subject), source), ""
	}
	return SeverityOK, fmt.Sprintf("%s is valid until %s (%s)", orWord(subject), end.UTC().Format("2006-01-02"), source), ""
}

// notAsked is the finding of a check whose question needed an API server.
func (x *examiner) notAsked() (Severity, string, string) {
	if errors.Is(x.serverErr, errNotKnown) {
		return SeverityNote, "not asked: there is no valid kubeconfig", ""
	}
	return SeverityNote, "not known: the API server does not answer; see api", ""
}

func (x *examiner) checkAPI(ctx context.Context) (Severity, string, string) {
	if errors.Is(x.serverErr, errNotKnown) {
		return x.notAsked()
	}
	if x.serverErr == nil {
		return SeverityOK, fmt.Sprintf("%s is %s and accepts the %s", x.f.Kubeconfig.Server, x.f.Server.Version, x.f.Kubeconfig.Kind), ""
	}
	err := x.explainSilence(ctx, x.serverErr)
	var api *node.APIError
	if err == x.serverErr && errors.As(err, &api) {
		return SeverityFail, fmt.Sprintf("cannot %s: %s (%s: %s)", api.Op, api.What, api.Layer, api.Reason), api.Remedy
	}
	return SeverityFail, err.Error(), ""
}

// explainSilence names the one cause of an unreachable API server that stands
// on this host and that no packet can tell of: firewalld's panic mode.
func (h *handles) explainSilence(ctx context.Context, err error) error {
	var api *node.APIError
	if !errors.As(err, &api) || (api.Layer != node.LayerTCP && api.Layer != node.LayerDNS) {
		return err
	}
	fw, ferr := h.firewall(ctx)
	if ferr != nil {
		return err
	}
	if st, ferr := fw.State(ctx); ferr == nil && st.Panic {
		return fmt.Errorf("%s (%w)", st.Note(), err)
	}
	return err
}

// checkClock compares our clock with the API server's Date header, or, where a
// certificate's dates stand between, with the dates themselves.
func (x *examiner) checkClock(ctx context.Context) (Severity, string, string) {
	const remedy = "set the time (systemctl enable --now chronyd): certificates and tokens fail otherwise"
	if x.credentialErr != nil && x.f.Kubeconfig != nil {
		if err := x.gatherer().clock(ctx, x.credentialErr); err != x.credentialErr {
			return SeverityFail, err.Error(), remedy
		}
	}
	if x.serverErr != nil {
		return x.notAsked()
	}
	if x.f.Server.Date.IsZero() {
		return SeverityOK, "not compared: the API server sent no date", ""
	}
	if note := x.f.Server.ClockNote(); note != "" {
		return SeverityWarn, note, remedy
	}
	return SeverityOK, "within a minute of the API server's", ""
}

func (x *examiner) checkSkew(context.Context) (Severity, string, string) {
	if x.serverErr != nil {
		return x.notAsked()
	}
	if x.f.Version.Major == 0 {
		return SeverityFail, errors.Join(errNotKnown, x.imageErr).Error(), ""
	}
	if err := kubelet.CheckSkew(x.f.Version, x.f.ServerVersion); err != nil {
		return SeverityFail, err.Error(), ""
	}
	return SeverityOK, fmt.Sprintf("kubelet %s, API server %s", x.f.Version, x.f.ServerVersion), ""
}

func (x *examiner) checkDNSService(ctx context.Context) (Severity, string, string) {
	set := x.f.Settings.DNSServiceIP
	if x.serverErr != nil {
		if !set.IsValid() && x.sys.Root.Exists(kubelet.KubeconfigPath) {
			return SeverityWarn, "KUBERNETES_DNS_SERVICE_IP is not set, and the API server does not answer", "set it in the settings: the kubelet does not start without"
		}
		return x.notAsked()
	}
	c, err := x.client()
	if err != nil {
		return SeverityNote, err.Error(), ""
	}
	theirs, how, err := c.DNSServiceIP(ctx)
	switch {
	case err != nil && set.IsValid():
		return SeverityNote, fmt.Sprintf("%s as set; the cluster does not tell its own", set), ""
	case err != nil:
		return SeverityWarn, err.Error(), "set KUBERNETES_DNS_SERVICE_IP in the settings, or give join --dns-service-ip"
	case set.IsValid() && set != theirs:
		return SeverityWarn, fmt.Sprintf("%s is set, and the cluster says %s (%s)", set, theirs, how), "if pods can't resolve names, set it with join --dns-service-ip " + theirs.String()
	}
	return SeverityOK, fmt.Sprintf("%s (%s)", theirs, how), ""
}

// client asks with the node's own credential where the kubeconfig is good only
// for getting one.
func (x *examiner) client() (Cluster, error) {
	if x.f.Kubeconfig == nil {
		return nil, errNotKnown
	}
	g := x.gatherer()
	if x.f.Kubeconfig.Bootstrap {
		if c, err := x.sys.OwnCluster(g.proxy()); err == nil {
			return c, nil
		}
	}
	return x.sys.Cluster(x.f.Kubeconfig, g.proxy())
}

// twins is what tells the Nodes of machines that were cloned from one another.
type twins interface {
	NodesOfMachine(ctx context.Context, self, machineID, systemUUID, providerID string) ([]node.NodeState, error)
}

func (x *examiner) checkIdentity(ctx context.Context) (Severity, string, string) {
	if x.serverErr != nil {
		return x.notAsked()
	}
	c, err := x.client()
	if err != nil {
		return SeverityNote, err.Error(), ""
	}
	data, err := x.sys.Root.ReadFile("/etc/machine-id")
	id := strings.TrimSpace(string(data))
	if err != nil || id == "" {
		return SeverityNote, "not known: see machine-id", ""
	}
	name := x.f.NodeName
	if name == "" {
		return SeverityNote, "not known: see settings", ""
	}
	st, err := c.Node(ctx, name)
	switch {
	case node.IsReason(err, node.NotFound) || err == nil && !st.Registered:
	case node.IsReason(err, node.Forbidden):
		return SeverityNote, "not known: this credential may not look at Nodes", ""
	case err != nil:
		return SeverityNote, "not known: " + err.Error(), ""
	case st.MachineID != "" && st.MachineID != id && st.Ready && !x.kubeletRan:
		return SeverityFail, fmt.Sprintf("node %s is Ready, and another machine's (machine ID %s)", name, st.MachineID),
			"give this host another name (hostnamectl, or NODE_NAME); if it was installed anew, delete the old one with \"kubectl delete node " + name + "\""
	case st.MachineID != "" && st.MachineID != id:
		return SeverityWarn, fmt.Sprintf("node %s has the machine ID %s, and this host %s", name, st.MachineID, id),
			"if this host was installed anew, that is the reason, and the kubelet sets it right; else two machines have one name"
	}
	list, ok := c.(twins)
	if !ok {
		return SeverityOK, "no other machine has the name " + name, ""
	}
	others, err := list.NodesOfMachine(ctx, name, id, "", "")
	if err != nil {
		return SeverityOK, "no other machine has the name " + name + " (this credential may not list the Nodes)", ""
	}
	if len(others) > 0 {
		return SeverityWarn, "node " + others[0].Name + " has this machine's ID: one is a clone of the other", "empty /etc/machine-id on the clone, run \"systemd-machine-id-setup\" and reboot"
	}
	return SeverityOK, "no other Node has the name " + name + " or this machine's ID", ""
}
