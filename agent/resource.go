package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
)

// Finding is what a look at a resource found.
type Finding struct {
	OK       bool   // it is as wanted
	Evidence string // what is there, in a few words
	Diff     string // what Apply would change; empty where OK
	Before   any    // what stands there, for the ledger; small JSON
	After    any    // what Apply would make of it, for the ledger
}

// Resource is one thing on the host that a worker needs so and not otherwise:
// a file, an open port, the SELinux mode, a unit's state.
type Resource interface {
	Key() Key
	// Check looks, and changes nothing.
	Check(ctx context.Context) (Finding, error)
	// Apply makes it as wanted, and says what of it is ours to put back.
	Apply(ctx context.Context) (Applied, error)
}

// Applied is what Apply did.
type Applied struct {
	Changed bool // false: somebody else did so first, and nothing is ours
	After   any  // what there is to put back, where it is not what Check foretold
}

// Outcome says what became of one resource.
type Outcome struct {
	Key      Key    `json:"resource"`
	Changed  bool   `json:"changed"`
	Evidence string `json:"evidence"`
	Diff     string `json:"diff,omitempty"`
}

// ensure makes r as wanted, with the ledger written before the change, and
// notes in u how to put it back.
func ensure(ctx context.Context, l *Ledger, u *undoList, r Resource) (Outcome, error) {
	out := Outcome{Key: r.Key()}
	f, err := r.Check(ctx)
	if err != nil {
		return out, err
	}
	out.Evidence = f.Evidence
	entry, known := l.Find(r.Key())
	if f.OK {
		// A run that was killed between the change and its record.
		if known && !entry.Done {
			return out, l.Done(r.Key())
		}
		return out, nil
	}
	out.Diff = f.Diff
	before, err := json.Marshal(f.Before)
	if err != nil {
		return out, fmt.Errorf("cannot record %s: %w", r.Key(), err)
	}
	after, err := json.Marshal(f.After)
	if err != nil {
		return out, fmt.Errorf("cannot record %s: %w", r.Key(), err)
	}
	// What the ledger says already needs no saying again: a repair makes of it
	// what we once made of it, and must not wait for a disk.
	said := known && entry.Done && bytes.Equal(entry.After, after)
	if !said {
		if err := l.Intend(r.Key(), before, after); err != nil {
			return out, err
		}
	}
	u.entries = append(u.entries, undoEntry{Entry{Key: r.Key(), Before: before, After: after}, known})
	applied, err := r.Apply(ctx)
	if err != nil {
		return out, err
	}
	out.Changed = applied.Changed
	switch {
	case !applied.Changed:
		u.entries = u.entries[:len(u.entries)-1]
		if !known {
			return out, l.Void(r.Key())
		}
	case applied.After == nil && said:
		return out, nil
	case applied.After != nil:
		if after, err = json.Marshal(applied.After); err != nil {
			return out, fmt.Errorf("cannot record %s: %w", r.Key(), err)
		}
		u.entries[len(u.entries)-1].After = after
		if err := l.Intend(r.Key(), before, after); err != nil {
			return out, err
		}
	}
	return out, l.Done(r.Key())
}

// inspect is ensure without hands: for --dry-run.
func inspect(ctx context.Context, r Resource) (Outcome, error) {
	f, err := r.Check(ctx)
	return Outcome{Key: r.Key(), Changed: !f.OK, Evidence: f.Evidence, Diff: f.Diff}, err
}
