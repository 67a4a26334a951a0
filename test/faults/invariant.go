package faults

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

// exitCodes are the documented ones, and what a shell makes of SIGKILL and SIGTERM.
var exitCodes = []int{0, 1, 69, 75, 78, 137, 143}

// Broken lists the invariants that do not hold after a run under a fault.
func (t *Target) Broken(r lab.Result) []string {
	var broken []string
	if !slices.Contains(exitCodes, r.Code) {
		broken = append(broken, fmt.Sprintf("exit code %d is not documented", r.Code))
	}
	if shown := t.Shown(r.Output()); shown != "" {
		broken = append(broken, shown)
	}
	if _, err := t.ledger(); err != nil {
		broken = append(broken, err.Error())
	}
	now, err := t.look()
	if err != nil {
		return append(broken, err.Error())
	}
	for _, path := range managed {
		if now[path] != t.old[path] && now[path] != t.new[path] {
			broken = append(broken, fmt.Sprintf("%s is neither as before (%s) nor as after (%s), but %s", path, t.old[path], t.new[path], now[path]))
		}
	}
	return broken
}

// NotPutBack says what a run that failed by itself has left of its changes. What it says it could not put back is not held
// against it.
func (t *Target) NotPutBack(r lab.Result) []string {
	if !failed(r) || strings.Contains(r.Stderr, "could not put back") {
		return nil
	}
	now, err := t.look()
	if err != nil {
		return []string{err.Error()}
	}
	left := t.temporary()
	for _, path := range managed {
		if now[path] != t.old[path] {
			left = append(left, path+" was not put back")
		}
	}
	return left
}

// NotConverged runs join again, without a fault, and says what is not as after a join that met none.
func (t *Target) NotConverged(ctx context.Context) ([]string, error) {
	r, err := t.Host.Exec(ctx, JoinArgs...)
	if err != nil {
		return nil, err
	}
	if r.Code != 0 {
		return []string{"the next join fails: " + r.String()}, nil
	}
	var broken []string
	if shown := t.Shown(r.Output()); shown != "" {
		broken = append(broken, shown)
	}
	now, err := t.look()
	if err != nil {
		return nil, err
	}
	for _, path := range managed {
		if now[path] != t.new[path] {
			broken = append(broken, fmt.Sprintf("after the next join %s is %q, not %q", path, now[path], t.new[path]))
		}
	}
	broken = append(broken, t.temporary()...)
	records, err := t.ledger()
	if err != nil {
		broken = append(broken, err.Error())
	}
	broken = append(broken, unfinished(records)...)
	ports, err := t.Open(ctx)
	if err != nil {
		return nil, err
	}
	for _, port := range []string{`"10250" "tcp"`, `"4789" "udp"`} {
		if strings.Count(ports, port) != 2 {
			broken = append(broken, fmt.Sprintf("after the next join the port %s is not open both now and permanently:\n%s", port, ports))
		}
	}
	return broken, nil
}

// unfinished names what the ledger has as begun, and the ports that it does not have as ours though nobody else opened them.
func unfinished(records []record) []string {
	state := map[string]string{}
	for _, r := range records {
		state[r.Kind+" "+r.Name] = r.Op
	}
	var broken []string
	ports := 0
	for key, op := range state {
		if op == "intent" {
			broken = append(broken, "the ledger has "+key+" as begun and not as done")
		}
		if strings.HasPrefix(key, "port ") && op == "done" {
			ports++
		}
	}
	if ports != 4 {
		broken = append(broken, fmt.Sprintf("the ledger has %d ports as ours, not two in two layers", ports))
	}
	return broken
}

// temporary lists unfinished files. What is there only for a moment is one that the agent writes.
func (t *Target) temporary() []string {
	left := t.unfinishedFiles()
	for i := 0; len(left) > 0 && i < 10; i++ {
		time.Sleep(50 * time.Millisecond) // for a file of another mount namespace there is no event
		left = t.unfinishedFiles()
	}
	return left
}

func (t *Target) unfinishedFiles() []string {
	var left []string
	for _, dir := range []string{"/etc/sysconfig", "/etc/kubernetes", "/etc/selinux", "/var/lib/tectonic-worker", "/run/tectonic-worker", "/var/lib/kubelet"} {
		names, err := filepath.Glob(filepath.Join(t.Host.Path(dir), ".tectonic-worker-tmp-*"))
		if err != nil {
			left = append(left, err.Error())
		}
		for _, name := range names {
			left = append(left, "a temporary file is left: "+dir+"/"+filepath.Base(name))
		}
	}
	return left
}

// Shown says which secret is in text, without showing it again, or is empty.
func (t *Target) Shown(text string) string {
	for i, secret := range t.Secrets {
		if at := strings.Index(text, secret); at >= 0 {
			return fmt.Sprintf("secret %d of the kubeconfig is shown after %q", i, text[max(0, at-60):at])
		}
	}
	return ""
}

// ShownInJournal looks for secrets in all that the host's services have said.
func (t *Target) ShownInJournal(ctx context.Context) (string, error) {
	r, err := t.Host.Must(ctx, "journalctl", "--no-pager", "-q", "-o", "cat", "-a")
	if err != nil {
		return "", err
	}
	return t.Shown(r.Stdout), nil
}

var secretField = regexp.MustCompile(`(?m)^\s*(client-key-data|token):\s*(\S+)`)

// secretsOf finds what of a kubeconfig nobody may see: the key, as it stands there and line by line of its PEM, or the token.
func secretsOf(kubeconfig []byte) []string {
	var secrets []string
	for _, m := range secretField.FindAllStringSubmatch(string(kubeconfig), -1) {
		// Any piece of it is a secret: output may be cut.
		secrets = append(secrets, m[2][:min(len(m[2]), 48)], m[2][len(m[2])/2:][:min(len(m[2])/2, 48)])
		if m[1] == "token" {
			continue
		}
		pem, err := base64.StdEncoding.DecodeString(m[2])
		if err != nil {
			continue
		}
		for _, line := range strings.Split(string(pem), "\n") {
			if len(line) >= 32 && !strings.HasPrefix(line, "-----") {
				secrets = append(secrets, line)
			}
		}
	}
	return secrets
}

// StatusJSON is what "status -o json" says in short.
type StatusJSON struct {
	Health   string
	Problems []string
}

// Status asks the product how the worker is.
func Status(ctx context.Context, h *lab.Host) (StatusJSON, lab.Result, error) {
	var s StatusJSON
	r, err := h.Exec(ctx, "tectonic-worker", "status", "-o", "json")
	if err != nil {
		return s, r, err
	}
	if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil {
		return s, r, fmt.Errorf("status -o json is no JSON document: %w: %s", err, r)
	}
	return s, r, nil
}
