package packaging

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/tectonic-worker/tectonic-worker/sysconfig"
)

// SettingsPage is the manual page tectonic-worker.sysconfig(5), made from the list of keys so that it
// cannot disagree with the program.
func SettingsPage() []byte {
	var b bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line(`.TH TECTONIC\-WORKER.SYSCONFIG 5 "" "tectonic\-worker" "File formats"`)
	line(`.SH NAME`)
	line(`tectonic\-worker.sysconfig \- settings of the Tectonic worker`)
	line(`.SH SYNOPSIS`)
	line(`.I %s`, roff(sysconfig.Path))
	line(`.br`)
	line(`.I %s`, roff(sysconfig.KubeletEnvPath))
	line(`.SH DESCRIPTION`)
	line(`The settings of this host as a worker of a Kubernetes cluster. systemd and`)
	line(`.BR tectonic\-worker (8)`)
	line(`read both files in the same way, that of EnvironmentFile= in`)
	line(`.BR systemd.exec (5):`)
	line(`one KEY=VALUE a line; quotes around a value are removed; a backslash at the end of a line continues`)
	line(`the value on the next; a line that begins with # or ; is a comment, and there is no other comment.`)
	line(`The files are data: nothing in them is expanded or run. A later assignment wins over an earlier one,`)
	line(`and %s over %s.`, roff(sysconfig.KubeletEnvPath), roff(sysconfig.Path))
	line(`An empty value is the default.`)
	line(`.PP`)
	line(`A flag of`)
	line(`.B tectonic\-worker join`)
	line(`wins over the environment, the environment over the files, the files over the defaults.`)
	line(`Whatever is wrong is reported at once, each with its file, line, key, value and remedy;`)
	line(`the exit code is then 78.`)
	for _, file := range []string{sysconfig.Path, sysconfig.KubeletEnvPath} {
		line(`.SH KEYS OF %s`, roff(file))
		for _, k := range sysconfig.Keys() {
			if k.File != file {
				continue
			}
			line(`.TP`)
			line(`.BR %s =\fI%s\fR`, k.Name, strings.ReplaceAll(roff(k.Syntax), " ", `\ `))
			line(`%s`, roff(k.Help))
			if k.Default != "" {
				line(`Default: %s.`, roff(k.Default))
			}
			if k.Flag != "" {
				line(`Flag of join: \-\-%s.`, roff(k.Flag))
			}
		}
	}
	line(`.SH NOTES`)
	line(`The files are readable by every user. Give one mode 0600 where the URL of a proxy holds a password.`)
	line(`.SH SEE ALSO`)
	line(`.BR tectonic\-worker (8),`)
	line(`.BR systemd.exec (5)`)
	return b.Bytes()
}

// roff escapes text for roff.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, `-`, `\-`, `…`, `...`).Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}
