package faults

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Soak injects one fault after the other into t until the time is over, and then joins it for real. It writes a line for
// each; the error has the invariants that broke, and everything that was done to the host before.
func Soak(ctx context.Context, t *Target, random *rand.Rand, duration time.Duration, log io.Writer) error {
	begin := time.Now()
	var history []string
	note := func(format string, args ...any) {
		line := fmt.Sprintf("%7.1fs  ", time.Since(begin).Seconds()) + fmt.Sprintf(format, args...)
		history = append(history, line)
		fmt.Fprintln(log, line)
	}
	plans := make([][]Fault, len(Commands))
	for i, c := range Commands {
		var err error
		if plans[i], err = t.Plan(ctx, c); err != nil {
			return err
		}
		note("%s has %d faults of system calls", c.Name, len(plans[i]))
		Shuffle(plans[i], random)
	}
	next := slices.Clone(plans)
	for n := 1; time.Since(begin) < duration; n++ {
		name, step, err := t.one(ctx, random, plans, next)
		note("%d. %s: %s", n, name, step.What)
		if err != nil {
			return err
		}
		if len(step.Broken) > 0 {
			return fmt.Errorf("after %d faults:\n%s\nbroken:\n  %s", n, strings.Join(history, "\n"), strings.Join(step.Broken, "\n  "))
		}
	}
	if shown, err := t.ShownInJournal(ctx); err != nil || shown != "" {
		return fmt.Errorf("%v%s", err, shown)
	}
	if err := t.Reset(ctx); err != nil {
		return err
	}
	if r, err := t.JoinForReal(ctx); err != nil {
		return fmt.Errorf("after all the faults the host does not become a worker: %w\n%s", err, r)
	}
	note("the host is a healthy worker")
	return nil
}

// one does the next fault: of system calls three times out of four, until all are done, else a scenario.
func (t *Target) one(ctx context.Context, random *rand.Rand, plans, next [][]Fault) (string, Step, error) {
	if random.IntN(4) > 0 {
		i := random.IntN(len(Commands))
		if len(next[i]) == 0 {
			next[i] = plans[i]
		}
		f := next[i][0]
		next[i] = next[i][1:]
		step, err := t.Do(ctx, Commands[i], f)
		return "system call", step, err
	}
	s := Scenarios[random.IntN(len(Scenarios))]
	step, err := s.Run(ctx, t, random)
	return s.Name, step, err
}
