package matchbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
)

// Group metadata that says whose a group is. Profiles and configs have no metadata; their names begin with the cluster's.
const (
	MetadataManagedBy = "managed_by"
	MetadataCluster   = "cluster"
	ManagedBy         = "tectonic-installer"
)

// Wanted is what matchbox should hold for one cluster.
type Wanted struct {
	Ignition map[string][]byte // name below ignition/ -> content
	Generic  map[string][]byte // name below generic/ -> content
	Profiles []Profile
	Groups   []Group
}

// PlanOptions say for whom, and how far to go.
type PlanOptions struct {
	Cluster string
	// Prune deletes what is the cluster's and no longer wanted. Without it that is only listed.
	Prune bool
}

// Kind is what a change is about; its order is the order of writing, in which nothing refers to what is not there yet.
type Kind string

const (
	KindIgnition Kind = "ignition"
	KindGeneric  Kind = "generic"
	KindProfile  Kind = "profile"
	KindGroup    Kind = "group"
)

// Action is what is done about one object.
type Action string

const (
	Create Action = "create"
	Update Action = "update"
	Delete Action = "delete"
	Keep   Action = "keep"
)

// Change is one object and what is done about it.
type Change struct {
	Kind   Kind   `json:"kind"`
	ID     string `json:"id"`
	Action Action `json:"action"`
	// Diff is from what matchbox has to what is wanted, unified; tokens are hidden. Empty for Keep.
	Diff string `json:"diff,omitempty"`

	config  []byte
	profile Profile
	group   Group
}

// Plan is the difference between a matchbox and what a cluster wants there.
type Plan struct {
	Changes []Change `json:"changes"` // in the order in which they are best read: by kind, then id
	// Orphans are the cluster's own objects that are not wanted and stay, for want of Prune.
	Orphans []Change `json:"orphans,omitempty"`
	// Warnings are about others' objects that come between: selectors that match the same machines.
	Warnings []string `json:"warnings,omitempty"`
}

// Empty says that matchbox is as wanted.
func (p Plan) Empty() bool {
	return !slices.ContainsFunc(p.Changes, func(c Change) bool { return c.Action != Keep })
}

// Count is how many changes are of an action.
func (p Plan) Count(a Action) int {
	n := 0
	for _, c := range p.Changes {
		if c.Action == a {
			n++
		}
	}
	return n
}

// arches are those that configs are named after.
var arches = []string{"x86_64", "aarch64"}

// held is what matchbox has, as far as it concerns a cluster.
type held struct {
	groups   map[string]Group
	profiles map[string]Profile
	ignition map[string][]byte
	generic  map[string][]byte
}

// Plan compares matchbox with what a cluster wants there and changes nothing. It is an error to want what contradicts
// itself (all contradictions are in it), and to want the id of a group that is somebody else's.
func (c *Client) Plan(ctx context.Context, wanted Wanted, opts PlanOptions) (Plan, error) {
	if err := checkWanted(wanted, opts.Cluster); err != nil {
		return Plan{}, err
	}
	h, err := c.read(ctx, wanted, opts.Cluster)
	if err != nil {
		return Plan{}, err
	}
	if err := refuseOthers(wanted, h, opts.Cluster); err != nil {
		return Plan{}, err
	}

	var plan Plan
	for _, name := range sortedKeys(wanted.Ignition) {
		plan.Changes = append(plan.Changes, configChange(KindIgnition, name, h.ignition, wanted.Ignition[name]))
	}
	for _, name := range sortedKeys(wanted.Generic) {
		plan.Changes = append(plan.Changes, configChange(KindGeneric, name, h.generic, wanted.Generic[name]))
	}
	for _, p := range sorted(wanted.Profiles, func(p Profile) string { return p.ID }) {
		old, ok := h.profiles[p.ID]
		change := Change{Kind: KindProfile, ID: p.ID, profile: p}
		change.Action, change.Diff = compare(document(old), document(p), ok)
		plan.Changes = append(plan.Changes, change)
	}
	for _, g := range sorted(wanted.Groups, func(g Group) string { return g.ID }) {
		old, ok := h.groups[g.ID]
		change := Change{Kind: KindGroup, ID: g.ID, group: g}
		change.Action, change.Diff = compare(document(normal(old)), document(normal(g)), ok)
		plan.Changes = append(plan.Changes, change)
	}
	if left := orphans(wanted, h, opts.Cluster); opts.Prune {
		plan.Changes = append(plan.Changes, left...)
	} else {
		plan.Orphans = left
	}
	plan.Warnings = warnings(wanted, h, opts.Cluster)
	return plan, nil
}

// read asks matchbox for what a plan needs: all groups and profiles, and each config by its name; there is no list of
// configs.
func (c *Client) read(ctx context.Context, wanted Wanted, cluster string) (held, error) {
	h := held{groups: map[string]Group{}, profiles: map[string]Profile{}, ignition: map[string][]byte{}, generic: map[string][]byte{}}
	groups, err := c.GroupList(ctx)
	if err != nil {
		return h, err
	}
	profiles, err := c.ProfileList(ctx)
	if err != nil {
		return h, err
	}
	for _, g := range groups {
		h.groups[g.ID] = g
	}
	for _, p := range profiles {
		h.profiles[p.ID] = p
	}
	clusters := clustersOf(groups, cluster)
	ignition, generic := maps.Clone(wanted.Ignition), maps.Clone(wanted.Generic)
	if ignition == nil {
		ignition = map[string][]byte{}
	}
	if generic == nil {
		generic = map[string][]byte{}
	}
	// What no profile names any more: it was changed, or a prune was interrupted. matchbox has no list of configs, so
	// they are asked for by the names that they are given.
	for _, arch := range arches {
		ignition[cluster+"-install-"+arch+".ign"], generic[cluster+"-kickstart-"+arch] = nil, nil
	}
	for _, p := range profiles {
		if ownedName(p.IgnitionID, cluster, clusters) {
			ignition[p.IgnitionID] = nil
		}
		if ownedName(p.GenericID, cluster, clusters) {
			generic[p.GenericID] = nil
		}
	}
	if err := c.readConfigs(ctx, sortedKeys(ignition), c.IgnitionGet, h.ignition); err != nil {
		return h, err
	}
	return h, c.readConfigs(ctx, sortedKeys(generic), c.GenericGet, h.generic)
}

func (c *Client) readConfigs(ctx context.Context, names []string, get func(context.Context, string) ([]byte, error), into map[string][]byte) error {
	var mu sync.Mutex
	return each(ctx, names, func(ctx context.Context, name string) error {
		config, err := get(ctx, name)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		into[name] = config
		return nil
	})
}

func configChange(kind Kind, name string, held map[string][]byte, wanted []byte) Change {
	old, ok := held[name]
	change := Change{Kind: kind, ID: name, config: wanted}
	if ok && bytes.Equal(old, wanted) {
		change.Action = Keep
		return change
	}
	change.Action = Create
	if ok {
		change.Action = Update
	}
	change.Diff = diff(readable(old), readable(wanted))
	return change
}

// compare judges two documents.
func compare(old, wanted []byte, isHeld bool) (Action, string) {
	switch {
	case !isHeld:
		return Create, diff(nil, wanted)
	case bytes.Equal(old, wanted):
		return Keep, ""
	}
	return Update, diff(old, wanted)
}

// document is a group or profile as text, the same for equal ones: keys sorted, metadata indented.
func document(v any) []byte {
	compact, err := json.Marshal(v)
	if err != nil {
		// Only metadata that is not JSON; checkWanted has refused that.
		return []byte(err.Error())
	}
	return readable(compact)
}

// normal is a group as matchbox gives it back.
func normal(g Group) Group {
	g.Selector = normalSelector(g.Selector)
	if len(g.Selector) == 0 {
		g.Selector = nil
	}
	return g
}

// normalSelector writes MAC addresses as matchbox compares them: lower case, colons.
func normalSelector(selector map[string]string) map[string]string {
	all := maps.Clone(selector)
	for key, value := range all {
		if strings.EqualFold(key, "mac") {
			if mac, err := net.ParseMAC(value); err == nil {
				all[key] = mac.String()
			}
		}
	}
	return all
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func sorted[T any](all []T, id func(T) string) []T {
	return slices.SortedFunc(slices.Values(all), func(a, b T) int { return strings.Compare(id(a), id(b)) })
}
