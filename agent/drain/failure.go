package drain

import "errors"

// Reason says what kind of failure it is.
type Reason string

// The reasons of a Failure.
const (
	PodsStay    Reason = "pods-stay"   // not evicted in time, or not without force
	Unreachable Reason = "unreachable" // the API server
	Forbidden   Reason = "forbidden"   // the credential may not
	BadConfig   Reason = "bad-config"  // the kubeconfig is no good, or nobody's
)

// A Failure is a node that is not drained.
type Failure struct {
	Reason  Reason
	Message string
}

func (f *Failure) Error() string { return f.Message }

// The exit codes of the drain program (sysexits.h).
const (
	CodePodsStay    = 1
	CodeUsage       = 2
	CodeUnreachable = 69
	CodeForbidden   = 77
	CodeBadConfig   = 78
)

// ExitCode maps an error of Run to the exit code of the program.
func ExitCode(err error) int {
	var f *Failure
	switch {
	case err == nil:
		return 0
	case !errors.As(err, &f):
		return CodePodsStay
	}
	switch f.Reason {
	case Unreachable:
		return CodeUnreachable
	case Forbidden:
		return CodeForbidden
	case BadConfig:
		return CodeBadConfig
	}
	return CodePodsStay
}
