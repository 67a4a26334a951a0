package agent

import (
	"context"
	"fmt"
)

// Severity says what a check's finding means for a worker.
type Severity string

const (
	SeverityOK   Severity = "ok"
	SeverityNote Severity = "note"    // worth knowing
	SeverityWarn Severity = "warning" // works, but something will go wrong
	SeverityFail Severity = "failure" // this host can't be a worker so
)

// CheckResult is one check's finding. Names are stable.
type CheckResult struct {
	Name     string   `json:"name"`
	Severity Severity `json:"severity"`
	Evidence string   `json:"evidence"`
	Remedy   string   `json:"remedy,omitempty"`
}

func (c CheckResult) String() string {
	if c.Remedy == "" {
		return fmt.Sprintf("%s: %s", c.Name, c.Evidence)
	}
	return fmt.Sprintf("%s: %s; %s", c.Name, c.Evidence, c.Remedy)
}

// CheckFailure is the error of a host that can't be a worker as it is: every
// failed check, all at once.
type CheckFailure struct{ Failed []CheckResult }

func (e *CheckFailure) Error() string {
	s := "this host can't be a worker as it is:"
	for _, c := range e.Failed {
		s += "\n  " + c.String()
	}
	return s
}

// check is one named look at the host; it changes nothing.
type check struct {
	name string
	look func(ctx context.Context, f *Facts) (Severity, string, string)
}

// runChecks runs every check and returns all findings; the error is a
// *CheckFailure where one of them is a failure.
func runChecks(ctx context.Context, checks []check, f *Facts) ([]CheckResult, error) {
	var all, failed []CheckResult
	for _, c := range checks {
		sev, evidence, remedy := c.look(ctx, f)
		r := CheckResult{Name: c.name, Severity: sev, Evidence: evidence, Remedy: remedy}
		all = append(all, r)
		if sev == SeverityFail {
			failed = append(failed, r)
		}
	}
	if len(failed) > 0 {
		return all, &CheckFailure{failed}
	}
	return all, nil
}
