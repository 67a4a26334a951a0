package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tectonic-worker/tectonic-worker/agent/host"
)

// StillMounted is what could not be unmounted: nothing is removed beside it.
type StillMounted struct {
	Point string
	Why   string
	Users []host.Process
}

func (e *StillMounted) Error() string {
	s := fmt.Sprintf("cannot unmount %s: %s", e.Point, e.Why)
	if len(e.Users) == 0 {
		return s + fmt.Sprintf("; nothing was removed: run \"umount %s\", then \"tectonic-worker leave\" again", e.Point)
	}
	var by []string
	for i, u := range e.Users {
		if i == 5 {
			by = append(by, fmt.Sprintf("and %d more", len(e.Users)-i))
			break
		}
		by = append(by, fmt.Sprintf("%s, process %d", u.Name, u.ID))
	}
	return s + fmt.Sprintf("; it is used by %s: end that, then run \"tectonic-worker leave\" again; nothing was removed", strings.Join(by, "; "))
}

// unmountBelow unmounts everything below dir, deepest first, and returns what
// it unmounted. A mount at dir itself stays: it is the administrator's. The
// error is a *StillMounted for the first that stays.
func unmountBelow(ctx context.Context, root host.Root, dir string) ([]string, error) {
	var done []string
	for {
		below, err := root.MountsBelow(dir)
		if err != nil || len(below) == 0 {
			return done, err
		}
		if err := seclude(root, below); err != nil {
			return done, err
		}
		var failed *StillMounted
		before := len(done)
		for _, m := range below {
			if err := unmount(ctx, root, m); err == nil {
				done = append(done, m.Point)
			} else if failed == nil {
				failed = &StillMounted{m.Point, err.Error(), root.Users(m.Point)}
			}
		}
		// One hidden below another shows only now; without progress it is over.
		if len(done) == before && failed != nil {
			return done, failed
		}
	}
}

// seclude sees to it that what is unmounted below a mount of the list
// disappears there and nowhere else.
func seclude(root host.Root, below []host.Mount) error {
	parent := map[int]bool{}
	for _, m := range below {
		parent[m.Parent] = true
	}
	for _, m := range below {
		if !m.Shared || !parent[m.ID] {
			continue
		}
		if err := root.Seclude(m.Point); err != nil {
			return fmt.Errorf("cannot unmount what is below %s without touching where else it is mounted: %w; run \"umount -R %s\" only after \"mount --make-rprivate %s\"", m.Point, err, m.Point, m.Point)
		}
	}
	return nil
}

// unmount unmounts m. What holds no data but the kubelet's own (secrets,
// tokens and the like live in tmpfs) may have users left: it goes at once and
// is freed with the last of them. A disk may not: what was not written to it
// yet would be lost to whoever detaches it next.
func unmount(ctx context.Context, root host.Root, m host.Mount) error {
	err := root.Unmount(ctx, m.Point, false)
	if errors.Is(err, unix.EBUSY) && m.Type == "tmpfs" {
		err = root.Unmount(ctx, m.Point, true)
	}
	return err
}
