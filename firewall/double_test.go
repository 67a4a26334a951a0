package firewall

import (
	"fmt"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"

	"github.com/tectonic-worker/tectonic-worker/firewall/firewalldtest"
)

// double stands for a firewalld in situations the real one cannot be brought into: it speaks with the words of old
// releases, and loses replies. It is strict: a method or a signature that firewalld has not is refused by godbus, as
// firewalld refuses it. It knows one zone, public, and literal port entries (as 0.4 to 0.8 do).
type double struct {
	t    *testing.T
	bus  *firewalldtest.Bus
	conn *dbus.Conn

	mu    sync.Mutex
	ports map[Layer]map[Port]bool
	// before runs in front of each change; an error is the reply, and the change is not made. after runs behind each
	// change; false means that no reply is sent. See during.
	before func() *dbus.Error
	after  func() bool
	calls  sync.WaitGroup
}

func startDouble(t *testing.T, bus *firewalldtest.Bus) *double {
	t.Helper()
	d := &double{t: t, bus: bus, ports: map[Layer]map[Port]bool{Runtime: {}, Permanent: {}}}
	d.during(nil, nil)
	d.serve()
	t.Cleanup(func() {
		d.mu.Lock()
		conn := d.conn
		d.mu.Unlock()
		d.calls.Wait()
		conn.Close()
	})
	return d
}

// during says what happens in front of and behind each change from now on; nil is nothing special.
func (d *double) during(before func() *dbus.Error, after func() bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.before = func() *dbus.Error { return nil }
	if before != nil {
		d.before = before
	}
	d.after = func() bool { return true }
	if after != nil {
		d.after = after
	}
}

// serve connects the double to its bus, as a firewalld that starts; what it knows, it keeps.
func (d *double) serve() {
	d.t.Helper()
	conn, err := dbus.Connect(d.bus.Address)
	if err != nil {
		d.t.Fatal(err)
	}
	d.mu.Lock()
	d.conn = conn
	d.mu.Unlock()
	const zonePath = configPath + "/zone/7"
	for _, export := range []struct {
		methods map[string]any
		path    dbus.ObjectPath
		iface   string
	}{
		{map[string]any{"getDefaultZone": func() (string, *dbus.Error) { return "public", nil }}, objectPath, ifaceMain},
		{map[string]any{
			"addPort": func(zone, port, protocol string, timeout int32) (string, *dbus.Error) {
				return "public", d.change(Runtime, zone, Port{port, protocol}, true)
			},
			"removePort": func(zone, port, protocol string) (string, *dbus.Error) {
				return "public", d.change(Runtime, zone, Port{port, protocol}, false)
			},
			"queryPort": func(zone, port, protocol string) (bool, *dbus.Error) {
				return d.query(Runtime, Port{port, protocol}), nil
			},
			"getPorts": func(zone string) ([][]string, *dbus.Error) {
				var rows [][]string
				for _, p := range d.entries(Runtime) {
					rows = append(rows, []string{p.Port, p.Protocol})
				}
				return rows, nil
			},
		}, objectPath, ifaceZone},
		{map[string]any{"getZoneByName": func(zone string) (dbus.ObjectPath, *dbus.Error) {
			if zone != "public" {
				return "/", exception("INVALID_ZONE: " + zone)
			}
			return zonePath, nil
		}}, configPath, ifaceConfig},
		{map[string]any{
			"addPort": func(port, protocol string) *dbus.Error {
				return d.change(Permanent, "public", Port{port, protocol}, true)
			},
			"removePort": func(port, protocol string) *dbus.Error {
				return d.change(Permanent, "public", Port{port, protocol}, false)
			},
			"queryPort": func(port, protocol string) (bool, *dbus.Error) {
				return d.query(Permanent, Port{port, protocol}), nil
			},
			"getPorts": func() ([]Port, *dbus.Error) { return d.entries(Permanent), nil },
		}, zonePath, ifaceConfigZone},
	} {
		if err := conn.ExportMethodTable(export.methods, export.path, export.iface); err != nil {
			d.t.Fatal(err)
		}
	}
	if reply, err := conn.RequestName(busName, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		d.t.Fatalf("cannot own %s: %v, %v", busName, reply, err)
	}
}

func exception(text string) *dbus.Error { return dbus.NewError(errException, []any{text}) }

func (d *double) query(layer Layer, p Port) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ports[layer][p]
}

func (d *double) entries(layer Layer) []Port {
	d.mu.Lock()
	defer d.mu.Unlock()
	var entries []Port
	for p := range d.ports[layer] {
		entries = append(entries, p)
	}
	return entries
}

func (d *double) change(layer Layer, zone string, p Port, add bool) *dbus.Error {
	if zone != "public" {
		return exception("INVALID_ZONE: " + zone)
	}
	d.mu.Lock()
	d.calls.Add(1)
	defer d.calls.Done()
	before, after := d.before, d.after
	d.mu.Unlock()
	if err := before(); err != nil {
		return err
	}
	d.mu.Lock()
	has := d.ports[layer][p]
	if add {
		d.ports[layer][p] = true
	} else {
		delete(d.ports[layer], p)
	}
	d.mu.Unlock()
	if !after() {
		<-d.t.Context().Done() // no reply, as long as anybody listens
	}
	switch {
	case add && has:
		return exception(fmt.Sprintf("ALREADY_ENABLED: %s:%s", p.Port, p.Protocol))
	case !add && !has:
		return exception(fmt.Sprintf("NOT_ENABLED: %s:%s", p.Port, p.Protocol))
	}
	return nil
}

// units is a stand-in for systemd on a private bus. It knows one unit and answers only what absence asks.
func startUnits(t *testing.T, bus *firewalldtest.Bus, load, active string) {
	t.Helper()
	conn, err := dbus.Connect(bus.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	const unit = dbus.ObjectPath("/org/freedesktop/systemd1/unit/firewalld_2eservice")
	manager := map[string]any{"LoadUnit": func(name string) (dbus.ObjectPath, *dbus.Error) {
		if name != "firewalld.service" {
			return "/", dbus.MakeFailedError(fmt.Errorf("unit %s was not expected", name))
		}
		return unit, nil
	}}
	properties := map[string]any{"Get": func(iface, name string) (dbus.Variant, *dbus.Error) {
		values := map[string]string{"LoadState": load, "ActiveState": active}
		if iface != systemdUnit || values[name] == "" {
			return dbus.Variant{}, dbus.MakeFailedError(fmt.Errorf("no property %s.%s", iface, name))
		}
		return dbus.MakeVariant(values[name]), nil
	}}
	for _, err := range []error{
		conn.ExportMethodTable(manager, systemdPath, systemdManager),
		conn.ExportMethodTable(properties, unit, ifaceProperties),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if reply, err := conn.RequestName(systemdName, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("cannot own %s: %v, %v", systemdName, reply, err)
	}
}
