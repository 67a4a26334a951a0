package live

import (
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

// Arguments are what the install profile was served with.
type Arguments struct {
	Server string // https://host:8443
	Token  string // one-time, secret
	MAC    string // the card that booted, lower-case colon form
}

// ParseArguments reads the kernel's command line (proc(5), the kernel's admin-guide/kernel-parameters). The last of
// equal keys counts: the provisioner appends its own to the profile's.
func ParseArguments(cmdline string) (Arguments, error) {
	values := map[string]string{}
	for _, field := range fields(cmdline) {
		key, value, _ := strings.Cut(field, "=")
		values[key] = value
	}
	a := Arguments{Server: values[machine.ArgServer], Token: values[machine.ArgToken], MAC: values[machine.ArgMAC]}
	const again = "this machine was not armed when it booted from the network, or the boot loader lost the arguments; run \"tectonic-installer arm\" for it and boot it from the network again"
	for key, value := range map[string]string{machine.ArgServer: a.Server, machine.ArgToken: a.Token, machine.ArgMAC: a.MAC} {
		if value == "" {
			return Arguments{}, fmt.Errorf("cannot begin: the kernel's command line has no %s; %s", key, again)
		}
	}
	u, err := url.Parse(a.Server)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return Arguments{}, fmt.Errorf("cannot use %s=%q from the kernel's command line: it must be https://HOST:PORT", machine.ArgServer, printable(a.Server, 200))
	}
	hw, err := net.ParseMAC(a.MAC)
	if err != nil {
		return Arguments{}, fmt.Errorf("cannot use %s=%q from the kernel's command line: it is not a MAC address", machine.ArgMAC, printable(a.MAC, 60))
	}
	a.Server, a.MAC = strings.TrimRight(a.Server, "/"), hw.String()
	return a, nil
}

// fields splits at white space outside of double quotes, as the kernel does.
func fields(line string) []string {
	var all []string
	var word strings.Builder
	quoted, open := false, false
	for _, r := range line {
		switch {
		case r == '"':
			quoted, open = !quoted, true
		case !quoted && (r == ' ' || r == '\t' || r == '\n'):
			if open {
				all = append(all, word.String())
			}
			word.Reset()
			open = false
		default:
			word.WriteRune(r)
			open = true
		}
	}
	if open {
		all = append(all, word.String())
	}
	return all
}
