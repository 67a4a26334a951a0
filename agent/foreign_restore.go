package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/node"
)

const (
	// healTime is how long an owner may take to write its rules again by itself
	// before its pod is restarted. flannel looks every five seconds.
	healTime = 6 * time.Second
	healTick = time.Second
	// restoreLimit bounds the whole.
	restoreLimit = 90 * time.Second
	// maxRestore bounds how many pods one call deletes: a node has one of each
	// kind, two while one of them is being replaced.
	maxRestore = 8
)

// podNames tell an owner's pods by the labels k8s-app, app, name, component
// and app.kubernetes.io/name, or by the name of their DaemonSet. Canal is
// flannel and calico in one.
var podNames = map[Owner][]string{
	OwnerKubeProxy:  {"kube-proxy"},
	OwnerFlannel:    {"flannel", "kube-flannel", "kube-flannel-ds", "canal"},
	OwnerCalico:     {"calico-node", "canal", "rke2-canal"},
	OwnerCilium:     {"cilium"},
	OwnerWeave:      {"weave-net"},
	OwnerKubeRouter: {"kube-router"},
}

// podNamespaces are where clusters and their installers put these DaemonSets.
// A pod elsewhere that carries such a name is somebody's own.
var podNamespaces = []string{"kube-system", "kube-flannel", "calico-system", "cilium", "kube-router", "weave", "canal-system"}

var podLabels = []string{"k8s-app", "app", "name", "component", "app.kubernetes.io/name"}

// owns tells whether p is the pod of this node that writes the owner's rules,
// and comes again when it is deleted.
func owns(owner Owner, p node.Pod) bool {
	if p.DaemonSet == "" || p.Ending || !slices.Contains(podNamespaces, p.Namespace) {
		return false
	}
	names := podNames[owner]
	if slices.Contains(names, p.DaemonSet) {
		return true
	}
	return slices.ContainsFunc(podLabels, func(label string) bool {
		return slices.Contains(names, p.Labels[label])
	})
}

// RestoreForeign brings back the rules that a firewalld reload destroyed, as
// FIREWALL_RESTORE=yes asks for: first it gives their owners six seconds to do
// so themselves, then it deletes the pods of DaemonSets on this node whose
// rules are still missing, so that they start again and write them. Call it
// once for each reload; it takes no longer than 90 seconds. The sentences say
// what was done, and what has to be done by hand. An error means that at least
// one pod was not deleted; the sentences count beside it.
func (s *System) RestoreForeign(ctx context.Context, c Cluster, nodeName string, losses []Loss) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, restoreLimit)
	defer cancel()
	losses, evidence, err := s.heal(ctx, losses)
	if err != nil || len(losses) == 0 {
		return evidence, err
	}
	pods, err := c.PodsOfNode(ctx, nodeName)
	if err != nil {
		return evidence, fmt.Errorf("cannot restart the pods whose packet filter rules are lost: %w", err)
	}
	var failed []error
	deleted := map[string]bool{} // by UID: canal is the pod of two owners
	for _, l := range losses {
		if _, ours := podNames[l.Owner]; !ours {
			evidence = append(evidence, l.String()+hostPortPods(l.Owner, pods))
			continue
		}
		found := false
		for _, p := range pods {
			if !owns(l.Owner, p) {
				continue
			}
			found = true
			if deleted[p.UID] || len(deleted) == maxRestore {
				continue
			}
			if err := c.DeletePod(ctx, p); err != nil {
				failed = append(failed, err)
				continue
			}
			deleted[p.UID] = true
			evidence = append(evidence, fmt.Sprintf("deleted pod %s: %s lost its packet filter rules, and the pod that DaemonSet %s makes in its place writes them", p, l.Owner, p.DaemonSet))
		}
		if !found {
			evidence = append(evidence, fmt.Sprintf("no pod of a DaemonSet on node %s is known to write the rules of %s; restart whatever does", nodeName, l.Owner))
		}
	}
	return evidence, errors.Join(failed...)
}

// heal waits until the rules are back, for healTime at most, and gives the
// losses that are left.
func (s *System) heal(ctx context.Context, losses []Loss) (left []Loss, evidence []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, healTime+healTick)
	defer cancel()
	deadline := time.Now().Add(healTime)
	tick := time.NewTicker(healTick) // no event tells of another's rules
	defer tick.Stop()
	for len(losses) > 0 {
		// What cannot be counted is taken for missing still.
		now, _ := s.Foreign(ctx)
		left = nil
		for _, l := range losses {
			if missing := Lost(l.before, now); len(missing) > 0 {
				left = append(left, missing...)
			} else {
				evidence = append(evidence, fmt.Sprintf("%s wrote its packet filter rules again by itself", l.Owner))
			}
		}
		losses = left
		if len(losses) == 0 || time.Now().After(deadline) {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return losses, evidence, fmt.Errorf("cannot wait for lost packet filter rules to come back: %w", context.Cause(ctx))
		}
	}
	return losses, evidence, nil
}

// hostPortPods names the pods whose host ports a loss of the CNI plugins' rules
// cut off. They are not restarted: they are workloads, not the network.
func hostPortPods(owner Owner, pods []node.Pod) string {
	if owner != OwnerHostPorts {
		return ""
	}
	var names []string
	for _, p := range pods {
		if len(p.HostPorts) > 0 && !p.Ending {
			names = append(names, p.String())
		}
	}
	if len(names) == 0 {
		return ""
	}
	return ": " + strings.Join(names, ", ")
}
