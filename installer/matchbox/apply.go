package matchbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// atOnce is how many calls are under way at a time. matchbox writes a file for each.
const atOnce = 16

// stages are the order in which a plan is carried out. It may be interrupted anywhere: what is left refers to nothing
// that is missing, and the next plan goes on from it.
//
//   - Groups that go, go first. Two groups for one machine are a matter of chance; none is a machine that boots its disk.
//   - What is referred to is written before what refers to it.
//   - A profile goes after its configs: it is the only record of their names, for matchbox lists no configs.
var stages = []struct {
	kinds  []Kind
	delete bool
}{
	{[]Kind{KindGroup}, true},
	{[]Kind{KindIgnition}, false},
	{[]Kind{KindGeneric}, false},
	{[]Kind{KindProfile}, false},
	{[]Kind{KindGroup}, false},
	{[]Kind{KindGeneric, KindIgnition}, true},
	{[]Kind{KindProfile}, true},
}

// Apply carries a plan out. When it returns nil, matchbox has acknowledged every change. After a failure nothing of a
// later stage is begun; plan and apply again to converge.
func (c *Client) Apply(ctx context.Context, plan Plan) error {
	for _, stage := range stages {
		var changes []Change
		for _, change := range plan.Changes {
			if change.Action != Keep && (change.Action == Delete) == stage.delete && slices.Contains(stage.kinds, change.Kind) {
				changes = append(changes, change)
			}
		}
		if err := each(ctx, changes, c.apply); err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) apply(ctx context.Context, change Change) error {
	if change.Action == Delete {
		switch change.Kind {
		case KindIgnition:
			return c.IgnitionDelete(ctx, change.ID)
		case KindGeneric:
			return c.GenericDelete(ctx, change.ID)
		case KindProfile:
			return c.ProfileDelete(ctx, change.ID)
		case KindGroup:
			return c.GroupDelete(ctx, change.ID)
		}
	}
	switch change.Kind {
	case KindIgnition:
		return c.IgnitionPut(ctx, change.ID, change.config)
	case KindGeneric:
		return c.GenericPut(ctx, change.ID, change.config)
	case KindProfile:
		return c.ProfilePut(ctx, change.profile)
	case KindGroup:
		return c.GroupPut(ctx, change.group)
	}
	return fmt.Errorf("cannot %s %s %s: matchbox has nothing of that kind", change.Action, change.Kind, quote(change.ID))
}

// each does all, several at a time. The first that fails keeps the rest from beginning; those under way are waited for.
func each[T any](ctx context.Context, all []T, do func(context.Context, T) error) error {
	var (
		wait   sync.WaitGroup
		mu     sync.Mutex
		errs   []error
		places = make(chan struct{}, atOnce)
	)
	failed := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(errs) > 0
	}
	for _, one := range all {
		places <- struct{}{}
		if failed() || ctx.Err() != nil {
			break
		}
		wait.Go(func() {
			defer func() { <-places }()
			if err := do(ctx, one); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	wait.Wait()
	if len(errs) == 0 && ctx.Err() != nil {
		return fmt.Errorf("interrupted: %w", context.Cause(ctx))
	}
	// They fail together, for one cause: one says it.
	if len(errs) > 1 {
		return fmt.Errorf("%w (and %d more like it)", errs[0], len(errs)-1)
	}
	return errors.Join(errs...)
}
