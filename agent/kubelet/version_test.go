package kubelet

import (
	"strings"
	"testing"
)

func TestParseVersion(t *testing.T) {
	for in, want := range map[string]Version{
		"v1.8.9_coreos.0":      {1, 8, 9, ""},
		"v1.8.9+coreos.0":      {1, 8, 9, ""},
		"v1.34.4":              {1, 34, 4, ""},
		"1.29.6+x":             {1, 29, 6, ""},
		"v1.29.6-eks-1234abcd": {1, 29, 6, ""},
		"v1.28.3+k3s1":         {1, 28, 3, ""},
		"v1.36.0-rc.1":         {1, 36, 0, "rc.1"},
		"v1.36.0-alpha.2.7+ab": {1, 36, 0, "alpha.2"},
		"v1.34":                {1, 34, 0, ""},
		" v1.30.1\n":           {1, 30, 1, ""},
		"v1.30.1-amd64":        {1, 30, 1, ""},
	} {
		if got, err := ParseVersion(in); err != nil || got != want {
			t.Errorf("ParseVersion(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "latest", "v1", "1.x.3", "v1.2.3.4", "v1.34.x", "vv1.2.3", "-1.2.3", "1.99999.1", "v1.34.4 --privileged"} {
		if got, err := ParseVersion(in); err == nil {
			t.Errorf("ParseVersion(%q) = %v, want an error", in, got)
		}
	}
}

func FuzzParseVersion(f *testing.F) {
	for _, s := range []string{"v1.8.9_coreos.0", "1.29.6+x", "v1.36.0-rc.1", "latest", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := ParseVersion(s)
		if err != nil {
			return
		}
		if again, err := ParseVersion(v.String()); err != nil || again != v {
			t.Errorf("%q reads as %v, which reads as %v, %v", s, v, again, err)
		}
	})
}

func TestCompare(t *testing.T) {
	order := []string{"1.8.9", "1.10.0", "1.34.4", "1.36.0-alpha.3", "1.36.0-beta.0", "1.36.0-rc.0", "1.36.0-rc.10", "1.36.0", "1.36.1", "2.0.0"}
	for i, a := range order {
		for j, b := range order {
			got := version(t, a).Compare(version(t, b))
			if want := map[bool]int{true: 0, false: map[bool]int{true: -1, false: 1}[i < j]}[i == j]; got != want {
				t.Errorf("%s against %s: %d, want %d", a, b, got, want)
			}
		}
	}
}

func TestVersionOfImage(t *testing.T) {
	for ref, want := range map[string]string{
		"quay.io/coreos/hyperkube:v1.8.9_coreos.0":  "v1.8.9",
		"docker://quay.io/poseidon/kubelet:v1.34.4": "v1.34.4",
		"registry.example.com:5000/kubelet:v1.30.1@sha256:ee4c0e7e3a3d0a1f9c8a4a6a2a0e6f9d1e0c2b3a4d5e6f708192a3b4c5d6e7f8": "v1.30.1",
		"kubelet:1.36.3":                      "v1.36.3",
		"quay.io/x/hyperkube:v1.9.1,os=linux": "v1.9.1",
		"k8s.gcr.io/hyperkube-amd64:v1.14.10": "v1.14.10",
	} {
		if got, err := VersionOfImage(ref); err != nil || got.String() != want {
			t.Errorf("VersionOfImage(%q) = %v, %v; want %s", ref, got, err, want)
		}
	}
	for _, ref := range []string{"quay.io/poseidon/kubelet", "registry.example.com:5000/kubelet", "kubelet:latest", "kubelet@sha256:abc", ""} {
		if got, err := VersionOfImage(ref); err == nil || !strings.Contains(err.Error(), "v1.34.4") {
			t.Errorf("VersionOfImage(%q) = %v, %v; want an error that shows a good tag", ref, got, err)
		}
	}
}

func TestDefaultImage(t *testing.T) {
	for git, want := range map[string]string{
		"v1.8.9+coreos.0":      "quay.io/coreos/hyperkube:v1.8.9_coreos.0",
		"v1.9.6+coreos.2":      "quay.io/coreos/hyperkube:v1.9.6_coreos.2",
		"v1.14.3":              "quay.io/coreos/hyperkube:v1.14.3_coreos.0",
		"v1.18.20":             "quay.io/coreos/hyperkube:v1.18.20_coreos.0",
		"v1.19.0":              "quay.io/poseidon/kubelet:v1.19.0",
		"v1.34.4":              "quay.io/poseidon/kubelet:v1.34.4",
		"v1.29.6-eks-1234abcd": "quay.io/poseidon/kubelet:v1.29.6",
		"v1.36.0-rc.1":         "quay.io/poseidon/kubelet:v1.36.0-rc.1",
	} {
		server := version(t, git)
		image := DefaultImage(server, git)
		if image != want {
			t.Errorf("DefaultImage(%q) = %q, want %q", git, image, want)
		}
		if v, err := VersionOfImage(image); err != nil || v.Compare(server) > 0 || CheckSkew(v, server) != nil {
			t.Errorf("the default image for %s is %s, newer or not supported", git, image)
		}
		if got, want := Hyperkube(image), server.Minor <= 18; got != want {
			t.Errorf("Hyperkube(%q) = %t", image, got)
		}
	}
	if Hyperkube("hyperkube.example.com/kubelet:v1.30.0") {
		t.Error("a registry's name made an image hyperkube")
	}
}

func TestCheckSkew(t *testing.T) {
	for _, c := range []struct {
		kubelet, server, why string // why: part of the refusal; empty: supported
	}{
		{"1.34.4", "1.34.4", ""},
		{"1.34.9", "1.34.4", ""}, // patches do not count
		{"1.31.0", "1.34.4", ""},
		{"1.30.9", "1.34.4", "4 minor releases older"},
		{"1.25.0", "1.28.0", ""},
		{"1.25.0", "1.27.0", ""},
		{"1.24.0", "1.27.0", "supports 2 at most: use an image of 1.25 to 1.27"},
		{"1.35.0", "1.34.9", "newer than the API server"},
		{"1.8.9", "1.8.4", ""},
		{"1.9.0", "1.8.9", "newer than the API server"},
		{"2.0.0", "1.36.0", "newer"},
	} {
		err := CheckSkew(version(t, c.kubelet), version(t, c.server))
		if c.why == "" && err != nil || c.why != "" && (err == nil || !strings.Contains(err.Error(), c.why)) {
			t.Errorf("kubelet %s at server %s: %v, want %q", c.kubelet, c.server, err, c.why)
		}
	}
}

func TestAllowedLabel(t *testing.T) {
	for key, refusedSince16 := range map[string]bool{
		"rack":                             false,
		"example.com/rack":                 false,
		"node.kubernetes.io/pool":          false,
		"a.node.kubernetes.io/pool":        false,
		"kubelet.kubernetes.io/x":          false,
		"topology.kubernetes.io/zone":      false,
		"kubernetes.io/hostname":           false,
		"beta.kubernetes.io/os":            false,
		"notkubernetes.io/x":               false,
		RoleLabel:                          true,
		"kubernetes.io/role":               true,
		"foo.kubernetes.io/x":              true,
		"foo.k8s.io/x":                     true,
		"node-restriction.kubernetes.io/x": true,
		"k8s.io/x":                         true,
	} {
		if err := AllowedLabel(version(t, "1.15.0"), key); err != nil {
			t.Errorf("1.15, %s: %v", key, err)
		}
		for _, release := range []string{"1.16.0", "1.36.0"} {
			if err := AllowedLabel(version(t, release), key); (err != nil) != refusedSince16 {
				t.Errorf("%s, %s: %v", release, key, err)
			}
		}
	}
}
