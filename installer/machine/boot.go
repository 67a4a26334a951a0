package machine

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Decision is what a machine that asks for its boot script is given.
type Decision struct {
	// Install: the install profile, with this token. It is said once.
	Install bool
	Machine string
	Action  Action
	Token   string
	// Exit is how its firmware is told to boot from disk, when Install is false.
	Exit   string
	Reason string
}

// Boot decides what a machine gets that asks for a boot script (iPXE, GRUB). When there is an error the decision is
// good all the same: to boot from disk.
func (s *Store) Boot(ctx context.Context, mac string) (Decision, error) {
	mac, err := ParseMAC(mac)
	if err != nil {
		return Decision{Exit: ExitAuto, Reason: "no MAC address"}, err
	}
	s.mu.Lock()
	d, b, err := s.boot(mac)
	s.mu.Unlock()
	if b != nil && err == nil {
		err = s.kept(ctx, b)
	}
	if err != nil {
		return Decision{Machine: d.Machine, Exit: d.Exit, Reason: err.Error()}, err
	}
	return d, nil
}

func (s *Store) boot(mac string) (Decision, *batch, error) {
	k := s.byMAC[mac]
	disk := Decision{Exit: ExitAuto}
	if k != nil {
		disk.Machine, disk.Exit = k.name(), k.exit()
	}
	if err := s.usable(); err != nil {
		return disk, nil, err
	}
	if k == nil {
		disk.Reason = "unknown machine"
		return disk, s.discover(mac, "booted from the network; nobody knows it, so it is told to boot from disk"), nil
	}
	s.expireOne(k)
	switch k.State {
	case Armed:
		if k.External {
			disk.Reason = "armed for an external matchbox"
			s.note(k, SourceIPXE, "boot", "boots from the network here, but it is armed for an external matchbox: told to boot from disk", mac)
			return disk, nil, nil
		}
		token, d := newToken(tokenOnce)
		k.Once, k.MAC, k.Until = d, mac, s.now().Add(s.tokenFor)
		s.byToken[d] = k
		to, _ := next(k.State, verbBoot, k.Before)
		b := s.move(k, to, SourceIPXE, "boot", fmt.Sprintf("boots from the network: gets its installer to %s it", k.Action))
		return Decision{Install: true, Machine: k.key, Action: k.Action, Token: token, Exit: disk.Exit, Reason: "armed"}, b, nil
	case Booting, Installing:
		reason := "asked for the network boot again before its installer reported"
		switch {
		case k.State == Installing:
			reason = "asked for the network boot again while its disk was written"
		case k.Greeted:
			reason = "asked for the network boot again before its installer claimed the disk"
		}
		disk.Reason = reason
		return disk, s.fail(k, verbBoot, SourceIPXE, "boot", reason), nil
	}
	disk.Reason = string(k.State)
	s.note(k, SourceIPXE, "boot", fmt.Sprintf("boots from the network: it is %s, so it is told to boot from disk", k.State), mac)
	return disk, nil, nil
}

// fail moves a machine to Failed. Its one-time and session tokens are of no use from here on; they are kept so that
// who shows one is told why. s.mu is held.
func (s *Store) fail(k *known, v verb, source, kind, reason string) *batch {
	to, ok := next(k.State, v, k.Before)
	if !ok {
		return nil
	}
	k.Reason, k.Spent, k.Until = oneLine(reason, maxMessage), true, time.Time{}
	return s.move(k, to, source, kind, reason)
}

// maxWaiting bounds the lines that wait for the disk; transitions are kept whatever waits, for each has a caller that
// waits with it.
const maxWaiting = 20_000

// swamped says that lines come faster than the disk takes them. s.mu is held.
func (s *Store) swamped() bool { return len(s.pending.records) >= maxWaiting }

// discover remembers an unknown MAC address, unless the network is flooded with them: then it is another time that it
// is. s.mu is held.
func (s *Store) discover(mac, message string) *batch {
	if s.swamped() {
		return nil
	}
	var records []record
	if len(s.unknown) >= maxDiscovered {
		oldest := s.machines[s.unknown[0]]
		gone := s.drop(oldest)
		gone.Forgotten = true
		records = append(records, gone)
	}
	k := &known{key: mac, entry: entry{State: Discovered, Since: s.now()}}
	s.machines[mac], s.byMAC[mac] = k, k
	s.unknown = append(s.unknown, mac)
	e := k.entry
	records = append(records, record{Key: mac, Entry: &e, Event: s.event(k, SourceState, "discovered", message)})
	return s.keep(records...)
}

// note adds a line to a timeline without a change of state, unless the machine floods it. s.mu is held.
func (s *Store) note(k *known, source, kind, message, mac string) *batch {
	dropped := k.flow.dropped
	if s.swamped() {
		k.flow.dropped++
		return nil
	}
	if !k.flow.allow(s.now()) {
		return nil
	}
	if dropped > 0 {
		message = fmt.Sprintf("%s (%d lines before this one are left out)", message, dropped)
		k.flow.dropped = 0
	}
	e := s.event(k, source, kind, message)
	if mac != "" {
		e.MAC = mac
	}
	return s.keep(record{Key: k.key, Event: e})
}

// Observe adds what was seen of a machine elsewhere (DHCP, TFTP, matchbox, power) to its timeline: by its name or its
// MAC address. An unknown MAC address that boots from the network is discovered; one that only asks for an address is
// nobody's business and left out, and known is false.
func (s *Store) Observe(e Event) (known bool, err error) {
	if err := checkObserved(e); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(); err != nil {
		return false, err
	}
	mac := ""
	if e.MAC != "" {
		if mac, err = ParseMAC(e.MAC); err != nil {
			return false, err
		}
	}
	k := s.byMAC[mac]
	if k == nil && e.Machine != "" {
		k = s.machines[e.Machine]
	}
	if k == nil {
		if mac == "" || !netboots(e) {
			return false, nil
		}
		s.discover(mac, "boots from the network, and nobody knows it: "+e.Message)
		return true, nil
	}
	if b := s.note(k, e.Source, e.Kind, e.Message, mac); b != nil {
		// What was seen a while ago keeps its time; the number keeps the order in which it got here.
		if ago := k.last.Time.Sub(e.Time); ago > 0 && ago < time.Hour {
			k.last.Time = e.Time
		}
	}
	return true, nil
}

// netboots says whether an event means a boot from the network and not just a computer that wants an address.
func netboots(e Event) bool {
	switch e.Source {
	case SourceTFTP, SourceIPXE, SourceHTTP:
		return true
	case SourceDHCP:
		return e.Kind == "proxy" || e.Kind == "boot" // what only a PXE client is answered
	}
	return false
}

func checkObserved(e Event) error {
	switch e.Source {
	case SourceDHCP, SourceTFTP, SourceIPXE, SourceHTTP, SourcePower, SourceOperator:
	default:
		return refuse(ErrInvalid, "cannot take an event with source %q: use dhcp, tftp, ipxe, http, power or operator", oneLine(e.Source, 40))
	}
	if len(e.Kind) == 0 || len(e.Kind) > 32 || strings.Trim(e.Kind, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return refuse(ErrInvalid, "cannot take an event of kind %q: use one lower-case word", oneLine(e.Kind, 40))
	}
	return nil
}

// expire ends every arming and token whose time is up.
func (s *Store) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.usable() != nil {
		return
	}
	for _, k := range s.machines {
		s.expireOne(k)
	}
}

// expireOne ends a machine's arming or token if its time is up. s.mu is held.
func (s *Store) expireOne(k *known) {
	if k.Until.IsZero() || s.now().Before(k.Until) {
		return
	}
	switch k.State {
	case Armed:
		to, _ := next(k.State, verbExpire, k.Before)
		reason := k.BeforeReason
		s.dropTokens(k)
		k.forget()
		k.Reason = reason
		s.move(k, to, SourceState, "disarm", "disarmed: it did not boot from the network in time")
	case Booting:
		s.fail(k, verbExpire, SourceState, "failed", "its installer did not claim the disk in time; look at its console, then arm it again")
	}
}
