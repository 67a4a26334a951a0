package agent

import (
	"bytes"
	"io"
	"regexp"
	"strings"
)

// hidden stands where a secret stood.
const hidden = "[redacted]"

// secrets are the shapes of what must not leave the host, with what is kept of
// each. They err on the side of taking too much: a bug report can do without.
var secrets = []struct {
	shape *regexp.Regexp
	keep  string
}{
	// A JWT: three parts of base64url, the first of which is a JSON object.
	{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]*){1,4}`), hidden},
	// A bootstrap token: cluster-bootstrap/token/api.BootstrapTokenPattern.
	{regexp.MustCompile(`\b([a-z0-9]{6})\.[a-z0-9]{16}\b`), "${1}." + hidden},
	// user:password@ in a URL. A proxy's password may hold an @ itself, or a /.
	{regexp.MustCompile(`\b([a-zA-Z][a-zA-Z0-9+.-]*://)(?:[^\s/"'<>:@]*:[^\s"'<>]*|[^\s/"'<>?#]*)@`), "${1}" + hidden + "@"},
	// HTTP's own headers, also as they are quoted in logs and commands.
	{regexp.MustCompile(`(?i)\b((?:proxy-)?authorization|x-auth-token|cookie|set-cookie)(["']?\s*[:=]\s*["'\[]*)(?:(?:basic|bearer|digest|negotiate|token)\s+)?[^\s"'\],;{}\[]+`), "${1}${2}" + hidden},
	{regexp.MustCompile(`(?i)\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=-]{8,}`), "${1}${2}" + hidden},
	// Named values: YAML, JSON (also quoted within a string), flags, the environment.
	{regexp.MustCompile(`(?i)([a-z0-9_.-]*(?:client-key-data|clientKeyData|private[-_]?key|token|passw(?:or)?d|passphrase|secret|api[-_]?key|access[-_]?key)[a-z0-9_-]*)(\\?["']?\s*(?:=|:\s)\s*\\?["']?)([^\s"'\\,;}]+)`), "${1}${2}" + hidden},
	{regexp.MustCompile(`(?i)([a-z0-9_.-]*(?:client-key-data|clientKeyData|private[-_]?key|token|passw(?:or)?d|passphrase|secret|api[-_]?key|access[-_]?key)[a-z0-9_-]*)(\\?["']:\\?["'])([^"'\\]+)`), "${1}${2}" + hidden},
	{regexp.MustCompile(`(\\?["']auth\\?["']\s*:\s*\\?["'])([^"'\\]+)`), "${1}" + hidden}, // a registry's, in containers-auth.json(5)
	{regexp.MustCompile(`(?i)(--?(?:[a-z0-9-]*(?:token|password|secret|api-?key))\s+)([^\s"'-][^\s"']*)`), "${1}" + hidden},
	// Base64 of a PEM block, as kubeconfigs hold keys: "-----BEGIN".
	{regexp.MustCompile(`LS0tLS1CRUdJTi[A-Za-z0-9+/=_-]{16,}`), hidden},
	// A password's hash, crypt(5).
	{regexp.MustCompile(`\$(?:1|2[aby]?|5|6|y|gy|7)\$[./A-Za-z0-9$=,]{8,}`), hidden},
}

// harmless are names that the shapes take for secrets and that a reader of a
// bug report wants to see: values that are switches, numbers or files.
var harmless = regexp.MustCompile(`(?i)^(true|false|yes|no|none|auto|null|\d+|/[\w./-]*|\[\]|\{\}|"")$`)

// environment is a line of systemd's that sets variables of any name; nothing
// tells which of them are secret.
var (
	environment = regexp.MustCompile(`^\s*(Environment|UnsetEnvironment)=`)
	assignment  = regexp.MustCompile(`([A-Za-z_][A-Za-z0-9_]*=)("[^"]*"|'[^']*'|\S*)`)
)

// redactText takes every secret out of one line.
func redactText(line string) string {
	if loc := environment.FindStringIndex(line); loc != nil {
		return line[:loc[1]] + variables(line[loc[1]:])
	}
	for _, s := range secrets {
		if !s.shape.MatchString(line) {
			continue
		}
		line = s.shape.ReplaceAllStringFunc(line, func(found string) string {
			m := s.shape.FindStringSubmatch(found)
			if len(m) == 4 && harmless.MatchString(m[3]) {
				return found
			}
			return s.shape.ReplaceAllString(found, s.keep)
		})
	}
	return line
}

// redactor is a writer that lets no secret through. It works by lines, and on
// PEM blocks over lines: of a block with a private key, nothing passes but that
// it was there.
type redactor struct {
	w     io.Writer
	line  []byte
	inKey bool
	err   error
}

// maxLine bounds what the redactor holds back. A longer line is dropped as a
// whole: half a secret at its edge would be none of the shapes.
const maxLine = 256 << 10

func (r *redactor) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && r.err == nil {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			r.hold(p)
			break
		}
		r.hold(p[:i])
		r.flush("\n")
		p = p[i+1:]
	}
	return n, r.err
}

func (r *redactor) hold(p []byte) {
	if len(r.line) <= maxLine {
		r.line = append(r.line, p...)
	}
}

// Close writes the last line, where it has no end.
func (r *redactor) Close() error {
	if len(r.line) > 0 {
		r.flush("")
	}
	return r.err
}

var (
	beginKey = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY`)
	endKey   = regexp.MustCompile(`-----END [A-Z0-9 ]*PRIVATE KEY-----`)
	wholeKey = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY.*?-----END [A-Z0-9 ]*PRIVATE KEY-----`)
)

func (r *redactor) flush(end string) {
	line := string(r.line)
	r.line = r.line[:0]
	switch {
	case len(line) > maxLine:
		line = "[a line of more than 256 KiB was left out]"
	case r.inKey:
		if loc := endKey.FindStringIndex(line); loc != nil {
			r.inKey = false
			line = line[loc[1]:]
			break
		}
		// A key that was cut off must not take the rest of the file with it.
		if keyLine.MatchString(line) {
			return
		}
		r.inKey = false
	}
	// A key in one line: a YAML or JSON string with \n in it.
	line = wholeKey.ReplaceAllString(line, "[private key redacted]")
	if loc := beginKey.FindStringIndex(line); loc != nil {
		r.inKey = true
		line = line[:loc[0]] + "[private key redacted]"
	}
	if r.err == nil {
		_, r.err = io.WriteString(r.w, redactText(line)+end)
	}
}

// keyLine is a line inside a PEM block, with what a log may put before it.
var keyLine = regexp.MustCompile(`(^|[\s|:])([A-Za-z0-9+/=]{16,}|[A-Za-z0-9+/]*={1,2}|Proc-Type:.*|DEK-Info:.*)?\s*$`)

// redactAll takes the secrets out of a text of several lines.
func redactAll(s string) string {
	var out strings.Builder
	r := &redactor{w: &out}
	_, _ = r.Write([]byte(s)) // a strings.Builder takes everything
	_ = r.Close()
	return out.String()
}

// variables keeps the names of what Environment= sets, and no value.
func variables(s string) string {
	var names []string
	for _, m := range assignment.FindAllStringSubmatch(s, -1) {
		names = append(names, m[1]+hidden)
	}
	return strings.Join(names, " ")
}
