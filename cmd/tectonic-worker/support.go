package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tectonic-worker/tectonic-worker/agent"
	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
)

func newSupport(std cli.Stdio) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "support",
		Short: "Collect what a bug report needs, without secrets",
		Long: `support writes a tar.gz for a bug report: status, doctor, journals, units, the
firewall, SELinux, the kubelet's configuration and arguments, settings, versions,
mounts and addresses. Keys, tokens and passwords are taken out; have a look at it
before you send it all the same. It works on a host on which other things do not:
what could not be collected is in the archive's index.txt.`,
		Example: `  tectonic-worker support
  tectonic-worker support -o - | ssh admin@example.com 'cat >worker.tar.gz'`,
		Args: cli.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			name, now := "host", time.Now().UTC()
			if h, err := os.Hostname(); err == nil {
				name = strings.Map(fileRune, h)
			}
			prefix := fmt.Sprintf("tectonic-worker-support-%s-%s", name, now.Format("20060102T150405Z"))
			o := agent.SupportOptions{Environ: os.Environ(), Version: version, Prefix: prefix}
			write := func(w io.Writer) error { return agent.Support(c.Context(), newSystem(std), o, w) }
			if output == "-" {
				if cli.IsTerminal(std.Out) {
					return cli.Usage(errors.New("the archive is no text for a terminal: send it somewhere, or name a file with -o FILE"))
				}
				return write(std.Out)
			}
			if output == "" {
				output = prefix + ".tar.gz"
			}
			return supportFile(std, output, write)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "the `FILE` to write, or - for standard output (default ./tectonic-worker-support-HOST-TIME.tar.gz)")
	return c
}

// supportFile writes to a new file that only its owner can read; one that is
// not whole does not stay.
func supportFile(std cli.Stdio, name string, write func(io.Writer) error) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("cannot write %s: it is there already; name another with -o FILE", name)
	}
	if err != nil {
		return fmt.Errorf("cannot write the archive: %w; name another file with -o FILE", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("cannot write %s: %w", name, cerr)
		}
		if err != nil {
			_ = os.Remove(name)
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	_, err = fmt.Fprintln(std.Out, name)
	return err
}

// fileRune keeps a name fit for a file's.
func fileRune(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
		return r
	}
	return '_'
}
