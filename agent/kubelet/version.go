package kubelet

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Oldest and Newest are the minor releases of Kubernetes 1 that the tables
// cover. A kubelet older than Oldest is refused; a newer one than Newest gets
// what Newest gets, with a note.
const (
	Oldest = 8
	Newest = 36
)

// Version is a release of Kubernetes.
type Version struct {
	Major, Minor, Patch int
	// Pre is a pre-release, such as "rc.1", and empty for a release. What a
	// distributor adds (+coreos.0, _coreos.0, -eks-1234, +k3s1) is not kept.
	Pre string
}

var versionForm = regexp.MustCompile(`^v?(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?(?:-((?:alpha|beta|rc)\.\d+)(?:\.\d+)*)?(?:[-+_][0-9A-Za-z._+-]*)?$`)

// ParseVersion reads a version as a server, an image tag or a package names
// it: v1.8.9_coreos.0, v1.34.4, 1.29.6+x, v1.36.0-rc.1. A tag that ends with
// the minor release (v1.34) is read as its first patch, because flags depend
// on the minor release alone.
func ParseVersion(s string) (Version, error) {
	m := versionForm.FindStringSubmatch(strings.TrimSpace(s))
	if m == nil {
		return Version{}, fmt.Errorf("%q is not a Kubernetes version: want one like v1.34.4", s)
	}
	var v Version
	v.Major, _ = strconv.Atoi(m[1])
	v.Minor, _ = strconv.Atoi(m[2])
	v.Patch, _ = strconv.Atoi(m[3]) // "" is 0
	v.Pre = m[4]
	return v, nil
}

func (v Version) String() string {
	s := fmt.Sprintf("v%d.%d.%d", v.Major, v.Minor, v.Patch)
	if v.Pre != "" {
		s += "-" + v.Pre
	}
	return s
}

// Release is the minor release alone, "1.34".
func (v Version) Release() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// Compare orders versions; a pre-release comes before its release.
func (v Version) Compare(o Version) int {
	if c := cmp.Or(cmp.Compare(v.Major, o.Major), cmp.Compare(v.Minor, o.Minor), cmp.Compare(v.Patch, o.Patch)); c != 0 {
		return c
	}
	switch {
	case v.Pre == o.Pre:
		return 0
	case v.Pre == "":
		return 1
	case o.Pre == "":
		return -1
	}
	return comparePre(v.Pre, o.Pre)
}

func comparePre(a, b string) int {
	an, ai, _ := strings.Cut(a, ".")
	bn, bi, _ := strings.Cut(b, ".")
	x, _ := strconv.Atoi(ai)
	y, _ := strconv.Atoi(bi)
	return cmp.Or(cmp.Compare(an, bn), cmp.Compare(x, y))
}

// HasConfigFile tells whether this kubelet reads a KubeletConfiguration of
// version v1beta1: 1.10 and later (kubernetes/kubernetes#58978).
func (v Version) HasConfigFile() bool { return v.Minor >= 10 }

// supported refuses what the tables say nothing about.
func (v Version) supported() error {
	if v.Major != 1 {
		return fmt.Errorf("kubelet %s: only Kubernetes 1.%d and later 1.x releases are known here", v, Oldest)
	}
	if v.Minor < Oldest {
		return fmt.Errorf("kubelet %s is older than 1.%d, the oldest that can be run: name a newer image in /etc/kubernetes/kubelet.env", v, Oldest)
	}
	return nil
}

// CheckSkew refuses a kubelet that the API server does not support: a newer
// minor release, or one more than three behind (two behind a server older
// than 1.28). Source: the Kubernetes version skew policy; three since 1.28
// (KEP-3935).
func CheckSkew(kubelet, server Version) error {
	if kubelet.Major != server.Major || kubelet.Minor > server.Minor {
		return fmt.Errorf("kubelet %s is newer than the API server, %s: a kubelet may be as new as its API server and no newer; use an image of %s", kubelet, server, server.Release())
	}
	behind := 2
	if server.Minor >= 28 {
		behind = 3
	}
	if server.Minor-kubelet.Minor > behind {
		return fmt.Errorf("kubelet %s is %d minor releases older than the API server, %s, which supports %d at most: use an image of 1.%d to 1.%d",
			kubelet, server.Minor-kubelet.Minor, server, behind, server.Minor-behind, server.Minor)
	}
	return nil
}
