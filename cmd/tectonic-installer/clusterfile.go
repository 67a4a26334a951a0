package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
)

func newInit(s *session) *cobra.Command {
	return &cobra.Command{
		Use:   "init",
		Short: "Print a commented cluster file to fill in",
		Long: `init prints a cluster file with every key, its meaning and its default. It writes
no file itself: send it where you want it.`,
		Example: "  tectonic-installer init > cluster.yaml",
		Args:    cli.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if _, err := s.Out.Write(cluster.Example()); err != nil {
				return fmt.Errorf("cannot write the cluster file: %w", err)
			}
			return nil
		},
	}
}

func newImport(s *session) *cobra.Command {
	var directory string
	c := &cobra.Command{
		Use:   "import TFVARS",
		Short: "Turn Tectonic's terraform.tfvars into a cluster file",
		Long: `import reads the variables of a Tectonic bare-metal cluster, as JSON (what the
graphical installer left) or HCL, and writes cluster.yaml and the TLS files that
the variables held into a directory. What has no counterpart is listed. A file
that is there already is left alone, and named.`,
		Example: `  tectonic-installer import terraform.tfvars
  tectonic-installer import --directory ./mycluster terraform.tfvars`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return cli.Usage(errors.New("name one file of variables, or - for the standard input"))
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			text, err := s.read(args[0])
			if err != nil {
				return err
			}
			imported, err := cluster.Import(args[0], text)
			if err != nil {
				return err
			}
			files := maps.Clone(imported.Files)
			if files == nil {
				files = map[string][]byte{}
			}
			files["cluster.yaml"] = imported.YAML
			if err := s.writeNew(directory, files); err != nil {
				return err
			}
			for _, n := range imported.Notes {
				s.note("note: %s", n)
			}
			for _, f := range imported.Findings {
				s.note("to fill in: %v", f)
			}
			s.note("next: look through %s, then \"tectonic-installer check --offline -f %[1]s\"", filepath.Join(directory, "cluster.yaml"))
			return nil
		},
	}
	c.Flags().StringVarP(&directory, "directory", "d", ".", "the `DIR` to write to")
	_ = c.MarkFlagDirname("directory")
	return c
}

// read takes a whole file, or the standard input for "-".
func (s *session) read(name string) ([]byte, error) {
	// The largest tfvars seen are some tens of kilobytes; a wrong name may be a disk.
	const most = 16 << 20
	f := s.In
	if name != "-" {
		var err error
		if f, err = os.Open(name); err != nil {
			return nil, err
		}
		defer f.Close()
	}
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	if len(text) > most {
		return nil, fmt.Errorf("cannot read %s: it is longer than 16 MiB, which no file of variables is", name)
	}
	return text, nil
}

// writeNew writes files below a directory: all of them or, when one is there already, none.
func (s *session) writeNew(directory string, files map[string][]byte) error {
	names := slices.Sorted(maps.Keys(files))
	for _, name := range names {
		if _, err := os.Lstat(filepath.Join(directory, name)); err == nil {
			return fmt.Errorf("%s is there already and nothing was written; move it away, or choose another directory with --directory", filepath.Join(directory, name))
		}
	}
	for _, name := range names {
		path := filepath.Join(directory, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		// Keys are among them.
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		if _, err = f.Write(files[name]); err == nil {
			err = f.Sync()
		}
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return fmt.Errorf("cannot write %s: %w", path, err)
		}
		s.say("%s", path)
	}
	return nil
}
