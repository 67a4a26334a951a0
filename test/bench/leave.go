package main

import (
	"context"
	"errors"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/world"
)

// leave measures leave on a joined node without pods: cordon, drain, the Node deleted, the units stopped, everything put
// back. The same host joins again for the next round.
func (b bench) leave(ctx context.Context) (_ []figure, err error) {
	h, err := b.worker(ctx, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	var took times
	rounds := min(b.rounds, 5)
	for round := range rounds + 1 {
		progress("leave: round %d of %d", round, rounds)
		if round > 0 {
			if _, err := h.Must(ctx, "tectonic-worker", "join", "--assets", world.AssetsDir); err != nil {
				return nil, err
			}
		}
		limited, cancel := context.WithTimeout(ctx, 2*time.Minute)
		one, err := timed(limited, h, "tectonic-worker leave >/root/leave.log")
		cancel()
		if err != nil {
			return nil, err
		}
		if round > 0 {
			took = append(took, one)
		}
	}
	return []figure{{"leave, a joined node without pods", took.String(), "", "", "", false}}, nil
}
