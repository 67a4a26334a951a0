package faults

import "testing"

// TestThenForReal makes a worker of the host that went through all that the tests before did to it.
func TestThenForReal(t *testing.T) {
	tg := target(t)
	r, err := tg.JoinForReal(t.Context())
	if err != nil {
		t.Errorf("after all the faults: %v %s", err, r)
	}
	if err := tg.Host.WriteFile(standIn, []byte(podmanStandIn), 0o755); err != nil {
		t.Fatal(err)
	}
	if shown := must[string](t)(tg.ShownInJournal(t.Context())); shown != "" {
		t.Error(shown)
	}
	if err := tg.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
}
