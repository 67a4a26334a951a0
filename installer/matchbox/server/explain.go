package server

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Explanation says which group labels match, and why no other.
type Explanation struct {
	Labels  map[string]string `json:"labels"`            // as compared: the MAC normalised
	Ignored []string          `json:"ignored,omitempty"` // labels that were left out, and why
	Group   string            `json:"group,omitempty"`   // empty: none matches, a machine gets 404
	Profile string            `json:"profile,omitempty"`
	// ProfileMissing is set when the group's profile does not exist, which is a 404, too.
	ProfileMissing bool      `json:"profileMissing,omitempty"`
	Serves         []string  `json:"serves,omitempty"`  // the endpoints, with what they answer from
	Matched        []Match   `json:"matched,omitempty"` // in order, the group first
	Near           []Near    `json:"near,omitempty"`    // groups that did not match, the nearest first; at most ten
	Problems       []Problem `json:"problems,omitempty"`
}

// Match is a group that fits the labels.
type Match struct {
	Group    string            `json:"group"`
	Profile  string            `json:"profile"`
	Selector map[string]string `json:"selector,omitempty"`
	Why      string            `json:"why"` // it is the one, or what stands before it
}

// Near is a group that almost fits.
type Near struct {
	Group string `json:"group"`
	Why   string `json:"why"`
}

// Explain goes through all groups, which requests do not.
func (s *Server) Explain(given map[string]string) Explanation {
	e := Explanation{Labels: clean(maps.Clone(given)), Problems: s.Problems()}
	for key, value := range given {
		if _, kept := e.Labels[oneLine(key)]; !kept {
			e.Ignored = append(e.Ignored, fmt.Sprintf("%s=%s: not a MAC address", key, oneLine(value)))
		}
	}
	slices.Sort(e.Ignored)
	matches := s.store.index.matches(e.Labels)
	for i, g := range matches {
		m := Match{Group: g.id, Profile: g.profile, Selector: g.wire().Selector}
		switch first := matches[0]; {
		case i == 0 && len(g.pairs) == 0:
			m.Why = "chosen: it has no selectors and so fits every machine"
		case i == 0:
			m.Why = "chosen: every selector equals a label"
		case len(g.pairs) < len(first.pairs):
			m.Why = fmt.Sprintf("fits, but %s has more selectors (%d, not %d)", first.id, len(first.pairs), len(g.pairs))
		case g.order() != first.order():
			m.Why = fmt.Sprintf("fits with as many selectors as %s, whose %q comes later in the alphabet than %q", first.id, first.order(), g.order())
		default:
			m.Why = fmt.Sprintf("fits with the same selectors as %s, which is first by name; matchbox may choose either", first.id)
		}
		e.Matched = append(e.Matched, m)
	}
	if len(matches) > 0 {
		e.Group, e.Profile = matches[0].id, matches[0].profile
		p := s.store.index.profile(e.Profile)
		e.ProfileMissing = p == nil
		e.Serves = s.serves(p)
	}
	e.Near = s.store.index.near(e.Labels)
	return e
}

// serves says what a profile leads to, and what of it does not exist.
func (s *Server) serves(p *profile) []string {
	if p == nil {
		return nil
	}
	var list []string
	if p.ipxe != nil {
		list = append(list, "/ipxe, /grub: kernel "+cmp.Or(p.Boot.Kernel, "(none)"))
	}
	for k, id := range map[kind]string{ignition: p.IgnitionID, generic: p.GenericID, cloud: p.CloudID} {
		if id == "" {
			continue
		}
		line := "/" + directories[k] + ": " + id
		if t := s.store.config(k, id); t == nil {
			line += " (does not exist)"
		} else if k == ignition && raw(id) {
			if err := checkIgnition(t.body); err != nil {
				line += " (is refused: " + err.Error() + ")"
			}
		}
		list = append(list, line)
	}
	slices.Sort(list)
	return list
}

// near finds groups of which one selector is in the way, and MACs that look like a slip of the pen.
func (x *index) near(labels map[string]string) []Near {
	type candidate struct {
		Near
		distance int
	}
	var found []candidate
	x.mu.RLock()
	all := slices.Collect(maps.Values(x.groups))
	x.mu.RUnlock()
	for _, g := range all {
		var why string
		misses, distance := 0, 0
		for _, p := range g.pairs {
			value, has := labels[p.key]
			if has && value == p.value {
				continue
			}
			misses++
			if misses > 1 {
				break
			}
			why, distance = mismatch(p, value, has, labels)
		}
		// One selector that is entirely different is every other machine's group.
		if misses != 1 || len(g.pairs) == 1 && distance > 2 {
			continue
		}
		found = append(found, candidate{Near{Group: g.id, Why: why}, distance*100 - len(g.pairs)})
	}
	slices.SortFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(a.Group, b.Group))
	})
	var list []Near
	for _, c := range found[:min(len(found), 10)] {
		list = append(list, c.Near)
	}
	return list
}

// mismatch says why a label does not satisfy p, and how far it is off.
func mismatch(p pair, value string, has bool, labels map[string]string) (string, int) {
	wants := p.key + "=" + p.value
	if has {
		if strings.EqualFold(value, p.value) {
			return fmt.Sprintf("wants %s, the machine says %q: upper and lower case differ", wants, value), 1
		}
		if n := different(value, p.value); isMAC(p.key) && n <= 2 {
			return fmt.Sprintf("wants %s, %d digits off from %s", wants, n, value), n
		}
		return fmt.Sprintf("wants %s, the machine says %q", wants, value), 5
	}
	for key, other := range labels {
		if strings.EqualFold(key, p.key) && other == p.value {
			return fmt.Sprintf("wants %s, the machine says %s=%s: keys are compared with their case", wants, key, other), 1
		}
	}
	return fmt.Sprintf("wants %s, which the machine does not say", wants), 4
}

// different counts the places in which two strings of one length differ.
func different(a, b string) int {
	if len(a) != len(b) {
		return len(a) + len(b)
	}
	n := 0
	for i := range len(a) {
		if a[i] != b[i] {
			n++
		}
	}
	return n
}

// String is the explanation in lines, for a terminal.
func (e Explanation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "labels: %s\n", labelList(e.Labels))
	for _, ignored := range e.Ignored {
		fmt.Fprintf(&b, "ignored: %s\n", ignored)
	}
	switch {
	case e.Group == "":
		b.WriteString("no group matches, so the machine is answered 404; add a group with its MAC, or one without selectors\n")
	case e.ProfileMissing:
		fmt.Fprintf(&b, "group %s, but its profile %s does not exist, so the machine is answered 404\n", e.Group, e.Profile)
	default:
		fmt.Fprintf(&b, "group %s, profile %s\n", e.Group, e.Profile)
	}
	for _, line := range e.Serves {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	section := func(title string, n int, line func(int) (string, string)) {
		if n > 0 {
			fmt.Fprintf(&b, "%s:\n", title)
		}
		for i := range n {
			name, why := line(i)
			fmt.Fprintf(&b, "  %s: %s\n", name, why)
		}
	}
	section("groups that match", len(e.Matched), func(i int) (string, string) {
		return e.Matched[i].Group + " (" + labelList(e.Matched[i].Selector) + ")", e.Matched[i].Why
	})
	section("groups that nearly match", len(e.Near), func(i int) (string, string) { return e.Near[i].Group, e.Near[i].Why })
	section("files that are not served", len(e.Problems), func(i int) (string, string) { return e.Problems[i].File, e.Problems[i].Message })
	return b.String()
}

func labelList(labels map[string]string) string {
	if len(labels) == 0 {
		return "none"
	}
	var list []string
	for key, value := range labels {
		list = append(list, key+"="+value)
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}
