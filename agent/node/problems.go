package node

import (
	"fmt"
	"strings"
	"time"
)

// A Cause tells the kinds of Problem apart that a caller may want to act on.
type Cause string

// Causes of a Problem.
const (
	Malformed   Cause = "malformed"     // not a kubeconfig at all, or only a part of one: it may still be on its way
	Incomplete  Cause = "incomplete"    // a kubeconfig, but something is missing from it
	Refused     Cause = "refused"       // something that this project does not accept, such as a plugin or a file reference
	Mismatch    Cause = "mismatch"      // the certificate and the key do not belong together
	Expired     Cause = "expired"       // past its end by this host's clock
	NotYetValid Cause = "not yet valid" // before its start by this host's clock
)

// A Problem is one thing that is wrong with a kubeconfig. It never holds secret material.
type Problem struct {
	Cause  Cause
	What   string    // what is wrong, and where
	Remedy string    // what to do about it
	At     time.Time // for Expired and NotYetValid: the bound that was crossed
}

func (p Problem) Error() string {
	if p.Remedy == "" {
		return p.What
	}
	return p.What + "; " + p.Remedy
}

// Problems is everything that is wrong with a kubeconfig, found in one pass. It is an error; one line each.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// OnlyTime reports whether nothing but the clock stands against the kubeconfig: every problem is Expired or NotYetValid.
// Then the server's own time, Client.ServerTime, tells a wrong clock from a wrong certificate.
func (ps Problems) OnlyTime() bool {
	for _, p := range ps {
		if p.Cause != Expired && p.Cause != NotYetValid {
			return false
		}
	}
	return len(ps) > 0
}

func (ps *Problems) add(c Cause, remedy, format string, args ...any) {
	*ps = append(*ps, Problem{Cause: c, What: fmt.Sprintf(format, args...), Remedy: remedy})
}

func (ps Problems) err() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}
