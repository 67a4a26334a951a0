package node

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// DeleteNode deletes a Node. One that does not exist is success.
func (c *Client) DeleteNode(ctx context.Context, name string) error {
	return c.deleteNode(ctx, name, &metav1.DeleteOptions{})
}

// DeleteNodeUID deletes a Node only if it still is the one with this UID: another machine may have taken the name. If so, the
// error is an APIError for the reason Conflict.
func (c *Client) DeleteNodeUID(ctx context.Context, name, uid string) error {
	id := types.UID(uid)
	return c.deleteNode(ctx, name, &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &id}})
}

func (c *Client) deleteNode(ctx context.Context, name string, o *metav1.DeleteOptions) error {
	_, _, err := c.raw(ctx, "delete node "+clean(name), c.rest.Delete().Resource("nodes").Name(name).Body(o))
	if IsReason(err, NotFound) {
		return nil
	}
	return err
}

// NodesOfMachine names the Nodes, except self, that were registered by a host with the same machine ID, system UUID or
// provider ID: machines cloned from one another. Empty IDs match nothing. A node's own credential may not list others since
// Kubernetes 1.32; then the error is an APIError for the reason Forbidden.
func (c *Client) NodesOfMachine(ctx context.Context, self, machineID, systemUUID, providerID string) ([]NodeState, error) {
	same := func(a, b string) bool { return a != "" && a == b }
	var twins []NodeState
	for next := ""; ; {
		var nodes corev1.NodeList
		page := c.rest.Get().Resource("nodes").VersionedParams(&metav1.ListOptions{Limit: 250, Continue: next}, parameters)
		if err := c.get(ctx, "list nodes", page, &nodes); err != nil {
			return nil, err
		}
		for i := range nodes.Items {
			n := &nodes.Items[i]
			if n.Name != self && (same(n.Status.NodeInfo.MachineID, machineID) || same(n.Status.NodeInfo.SystemUUID, systemUUID) || same(n.Spec.ProviderID, providerID)) {
				twins = append(twins, stateOf(n))
			}
		}
		if next = nodes.Continue; next == "" {
			return twins, nil
		}
	}
}
