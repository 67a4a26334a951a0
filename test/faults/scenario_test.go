package faults

import "testing"

// TestScenarios breaks what is around a join while it runs, each thing once, at a random moment.
func TestScenarios(t *testing.T) {
	random := random(t)
	tg := target(t)
	for _, s := range Scenarios {
		t.Run(s.Name, func(t *testing.T) {
			step := must[Step](t)(s.Run(t.Context(), tg, random))
			t.Log(step.What)
			for _, b := range step.Broken {
				t.Error(b)
			}
		})
	}
	if shown := must[string](t)(tg.ShownInJournal(t.Context())); shown != "" {
		t.Error(shown)
	}
}
