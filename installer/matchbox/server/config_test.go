package server

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseArgs(t *testing.T) {
	defaults := Config{
		Address: "127.0.0.1:8080", DataPath: "/var/lib/matchbox", AssetsPath: "/var/lib/matchbox/assets", LogLevel: "info", LogFormat: "text",
		CertFile: "/etc/matchbox/server.crt", KeyFile: "/etc/matchbox/server.key", CAFile: "/etc/matchbox/ca.crt",
		WebCertFile: "/etc/matchbox/ssl/server.crt", WebKeyFile: "/etc/matchbox/ssl/server.key",
		ArmFor: 24 * time.Hour, TokenFor: 30 * time.Minute, ProgramsPath: "/usr/share/tectonic-installer/tectonic-machine",
		MatchboxCertFile: "/etc/matchbox/client.crt", MatchboxKeyFile: "/etc/matchbox/client.key",
	}
	with := func(change func(*Config)) Config { c := defaults; change(&c); return c }
	for _, c := range []struct {
		name    string
		args    string // separated by spaces; '' is an empty one
		environ []string
		want    Config
		err     string // a part of the error
	}{
		{name: "nothing", want: defaults},
		{name: "matchbox's unit", environ: []string{"PATH=/bin", "MATCHBOX_ADDRESS=0.0.0.0:8080", "MATCHBOX_RPC_ADDRESS=0.0.0.0:8081", "MATCHBOX_LOG_LEVEL=debug"},
			want: with(func(c *Config) { c.Address, c.RPCAddress, c.LogLevel = "0.0.0.0:8080", "0.0.0.0:8081", "debug" })},
		{name: "one dash", args: "-address=0.0.0.0:80 -rpc-address :81 -assets-path=",
			want: with(func(c *Config) { c.Address, c.RPCAddress, c.AssetsPath = "0.0.0.0:80", ":81", "" })},
		{name: "two dashes", args: "--address 0.0.0.0:80 --web-ssl --key-ring-path /k",
			want: with(func(c *Config) { c.Address, c.WebSSL, c.KeyRingPath = "0.0.0.0:80", true, "/k" })},
		{name: "a flag stands above the environment", args: "-address :1", environ: []string{"MATCHBOX_ADDRESS=:2", "MATCHBOX_DATA_PATH=/d"},
			want: with(func(c *Config) { c.Address, c.DataPath = ":1", "/d" })},
		{name: "an empty variable is none", environ: []string{"MATCHBOX_ADDRESS="}, want: defaults},
		{name: "the passphrase", environ: []string{"MATCHBOX_PASSPHRASE=secret=1"}, want: with(func(c *Config) { c.Passphrase = "secret=1" })},
		{name: "variables of the container's unit", environ: []string{"MATCHBOX_VERSION=v0.6.0", "MATCHBOX_FOO=1"},
			want: with(func(c *Config) { c.Ignored = []string{"MATCHBOX_FOO", "MATCHBOX_VERSION"} })},
		{name: "web-ssl by variable", environ: []string{"MATCHBOX_WEB_SSL=true"}, want: with(func(c *Config) { c.WebSSL = true })},
		{name: "the machines' API", args: "--address '' --machine-address :8443 --machine-url https://m.example.com:8443 --arm-for 1h --token-for 5m",
			want: with(func(c *Config) {
				c.Address, c.MachineAddress, c.MachineURL, c.ArmFor, c.TokenFor = "", ":8443", "https://m.example.com:8443", time.Hour, 5*time.Minute
			})},
		{name: "version", args: "-version -address ''", want: with(func(c *Config) { c.Version, c.Address = true, "" })},
		{name: "help", args: "--help", want: with(func(c *Config) { c.Help = true })},
		{name: "h", args: "-h", want: with(func(c *Config) { c.Help = true })},

		{name: "an unknown flag", args: "--rpc :1", err: "there is no flag --rpc; there is --rpc-address"},
		{name: "another", args: "--nothing", err: "there is no flag --nothing; --help lists them"},
		{name: "no flag", args: "web", err: `"web" is not a flag`},
		{name: "no boolean", environ: []string{"MATCHBOX_WEB_SSL=maybe"}, err: `MATCHBOX_WEB_SSL is "maybe"`},
		{name: "no port", args: "--address 0.0.0.0", err: `--address is "0.0.0.0", which is not HOST:PORT`},
		{name: "nothing to serve", args: "--address ''", err: "nothing to serve"},
		{name: "all at once", args: "--rpc-address x --log-level loud --log-format xml --machine-url http://x --token-for 0s --data-path ''",
			err: "--rpc-address is \"x\", which is not HOST:PORT, as 0.0.0.0:8080\n--data-path is empty\n--log-level is \"loud\", not debug, info, warn or error\n" +
				"--log-format is \"xml\", not text or json\n--machine-url is \"http://x\", not https://HOST:PORT\n--token-for is 0s, not more than nothing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := strings.Fields(c.args)
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], "''", "")
			}
			got, err := ParseArgs(args, c.environ)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("the error is %v, want %q", err, c.err)
				}
				return
			}
			if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
	for _, flag := range []string{"-address", "-rpc-address", "-key-ring-path", "-machine-url", "MATCHBOX_"} {
		if !strings.Contains(Usage(), flag) {
			t.Errorf("the usage does not have %s:\n%s", flag, Usage())
		}
	}
}

// TestFlagsOfMatchbox asks matchbox itself for its flags: each must be one here, with the same default.
func TestFlagsOfMatchbox(t *testing.T) {
	for _, program := range realMatchboxes(t) {
		theirs := usageOf(t, program)
		if len(theirs) < 14 {
			t.Fatalf("%s has %d flags only: %v", program, len(theirs), theirs)
		}
		ours := new(Config).fields()
		for name, value := range theirs {
			f := ours.Lookup(name)
			if f == nil {
				t.Errorf("%s has -%s, which is missing", program, name)
			} else if value != "" && f.DefValue != value {
				t.Errorf("%s has -%s with the default %q, not %q", program, name, value, f.DefValue)
			}
		}
	}
}
