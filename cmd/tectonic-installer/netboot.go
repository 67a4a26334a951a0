package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
	"github.com/tectonic-worker/tectonic-worker/installer"
	"github.com/tectonic-worker/tectonic-worker/installer/netboot"
)

func newNetboot(s *session) *cobra.Command {
	var o installer.NetbootOptions
	c := &cobra.Command{
		Use:   "netboot",
		Short: "Serve DHCP, TFTP and DNS to the machines' network, by dnsmasq",
		Long: `netboot renders a dnsmasq configuration from the cluster file: addresses, or boot
files beside the DHCP server of the site; iPXE for BIOS, UEFI and HTTP Boot; DNS
records for the names in the cluster file.`,
		Args: cli.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.PersistentFlags().StringVar(&o.TFTPRoot, "tftp-root", netboot.DefaultTFTPRoot, "the `DIR` of the boot files")
	c.PersistentFlags().StringVar(&o.LeaseFile, "lease-file", netboot.DefaultLeaseFile, "where dnsmasq keeps its leases, a `FILE`")
	c.AddCommand(
		&cobra.Command{
			Use:   "print",
			Short: "Print the dnsmasq configuration",
			Long: `print writes the configuration, for those who run a dnsmasq of their own or want
to know what "netboot run" would do. What else the site has to provide is said on
the standard error.`,
			Args: cli.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				cfg, err := s.renderNetboot(o)
				if err != nil {
					return err
				}
				if _, err := s.Out.Write(cfg.Text); err != nil {
					return fmt.Errorf("cannot write the configuration: %w", err)
				}
				return nil
			},
		},
		&cobra.Command{
			Use:   "check",
			Short: "Let the dnsmasq of this host read the configuration",
			Args:  cli.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error {
				cfg, err := s.renderNetboot(o)
				if err != nil {
					return err
				}
				if err := netboot.Check(c.Context(), cfg.Text); err != nil {
					return err
				}
				s.say("dnsmasq takes the configuration")
				return nil
			},
		},
		newNetbootRun(s, &o),
	)
	return c
}

func newNetbootRun(s *session, o *installer.NetbootOptions) *cobra.Command {
	c := &cobra.Command{
		Use:   "run",
		Short: "Run dnsmasq, and put what it sees into the machines' timelines",
		Long: `run puts iPXE's boot files in place, starts dnsmasq and stays with it. It needs
root: DHCP, TFTP and DNS have low ports. What dnsmasq sees of each machine goes
to the provisioner's machine API with the credentials of the cluster file; where
that does not answer, booting goes on without it.`,
		Args: cli.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := s.load()
			if err != nil {
				return err
			}
			return installer.RunNetboot(c.Context(), cl, *o, func(line string) { s.say("%s", line) })
		},
	}
	c.Flags().StringVar(&o.Assets, "assets-path", "/var/lib/matchbox/assets", "the assets `DIR`, where iPXE is put for UEFI HTTP Boot; \"\" for nowhere")
	return c
}

func (s *session) renderNetboot(o installer.NetbootOptions) (netboot.Config, error) {
	c, err := s.load()
	if err != nil {
		return netboot.Config{}, err
	}
	cfg, err := netboot.Render(c, netboot.Options{TFTPRoot: o.TFTPRoot, LeaseFile: o.LeaseFile})
	if err != nil {
		return netboot.Config{}, err
	}
	for _, n := range cfg.Notes {
		s.note("note: %s", n)
	}
	return cfg, nil
}
