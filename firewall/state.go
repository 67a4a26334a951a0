package firewall

import (
	"context"

	"github.com/godbus/dbus/v5"
)

// Presence says whether there is a firewalld to talk to.
type Presence string

const (
	Running      Presence = "running"
	Starting     Presence = "starting"      // it has its name or its unit is active, but it does not serve yet
	Failed       Presence = "failed"        // it runs, but could not load its configuration; or its unit failed
	Stopped      Presence = "stopped"       // installed, not running
	Masked       Presence = "masked"        // installed, and an administrator forbids it to run
	NotInstalled Presence = "not-installed" // systemd knows no firewalld.service
)

// State is what can be said about firewalld as a whole. Version, Panic and DefaultZone are known only when Presence is
// Running or Failed.
type State struct {
	Presence    Presence
	Version     string
	Panic       bool
	DefaultZone string
}

// Serves tells whether firewalld answers calls, so that ports can be asked for.
func (s State) Serves() bool { return s.Presence == Running || s.Version != "" }

// Note is what an operator should know about this state, as a sentence; empty where all is well.
func (s State) Note() string {
	why, remedy := s.sentence()
	if why == "" || remedy == "" {
		return why
	}
	return why + "; " + remedy
}

const leaveAlone = "set FIREWALL=leave in /etc/sysconfig/tectonic-worker where something else filters packets"

func (s State) sentence() (why, remedy string) {
	switch s.Presence {
	case Stopped:
		return "firewalld is installed but not running", `run "systemctl enable --now firewalld", or ` + leaveAlone
	case Masked:
		return "firewalld is masked, so it is not meant to run here", leaveAlone + `, or run "systemctl unmask firewalld"`
	case NotInstalled:
		return "firewalld is not installed", leaveAlone
	case Starting:
		return "firewalld is still starting", "try again in a moment"
	case Failed:
		if s.Version == "" {
			return "firewalld failed to start", `see "journalctl -u firewalld", then run "systemctl restart firewalld"`
		}
		return "firewalld runs but could not load its configuration",
			`run "firewall-cmd --check-config", correct what it names, then run "systemctl restart firewalld"`
	}
	if s.Panic {
		return explain(CodePanic, "")
	}
	return "", ""
}

// State looks at firewalld and, where it is absent, asks systemd why. An absent firewalld is a state, not an error; an
// error means that the bus is gone, that firewalld does not answer, or that it refuses us; in the last case the state
// still says Running, and no more.
func (c *Client) State(ctx context.Context) (State, error) {
	var owned bool
	if err := c.ask(ctx, ifaceBus, "/org/freedesktop/DBus", ifaceBus+".NameHasOwner", &owned, busName); err != nil {
		return State{}, newError("read the state of firewalld", "", "", Port{}, err)
	}
	if !owned {
		return State{Presence: c.absence(ctx)}, nil
	}
	var s State
	var version, state dbus.Variant
	var err error
	for _, question := range []struct {
		method string
		out    any
		args   []any
	}{
		{ifaceProperties + ".Get", &state, []any{ifaceMain, "state"}},
		{ifaceProperties + ".Get", &version, []any{ifaceMain, "version"}},
		{ifaceMain + ".queryPanicMode", &s.Panic, nil},
		{ifaceMain + ".getDefaultZone", &s.DefaultZone, nil},
	} {
		if err = c.ask(ctx, busName, objectPath, question.method, question.out, question.args...); err != nil {
			break
		}
	}
	if err != nil {
		e := newError("read the state of firewalld", "", "", Port{}, err)
		switch e.Code {
		case CodeNotRunning: // it went while we asked
			return State{Presence: c.absence(ctx)}, nil
		case CodeUnsupported: // it has the name but not yet its objects
			return State{Presence: Starting}, nil
		case CodeNotAuthorized:
			return State{Presence: Running}, e
		}
		return State{}, e
	}
	s.Version, _ = version.Value().(string)
	switch word, _ := state.Value().(string); word {
	case "FAILED":
		s.Presence = Failed
	case "INIT":
		s.Presence = Starting
	default:
		s.Presence = Running
	}
	return s, nil
}

const (
	systemdName    = "org.freedesktop.systemd1"
	systemdPath    = dbus.ObjectPath("/org/freedesktop/systemd1")
	systemdManager = systemdName + ".Manager"
	systemdUnit    = systemdName + ".Unit"
)

// absence asks systemd why firewalld has no name on the bus. Where systemd itself cannot be asked (a container without
// it), nothing better than Stopped is known.
func (c *Client) absence(ctx context.Context) Presence {
	if ctx.Err() != nil { // the sentence is wanted even when the caller's time is over
		var done context.CancelFunc
		ctx, done = context.WithTimeout(context.WithoutCancel(ctx), requeryTimeout)
		defer done()
	}
	var unit dbus.ObjectPath
	if err := c.ask(ctx, systemdName, systemdPath, systemdManager+".LoadUnit", &unit, "firewalld.service"); err != nil {
		return Stopped
	}
	property := func(name string) string {
		var v dbus.Variant
		if err := c.ask(ctx, systemdName, unit, ifaceProperties+".Get", &v, systemdUnit, name); err != nil {
			return ""
		}
		s, _ := v.Value().(string)
		return s
	}
	switch property("LoadState") {
	case "not-found":
		return NotInstalled
	case "masked":
		return Masked
	}
	switch property("ActiveState") {
	case "failed":
		return Failed
	case "active", "activating", "reloading": // since 2.5 the unit may be active before the name is there
		return Starting
	}
	return Stopped
}
