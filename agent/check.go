package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Severity says what a check's finding means for a worker.
type Severity string

const (
	SeverityOK      Severity = "ok"
	SeverityNote    Severity = "note"    // worth knowing, or not to be found out
	SeverityWarn    Severity = "warning" // works, but something will go wrong
	SeverityFail    Severity = "failure" // this host can't be a worker so
	SeveritySkipped Severity = "skipped" // the operator said not to look
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

// check is one named look at the host; it changes nothing, and reads of the
// others' findings nothing, so that all of them can look at once.
type check struct {
	name  string
	about string // what it looks at, in a few words
	join  bool   // join looks too, before it changes anything
	// cluster: it needs what the API server said, or the image's version, which
	// the API server may decide.
	cluster bool
	look    func(x *examiner, ctx context.Context) (Severity, string, string)
}

// checkTime bounds one check. None waits longer by itself; the bound is for
// file systems that hang.
const checkTime = 30 * time.Second

// run looks at everything in the list at once, and returns the findings in the
// list's order.
func (x *examiner) run(ctx context.Context, list []check, skip []string) []CheckResult {
	out := make([]CheckResult, len(list))
	var all sync.WaitGroup
	for i, c := range list {
		if slices.Contains(skip, c.name) {
			out[i] = CheckResult{Name: c.name, Severity: SeveritySkipped, Evidence: "not looked at, as asked"}
			continue
		}
		all.Go(func() { out[i] = x.one(ctx, c) })
	}
	all.Wait()
	return out
}

// one runs a check, and gives up on it when its time is over: a system call on
// a dead NFS mount heeds no context.
func (x *examiner) one(ctx context.Context, c check) CheckResult {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	done := make(chan CheckResult, 1)
	go func() {
		sev, evidence, remedy := c.look(x, ctx)
		done <- CheckResult{c.name, sev, oneLine(evidence), oneLine(remedy)}
	}()
	select {
	case r := <-done:
		return r
	case <-ctx.Done():
	}
	// What ended in the same moment counts.
	grace := time.NewTimer(time.Second)
	defer grace.Stop()
	select {
	case r := <-done:
		return r
	case <-grace.C:
		return CheckResult{c.name, SeverityWarn, "did not end in time", "something on this host hangs (a dead NFS server?): look with \"ps -eo pid,stat,wchan:20,comm | grep ' D'\""}
	}
}

// oneLine keeps what others wrote from breaking the list of findings, and the
// terminal it is shown on. Each line of theirs is bounded for itself.
func oneLine(s string) string {
	lines := strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' || r == '\t' })
	const most = 12
	if len(lines) > most {
		lines = append(lines[:most], "…")
	}
	for i, l := range lines {
		lines[i] = printable(l)
	}
	return strings.Join(lines, " ")
}

// failures is the error of the findings that stop a join; nil without one.
func failures(all []CheckResult) error {
	var failed []CheckResult
	for _, r := range all {
		if r.Severity == SeverityFail {
			failed = append(failed, r)
		}
	}
	if failed == nil {
		return nil
	}
	return &CheckFailure{failed}
}
