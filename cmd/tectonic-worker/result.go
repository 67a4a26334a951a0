package main

import (
	"encoding/json"
	"fmt"

	"github.com/tectonic-worker/tectonic-worker/agent"
	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
)

// failure is an error in a JSON document.
type failure struct {
	Message string      `json:"message"`
	Code    int         `json:"code"`
	Stage   agent.Stage `json:"stage,omitempty"`
}

func failureOf(err error) *failure {
	if err == nil {
		return nil
	}
	return &failure{Message: err.Error(), Code: agent.ExitCode(err), Stage: agent.StageOf(err)}
}

// printResult prints the document of a command that changes the host, and makes
// err the exit code: its text is in the document.
func printResult(std cli.Stdio, doc any, err error) error {
	e := json.NewEncoder(std.Out)
	e.SetIndent("", "  ")
	if werr := e.Encode(doc); werr != nil {
		return fmt.Errorf("cannot write the result: %w", werr)
	}
	if err != nil {
		return cli.Reported(agent.ExitCode(err))
	}
	return nil
}

// reporterFor shows the steps of a command as they go, or, where a document is
// wanted, not at all. end takes the spinner away.
func reporterFor(std cli.Stdio, output string) (r agent.Reporter, end func()) {
	if output != "text" {
		return quiet{}, func() {}
	}
	shown := newReport(std.Out)
	return shown, shown.close
}
