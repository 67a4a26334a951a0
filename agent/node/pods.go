package node

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
)

// A Pod is what is told of a pod of a node.
type Pod struct {
	Namespace, Name, UID string
	// DaemonSet is the name of the DaemonSet that made the pod, and makes it anew on this node when it is deleted; empty
	// where something else did.
	DaemonSet string
	Labels    map[string]string
	// HostPorts are ports of the host that the network plugin leads to the pod by packet filter rules: those of a pod that
	// has a network of its own.
	HostPorts []int32
	Ending    bool // it is being deleted
}

// String is NAMESPACE/NAME.
func (p Pod) String() string { return p.Namespace + "/" + p.Name }

// podPage bounds what one answer takes of the memory of a process that should stay small.
const podPage = 30

// PodsOfNode lists the pods that run on a node. A node's own credential may do so for its own pods.
func (c *Client) PodsOfNode(ctx context.Context, node string) ([]Pod, error) {
	var out []Pod
	for next := ""; ; {
		var pods corev1.PodList
		options := &metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", node).String(), Limit: podPage, Continue: next}
		page := c.rest.Get().Resource("pods").VersionedParams(options, parameters)
		if err := c.get(ctx, "list the pods of node "+clean(node), page, &pods); err != nil {
			return nil, err
		}
		for i := range pods.Items {
			out = append(out, podOf(&pods.Items[i]))
		}
		if next = pods.Continue; next == "" {
			return out, nil
		}
	}
}

func podOf(p *corev1.Pod) Pod {
	out := Pod{Namespace: p.Namespace, Name: p.Name, UID: string(p.UID), Labels: p.Labels, Ending: p.DeletionTimestamp != nil}
	if o := metav1.GetControllerOf(p); o != nil && o.Kind == "DaemonSet" {
		out.DaemonSet = o.Name
	}
	if p.Spec.HostNetwork {
		return out
	}
	for _, container := range p.Spec.Containers {
		for _, port := range container.Ports {
			if port.HostPort != 0 {
				out.HostPorts = append(out.HostPorts, port.HostPort)
			}
		}
	}
	return out
}

// DeletePod deletes a pod, and no other that took its name since it was listed. One that is gone is success. A node's own
// credential may do so for its own pods.
func (c *Client) DeletePod(ctx context.Context, p Pod) error {
	id := types.UID(p.UID)
	_, _, err := c.raw(ctx, "delete pod "+clean(p.String()), c.rest.Delete().Resource("pods").Namespace(p.Namespace).Name(p.Name).
		Body(&metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &id}}))
	if IsReason(err, NotFound) || IsReason(err, Conflict) {
		return nil
	}
	return err
}
