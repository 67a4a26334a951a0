package agent

import (
	"context"
	"fmt"

	"github.com/tectonic-worker/tectonic-worker/agent/container"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
)

// quayKey fetches Quay's signing key and refuses any but the pinned one.
func (s *System) quayKey(ctx context.Context, proxy node.Proxy) ([]byte, error) {
	key, err := s.Fetch(ctx, container.RktTrustedKeyURL, proxy)
	if err != nil {
		return nil, fmt.Errorf("cannot fetch the key that the kubelet's image is signed with: %w; put it at %s by hand, or use podman (KUBELET_RUNTIME=podman)", err, container.RktTrustedKeyPath)
	}
	if err := container.CheckTrustedKey(key); err != nil {
		return nil, fmt.Errorf("%w; somebody may stand between this host and %s", err, container.RktTrustedKeyPrefix)
	}
	return key, nil
}
