package firewall

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/introspect"
	"github.com/google/go-cmp/cmp"

	"github.com/tectonic-worker/tectonic-worker/firewall/firewalldtest"
)

// A change that is made but whose reply is lost is found out by asking again, whichever way the reply is lost.
func TestLostReply(t *testing.T) {
	t.Parallel()
	for _, layer := range Layers() {
		t.Run("deadline "+string(layer), func(t *testing.T) {
			t.Parallel()
			d := startDouble(t, firewalldtest.StartBus(t, firewalldtest.BusConfig{}))
			_, c := connect(t, d.bus)
			d.during(nil, func() bool { return false })
			ctx, done := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer done()
			if got := open(t, ctx, c, layer, "public", kubelet); !got.Changed() {
				t.Errorf("Open = %+v, but the port was opened", got)
			}
			ctx, done = context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer done()
			if got := shut(t, ctx, c, layer, "public", kubelet); !got.Changed() {
				t.Errorf("Shut = %+v, but the port was shut", got)
			}
		})
		t.Run("NoReply of the broker "+string(layer), func(t *testing.T) {
			t.Parallel()
			d := startDouble(t, firewalldtest.StartBus(t, firewalldtest.BusConfig{ReplyTimeout: 300}))
			ctx, c := connect(t, d.bus)
			d.during(nil, func() bool { return false })
			if got := open(t, ctx, c, layer, "public", kubelet); !got.Changed() {
				t.Errorf("Open = %+v, but the port was opened", got)
			}
		})
		t.Run("the broker dies "+string(layer), func(t *testing.T) {
			t.Parallel()
			d := startDouble(t, firewalldtest.StartBus(t, firewalldtest.BusConfig{}))
			ctx, c := connect(t, d.bus)
			d.during(nil, func() bool {
				d.bus.Restart()
				d.serve()
				return true
			})
			if got := open(t, ctx, c, layer, "public", kubelet); !got.Changed() {
				t.Errorf("Open = %+v, but the port was opened", got)
			}
		})
	}
}

// A change that is not made and gets no reply either is reported as not made.
func TestLostRequest(t *testing.T) {
	t.Parallel()
	d := startDouble(t, firewalldtest.StartBus(t, firewalldtest.BusConfig{}))
	_, c := connect(t, d.bus)
	d.during(func() *dbus.Error {
		<-t.Context().Done()
		return exception("UNKNOWN_ERROR")
	}, nil)
	ctx, done := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer done()
	got, err := c.Open(ctx, Runtime, "public", kubelet)
	sentence(t, err, ErrNoAnswer, "and the change was not made")
	if got.Changed() || errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("Open = %+v, %v", got, err)
	}
}

// The words of old releases, and of two things that happen at once between our question and our change.
func TestErrorTexts(t *testing.T) {
	t.Parallel()
	d := startDouble(t, firewalldtest.StartBus(t, firewalldtest.BusConfig{}))
	ctx, c := connect(t, d.bus)
	for _, row := range []struct {
		name string
		err  *dbus.Error
		is   error // nil: success without a change
		text string
	}{
		{"already, runtime 0.4", exception("ALREADY_ENABLED: '10250:tcp' already in 'public'"), nil, ""},
		{"already, permanent", exception("ALREADY_ENABLED: 10250:tcp"), nil, ""},
		{"bare code", exception("ALREADY_ENABLED"), nil, ""},
		{"panic, bare", exception("PANIC_MODE"), ErrPanic, "panic mode"},
		{"python-slip", dbus.NewError("org.fedoraproject.slip.dbus.service.PolKit.NotAuthorizedException.org.fedoraproject.FirewallD1.config", nil), ErrNotAuthorized, "refuses this user"},
		{"slip in the text", exception("org.fedoraproject.slip.dbus.service.PolKit.NotAuthorizedException.org.fedoraproject.FirewallD1.config: "), ErrNotAuthorized, "refuses this user"},
		{"polkit", dbus.NewError("org.freedesktop.PolicyKit1.Error.NotAuthorized", []any{"no agent"}), ErrNotAuthorized, "no agent"},
		{"polkit hung inside firewalld", dbus.NewError("org.freedesktop.DBus.Error.NoReply", []any{"Did not receive a reply"}), ErrNoAnswer, "and the change was not made"},
		{"python exception", exception("'NoneType' object has no attribute 'addPort'"), errOther, "firewalld reports: 'NoneType' object"},
		{"python exception with a colon", exception("KeyError: 'x'"), errOther, "firewalld reports: KeyError: 'x'"},
		{"command", exception("COMMAND_FAILED: 'python-nftables' failed: internal:0:0-0: Error: Could not process rule\nJSON blob:\n" + strings.Repeat("{}", 9999)), errOther,
			"firewalld could not change the packet filter: 'python-nftables' failed: internal:0:0-0: Error: Could not process rule …; see"},
		{"a code of the future", exception("FLUX_REVERSED: north"), errOther, "firewalld reports FLUX_REVERSED: north"},
		{"no such method", dbus.NewError("org.freedesktop.DBus.Error.UnknownMethod", []any{"no addPort"}), errOther, "firewalld 0.4.4 or newer is needed"},
		{"no text at all", dbus.NewError(errException, nil), errOther, "cannot open 10250/tcp in zone public: firewalld reports: "},
	} {
		d.during(func() *dbus.Error { return row.err }, nil)
		got, err := c.Open(ctx, Runtime, "public", kubelet)
		switch {
		case got.Changed():
			t.Errorf("%s: Open = %+v", row.name, got)
		case row.is == nil && err != nil:
			t.Errorf("%s: %v", row.name, err)
		case row.is == errOther:
			var e *Error
			if !errors.As(err, &e) || !strings.Contains(err.Error(), row.text) || len(err.Error()) > 700 {
				t.Errorf("%s: %v, want %q", row.name, err, row.text)
			}
		case row.is != nil && (!errors.Is(err, row.is) || !strings.Contains(err.Error(), row.text)):
			t.Errorf("%s: %v, want %v with %q", row.name, err, row.is, row.text)
		}
	}
}

var errOther = errors.New("an error without a sentinel")

// Why firewalld is absent comes from systemd, and every reason has its sentence.
func TestAbsence(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		load, active string
		is           Presence
		note         string
	}{
		{"not-found", "inactive", NotInstalled, "firewalld is not installed; set FIREWALL=leave"},
		{"masked", "inactive", Masked, "firewalld is masked, so it is not meant to run here; set FIREWALL=leave"},
		{"loaded", "inactive", Stopped, `firewalld is installed but not running; run "systemctl enable --now firewalld"`},
		{"loaded", "failed", Failed, `firewalld failed to start; see "journalctl -u firewalld"`},
		{"loaded", "activating", Starting, "firewalld is still starting; try again"},
		{"loaded", "active", Starting, "firewalld is still starting; try again"},
	} {
		t.Run(row.load+" "+row.active, func(t *testing.T) {
			t.Parallel()
			bus := firewalldtest.StartBus(t, firewalldtest.BusConfig{})
			startUnits(t, bus, row.load, row.active)
			ctx, c := connect(t, bus)
			state, err := c.State(ctx)
			if diff := cmp.Diff(State{Presence: row.is}, state); diff != "" || err != nil {
				t.Errorf("State: %v (-want +got):\n%s", err, diff)
			}
			if !strings.HasPrefix(state.Note(), row.note) {
				t.Errorf("Note = %q, want %q", state.Note(), row.note)
			}
			if state.Serves() {
				t.Error("it serves")
			}
			_, err = c.Open(ctx, Permanent, "public", kubelet)
			sentence(t, err, ErrNotRunning, "cannot open 10250/tcp in zone public permanently: "+row.note)
		})
	}
}

// A real firewalld asks polkit before a change, and polkit says no to everybody.
func TestPolkit(t *testing.T) {
	t.Parallel()
	bus := firewalldtest.StartBus(t, firewalldtest.BusConfig{})
	conn, err := dbus.Connect(bus.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	type subject struct {
		Kind    string
		Details map[string]dbus.Variant
	}
	type result struct {
		Authorized, Challenge bool
		Details               map[string]string
	}
	err = conn.ExportMethodTable(map[string]any{
		"CheckAuthorization": func(_ subject, action string, _ map[string]string, _ uint32, _ string) (result, *dbus.Error) {
			return result{Authorized: action != "org.fedoraproject.FirewallD1.config"}, nil
		},
	}, "/org/freedesktop/PolicyKit1/Authority", "org.freedesktop.PolicyKit1.Authority")
	if err != nil {
		t.Fatal(err)
	}
	err = conn.Export(introspect.Introspectable(`<node><interface name="org.freedesktop.PolicyKit1.Authority">
		<method name="CheckAuthorization"><arg type="(sa{sv})" direction="in"/><arg type="s" direction="in"/>
		<arg type="a{ss}" direction="in"/><arg type="u" direction="in"/><arg type="s" direction="in"/>
		<arg type="(bba{ss})" direction="out"/></method></interface></node>`),
		"/org/freedesktop/PolicyKit1/Authority", "org.freedesktop.DBus.Introspectable")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.RequestName("org.freedesktop.PolicyKit1", dbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}
	f := firewalldtest.Start(t, bus)
	ctx, c := connect(t, bus)
	state, err := c.State(ctx)
	if state.Presence != Running || !errors.Is(err, ErrNotAuthorized) {
		t.Errorf("State = %+v, %v", state, err)
	}
	_, err = c.Open(ctx, Runtime, "public", kubelet)
	sentence(t, err, ErrNotAuthorized, "firewalld refuses this user (Not Authorized(polkit): org.fedoraproject.FirewallD1.config); run as root; if it was root, look at polkit's rules")
	want(t, f, Runtime, "public")
}
