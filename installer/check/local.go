package check

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
	"github.com/tectonic-worker/tectonic-worker/installer/credentials"
	"github.com/tectonic-worker/tectonic-worker/installer/power"
)

// local asks what needs no network.
func (r *run) local() []question {
	questions := []question{{ask: r.tlsFiles}}
	asked := map[string]bool{}
	files := func(field string, files []cluster.File) {
		for i, f := range files {
			if !asked[f.Source] {
				asked[f.Source] = true
				questions = append(questions, ask(func(context.Context) Result {
					return r.file(r.c.Resolve(f.Source), r.c.Line(fmt.Sprintf("%s[%d].source", field, i)))
				}))
			}
		}
	}
	files("files", r.c.Files)
	secrets := map[cluster.Credentials]bool{}
	for i, m := range r.c.Machines {
		files(fmt.Sprintf("machines[%d].files", i), m.Files)
		if m.Power.Driver == cluster.PowerIPMI && !secrets[m.Power.Credentials] {
			secrets[m.Power.Credentials] = true
			questions = append(questions, ask(func(context.Context) Result {
				return r.bmcCredentials(m, r.c.Line(fmt.Sprintf("machines[%d].power.credentials", i)))
			}))
		}
	}
	return questions
}

// tlsFiles looks at the operator's own credentials, and at a server's beside them, where they were made.
func (r *run) tlsFiles(context.Context) []Result {
	t := r.c.Matchbox.TLS
	ca, certificate, key := r.c.Resolve(t.CA), r.c.Resolve(t.Certificate), r.c.Resolve(t.Key)
	certificates, err := credentials.InspectClient(ca, certificate, key, r.o.Now())
	if err != nil {
		return []Result{{Name: "tls", Target: certificate, Level: Failed, Message: oneLine(err),
			Do: "\"tectonic-installer certs\" makes them; or name them in matchbox.tls", Line: r.c.Line("matchbox.tls")}}
	}
	var results []Result
	for _, c := range certificates {
		result := Result{Name: "tls", Target: c.Path, Level: OK, Message: "valid until " + c.NotAfter.Format("2006-01-02")}
		if len(c.Problems) > 0 {
			result.Level, result.Message, result.Line = Failed, strings.Join(c.Problems, "; it "), r.c.Line("matchbox.tls")
			result.Do = "\"tectonic-installer certs rotate\" makes new ones"
			// That it soon expires is the only problem that lets it work today.
			if now := r.o.Now(); len(c.Problems) == 1 && now.After(c.NotBefore) && now.Before(c.NotAfter) && c.NotAfter.Sub(now) < credentials.ExpiresSoon {
				result.Level = Warning
			}
		}
		results = append(results, result)
	}
	return results
}

func (r *run) file(path string, line int) Result {
	result := Result{Name: "files", Target: path, Level: OK, Line: line}
	info, err := os.Stat(path)
	if err == nil && info.Mode().IsRegular() {
		// Asked for by opening it: root's and other users' rights are the system's business.
		var f *os.File
		if f, err = os.Open(path); err == nil {
			f.Close()
			result.Message, result.Line = fmt.Sprintf("%d bytes", info.Size()), 0
			return result
		}
	}
	result.Level, result.Do = Failed, "put the file there, or correct its source in the cluster file"
	if err != nil {
		result.Message = "cannot be read: " + oneLine(err)
	} else {
		result.Message = "is not a regular file"
	}
	return result
}

func (r *run) bmcCredentials(m cluster.Machine, line int) Result {
	result := Result{Name: "bmc", Target: credentialsTarget(r.c, m), Level: OK, Message: "has a user name and a password"}
	if _, err := loadCredentials(r.c, m); err != nil {
		result.Level, result.Message, result.Line = Failed, oneLine(err), line
		result.Do = fmt.Sprintf("%s needs it for its BMC: a YAML file with username and password, mode 0600, or the two environment variables", m.Name)
	}
	return result
}

func loadCredentials(c *cluster.Cluster, m cluster.Machine) (power.Credentials, error) {
	return power.LoadCredentials(c.Resolve(m.Power.Credentials.File), m.Power.Credentials.Env)
}

func credentialsTarget(c *cluster.Cluster, m cluster.Machine) string {
	if m.Power.Credentials.Env != "" {
		return m.Power.Credentials.Env + "_USERNAME and _PASSWORD"
	}
	return c.Resolve(m.Power.Credentials.File)
}

// oneLine makes an error that has several lines, and whatever a server put into it, one line.
func oneLine(err error) string {
	const most = 400
	text := strings.Join(strings.FieldsFunc(err.Error(), func(c rune) bool { return c == '\n' || c == '\r' }), "; ")
	text = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f || c >= 0x80 && c < 0xa0 {
			return -1
		}
		return c
	}, strings.ToValidUTF8(text, ""))
	if runes := []rune(text); len(runes) > most {
		text = string(slices.Concat(runes[:most], []rune("…")))
	}
	return text
}
