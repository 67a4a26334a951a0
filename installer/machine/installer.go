package machine

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// bearer finds whose token this is and which of its kinds. s.mu is held.
func (s *Store) bearer(token string) (k *known, kind string, err error) {
	if err := s.usable(); err != nil {
		return nil, "", err
	}
	d := digestOf(token)
	if k = s.byToken[d]; k != nil {
		s.expireOne(k)
		switch {
		case k.Once.is(d):
			return k, tokenOnce, nil
		case k.Session.is(d):
			return k, tokenSession, nil
		case k.Ready.is(d):
			return k, tokenReady, nil
		}
	}
	return nil, "", refuse(ErrNoToken, "this token is not known: the machine was armed again, disarmed or deleted since, or it never was")
}

// once checks a one-time token for a verb that needs it unspent.
func (s *Store) once(token string, v verb) (*known, State, error) {
	k, kind, err := s.bearer(token)
	if err != nil {
		return nil, "", err
	}
	if kind != tokenOnce {
		return nil, "", refuse(ErrNoToken, "this token of %s is not its installer's one-time token", k.key)
	}
	to, ok := next(k.State, v, k.Before)
	if k.Spent || !ok {
		why := ""
		if k.Reason != "" {
			why = ": " + k.Reason
		}
		return nil, "", refuse(ErrSpent, "the one-time token of %s is spent: the machine is %s%s; write nothing, and have it armed again", k.key, k.State, why)
	}
	return k, to, nil
}

// Hello is the installer's first word. It may be said again while nothing is claimed.
func (s *Store) Hello(ctx context.Context, token string, h Hello) (Instruction, error) {
	mac, err := ParseMAC(h.MAC)
	if err != nil {
		return Instruction{}, err
	}
	inventory := h.Inventory.bounded()
	s.mu.Lock()
	k, to, err := s.once(token, verbHello)
	if err == nil {
		switch {
		case k.MAC != "" && mac != k.MAC:
			err = refuse(ErrConflict, "this token was given to %s at %s, not to %s", k.key, k.MAC, mac)
		case !slices.Contains(k.def.MACs, mac):
			err = refuse(ErrConflict, "this token is for %s, which has no card %s", k.key, mac)
		}
	}
	if err != nil {
		s.mu.Unlock()
		return Instruction{}, err
	}
	if k.State == Armed {
		k.Until = s.now().Add(s.tokenFor)
	}
	k.MAC, k.Greeted, k.Heard = mac, true, s.now()
	k.inventory = &inventory
	message := fmt.Sprintf("installer is up: %d cores, %s memory, %d disks, %s, %s", inventory.Cores, bytesText(inventory.Memory), len(inventory.Disks), inventory.Firmware, inventory.Arch)
	b := s.move(k, to, SourceInstaller, "hello", message)
	b.records[len(b.records)-1].Inventory = &inventory
	d := k.def
	in := Instruction{Machine: d.Name, DNSName: d.DNSName, Action: k.Action, Minimum: d.Minimum, Disk: d.Disk, Image: d.Image}
	s.mu.Unlock()
	return in, s.kept(ctx, b)
}

// Checks takes the installer's findings. One that is not met makes the machine Failed, with nothing written.
func (s *Store) Checks(ctx context.Context, token string, c Checks) error {
	if len(c.Checks) == 0 || len(c.Checks) > 256 {
		return refuse(ErrInvalid, "cannot take %d checks: report 1 to 256", len(c.Checks))
	}
	var unmet, names []string
	for _, check := range c.Checks {
		names = append(names, check.Name)
		if !check.OK {
			unmet = append(unmet, fmt.Sprintf("%s: wanted %s, found %s", check.Name, check.Wanted, check.Found))
		}
	}
	v := verbFit
	if len(unmet) > 0 {
		v = verbUnfit
	}
	s.mu.Lock()
	k, to, err := s.once(token, v)
	if err == nil && !k.Greeted {
		err = refuse(ErrConflict, "%s said no hello yet", k.key)
	}
	if err != nil {
		s.mu.Unlock()
		return err
	}
	k.Heard = s.now()
	var b *batch
	if len(unmet) > 0 {
		b = s.fail(k, v, SourceInstaller, "check", "nothing was written, its checks failed: "+strings.Join(unmet, "; "))
	} else {
		k.Fit = true
		b = s.move(k, to, SourceInstaller, "check", "checks passed: "+strings.Join(names, ", "))
	}
	s.mu.Unlock()
	return s.kept(ctx, b)
}

// Claim spends the one-time token. Its answer, and nothing else, allows the disk to be written. Run is the installer's
// own random word: with it, a claim whose answer was lost can be asked again as long as nothing else was heard.
func (s *Store) Claim(ctx context.Context, token string, c Claim) (Claimed, error) {
	s.mu.Lock()
	k, _, err := s.claimable(token, c)
	if err != nil {
		s.mu.Unlock()
		return Claimed{}, err
	}
	text, name := []byte(k.unwritten), k.key
	sum := k.sum
	s.mu.Unlock()

	// The definition is read before anything changes: a machine without its configuration must not be claimed.
	if text == nil {
		if text, err = os.ReadFile(definitionPath(s.dir, name)); err != nil {
			return Claimed{}, fmt.Errorf("cannot read the definition of %s: %w; apply the cluster file again", name, err)
		}
	}
	var d Definition
	if err := json.Unmarshal(text, &d); err != nil {
		return Claimed{}, fmt.Errorf("cannot read the definition of %s: %w; apply the cluster file again", name, err)
	}

	s.mu.Lock()
	k, v, err := s.claimable(token, c)
	if err == nil && k.sum != sum {
		err = refuse(ErrConflict, "the definition of %s changed just now; claim again", name)
	}
	if err != nil {
		s.mu.Unlock()
		return Claimed{}, err
	}
	to, _ := next(k.State, v, k.Before)
	delete(s.byToken, k.Session)
	delete(s.byToken, k.Ready)
	var out Claimed
	out.Session, k.Session = newToken(tokenSession)
	if k.Action == ActionInstall {
		out.Ready, k.Ready = newToken(tokenReady)
		out.Config, out.Files = d.Config, d.Files
	}
	s.indexTokens(k)
	k.Spent, k.Until, k.Heard = true, time.Time{}, s.now()
	if c.Run != "" {
		k.Run = digestOf(c.Run)
	}
	b := s.move(k, to, SourceInstaller, "claim", fmt.Sprintf("claims disk %s to %s it: from here on it is written", diskText(c.Disk), k.Action))
	s.mu.Unlock()
	if err := s.kept(ctx, b); err != nil {
		return Claimed{}, err
	}
	return out, nil
}

func (s *Store) claimable(token string, c Claim) (*known, verb, error) {
	k, to, err := s.once(token, verbClaim)
	if err != nil {
		k, kind, other := s.bearer(token)
		if other == nil && kind == tokenOnce && k.State == Installing && k.Stage == "" && c.Run != "" && k.Run.is(digestOf(c.Run)) {
			return k, verbReclaim, nil
		}
		return nil, "", err
	}
	if to == Installing && !k.Fit {
		return nil, "", refuse(ErrConflict, "%s cannot claim its disk before its checks passed", k.key)
	}
	return k, verbClaim, nil
}

// session checks a session token for a verb.
func (s *Store) session(token string, v verb) (*known, State, error) {
	k, kind, err := s.bearer(token)
	if err != nil {
		return nil, "", err
	}
	if kind == tokenOnce {
		return nil, "", refuse(ErrNoToken, "this token of %s is not the one that its claim gave", k.key)
	}
	if kind != tokenSession {
		return nil, "", refuse(ErrNoToken, "this token of %s is for the installed system, not for its installer", k.key)
	}
	to, ok := next(k.State, v, k.Before)
	if !ok {
		why := ""
		if k.Reason != "" {
			why = ": " + k.Reason
		}
		return nil, "", refuse(ErrConflict, "%s is %s%s; its installer has nothing more to report", k.key, k.State, why)
	}
	return k, to, nil
}

// Progress shows how far an installer is. It need not reach the disk: the next one says it again.
func (s *Store) Progress(_ context.Context, token string, p Progress) error {
	stage := oneLine(p.Stage, 40)
	if stage == "" {
		return refuse(ErrInvalid, "cannot take progress without a stage")
	}
	percent := min(max(p.Percent, 0), 100)
	s.mu.Lock()
	defer s.mu.Unlock()
	k, _, err := s.session(token, verbProgress)
	if err != nil {
		return err
	}
	same := k.Stage == stage && k.Percent == percent && p.Message == ""
	k.Stage, k.Percent, k.Heard = stage, percent, s.now()
	if same {
		return nil
	}
	message := fmt.Sprintf("%s, %d %%", stage, percent)
	if p.Message != "" {
		message += ": " + p.Message
	}
	if s.note(k, SourceInstaller, "progress", message, k.MAC) != nil {
		e := k.entry
		last := &s.pending.records[len(s.pending.records)-1]
		last.Entry, last.from = &e, e.State
	}
	return nil
}

// Installed ends an installation well; it may be said again. After a wipe the machine is Accepted.
func (s *Store) Installed(ctx context.Context, token string) error {
	s.mu.Lock()
	k, kind, err := s.bearer(token)
	if err == nil && kind == tokenSession && k.State == Accepted {
		s.mu.Unlock()
		return nil // wiped, and its answer was lost
	}
	v := verbInstalled
	if err == nil && k.Action == ActionWipe {
		v = verbWiped
	}
	k, to, err := s.session(token, v)
	if err != nil || k.State == to {
		s.mu.Unlock()
		return err
	}
	k.Percent, k.Heard = 100, s.now()
	message := "installed: its next boot is from disk"
	if v == verbWiped {
		message = "wiped: its disk holds nothing that boots"
	}
	b := s.move(k, to, SourceInstaller, string(v), message)
	s.mu.Unlock()
	return s.kept(ctx, b)
}

// Failed ends an installation badly; the one-time token says it before the claim, the session token after it.
func (s *Store) Failed(ctx context.Context, token string, f Failure) error {
	s.mu.Lock()
	k, kind, err := s.bearer(token)
	if err == nil && kind == tokenReady {
		err = refuse(ErrNoToken, "this token of %s is for the installed system, not for its installer", k.key)
	}
	if err == nil {
		if _, ok := next(k.State, verbFailed, k.Before); !ok || kind == tokenOnce && k.State == Installing {
			err = refuse(ErrConflict, "%s is %s; it cannot fail by this", k.key, k.State)
		}
	}
	if err != nil {
		s.mu.Unlock()
		return err
	}
	reason := oneLine(f.Reason, maxMessage)
	if f.Stage != "" {
		reason = oneLine(f.Stage, 40) + ": " + reason
	}
	var b *batch
	if k.State == Failed {
		// The first reason is the cause; what follows is only told.
		b = s.note(k, SourceInstaller, "failed", "also: "+reason, k.MAC)
	} else {
		b = s.fail(k, verbFailed, SourceInstaller, "failed", reason)
	}
	s.mu.Unlock()
	if b == nil {
		return nil
	}
	return s.kept(ctx, b)
}

// Ready is the installed system's word that it runs from its disk; it may be said again.
func (s *Store) Ready(ctx context.Context, token string) error {
	s.mu.Lock()
	k, kind, err := s.bearer(token)
	if err == nil && kind != tokenReady {
		err = refuse(ErrNoToken, "this token of %s is its installer's, not the installed system's", k.key)
	}
	if err != nil {
		s.mu.Unlock()
		return err
	}
	to, ok := next(k.State, verbReady, k.Before)
	if !ok {
		s.mu.Unlock()
		return refuse(ErrConflict, "%s is %s; its installed system has nothing to report", k.key, k.State)
	}
	if k.State == Ready {
		s.mu.Unlock()
		return nil
	}
	message := "ready: it runs from its disk"
	if k.State == Failed {
		message = "ready: it runs from its disk after all; it had failed: " + k.Reason
	}
	k.Reason = ""
	b := s.move(k, to, SourceInstaller, "ready", message)
	s.mu.Unlock()
	return s.kept(ctx, b)
}
