package agent

import (
	"context"
	"fmt"
	"strings"
)

// Kinds of a unit's two states: whether it starts at boot, and whether it runs.
const (
	KindEnabled Kind = "unit-enabled"
	KindStarted Kind = "unit-started"
)

// unitState is what the ledger keeps: the answer of systemd before us.
type unitState struct {
	On bool `json:"on"`
}

// enabled wants a unit to start at boot.
type enabled struct {
	units Units
	name  string
}

func (u *enabled) Key() Key { return Key{KindEnabled, u.name} }

func (u *enabled) Check(ctx context.Context) (Finding, error) {
	st, err := u.units.Unit(ctx, u.name)
	if err != nil {
		return Finding{}, err
	}
	if err := usable(st.Name, st.Load); err != nil {
		return Finding{}, err
	}
	f := Finding{OK: st.Enabled(), Evidence: u.name + " enabled", Before: unitState{st.Enabled()}, After: unitState{true}}
	if !f.OK {
		f.Diff = "enable " + u.name + "\n"
	}
	return f, nil
}

func (u *enabled) Apply(ctx context.Context) (Applied, error) {
	return Applied{Changed: true}, u.units.Enable(ctx, u.name)
}

// started wants a unit to run. A service is also restarted, once, where what
// it reads at its start has changed.
type started struct {
	units   Units
	name    string
	restart *bool // set by the steps before: something it reads was changed
}

func (u *started) Key() Key { return Key{KindStarted, u.name} }

func (u *started) Check(ctx context.Context) (Finding, error) {
	st, err := u.units.Unit(ctx, u.name)
	if err != nil {
		return Finding{}, err
	}
	if err := usable(st.Name, st.Load); err != nil {
		return Finding{}, err
	}
	again := st.Running() && u.restart != nil && *u.restart
	// One between two of its starts was on before us, if badly: putting back
	// must not stop it.
	on := st.Running() || st.Active == "activating"
	f := Finding{OK: st.Running() && !again, Evidence: u.name + " running", Before: unitState{on}, After: unitState{true}}
	switch {
	case again:
		f.Diff = "restart " + u.name + ": what it reads at its start changed\n"
	case !f.OK:
		f.Diff = "start " + u.name + "\n"
	}
	return f, nil
}

func (u *started) Apply(ctx context.Context) (Applied, error) {
	st, err := u.units.Unit(ctx, u.name)
	if err != nil {
		return Applied{}, err
	}
	if st.Running() {
		return Applied{Changed: true}, u.units.Restart(ctx, u.name)
	}
	return Applied{Changed: true}, u.units.Start(ctx, u.name)
}

// usable refuses a unit that systemd could not start, with the remedy.
func usable(name, load string) error {
	switch load {
	case "loaded":
		return nil
	case "masked":
		return fmt.Errorf("cannot use %s: it is masked; run \"systemctl unmask %s\", then try again", name, name)
	case "not-found":
		return fmt.Errorf("cannot use %s: systemd knows no such unit; install the tectonic-worker package again (dnf reinstall tectonic-worker)", name)
	default:
		return fmt.Errorf("cannot use %s: systemd says its file is %q; look at it with \"systemctl cat %s\"", name, load, name)
	}
}

// restoreUnit stops or disables a unit that was neither running nor enabled
// before us.
func restoreUnit(ctx context.Context, units Units, e Entry) (string, error) {
	var before, after unitState
	if err := decode(e, &before, &after); err != nil {
		return "", err
	}
	if before.On {
		return "was on before us", nil
	}
	st, err := units.Unit(ctx, e.Name)
	if err != nil {
		return "", err
	}
	if st.Load == "not-found" {
		return "is gone already", nil
	}
	if e.Kind == KindEnabled {
		return "disabled", units.Disable(ctx, e.Name)
	}
	if strings.HasSuffix(e.Name, ".service") && st.Active == "inactive" {
		return "was stopped already", nil
	}
	return "stopped", units.Stop(ctx, e.Name)
}
