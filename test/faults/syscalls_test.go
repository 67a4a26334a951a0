package faults

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// random gives the test's random numbers. FAULTS_SEED repeats a run.
func random(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("FAULTS_SEED"); s != "" {
		seed = must[uint64](t)(strconv.ParseUint(s, 10, 64))
	}
	t.Logf("FAULTS_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// TestSystemCalls kills each command before its system calls, and makes them fail, as many as fit into the time. "make soak"
// injects all.
func TestSystemCalls(t *testing.T) {
	random := random(t)
	tg := target(t)
	for _, c := range []struct {
		Command
		budget time.Duration
		least  int
	}{{Join, 20 * time.Second, 10}, {Launch, 8 * time.Second, 5}, {Leave, 12 * time.Second, 5}} {
		t.Run(c.Name, func(t *testing.T) {
			plan := must[[]Fault](t)(tg.Plan(t.Context(), c.Command))
			Shuffle(plan, random)
			start, done, reached := time.Now(), 0, map[string]bool{}
			for _, f := range plan {
				if done >= c.least && time.Since(start) > c.budget {
					break
				}
				s := must[Step](t)(tg.Do(t.Context(), c.Command, f))
				done++
				if s.Hit.Ours() {
					reached[s.Hit.String()] = true
				}
				t.Log(s.What)
				for _, b := range s.Broken {
					t.Errorf("%s: %s", s.What, b)
				}
			}
			t.Logf("%d of %d faults, at %d points", done, len(plan), len(reached))
			if len(reached) < 3 {
				t.Errorf("the faults hit %d points only: they do not get to where they should", len(reached))
			}
		})
	}
	if shown := must[string](t)(tg.ShownInJournal(t.Context())); shown != "" {
		t.Error(shown)
	}
}
