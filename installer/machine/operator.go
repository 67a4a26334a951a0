package machine

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Put declares a machine, or changes its declaration; what is as it was changes nothing. A discovered machine that has
// one of its MAC addresses becomes it. by is who asks, for the timeline.
func (s *Store) Put(ctx context.Context, d Definition, by string) (Status, error) {
	if err := d.check(); err != nil {
		return Status{}, err
	}
	text, sum, err := d.encode()
	if err != nil {
		return Status{}, err
	}
	s.mu.Lock()
	st, b, err := s.put(d, text, sum, by)
	s.mu.Unlock()
	if err != nil || b == nil {
		return st, err
	}
	return st, s.kept(ctx, b)
}

func (s *Store) put(d Definition, text []byte, sum [32]byte, by string) (Status, *batch, error) {
	if err := s.usable(); err != nil {
		return Status{}, nil, err
	}
	now := s.now()
	k := s.machines[d.Name]
	if k != nil && k.sum == sum {
		return k.status(now, true), nil, nil
	}
	for _, mac := range d.MACs {
		if other := s.byMAC[mac]; other != nil && other.def != nil && other != k {
			return Status{}, nil, refuse(ErrConflict, "cannot take machine %s: its MAC address %s belongs to %s; correct the cluster file, or delete %s first", d.Name, mac, other.key, other.key)
		}
	}
	if k != nil {
		switch {
		case k.State == Booting || k.State == Installing:
			return Status{}, nil, refuse(ErrConflict, "cannot change %s: it is %s; wait until it is installed, or disarm it", d.Name, k.State)
		case k.State == Armed && !slices.Equal(k.def.MACs, d.MACs):
			return Status{}, nil, refuse(ErrConflict, "cannot change the MAC addresses of %s: it is armed; disarm it first", d.Name)
		}
	}
	var records []record
	message := "declared"
	if k == nil {
		k = &known{key: d.Name, entry: entry{State: Accepted, Since: now}}
		s.machines[d.Name] = k
	} else {
		message = "declared anew"
	}
	for _, mac := range d.MACs {
		if other := s.byMAC[mac]; other != nil && other.def == nil {
			records = append(records, s.drop(other))
			message = "declared: it was discovered as " + mac
			k.inventory = other.inventory
		}
	}
	if k.def != nil {
		for _, mac := range k.def.MACs {
			delete(s.byMAC, mac)
		}
	}
	k.def, k.sum, k.unwritten = d.public(), sum, text
	for _, mac := range d.MACs {
		s.byMAC[mac] = k
	}
	e := k.entry
	rec := record{Key: k.key, Entry: &e, Definition: text, from: e.State, Event: s.event(k, SourceOperator, "define", message+asked(by))}
	if message != "declared anew" {
		rec.from = ""
	}
	return k.status(now, true), s.keep(append(records, rec)...), nil
}

// drop takes a machine out of the maps. s.mu is held.
func (s *Store) drop(k *known) record {
	delete(s.machines, k.key)
	for _, mac := range k.macs() {
		if s.byMAC[mac] == k {
			delete(s.byMAC, mac)
		}
	}
	s.dropTokens(k)
	if k.def == nil {
		s.unknown = slices.DeleteFunc(s.unknown, func(key string) bool { return key == k.key })
	}
	return record{Key: k.key, Gone: true, from: k.State}
}

// Delete forgets a machine; its timeline stays. force: also while it is being installed.
func (s *Store) Delete(ctx context.Context, name string, force bool, by string) error {
	v := verbRemove
	if force {
		v = verbDiscard
	}
	s.mu.Lock()
	k, err := s.ready(name)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	if _, ok := next(k.State, v, k.Before); !ok {
		s.mu.Unlock()
		return refuse(ErrConflict, "cannot delete %s: it is %s; disarm it first, or force it", k.key, k.State)
	}
	event := s.event(k, SourceOperator, "delete", "deleted"+asked(by))
	rec := s.drop(k)
	rec.Event = event
	b := s.keep(rec)
	s.mu.Unlock()
	return s.kept(ctx, b)
}

// ready finds a machine to change. s.mu is held.
func (s *Store) ready(name string) (*known, error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	return s.find(name)
}

// ArmRequest says what to arm a machine for.
type ArmRequest struct {
	Action Action `json:"action"`
	// Force allows it for a machine that is installed or ready, and takes it from an installer that runs.
	Force bool `json:"force,omitempty"`
	// External: an external matchbox serves the install profile, so the token is wanted now.
	External bool   `json:"external,omitempty"`
	By       string `json:"-"` // who asks, for the timeline
}

// ArmResult is what arming gives.
type ArmResult struct {
	Status Status `json:"status"`
	// Token is for the install profile of an external matchbox, and empty otherwise.
	Token string `json:"token,omitempty"`
}

// Arm makes a machine's next network boot install it (or wipe it), once. Arming an armed machine begins its time anew.
func (s *Store) Arm(ctx context.Context, name string, r ArmRequest) (ArmResult, error) {
	if r.Action != ActionInstall && r.Action != ActionWipe {
		return ArmResult{}, refuse(ErrInvalid, "cannot arm %s for %q: use install or wipe", oneLine(name, 64), oneLine(string(r.Action), 40))
	}
	v := verbArm
	if r.Force {
		v = verbArmForced
	}
	s.mu.Lock()
	k, err := s.ready(name)
	if err == nil {
		err = s.armable(k, v, r)
	}
	if err != nil {
		s.mu.Unlock()
		return ArmResult{}, err
	}
	from, before, why := k.State, k.Before, k.BeforeReason
	switch from {
	case Armed:
	case Booting, Installing:
		// Nothing to go back to but what an operator did not ask for: a machine that is taken from its installer has
		// failed when its disk was already claimed.
		if from == Installing {
			before, why = Failed, "it was taken from its installer while the disk was written"
		}
	default:
		before, why = from, k.Reason
	}
	s.dropTokens(k)
	k.forget()
	k.Before, k.BeforeReason, k.Reason = before, why, ""
	k.Action = r.Action
	k.Until = s.now().Add(s.armFor)
	k.External = r.External
	var res ArmResult
	if r.External {
		res.Token, k.Once = newToken(tokenOnce)
		s.byToken[k.Once] = k
	}
	message := fmt.Sprintf("armed: its next network boot %ss it, until %s", r.Action, k.Until.UTC().Format("2006-01-02 15:04 MST"))
	b := s.move(k, Armed, SourceOperator, "arm", message+asked(r.By))
	res.Status = k.status(s.now(), true)
	s.mu.Unlock()
	return res, s.kept(ctx, b)
}

func (s *Store) armable(k *known, v verb, r ArmRequest) error {
	if k.State == Armed && k.Action != r.Action && !r.Force {
		return refuse(ErrConflict, "cannot arm %s for %s: it is armed for %s; disarm it first", k.key, r.Action, k.Action)
	}
	if _, ok := next(k.State, v, k.Before); ok {
		return nil
	}
	switch k.State {
	case Discovered:
		return refuse(ErrConflict, "cannot arm %s: nobody declared it; run \"tectonic-installer accept %s\", or add it to the cluster file and apply that", k.key, k.key)
	case Booting, Installing:
		return refuse(ErrConflict, "cannot arm %s: it is %s; wait, or force it when its installer is dead", k.key, k.State)
	}
	return refuse(ErrConflict, "cannot arm %s: it is %s, and its disk would be overwritten; force it if that is meant", k.key, k.State)
}

// Disarm takes arming back, also from a machine that booted its installer and has not claimed the disk. force: also
// from one that is writing its disk, which is Failed then.
func (s *Store) Disarm(ctx context.Context, name string, force bool, by string) (Status, error) {
	v := verbDisarm
	if force {
		v = verbStop
	}
	return s.operate(ctx, name, v, func(k *known, to State) (string, string, error) {
		switch {
		case to == "":
			if k.State == Installing {
				return "", "", refuse(ErrConflict, "cannot disarm %s: its installer writes the disk; wait, or force it: the disk is then neither what it was nor installed", k.key)
			}
			return "", "", refuse(ErrConflict, "cannot disarm %s: it is %s", k.key, k.State)
		case k.State == to:
			return "", "", nil
		}
		reason := k.BeforeReason
		if k.State == Installing {
			reason = "disarmed while its disk was written" + asked(by)
		}
		s.dropTokens(k)
		k.forget()
		k.Reason = reason
		return "disarm", "disarmed" + asked(by), nil
	})
}

// Accept clears a failure.
func (s *Store) Accept(ctx context.Context, name, by string) (Status, error) {
	return s.operate(ctx, name, verbAccept, func(k *known, to State) (string, string, error) {
		switch {
		case to == "" && k.State == Discovered:
			return "", "", refuse(ErrConflict, "cannot accept %s: nobody said what it shall be; add it to the cluster file and apply that", k.key)
		case to == "":
			return "", "", refuse(ErrConflict, "cannot accept %s: it is %s, there is nothing to accept", k.key, k.State)
		case k.State == to:
			return "", "", nil
		}
		s.dropTokens(k)
		k.forget()
		k.Reason = ""
		return "accept", "accepted" + asked(by), nil
	})
}

// operate does an operator's verb. change says what the timeline shall, and nothing when nothing changes; it is asked
// with no state when the verb is refused, and then says why.
func (s *Store) operate(ctx context.Context, name string, v verb, change func(k *known, to State) (kind, message string, err error)) (Status, error) {
	s.mu.Lock()
	k, err := s.ready(name)
	if err != nil {
		s.mu.Unlock()
		return Status{}, err
	}
	to, _ := next(k.State, v, k.Before)
	kind, message, err := change(k, to)
	if err != nil || kind == "" {
		defer s.mu.Unlock()
		return k.status(s.now(), true), err
	}
	b := s.move(k, to, SourceOperator, kind, message)
	st := k.status(s.now(), true)
	s.mu.Unlock()
	return st, s.kept(ctx, b)
}

func asked(by string) string {
	if by = strings.TrimSpace(by); by == "" {
		return ""
	}
	return ", by " + by
}

// move changes a machine's state and adds the line to its timeline. s.mu is held.
func (s *Store) move(k *known, to State, source, kind, message string) *batch {
	from := k.State
	if from != to || to == Armed {
		k.State, k.Since = to, s.now()
	}
	if to != Armed && to != Booting {
		k.Before, k.BeforeReason = "", ""
	}
	e := k.entry
	return s.keep(record{Key: k.key, Entry: &e, Event: s.event(k, source, kind, message), from: from})
}

// event makes a machine's next line. s.mu is held.
func (s *Store) event(k *known, source, kind, message string) *Event {
	s.seq++
	e := &Event{Seq: s.seq, Time: s.now(), Machine: k.name(), MAC: k.MAC, Source: source, Kind: kind, Message: oneLine(message, maxMessage)}
	if k.def == nil {
		e.MAC = k.key
	}
	k.last = e
	return e
}
