package machine

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"
)

// entry is what a machine's way so far left: the part that every transition writes to the journal.
type entry struct {
	State  State     `json:"state"`
	Action Action    `json:"action,omitempty"`
	Reason string    `json:"reason,omitempty"`
	Since  time.Time `json:"since"`
	// Before and BeforeReason are what disarming goes back to.
	Before       State  `json:"before,omitempty"`
	BeforeReason string `json:"beforeReason,omitempty"`
	// Until ends being Armed, and the one-time token.
	Until time.Time `json:"until,omitzero"`
	// External: an external matchbox serves the install profile; the token exists since the machine was armed.
	External bool `json:"external,omitempty"`
	// MAC is the card that was served; empty before that, and with an external matchbox until the hello.
	MAC     string `json:"mac,omitempty"`
	Once    digest `json:"once,omitzero"`
	Spent   bool   `json:"spent,omitempty"`
	Run     digest `json:"run,omitzero"`
	Session digest `json:"session,omitzero"`
	Ready   digest `json:"ready,omitzero"`
	Greeted bool   `json:"greeted,omitempty"`
	Fit     bool   `json:"fit,omitempty"`
	Stage   string `json:"stage,omitempty"`
	Percent int    `json:"percent,omitempty"`
	// Heard is when its installer last spoke.
	Heard time.Time `json:"heard,omitzero"`
}

// forget drops what the last installation left: tokens and progress.
func (e *entry) forget() {
	e.Once, e.Run, e.Session, e.Ready = digest{}, digest{}, digest{}, digest{}
	e.Spent, e.Greeted, e.Fit, e.External = false, false, false, false
	e.MAC, e.Stage, e.Percent = "", "", 0
	e.Until, e.Heard = time.Time{}, time.Time{}
	e.Action = ""
}

// known is a machine as a Store holds it in memory: its definition without what may be secret or large.
type known struct {
	key string // its name, or its MAC address while it is Discovered
	entry
	def       *Definition // nil while Discovered
	sum       [sha256.Size]byte
	unwritten json.RawMessage // the whole definition while it is in the journal alone
	inventory *Inventory
	last      *Event
	flow      flow
}

func (k *known) macs() []string {
	if k.def != nil {
		return k.def.MACs
	}
	return []string{k.key}
}

func (k *known) name() string {
	if k.def != nil {
		return k.key
	}
	return ""
}

// exit is how its firmware is told to boot from disk.
func (k *known) exit() string {
	if k.def != nil && k.def.Exit != "" {
		return k.def.Exit
	}
	return ExitAuto
}

func (k *known) status(now time.Time, whole bool) Status {
	s := Status{
		Name: k.name(), MACs: k.macs(), State: k.State, Action: k.Action, Reason: k.Reason, Since: k.Since, Last: k.last,
		Stage: k.Stage, Percent: k.Percent,
	}
	if k.def != nil {
		s.Role, s.Cluster, s.Definition = k.def.Role, k.def.Cluster, hex.EncodeToString(k.sum[:])
	}
	if whole {
		s.Inventory = k.inventory
	}
	var due time.Time
	s.Next, due = expect(k.entry)
	if !due.IsZero() && now.After(due) {
		s.Overdue = &due
	}
	return s
}

// flow bounds how many lines a minute one machine may add to its timeline; transitions are not counted.
type flow struct {
	since   time.Time
	n       int
	dropped int
}

const maxLinesPerMinute = 300

func (f *flow) allow(now time.Time) bool {
	if now.Sub(f.since) >= time.Minute || now.Before(f.since) {
		f.since, f.n = now, 0
	}
	f.n++
	if f.n > maxLinesPerMinute {
		f.dropped++
		return false
	}
	return true
}
