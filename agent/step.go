package agent

import (
	"context"
	"time"
)

// StepStatus is how a step ended.
type StepStatus string

const (
	StatusOK        StepStatus = "ok"        // looked, or waited, and found what it wanted
	StatusUnchanged StepStatus = "unchanged" // everything was as wanted already
	StatusChanged   StepStatus = "changed"
	StatusWould     StepStatus = "would-change" // in a dry run
	StatusSkipped   StepStatus = "skipped"      // not wanted, or nothing there to do it to
	StatusFailed    StepStatus = "failed"
)

// StepResult is one line of what join did.
type StepResult struct {
	Name      string     `json:"name"` // stable, for scripts
	Title     string     `json:"-"`    // for people
	Status    StepStatus `json:"status"`
	Evidence  string     `json:"evidence"`
	Warnings  []string   `json:"warnings,omitempty"`
	Seconds   float64    `json:"seconds"`
	Resources []Outcome  `json:"resources,omitempty"`
}

// Reporter is told what happens while it happens. All calls come from one
// goroutine.
type Reporter interface {
	Begin(name, title string)
	Progress(text string) // what the step that began is waiting for
	End(StepResult)
}

// step is a part of a plan that is shown as one line: resources of one kind of
// thing, in order.
type step struct {
	name, title string
	evidence    string   // what to say of it; empty: the resources' own evidence
	skip        string   // why there is nothing to do
	warnings    []string // what the operator should know all the same
	resources   []Resource
	restarts    bool // the kubelet reads this at its start
}

// apply makes the step's resources as wanted.
func (st step) apply(ctx context.Context, l *Ledger, undo *undoList) (StepResult, error) {
	return st.each(undo, StatusChanged, func(r Resource) (Outcome, error) { return ensure(ctx, l, undo, r) })
}

// preview shows what apply would do.
func (st step) preview(ctx context.Context, undo *undoList) (StepResult, error) {
	return st.each(undo, StatusWould, func(r Resource) (Outcome, error) { return inspect(ctx, r) })
}

func (st step) each(undo *undoList, changed StepStatus, do func(Resource) (Outcome, error)) (StepResult, error) {
	begin := time.Now()
	res := StepResult{Name: st.name, Title: st.title, Status: StatusUnchanged, Evidence: st.evidence, Warnings: st.warnings}
	if st.skip != "" {
		res.Status, res.Evidence = StatusSkipped, st.skip
		return res, nil
	}
	for _, r := range st.resources {
		out, err := do(r)
		if err != nil {
			res.Status, res.Seconds = StatusFailed, time.Since(begin).Seconds()
			return res, err
		}
		res.Resources = append(res.Resources, out)
		if st.evidence == "" {
			res.Evidence = joinComma(res.Evidence, out.Evidence)
		}
		if out.Changed {
			res.Status = changed
			if st.restarts {
				undo.restart = true
			}
		}
	}
	res.Seconds = time.Since(begin).Seconds()
	return res, nil
}

func joinComma(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + ", " + b
}
