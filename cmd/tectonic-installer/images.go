package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
	"github.com/tectonic-worker/tectonic-worker/installer"
	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
	"github.com/tectonic-worker/tectonic-worker/installer/images"
)

func newImages(s *session) *cobra.Command {
	var assets string
	c := &cobra.Command{
		Use:   "images",
		Short: "Fetch and verify what is installed, on the provisioner",
		Long: `images keeps the trees of Flatcar, Fedora CoreOS and RHEL below the assets
directory that machines are installed from. A tree is published whole and
verified, or not at all.`,
		Args: cli.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.PersistentFlags().StringVar(&assets, "assets-path", "/var/lib/matchbox/assets", "the assets `DIR` of matchbox")
	_ = c.MarkPersistentFlagDirname("assets-path")
	c.AddCommand(newImagesSync(s, &assets), newImagesList(s, &assets), newImagesPrune(s, &assets))
	return c
}

func newImagesSync(s *session, assets *string) *cobra.Command {
	var spec images.Spec
	var programs, output string
	c := &cobra.Command{
		Use:   "sync",
		Short: "Fetch one tree, verify it, publish it",
		Long: `sync fetches the operating system of the cluster file, or the one that the flags
name. Interrupted, it goes on where it was; a tree that is there is checked, and
only what is damaged is fetched again. --source takes a mirror or a directory.

Images are verified with OpenPGP: give the project's signing key with --key. Keys
are not shipped; get them over a way that you trust.`,
		Example: `  tectonic-installer images sync --key Flatcar_Image_Signing_Key.asc
  tectonic-installer images sync --os rhel --version 9.4 --arch x86_64 --source /mnt/dvd`,
		Args: cli.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := cli.CheckOutput(output); err != nil {
				return err
			}
			if spec.OS == "" {
				cl, err := s.load()
				if err != nil {
					return err
				}
				specFrom(&spec, cl)
			} else if spec.Arch == "" {
				spec.Arch = "x86_64"
			}
			spec.Dest = *assets
			bar := images.NewBar(s.Err, cli.IsTerminal(s.Err), cli.Width(s.Err))
			result, err := images.Sync(c.Context(), spec, bar.Step)
			bar.End()
			if err != nil {
				return err
			}
			for _, n := range result.Notes {
				s.note("note: %s", n)
			}
			// A matchbox has nobody else who would put it there.
			if _, err := installer.PublishPrograms(programs, *assets); err != nil {
				return err
			}
			if output == "json" {
				return s.print(result)
			}
			s.say("%s  (%d files fetched)", describe(result.Tree), result.Fetched)
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&spec.OS, "os", "", "flatcar, fedora-coreos or rhel, instead of the cluster file's `OS`")
	f.StringVar(&spec.Channel, "channel", "", "its `CHANNEL`")
	f.StringVar(&spec.Version, "version", "", "its `VERSION`, or current")
	f.StringVar(&spec.Arch, "arch", "", "x86_64 or aarch64, an `ARCH`")
	f.StringVar(&spec.Source, "source", "", "a mirror's `URL`, or a directory, instead of the project's own server")
	f.StringArrayVar(&spec.Keys, "key", nil, "a `FILE` of OpenPGP keys that may have signed it (repeatable)")
	f.BoolVar(&spec.SkipSignatures, "insecure-skip-signatures", false, "take images on their digests alone, which do not say whose they are")
	f.StringVar(&programs, "programs-path", "/usr/share/tectonic-installer/tectonic-machine", "the `DIR` of tectonic-machine, which is published too")
	_ = c.RegisterFlagCompletionFunc("os", cobra.FixedCompletions([]string{images.Flatcar, images.FedoraCoreOS, images.RHEL}, cobra.ShellCompDirectiveNoFileComp))
	cli.OutputFlag(c, &output)
	return c
}

// specFrom fills in what no flag said.
func specFrom(spec *images.Spec, c *cluster.Cluster) {
	spec.OS = c.OS.Name
	for _, x := range []struct {
		at    *string
		value string
	}{{&spec.Channel, c.OS.Channel}, {&spec.Version, c.OS.Version}, {&spec.Arch, c.OS.Arch}} {
		if *x.at == "" {
			*x.at = x.value
		}
	}
}

func newImagesList(s *session, assets *string) *cobra.Command {
	var output string
	var verify bool
	c := &cobra.Command{
		Use:   "list",
		Short: "List the trees that are published",
		Args:  cli.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := cli.CheckOutput(output); err != nil {
				return err
			}
			trees, err := images.List(*assets)
			if err != nil {
				return err
			}
			if err := s.showTrees(output, trees, ""); err != nil || !verify {
				return err
			}
			bar := images.NewBar(s.Err, cli.IsTerminal(s.Err), cli.Width(s.Err))
			var damaged []error
			for _, t := range trees {
				damaged = append(damaged, images.Verify(c.Context(), t, bar.Step))
			}
			bar.End()
			return errors.Join(damaged...)
		},
	}
	c.Flags().BoolVar(&verify, "verify", false, "read every file again, and name what is no longer as it was published")
	cli.OutputFlag(c, &output)
	return c
}

func newImagesPrune(s *session, assets *string) *cobra.Command {
	var o images.PruneOptions
	var output string
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove old trees",
		Long: `prune keeps the newest versions of each operating system, and always the version
of the cluster file, where there is one. A machine that is loading from a tree that
goes away fails: prune when nothing is being installed.`,
		Args: cli.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := cli.CheckOutput(output); err != nil {
				return err
			}
			if o.Keep < 1 {
				return cli.Usage(fmt.Errorf("--keep %d: one version at least is kept", o.Keep))
			}
			if c, err := cluster.Load(*s.file); err == nil {
				o.InUse = append(o.InUse, c.OS.Version)
			}
			trees, err := images.Prune(*assets, o)
			verb := "removed "
			if o.DryRun {
				verb = "would remove "
			}
			if serr := s.showTrees(output, trees, verb); err == nil {
				err = serr
			}
			return err
		},
	}
	f := c.Flags()
	f.IntVar(&o.Keep, "keep", 2, "how many `VERSIONS` of each operating system stay")
	f.StringArrayVar(&o.InUse, "in-use", nil, "a `VERSION` that stays whatever its age (repeatable)")
	f.BoolVar(&o.DryRun, "dry-run", false, "say what would be removed, and remove nothing")
	cli.OutputFlag(c, &output)
	return c
}

func (s *session) showTrees(output string, trees []images.Tree, verb string) error {
	if output == "json" {
		if trees == nil {
			trees = []images.Tree{}
		}
		return s.print(trees)
	}
	for _, t := range trees {
		s.say("%s%s", verb, describe(t))
	}
	if len(trees) == 0 {
		s.note("no tree")
	}
	return nil
}

func describe(t images.Tree) string {
	signed := "no signature checked"
	if len(t.SignedBy) > 0 {
		signed = "signed by " + strings.Join(t.SignedBy, ", ")
	}
	words := []string{t.OS}
	for _, w := range []string{t.Channel, t.Version, t.Arch} {
		if w != "" {
			words = append(words, w)
		}
	}
	return fmt.Sprintf("%s  %d MiB, %s, published %s", strings.Join(words, " "), t.Size>>20, signed, t.Time.Local().Format(time.DateOnly))
}
