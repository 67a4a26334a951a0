package labtest

import (
	"strings"
	"testing"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

// Without the product: each kubelet of the lab becomes a Ready node when it is started by hand.
func TestKubeletByHand(t *testing.T) {
	for _, tt := range []struct{ runtime, version string }{
		{"podman", "v1.36.3"}, {"podman", "v1.34.4"}, {"podman", "v1.29.6"}, {"rkt", "v1.36.3"}, {"rkt", "v1.29.6"},
	} {
		t.Run(tt.runtime+" "+tt.version, func(t *testing.T) {
			if err := Lab(t).Smoke(t.Context(), tt.runtime, tt.version); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A host with rkt trusts no image before Quay's key is there.
func TestRkt(t *testing.T) {
	h := Worker(t, lab.WorkerOptions{Rkt: true, NoPodman: true})
	image := lab.KubeletImage(lab.ControlPlaneVersion)
	if !strings.Contains(h.Sh("rkt version"), "rkt Version: 1.30.0\n") {
		t.Skip("a real rkt is on PATH: it fetches from the network")
	}
	if r := h.Try("rkt", "fetch", image); r.Code != 254 || !strings.Contains(r.Stderr, "unknown entity") {
		t.Errorf("without a key: %s", r)
	}
	h.Write(lab.QuayKeyPath, "the key", 0o664)
	h.Run("rkt", "fetch", image)
	if r := h.Run("rkt", "image", "cat-manifest", image); !strings.Contains(r.Stdout, lab.ControlPlaneVersion) {
		t.Errorf("manifest: %s", r)
	}
}
