package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
	"github.com/tectonic-worker/tectonic-worker/installer"
	"github.com/tectonic-worker/tectonic-worker/installer/credentials"
)

// certsFlags are those of certs and its commands below.
type certsFlags struct {
	directory string
	days      int
	names     []string
}

func newCerts(s *session) *cobra.Command {
	var o certsFlags
	c := &cobra.Command{
		Use:   "certs",
		Short: "Make the TLS credentials of the provisioner and its operators",
		Long: `certs makes an authority, a server certificate with the names of the provisioner
in the cluster file, and a client certificate for operators. They go where the
cluster file has its matchbox.tls.ca. Nothing is ever overwritten; what is
missing is added.

ca.crt, server.crt and server.key belong into /etc/matchbox on the provisioner;
ca.crt, client.crt and client.key stay with the operator. ca.key is needed for
"certs rotate" alone: keep it away from both.

With --directory and --name no cluster file is needed.`,
		Example: `  tectonic-installer certs
  tectonic-installer certs --directory ./tls --name matchbox.example.com
  tectonic-installer certs show
  tectonic-installer certs rotate`,
		Args: cli.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			dir, opts, err := s.credentialOptions(o)
			if err != nil {
				return err
			}
			written, err := credentials.Create(dir, opts)
			s.sayWritten(written)
			if err != nil {
				return err
			}
			s.note("next: copy %s, %s and %s from %s to /etc/matchbox on the provisioner", credentials.CACertificate, credentials.ServerCertificate, credentials.ServerKey, dir)
			return nil
		},
	}
	c.PersistentFlags().StringVarP(&o.directory, "directory", "d", "", "the `DIR` of the credentials, instead of the cluster file's")
	c.Flags().IntVar(&o.days, "days", int(credentials.DefaultValidity.Hours()/24), "how many `DAYS` server and client certificate last")
	c.Flags().StringArrayVar(&o.names, "name", nil, "a further `NAME` or address of the provisioner (repeatable)")
	c.AddCommand(newCertsShow(s, &o), newCertsRotate(s, &o))
	return c
}

func newCertsShow(s *session, o *certsFlags) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "show",
		Short: "Show the certificates, and when they end",
		Args:  cli.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := cli.CheckOutput(output); err != nil {
				return err
			}
			dir := o.directory
			if dir == "" {
				var err error
				if dir, _, err = s.credentialOptions(*o); err != nil {
					return err
				}
			}
			now := time.Now()
			all, err := credentials.Inspect(dir, now)
			if err != nil {
				return err
			}
			if output == "json" {
				return s.print(all)
			}
			bad := false
			for _, c := range all {
				s.say("%-7s %s", c.Kind, c.Path)
				s.say("        %s, until %s (%s)", c.Subject, c.NotAfter.UTC().Format(time.DateOnly), installer.Days(c.Remaining(now)))
				if len(c.SANs) > 0 {
					s.say("        for %s", strings.Join(c.SANs, ", "))
				}
				for _, p := range c.Problems {
					bad = true
					s.say("      ! it %s", p)
				}
			}
			if bad {
				return cli.Reported(1)
			}
			return nil
		},
	}
	cli.OutputFlag(c, &output)
	return c
}

func newCertsRotate(s *session, o *certsFlags) *cobra.Command {
	var ca, finish bool
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Renew the certificates without a moment in which none works",
		Long: `rotate gives server and client new keys and certificates of the same authority.
The server takes new files without a restart.

A new authority takes three runs, with the files copied to where they are used
after each: "rotate --ca" adds it to ca.crt, "rotate" signs server and client
anew, "rotate --finish" takes the old one out of ca.crt.`,
		Example: `  tectonic-installer certs rotate
  tectonic-installer certs rotate --ca`,
		Args: cli.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if ca && finish {
				return cli.Usage(errors.New("--ca begins the change of the authority and --finish ends it: give one of them"))
			}
			dir, opts, err := s.credentialOptions(*o)
			if err != nil {
				return err
			}
			written, err := credentials.Rotate(dir, credentials.RotateOptions{Options: opts, CA: ca, Finish: finish})
			s.sayWritten(written)
			if err != nil {
				return err
			}
			s.note("next: copy what is new in %s to where it is used; the server takes it without a restart", dir)
			return nil
		},
	}
	c.Flags().BoolVar(&ca, "ca", false, "add a new authority to ca.crt")
	c.Flags().BoolVar(&finish, "finish", false, "take the old authority out of ca.crt")
	c.Flags().IntVar(&o.days, "days", int(credentials.DefaultValidity.Hours()/24), "how many `DAYS` server and client certificate last")
	c.Flags().StringArrayVar(&o.names, "name", nil, "a further `NAME` or address of the provisioner (repeatable)")
	return c
}

// credentialOptions finds the directory and the names.
func (s *session) credentialOptions(o certsFlags) (string, credentials.Options, error) {
	if o.days < 1 {
		return "", credentials.Options{}, cli.Usage(fmt.Errorf("--days %d: a certificate lasts a day at least", o.days))
	}
	validity := time.Duration(o.days) * 24 * time.Hour
	// With both there is nothing to ask the cluster file for, which may not be there yet.
	if o.directory != "" && len(o.names) > 0 {
		return o.directory, credentials.Options{Cluster: o.names[0], Names: o.names, Validity: validity}, nil
	}
	c, err := s.load()
	if err != nil {
		return "", credentials.Options{}, err
	}
	dir := o.directory
	if dir == "" {
		dir = filepath.Dir(c.Resolve(c.Matchbox.TLS.CA))
	}
	return dir, credentials.Options{
		Cluster:  c.Name,
		Names:    append(installer.ProvisionerNames(c), o.names...),
		Validity: validity,
	}, nil
}

func (s *session) sayWritten(written []credentials.Written) {
	for _, w := range written {
		s.say("%s  (%s)", w.Path, w.What)
	}
}
