package server

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"text/template"

	"github.com/coreos/butane/config"
	"github.com/coreos/butane/config/common"
	ignitionconfig "github.com/coreos/ignition/v2/config"
	ignitionerrors "github.com/coreos/ignition/v2/config/shared/errors"
)

// text is a config as it is served. It never changes; a changed file makes a new one.
type text struct {
	name string
	body []byte

	prepare  sync.Once
	template *template.Template // nil when there is nothing to fill in
	err      error              // why the template does not parse

	check  sync.Once
	broken error // why a raw Ignition config must not be served
}

// errBroken is a config that matchbox would serve empty.
var errBroken = errors.New("is not served")

// render fills in the template. A key that is missing is an error, as in matchbox.
func (t *text) render(context func() map[string]any) ([]byte, error) {
	t.prepare.Do(func() {
		if bytes.Contains(t.body, []byte("{{")) {
			t.template, t.err = parseTemplate(t.body)
		}
	})
	switch {
	case t.err != nil:
		return nil, fmt.Errorf("%s is not a template: %w", t.name, t.err)
	case t.template == nil:
		return t.body, nil
	}
	var out bytes.Buffer
	if err := t.template.Execute(&out, context()); err != nil {
		return nil, fmt.Errorf("cannot fill in the template %s: %w", t.name, err)
	}
	return out.Bytes(), nil
}

func parseTemplate(body []byte) (*template.Template, error) {
	return template.New("").Option("missingkey=error").Parse(string(body))
}

// raw says whether a config in ignition/ is a finished Ignition config, which is served byte for byte.
func raw(name string) bool {
	return strings.HasSuffix(name, ".ign") || strings.HasSuffix(name, ".ignition")
}

// ignition is the body of /ignition.
func (t *text) ignition(context func() map[string]any, done *translations) ([]byte, error) {
	if raw(t.name) {
		t.check.Do(func() { t.broken = checkIgnition(t.body) })
		if t.broken != nil {
			return nil, fmt.Errorf("%s %w: %w", t.name, errBroken, t.broken)
		}
		return t.body, nil
	}
	filled, err := t.render(context)
	if err != nil {
		return nil, err
	}
	out, err := done.translate(filled)
	if err != nil {
		return nil, fmt.Errorf("cannot translate %s: %w", t.name, err)
	}
	return out, nil
}

// checkIgnition refuses what no Ignition could use. Specification 3 is checked as Ignition itself does; of 2 and 1, which
// Container Linux needs and no current Ignition reads, only that it is JSON with a version. A 3.x newer than what is known
// here passes for its machine to judge.
func checkIgnition(body []byte) error {
	var has struct {
		Ignition struct {
			Version string `json:"version"`
		} `json:"ignition"`
		IgnitionVersion int `json:"ignitionVersion"` // specification 1
	}
	if err := json.Unmarshal(body, &has); err != nil {
		return fmt.Errorf("it is not an Ignition config: %w", err)
	}
	version := has.Ignition.Version
	major, _, _ := strings.Cut(version, ".")
	switch {
	case has.IgnitionVersion == 1 || major == "2":
		return nil
	case version == "":
		return errors.New("it has no ignition.version")
	case major != "3":
		return fmt.Errorf("it has ignition.version %q; 2.x and 3.x are served", version)
	}
	_, report, err := ignitionconfig.Parse(body)
	if errors.Is(err, ignitionerrors.ErrUnknownVersion) {
		return nil
	}
	if err != nil || report.IsFatal() {
		return fmt.Errorf("a machine would refuse it: %s", firstLine(report.String(), err))
	}
	return nil
}

// firstLine is what a report says, in one bounded line.
func firstLine(report string, err error) string {
	if report = strings.TrimSpace(report); report == "" && err != nil {
		report = err.Error()
	}
	report = oneLine(strings.ReplaceAll(report, "\n", "; "))
	return report[:min(len(report), 400)]
}

// translateButane makes Ignition of a Butane config, in the version of the specification that its own version stands for.
func translateButane(filled []byte) ([]byte, error) {
	out, report, err := config.TranslateBytes(filled, common.TranslateBytesOptions{})
	if err != nil {
		return nil, errors.New(firstLine(report.String(), err))
	}
	return out, nil
}

// translations remembers what Butane made of a text: it takes a millisecond and more, and a machine asks again and again.
// It forgets all when it is full.
type translations struct {
	mu   sync.Mutex
	done map[[sha256.Size]byte][]byte
	size int
}

const translationsSize = 32 << 20

func (t *translations) translate(filled []byte) ([]byte, error) {
	key := sha256.Sum256(filled)
	t.mu.Lock()
	out := t.done[key]
	t.mu.Unlock()
	if out != nil {
		return out, nil
	}
	out, err := translateButane(filled)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.size += len(out) + len(key); t.size > translationsSize || t.done == nil {
		t.done, t.size = map[[sha256.Size]byte][]byte{}, len(out)+len(key)
	}
	t.done[key] = out
	return out, nil
}
