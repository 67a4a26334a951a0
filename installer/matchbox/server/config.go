package server

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Config is what matchbox's flags and environment say, and what there is besides for the machines' API.
type Config struct {
	Address    string // HTTP; empty: off
	RPCAddress string // gRPC; empty: off
	DataPath   string
	AssetsPath string // empty: no assets
	LogLevel   string // debug, info, warn, error, and matchbox's other names for them
	LogFormat  string // text or json

	CertFile, KeyFile, CAFile string // of gRPC, and of the machines' API
	KeyRingPath               string
	Passphrase                string // MATCHBOX_PASSPHRASE; there is no flag, for all would see it
	WebSSL                    bool
	WebCertFile, WebKeyFile   string

	// The machines' API and with it the gate. Empty MachineAddress: a plain matchbox.
	MachineAddress   string
	MachineURL       string // how machines reach MachineAddress, as https://host:port
	ArmFor, TokenFor time.Duration
	ProgramsPath     string // where tectonic-machine is, which machines run
	// An external matchbox, whose install groups are removed when a machine claims its disk. Empty: none.
	MatchboxEndpoint                  string
	MatchboxCertFile, MatchboxKeyFile string
	Version, Help                     bool
	Ignored                           []string // MATCHBOX_ variables that mean nothing here
}

// fields are the flags of c with their defaults.
func (c *Config) fields() *flag.FlagSet {
	f := flag.NewFlagSet("serve", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&c.Address, "address", "127.0.0.1:8080", "HTTP listen `address`; empty: no HTTP")
	f.StringVar(&c.RPCAddress, "rpc-address", "", "gRPC listen `address`; empty: no gRPC")
	f.StringVar(&c.DataPath, "data-path", "/var/lib/matchbox", "data `directory`")
	f.StringVar(&c.AssetsPath, "assets-path", "/var/lib/matchbox/assets", "`directory` of static files; empty: none")
	f.StringVar(&c.LogLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&c.LogFormat, "log-format", "text", "text or json")
	f.StringVar(&c.CertFile, "cert-file", "/etc/matchbox/server.crt", "server certificate `file`")
	f.StringVar(&c.KeyFile, "key-file", "/etc/matchbox/server.key", "server key `file`")
	f.StringVar(&c.CAFile, "ca-file", "/etc/matchbox/ca.crt", "`file` of the CA that client certificates are of")
	f.StringVar(&c.KeyRingPath, "key-ring-path", "", "OpenPGP secret keyring `file`, to sign with; MATCHBOX_PASSPHRASE opens it")
	f.BoolVar(&c.WebSSL, "web-ssl", false, "HTTPS instead of HTTP")
	f.StringVar(&c.WebCertFile, "web-cert-file", "/etc/matchbox/ssl/server.crt", "HTTPS certificate `file`")
	f.StringVar(&c.WebKeyFile, "web-key-file", "/etc/matchbox/ssl/server.key", "HTTPS key `file`")
	f.StringVar(&c.MachineAddress, "machine-address", "", "HTTPS listen `address` of the machines' API, which gates installs; empty: none, as matchbox")
	f.StringVar(&c.MachineURL, "machine-url", "", "`URL` by which machines reach the machines' API (https://host:port)")
	f.DurationVar(&c.ArmFor, "arm-for", 24*time.Hour, "how long a machine stays armed")
	f.DurationVar(&c.TokenFor, "token-for", 30*time.Minute, "how long a machine's one-time token is good")
	f.StringVar(&c.ProgramsPath, "programs-path", "/usr/share/tectonic-installer/tectonic-machine", "`directory` of tectonic-machine, which machines run, by architecture")
	f.StringVar(&c.MatchboxEndpoint, "matchbox-endpoint", "", "gRPC `address` of an external matchbox, whose install groups are removed when a machine claims its disk")
	f.StringVar(&c.MatchboxCertFile, "matchbox-cert-file", "/etc/matchbox/client.crt", "client certificate `file` for --matchbox-endpoint")
	f.StringVar(&c.MatchboxKeyFile, "matchbox-key-file", "/etc/matchbox/client.key", "client key `file` for --matchbox-endpoint")
	f.BoolVar(&c.Version, "version", false, "print the version and exit")
	f.BoolVar(&c.Help, "help", false, "print usage and exit")
	return f
}

// Usage lists the flags.
func Usage() string {
	var b strings.Builder
	f := new(Config).fields()
	f.SetOutput(&b)
	f.PrintDefaults()
	b.WriteString("\nEvery flag may be written with one dash or two, or given as MATCHBOX_ and its name in capitals with _ for -;\na flag stands above the environment.\n")
	return b.String()
}

// ParseArgs reads flags as matchbox's users write them (-address as well as --address) and MATCHBOX_ variables (of
// environ, in the form of os.Environ). An empty variable is none. All that is wrong comes back in one error.
func ParseArgs(args, environ []string) (Config, error) {
	var c Config
	f := c.fields()
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) { // -h; -help is a flag of ours
			c.Help = true
			return c, nil
		}
		return c, flagError(f, err)
	}
	if f.NArg() > 0 {
		return c, fmt.Errorf("%q is not a flag; a flag that is true or false takes its value behind \"=\"", f.Arg(0))
	}
	set := map[string]bool{}
	f.Visit(func(g *flag.Flag) { set[g.Name] = true })
	var wrong []error
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		rest, ours := strings.CutPrefix(name, "MATCHBOX_")
		switch key := strings.ReplaceAll(strings.ToLower(rest), "_", "-"); {
		case !ours || value == "":
		case key == "passphrase":
			c.Passphrase = value
		case f.Lookup(key) == nil || key == "version" || key == "help":
			c.Ignored = append(c.Ignored, name)
		case set[key]:
		default:
			if err := f.Set(key, value); err != nil {
				wrong = append(wrong, fmt.Errorf("%s is %q: %w", name, value, err))
			}
		}
	}
	slices.Sort(c.Ignored)
	if !c.Version && !c.Help {
		wrong = append(wrong, c.check()...)
	}
	return c, errors.Join(wrong...)
}

// flagError names the flag that was probably meant.
func flagError(f *flag.FlagSet, err error) error {
	const unknown = "flag provided but not defined: -"
	name, ok := strings.CutPrefix(err.Error(), unknown)
	if !ok {
		return err
	}
	var near []string
	f.VisitAll(func(g *flag.Flag) {
		if strings.Contains(g.Name, name) || strings.Contains(name, g.Name) {
			near = append(near, "--"+g.Name)
		}
	})
	if len(near) > 0 {
		return fmt.Errorf("there is no flag --%s; there is %s", name, strings.Join(near, ", "))
	}
	return fmt.Errorf("there is no flag --%s; --help lists them", name)
}

func (c *Config) check() (wrong []error) {
	for _, a := range []struct{ flag, value string }{
		{"address", c.Address}, {"rpc-address", c.RPCAddress}, {"machine-address", c.MachineAddress},
		{"matchbox-endpoint", c.MatchboxEndpoint},
	} {
		if a.value == "" {
			continue
		}
		if _, port, err := net.SplitHostPort(a.value); err != nil || port == "" {
			wrong = append(wrong, fmt.Errorf("--%s is %q, which is not HOST:PORT, as 0.0.0.0:8080", a.flag, a.value))
		}
	}
	if c.Address == "" && c.RPCAddress == "" && c.MachineAddress == "" {
		wrong = append(wrong, errors.New("--address, --rpc-address and --machine-address are all empty: there is nothing to serve"))
	}
	if c.DataPath == "" {
		wrong = append(wrong, errors.New("--data-path is empty"))
	}
	if _, err := c.Level(); err != nil {
		wrong = append(wrong, err)
	}
	if c.LogFormat != "text" && c.LogFormat != "json" {
		wrong = append(wrong, fmt.Errorf("--log-format is %q, not text or json", c.LogFormat))
	}
	if c.MachineURL != "" {
		u, err := url.Parse(c.MachineURL)
		if err != nil || u.Scheme != "https" || u.Host == "" || strings.ContainsAny(c.MachineURL, " \t") {
			wrong = append(wrong, fmt.Errorf("--machine-url is %q, not https://HOST:PORT", c.MachineURL))
		}
	}
	for _, d := range []struct {
		flag  string
		value time.Duration
	}{{"arm-for", c.ArmFor}, {"token-for", c.TokenFor}} {
		if d.value <= 0 {
			wrong = append(wrong, fmt.Errorf("--%s is %s, not more than nothing", d.flag, d.value))
		}
	}
	return wrong
}

// Level is LogLevel as slog has it. matchbox's levels are those of logrus.
func (c *Config) Level() (slog.Level, error) {
	switch strings.ToLower(c.LogLevel) {
	case "trace", "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn", "warning":
		return slog.LevelWarn, nil
	case "error", "fatal", "panic":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("--log-level is %q, not debug, info, warn or error", c.LogLevel)
}

// Logger writes in the format and from the level that c says; w is the journal's, which adds the time to text itself.
func (c *Config) Logger(w io.Writer) (*slog.Logger, error) {
	level, err := c.Level()
	if err != nil {
		return nil, err
	}
	options := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return slog.New(slog.NewTextHandler(w, options)), nil
}
