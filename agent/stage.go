package agent

import "errors"

// Stage is the part of the way to a Ready node that did not come to its end.
// The values are stable, for scripts.
type Stage string

const (
	StageImage      Stage = "image"
	StageKubelet    Stage = "kubelet"
	StageCSR        Stage = "csr"
	StageRegistered Stage = "registered"
	StageReady      Stage = "ready"
	StageCNI        Stage = "cni"
)

// StageError names the layer that kept the node from being Ready.
type StageError struct {
	Stage  Stage
	What   string
	Remedy string
	Log    []string // the kubelet's last lines, where they tell more
	Err    error
}

func (e *StageError) Error() string {
	s := e.What
	if e.Remedy != "" {
		s += "; " + e.Remedy
	}
	for _, l := range e.Log {
		s += "\n  | " + l
	}
	return s
}

func (e *StageError) Unwrap() error { return e.Err }

// StageOf is the stage at which err came up, or nothing.
func StageOf(err error) Stage {
	var e *StageError
	if errors.As(err, &e) {
		return e.Stage
	}
	return ""
}
