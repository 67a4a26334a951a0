package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/tectonic-worker/tectonic-worker/units"
)

// Undone is one change that was put back.
type Undone struct {
	Key      Key    `json:"resource"`
	Evidence string `json:"evidence,omitempty"`
	Error    string `json:"error,omitempty"`
}

// undoList is what one run changed: a join that fails on a host that was a
// worker before puts back what it did itself, not what made the host a worker.
type undoList struct {
	entries []undoEntry
	restart bool // something that the kubelet reads at its start was changed
}

type undoEntry struct {
	Entry
	known bool // it was in the ledger before this run
}

// restore puts back one change.
func (h *handles) restore(ctx context.Context, e Entry) (string, error) {
	switch e.Kind {
	case KindFile:
		return restoreFile(h.sys.Root, e)
	case KindDir:
		return restoreDir(h.sys.Root, e)
	case KindSELinux:
		return restoreSELinux(h.sys.SELinux, e)
	case KindPort:
		fw, err := h.firewall(ctx)
		if err != nil {
			return "", err
		}
		return restorePort(ctx, fw, e)
	case KindEnabled, KindStarted:
		us, err := h.units(ctx)
		if err != nil {
			return "", err
		}
		return restoreUnit(ctx, us, e)
	default:
		return "", fmt.Errorf("cannot put back %s: this version knows no such kind; install the version that wrote %s", e.Key, LedgerPath)
	}
}

// rollBack puts back what this run changed, last change first, and makes the
// ledger say so. It goes on after an error: what can be put back, is.
func (h *handles) rollBack(ctx context.Context, l *Ledger, u *undoList) []Undone {
	// That D-Bus was restarted may be what failed, and its old connections stay
	// dead.
	h.close()
	h.fw, h.us = nil, nil
	var out []Undone
	for i := len(u.entries) - 1; i >= 0; i-- {
		e := u.entries[i]
		evidence, err := h.restore(ctx, e.Entry)
		if err == nil {
			if !e.known {
				err = l.Void(e.Key)
			} else {
				err = errors.Join(l.Intend(e.Key, e.Before, e.Before), l.Done(e.Key))
			}
		}
		un := Undone{Key: e.Key, Evidence: evidence}
		if err != nil {
			un.Error = err.Error()
		}
		out = append(out, un)
	}
	if u.restart && h.kubeletRan {
		un := Undone{Key: Key{KindStarted, units.Kubelet}, Evidence: "restarted with its former settings"}
		us, err := h.units(ctx)
		if err == nil {
			err = us.Restart(ctx, units.Kubelet)
		}
		if err != nil {
			un.Error = err.Error()
		}
		out = append(out, un)
	}
	if err := l.Discard(); err != nil {
		h.sys.Log.Warn("cannot remove the empty ledger", "error", err)
	}
	return out
}
