package server

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
	"unique"

	"github.com/tectonic-worker/tectonic-worker/installer/matchbox"
)

// kind is one of the directories of the data path.
type kind int

const (
	groups kind = iota
	profiles
	ignition
	generic
	cloud
	kinds // how many there are
)

var directories = [kinds]string{"groups", "profiles", "ignition", "generic", "cloud"}

// object says what a file of this kind is called in a sentence.
func (k kind) object() string {
	return [kinds]string{"group", "profile", "Ignition config", "generic config", "cloud config"}[k]
}

// id is the name by which a file is known, false when it is none of ours: a leftover of a write, or no JSON among groups
// and profiles.
func (k kind) id(file string) (string, bool) {
	if strings.HasPrefix(file, temporary) {
		return "", false
	}
	if k > profiles {
		return file, true
	}
	return strings.CutSuffix(file, ".json")
}

// file is the name of an object's file in its directory.
func (k kind) file(id string) string {
	if k > profiles {
		return id
	}
	return id + ".json"
}

// checkID refuses a name that is not one plain file name. matchbox lets "../profiles/x" through.
func checkID(k kind, id string) error {
	switch {
	case id == "":
		return fmt.Errorf("the %s has no id", k.object())
	case !utf8.ValidString(id) || strings.ContainsFunc(id, endsLine):
		return fmt.Errorf("the id %q of the %s has characters that are not allowed in a file name", id, k.object())
	case strings.ContainsAny(id, `/\`):
		return fmt.Errorf("the id %q of the %s has a path separator: an id is one file name", id, k.object())
	case strings.HasPrefix(id, "."):
		return fmt.Errorf("the id %q of the %s begins with a dot", id, k.object())
	case len(id) > 200:
		return fmt.Errorf("the id of the %s has %d bytes, more than 200", k.object(), len(id))
	}
	return nil
}

// pair is one requirement of a selector, or one label.
type pair struct{ key, value string }

// group is a group as it is served. It never changes, but for next; a changed file makes a new one.
// There may be a hundred thousand, so it is small: what can be had from pairs is not kept.
type group struct {
	id, name, profile string
	pairs             []pair // the selector, sorted by key, the MAC normalised
	metadata          json.RawMessage
	lines             metadataLines

	next *group // the next by id with the same selector; the index's lock is for this
}

// wire is the group as clients know it.
func (g *group) wire() matchbox.Group {
	w := matchbox.Group{ID: g.id, Name: g.name, Profile: g.profile, Metadata: g.metadata}
	if len(g.pairs) > 0 {
		w.Selector = make(map[string]string, len(g.pairs))
	}
	for _, p := range g.pairs {
		w.Selector[p.key] = p.value
	}
	return w
}

// order is what decides between groups with as many selectors: "k=v,k=v", sorted.
func (g *group) order() string {
	terms := make([]string, len(g.pairs))
	for i, p := range g.pairs {
		terms[i] = p.key + "=" + p.value
	}
	slices.Sort(terms)
	return strings.Join(terms, ",")
}

// readGroup understands a group's file, as strictly as matchbox: unknown keys are ignored, a bad MAC is an error.
func readGroup(id string, text []byte) (*group, error) {
	g := matchbox.Group{}
	if err := json.Unmarshal(text, &g); err != nil {
		return nil, fmt.Errorf("is not a group: %w", err)
	}
	g.ID = id
	return newGroup(g)
}

func newGroup(g matchbox.Group) (*group, error) {
	made := &group{id: g.ID, name: g.Name, profile: unique.Make(g.Profile).Value()}
	if len(g.Metadata) > 0 {
		object := map[string]any{}
		if err := json.Unmarshal(g.Metadata, &object); err != nil {
			return nil, fmt.Errorf("has metadata that is not a JSON object: %w", err)
		}
		if object != nil { // null
			made.metadata = slices.Clone(g.Metadata)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(g.Selector)) {
		value := g.Selector[key]
		if isMAC(key) {
			mac, err := parseMAC(value)
			if err != nil {
				return nil, fmt.Errorf("has the selector %s: %w", key, err)
			}
			value = mac
		}
		made.pairs = append(made.pairs, pair{unique.Make(key).Value(), value})
	}
	made.lines = made.metadataLines()
	return made, nil
}

// profile is a profile as it is served.
type profile struct {
	matchbox.Profile
	ipxe, grub []byte // nil when the file has no boot
}

// bootable says whether there is anything to boot: a profile may exist for its configs alone.
func (p *profile) bootable() bool { return p != nil && p.ipxe != nil && p.Boot.Kernel != "" }

func readProfile(id string, text []byte) (*profile, error) {
	p := matchbox.Profile{}
	if err := json.Unmarshal(text, &p); err != nil {
		return nil, fmt.Errorf("is not a profile: %w", err)
	}
	if p.ID == "" {
		return nil, fmt.Errorf("is a profile without an id: add \"id\": %q", id)
	}
	var has struct {
		Boot *json.RawMessage `json:"boot"`
	}
	if err := json.Unmarshal(text, &has); err != nil {
		return nil, fmt.Errorf("is not a profile: %w", err)
	}
	p.ID = id
	return newProfile(p, has.Boot != nil)
}

func newProfile(p matchbox.Profile, boots bool) (*profile, error) {
	for _, s := range slices.Concat([]string{p.Boot.Kernel}, p.Boot.Initrd, p.Boot.Args) {
		if strings.ContainsFunc(s, endsLine) || !utf8.ValidString(s) {
			return nil, fmt.Errorf("boots with %q, which would break the line of a boot script", s)
		}
	}
	made := &profile{Profile: p}
	if boots {
		made.ipxe, made.grub = ipxeScript(p.Boot, nil), grubConfig(p.Boot, nil)
	}
	return made, nil
}

// nested says whether a config's name is a path below its directory, such as "site/worker.ign". matchbox serves those;
// they are not in the index. What leaves the directory is refused.
func nested(name string) bool {
	return strings.Contains(name, "/") && filepath.IsLocal(filepath.FromSlash(name)) &&
		fs.ValidPath(name) && !strings.ContainsFunc(name, endsLine)
}
