package kubelet

import (
	"fmt"
	"regexp"
	"strings"
)

// The repositories of the default images.
const (
	// HyperkubeRepository holds hyperkube up to 1.18; none is built from 1.19
	// on (kubernetes/kubernetes#88676).
	HyperkubeRepository = "quay.io/coreos/hyperkube"
	// KubeletRepository holds the kubelet alone, from 1.19 on.
	KubeletRepository = "quay.io/poseidon/kubelet"
)

var coreosBuild = regexp.MustCompile(`\+coreos\.(\d+)$`)

// DefaultImage is the kubelet image for a cluster whose API server reports
// serverGit (its gitVersion, v1.8.9+coreos.0): the control plane's own
// version, so never a newer one.
func DefaultImage(server Version, serverGit string) string {
	if server.Minor >= 19 {
		return KubeletRepository + ":" + server.String()
	}
	build := "0"
	if m := coreosBuild.FindStringSubmatch(serverGit); m != nil {
		build = m[1]
	}
	return HyperkubeRepository + ":" + server.String() + "_coreos." + build
}

// Hyperkube tells by its name whether an image holds hyperkube, whose first
// argument chooses the kubelet, rather than the kubelet alone.
func Hyperkube(image string) bool {
	name, _ := splitImage(image)
	return strings.Contains(name[strings.LastIndex(name, "/")+1:], "hyperkube")
}

// VersionOfImage reads the kubelet's version from an image's tag, because the
// version decides the flags. A digest may follow the tag.
func VersionOfImage(ref string) (Version, error) {
	_, tag := splitImage(ref)
	if tag == "" {
		return Version{}, fmt.Errorf("cannot tell the kubelet's version from the image %q, which has no tag: name one, as in %s:v1.34.4 (a digest may follow the tag)", ref, KubeletRepository)
	}
	v, err := ParseVersion(tag)
	if err != nil {
		return Version{}, fmt.Errorf("cannot tell the kubelet's version from the image %q: the tag %q is no Kubernetes version; use a tag like v1.34.4", ref, tag)
	}
	return v, nil
}

// splitImage takes [transport://]registry[:port]/name[:tag][@digest] apart. A
// rkt image name may carry labels after commas (name:tag,os=linux).
func splitImage(ref string) (name, tag string) {
	ref, _, _ = strings.Cut(ref, "@")
	if _, after, ok := strings.Cut(ref, "://"); ok {
		ref = after
	}
	ref, _, _ = strings.Cut(ref, ",")
	if i := strings.LastIndex(ref, ":"); i > strings.LastIndex(ref, "/") {
		return ref[:i], ref[i+1:]
	}
	return ref, ""
}
