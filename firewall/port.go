package firewall

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Layer is one of firewalld's two configurations.
type Layer string

const (
	// Runtime is what filters packets now. A reload or a restart of firewalld throws it away.
	Runtime Layer = "runtime"
	// Permanent is what firewalld loads at its next start or reload. Writing it changes no packet filter.
	Permanent Layer = "permanent"
)

// Layers is every layer, in the order in which they are best written: should the host stop between the two, the next
// start of firewalld does the rest.
func Layers() []Layer { return []Layer{Permanent, Runtime} }

// Port is a port or an inclusive range of ports, "10250" or "30000-32767", of one protocol.
type Port struct {
	Port     string `json:"port"`
	Protocol string `json:"protocol"`
}

// String gives the port as firewall-cmd writes it: "10250/tcp".
func (p Port) String() string { return p.Port + "/" + p.Protocol }

// protocols are those firewalld accepts for a port.
var protocols = []string{"tcp", "udp", "sctp", "dccp"}

// span is a range of ports, both ends included.
type span struct{ lo, hi int }

func (s span) port(protocol string) Port {
	if s.lo == s.hi {
		return Port{strconv.Itoa(s.lo), protocol}
	}
	return Port{strconv.Itoa(s.lo) + "-" + strconv.Itoa(s.hi), protocol}
}

func (s span) contains(o span) bool { return s.lo <= o.lo && o.hi <= s.hi }
func (s span) overlaps(o span) bool { return s.lo <= o.hi && o.lo <= s.hi }

// span reads the port number or range.
func (p Port) span() (span, error) {
	lo, hi, isRange := strings.Cut(p.Port, "-")
	if !isRange {
		hi = lo
	}
	first, errLo := portNumber(lo)
	last, errHi := portNumber(hi)
	switch {
	case errLo != nil:
		return span{}, errLo
	case errHi != nil:
		return span{}, errHi
	case first > last:
		return span{}, fmt.Errorf("the range %q ends before it begins", p.Port)
	}
	return span{first, last}, nil
}

func portNumber(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a port number between 1 and 65535", s)
	}
	return int(n), nil
}

// check refuses what firewalld would refuse, before anything is asked of it.
func (p Port) check() (span, error) {
	s, err := p.span()
	if err != nil {
		return span{}, err
	}
	if !slices.Contains(protocols, p.Protocol) {
		return span{}, fmt.Errorf("%q is not one of the protocols %s", p.Protocol, strings.Join(protocols, ", "))
	}
	return s, nil
}

// spansOf gives the ranges of one protocol among a zone's entries, in ascending order. An entry that is not numeric
// (a zone file edited by hand may hold a service's name) is left out: nothing can be said about its extent.
func spansOf(entries []Port, protocol string) []span {
	var spans []span
	for _, e := range entries {
		if e.Protocol != protocol {
			continue
		}
		if s, err := e.span(); err == nil {
			spans = append(spans, s)
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return a.lo - b.lo })
	return spans
}

// gaps gives the parts of want that no span of open covers. Open must be in ascending order.
func gaps(want span, open []span) []span {
	var missing []span
	next := want.lo
	for _, o := range open {
		if o.hi < next || o.lo > want.hi {
			continue
		}
		if o.lo > next {
			missing = append(missing, span{next, o.lo - 1})
		}
		next = o.hi + 1
	}
	if next <= want.hi {
		missing = append(missing, span{next, want.hi})
	}
	return missing
}
