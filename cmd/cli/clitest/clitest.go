// Package clitest runs a command line as a process would, in a test.
package clitest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/cobra"

	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
)

// Call runs a program with standard streams that are files.
func Call(t *testing.T, run func(std cli.Stdio) int, stdin string) (code int, out, errs string) {
	t.Helper()
	dir := t.TempDir()
	open := func(name, content string) *os.File {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	std := cli.Stdio{In: open("in", stdin), Out: open("out", ""), Err: open("err", "")}
	code = run(std)
	said := func(f *os.File) string {
		data, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	return code, said(std.Out), said(std.Err)
}

// EveryCommand lists the commands from root down, those that cobra adds aside.
func EveryCommand(root *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{root}
	for _, sub := range root.Commands() {
		if sub.Name() != "help" && sub.Name() != "completion" {
			all = append(all, EveryCommand(sub)...)
		}
	}
	return all
}
