package server

import (
	"encoding/binary"
	"slices"
	"strings"
	"sync"

	"github.com/tectonic-worker/tectonic-worker/installer/matchbox"
)

// index is the data directory as it is served. Readers hold the lock only to look up; what they get never changes.
type index struct {
	mu       sync.RWMutex
	groups   map[string]*group
	profiles map[string]*profile
	texts    [kinds]map[string]*text // of the kinds ignition, generic and cloud

	// Groups by their encoded selector, the first by id of those that have one and the same; how many groups ask for a label; and how
	// many groups ask for a set of keys.
	sets   map[string]*group
	wanted map[pair]int
	shapes map[string]*shape
}

// shape is a set of selector keys that at least one group has.
type shape struct {
	keys  []string // sorted
	users int
}

func newIndex() *index {
	x := &index{
		groups: map[string]*group{}, profiles: map[string]*profile{},
		sets: map[string]*group{}, wanted: map[pair]int{}, shapes: map[string]*shape{},
	}
	for k := ignition; k < kinds; k++ {
		x.texts[k] = map[string]*text{}
	}
	return x
}

// appendSet encodes pairs, which are sorted by key, so that no two sets look the same.
func appendSet(b []byte, pairs []pair) []byte {
	for _, p := range pairs {
		b = appendString(appendString(b, p.key), p.value)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func encodeKeys(pairs []pair) (key string, keys []string) {
	var b []byte
	for _, p := range pairs {
		b = appendString(b, p.key)
		keys = append(keys, p.key)
	}
	return string(b), keys
}

// putGroup adds or replaces a group; nil removes it.
func (x *index) putGroup(id string, g *group) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if old := x.groups[id]; old != nil {
		x.unlink(old)
		delete(x.groups, id)
	}
	if g == nil {
		return
	}
	x.groups[id] = g
	set := string(appendSet(nil, g.pairs))
	if head := x.sets[set]; head == nil || g.id < head.id {
		g.next, x.sets[set] = head, g
	} else {
		at := head
		for at.next != nil && at.next.id < g.id {
			at = at.next
		}
		g.next, at.next = at.next, g
	}
	for _, p := range g.pairs {
		x.wanted[p]++
	}
	key, keys := encodeKeys(g.pairs)
	if x.shapes[key] == nil {
		x.shapes[key] = &shape{keys: keys}
	}
	x.shapes[key].users++
}

func (x *index) unlink(g *group) {
	set := string(appendSet(nil, g.pairs))
	switch head := x.sets[set]; {
	case head != g:
		for ; head.next != g; head = head.next {
		}
		head.next = g.next
	case g.next != nil:
		x.sets[set] = g.next
	default:
		delete(x.sets, set)
	}
	for _, p := range g.pairs {
		if x.wanted[p]--; x.wanted[p] == 0 {
			delete(x.wanted, p)
		}
	}
	key, _ := encodeKeys(g.pairs)
	if x.shapes[key].users--; x.shapes[key].users == 0 {
		delete(x.shapes, key)
	}
}

// putProfile adds or replaces a profile; nil removes it.
func (x *index) putProfile(id string, p *profile) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if p == nil {
		delete(x.profiles, id)
		return
	}
	x.profiles[id] = p
}

// putText adds or replaces a config; nil removes it.
func (x *index) putText(k kind, name string, t *text) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if t == nil {
		delete(x.texts[k], name)
		return
	}
	x.texts[k][name] = t
}

func (x *index) group(id string) *group {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.groups[id]
}

func (x *index) profile(id string) *profile {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.profiles[id]
}

func (x *index) text(k kind, name string) *text {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.texts[k][name]
}

// count is how many objects of a kind there are.
func (x *index) count(k kind) int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	switch k {
	case groups:
		return len(x.groups)
	case profiles:
		return len(x.profiles)
	}
	return len(x.texts[k])
}

// groupList and profileList give all, sorted by id.
func (x *index) groupList() []matchbox.Group {
	x.mu.RLock()
	defer x.mu.RUnlock()
	all := make([]matchbox.Group, 0, len(x.groups))
	for _, g := range x.groups {
		all = append(all, g.wire())
	}
	slices.SortFunc(all, func(a, b matchbox.Group) int { return strings.Compare(a.ID, b.ID) })
	return all
}

func (x *index) profileList() []matchbox.Profile {
	x.mu.RLock()
	defer x.mu.RUnlock()
	all := make([]matchbox.Profile, 0, len(x.profiles))
	for _, p := range x.profiles {
		all = append(all, p.Profile)
	}
	slices.SortFunc(all, func(a, b matchbox.Profile) int { return strings.Compare(a.ID, b.ID) })
	return all
}
