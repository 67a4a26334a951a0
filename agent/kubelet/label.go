package kubelet

import (
	"fmt"
	"slices"
	"strings"
)

// Labels of the reserved domains that a kubelet may give its own Node.
// Source: IsKubeletLabel in k8s.io/kubelet/pkg/apis/well_known_labels.go, the
// same set from 1.16 to 1.36.
var (
	kubeletLabels = []string{
		"kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch",
		"beta.kubernetes.io/os", "beta.kubernetes.io/arch", "beta.kubernetes.io/instance-type",
		"node.kubernetes.io/instance-type",
		"topology.kubernetes.io/zone", "topology.kubernetes.io/region",
		"failure-domain.beta.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/region",
	}
	kubeletLabelDomains = []string{"kubelet.kubernetes.io", "node.kubernetes.io"}
)

// AllowedLabel tells whether a kubelet of this version starts with the label
// on its command line. From 1.16 on it exits at a label of kubernetes.io or
// k8s.io that is not one of a few (kubernetes/kubernetes#79305), the original
// unit's node-role.kubernetes.io/node among the refused.
func AllowedLabel(v Version, key string) error {
	if v.Minor < 16 {
		return nil
	}
	domain, _, ok := strings.Cut(key, "/")
	if !ok || !within(domain, "kubernetes.io") && !within(domain, "k8s.io") {
		return nil
	}
	if slices.Contains(kubeletLabels, key) {
		return nil
	}
	for _, d := range kubeletLabelDomains {
		if within(domain, d) {
			return nil
		}
	}
	return fmt.Errorf(`a kubelet from 1.16 on may not set the label %s on its own Node, and exits if told to: set it with "kubectl label node", or choose one under node.kubernetes.io/`, key)
}

func isRoleLabel(key string) bool {
	return strings.HasPrefix(key, "node-role.kubernetes.io/") || key == "kubernetes.io/role"
}

func within(domain, parent string) bool {
	return domain == parent || strings.HasSuffix(domain, "."+parent)
}
