package server

import (
	"cmp"
	"math/bits"
	"slices"
	"strings"
)

// choose gives the group for labels and its profile; both are nil when no group matches, the profile is nil when it does
// not exist. More selectors win over fewer; among as many, the one whose sorted "k=v,k=v" is last in byte order; among
// equal selectors, where matchbox's answer is not defined, the first id.
func (x *index) choose(labels map[string]string) (*group, *profile) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var best *group
	x.matching(labels, func(g *group) {
		if best == nil || precedence(g, best) < 0 {
			best = g
		}
	})
	if best == nil {
		return nil, nil
	}
	return best, x.profiles[best.profile]
}

// matches gives all groups that fit labels, the chosen one first.
func (x *index) matches(labels map[string]string) []*group {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var all []*group
	x.matching(labels, func(g *group) {
		for ; g != nil; g = g.next {
			all = append(all, g)
		}
	})
	slices.SortFunc(all, func(a, b *group) int {
		return cmp.Or(precedence(a, b), cmp.Compare(a.id, b.id))
	})
	return all
}

func precedence(a, b *group) int {
	if c := cmp.Compare(len(b.pairs), len(a.pairs)); c != 0 {
		return c
	}
	return strings.Compare(b.order(), a.order())
}

// matching calls found with the first group of each selector that is among the labels. What it costs does not depend on how
// many groups there are: it looks up every subset of those labels that any group asks for, and a request has one to three
// of those. Where that would be more than there are sets of keys, it goes through the sets of keys.
func (x *index) matching(labels map[string]string, found func(*group)) {
	asked := make([]pair, 0, 8)
	for key, value := range labels {
		if p := (pair{key, value}); x.wanted[p] > 0 {
			asked = append(asked, p)
		}
	}
	slices.SortFunc(asked, func(a, b pair) int { return strings.Compare(a.key, b.key) })
	var buffer [256]byte
	if n := len(asked); n < 24 && 1<<n <= 2*len(x.shapes)+8 {
		for mask := range uint32(1) << n {
			set := buffer[:0]
			for rest := mask; rest != 0; rest &= rest - 1 {
				p := asked[bits.TrailingZeros32(rest)]
				set = appendString(appendString(set, p.key), p.value)
			}
			if g := x.sets[string(set)]; g != nil {
				found(g)
			}
		}
		return
	}
shapes:
	for _, s := range x.shapes {
		set := buffer[:0]
		for _, key := range s.keys {
			value, ok := labels[key]
			if !ok {
				continue shapes
			}
			set = appendString(appendString(set, key), value)
		}
		if g := x.sets[string(set)]; g != nil {
			found(g)
		}
	}
}
