// Package cli is what our command lines have in common: how an error becomes a message and an exit code, the flags that
// many commands have, and what a terminal is shown. It knows no command, and nothing of what they do.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

// Stdio is what a process was given to talk through.
type Stdio struct{ In, Out, Err *os.File }

// usageError is an error in how a command was called: exit code 2.
type usageError struct{ error }

// Usage marks an error in how a command was called. It is shown with a hint at the help, and the exit code is 2.
func Usage(err error) error { return usageError{err} }

// reported marks a failure that was shown already.
type reported struct{ code int }

func (reported) Error() string { return "reported" }

// Reported is an error that was shown already, and the exit code that it leads to.
func Reported(code int) error { return reported{code} }

// Run is the whole of a program: it runs the command that args name below root, says what went wrong, and gives the exit
// code: 0, 2 for wrong usage, or what exitCode makes of the error.
func Run(ctx context.Context, root *cobra.Command, args []string, std Stdio, exitCode func(error) int) int {
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return Usage(err) })
	root.SetArgs(args)
	root.SetIn(std.In)
	root.SetOut(std.Out)
	root.SetErr(std.Err)
	err := root.ExecuteContext(ctx)
	var shown reported
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &shown):
		return shown.code
	case errors.As(err, &usage):
		fmt.Fprintf(std.Err, "%v; see \"%s --help\"\n", err, commandOf(root, args))
		return 2
	}
	fmt.Fprintln(std.Err, err)
	return exitCode(err)
}

func commandOf(root *cobra.Command, args []string) string {
	if c, _, err := root.Find(args); err == nil {
		return c.CommandPath()
	}
	return root.CommandPath()
}

// NoArgs refuses words that no flag takes.
func NoArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return Usage(fmt.Errorf("unknown command or argument %q", args[0]))
	}
	return nil
}

// OutputFlag is -o, text or json.
func OutputFlag(c *cobra.Command, output *string) {
	c.Flags().StringVarP(output, "output", "o", "text", "how to print: text or json")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
}

// CheckOutput refuses another output than OutputFlag names.
func CheckOutput(output string) error {
	if output != "text" && output != "json" {
		return Usage(fmt.Errorf("unknown output %q: it is text or json", output))
	}
	return nil
}

// WriteJSON prints a document.
func WriteJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("cannot write the result: %w", err)
	}
	return nil
}
