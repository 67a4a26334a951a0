package node

import (
	"context"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// A Condition is one of a Node's conditions.
type Condition struct {
	Type, Status, Reason, Message string
	Since                         time.Time
}

// A NodeState is what the API server says about a Node. All texts are cleaned and bounded. The zero value, with a name, is a
// Node that is not registered.
type NodeState struct {
	Name       string
	Registered bool
	Ready      bool
	Reason     string // of the Ready condition
	Message    string // of the Ready condition
	ReadySince time.Time
	// Heartbeat is when the kubelet last reported the Ready condition, by the host's clock, to the second. A kubelet reports
	// at its start, and then at every change or every five minutes.
	Heartbeat time.Time

	UID        string
	Created    time.Time
	MachineID  string // /etc/machine-id of the host that owns the Node
	SystemUUID string
	BootID     string
	ProviderID string

	KubeletVersion   string
	ContainerRuntime string // "containerd://1.7.24"
	OSImage          string
	InternalIPs      []netip.Addr
	Unschedulable    bool
	Labels           map[string]string
	Taints           []string // "key=value:Effect"
	Conditions       []Condition
}

func stateOf(n *corev1.Node) NodeState {
	s := NodeState{
		Name: clean(n.Name), Registered: true, UID: clean(string(n.UID)), Created: n.CreationTimestamp.Time,
		MachineID: clean(n.Status.NodeInfo.MachineID), SystemUUID: clean(n.Status.NodeInfo.SystemUUID), BootID: clean(n.Status.NodeInfo.BootID),
		ProviderID: clean(n.Spec.ProviderID), KubeletVersion: clean(n.Status.NodeInfo.KubeletVersion),
		ContainerRuntime: clean(n.Status.NodeInfo.ContainerRuntimeVersion), OSImage: clean(n.Status.NodeInfo.OSImage),
		Unschedulable: n.Spec.Unschedulable, Labels: make(map[string]string, len(n.Labels)),
	}
	for key, value := range n.Labels {
		s.Labels[clean(key)] = clean(value)
	}
	for _, t := range n.Spec.Taints {
		s.Taints = append(s.Taints, clean(t.ToString()))
	}
	for _, a := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			s.InternalIPs = append(s.InternalIPs, ip)
		}
	}
	for _, c := range n.Status.Conditions {
		cond := Condition{clean(string(c.Type)), clean(string(c.Status)), clean(c.Reason), clean(c.Message), c.LastTransitionTime.Time}
		s.Conditions = append(s.Conditions, cond)
		if c.Type == corev1.NodeReady {
			s.Ready, s.Reason, s.Message, s.ReadySince = c.Status == corev1.ConditionTrue, cond.Reason, cond.Message, cond.Since
			s.Heartbeat = c.LastHeartbeatTime.Time
		}
	}
	return s
}

// CNIMissing reports whether the Node waits for a network plugin, which the cluster's network DaemonSet installs. The texts
// are the kubelet's, those of dockershim among them.
func (s NodeState) CNIMissing() bool {
	if s.Ready {
		return false
	}
	m := strings.ToLower(s.Message)
	return strings.Contains(m, "networkpluginnotready") || strings.Contains(m, "network plugin is not ready") ||
		strings.Contains(m, "cni config uninitialized") || strings.Contains(m, "cni plugin not initialized")
}

// Why says in one line where the Node stands.
func (s NodeState) Why() string {
	switch {
	case !s.Registered:
		return "node " + s.Name + " is not registered"
	case s.Ready:
		return "node " + s.Name + " is Ready"
	case s.Reason == "" && s.Message == "":
		return "node " + s.Name + " is registered, its kubelet has not reported a condition yet"
	case s.Reason == "NodeStatusUnknown":
		return "node " + s.Name + " is not Ready: its kubelet stopped reporting"
	}
	return "node " + s.Name + " is not Ready: " + strings.TrimPrefix(s.Reason+": "+s.Message, ": ")
}

// Node reads one Node. Where there is none, the error is an APIError for the reason NotFound.
func (c *Client) Node(ctx context.Context, name string) (*NodeState, error) {
	var n corev1.Node
	if err := c.get(ctx, "read node "+clean(name), c.rest.Get().Resource("nodes").Name(name), &n); err != nil {
		return nil, err
	}
	s := stateOf(&n)
	return &s, nil
}
