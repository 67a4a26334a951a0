package firewall

import (
	"context"
	"errors"
	"time"

	"github.com/godbus/dbus/v5"
)

// Change is what Open or Shut did.
type Change struct {
	// Zone is the zone that firewalld used: the default zone's name where none was given. Record it.
	Zone string
	// Ports is what was added or removed. Mostly it is the port that was asked for, or nothing. Opening a range of which a
	// part was open before adds only the rest, so there it is what to give to Shut one day. On an error it holds what was
	// changed before the error.
	Ports []Port
	// Inside is set by Shut where nothing was removed because the port lies inside this wider entry, which is not ours.
	Inside Port
}

// Changed tells whether anything was added or removed.
func (c Change) Changed() bool { return len(c.Ports) > 0 }

// place is one layer of one zone, as the target of calls. The path of a zone's permanent configuration changes when
// firewalld reloads, so a place is used for one operation and not kept.
type place struct {
	layer Layer
	zone  string
	path  dbus.ObjectPath
}

// locate finds a place. The empty zone becomes the default zone's name: what is recorded must still be right after
// somebody changes the default.
func (c *Client) locate(ctx context.Context, op string, layer Layer, zone string, port Port) (place, error) {
	if zone == "" {
		var err error
		if zone, err = c.DefaultZone(ctx); err != nil {
			return place{}, err
		}
	}
	at := place{layer, zone, objectPath}
	if layer == Permanent {
		if err := c.ask(ctx, busName, configPath, ifaceConfig+".getZoneByName", &at.path, zone); err != nil {
			return at, c.fail(ctx, op, layer, zone, port, err)
		}
	}
	return at, nil
}

// Query tells whether a port is open in one layer of a zone: by an entry of its own or inside a range. A range is open
// where every port of it is.
func (c *Client) Query(ctx context.Context, layer Layer, zone string, port Port) (bool, error) {
	if _, err := port.check(); err != nil {
		return false, invalidPort("query", layer, zone, port, err)
	}
	at, err := c.locate(ctx, "query", layer, zone, port)
	if err != nil {
		return false, err
	}
	open, err := c.query(ctx, at, port)
	if err != nil {
		return false, c.fail(ctx, "query", layer, at.zone, port, err)
	}
	return open, nil
}

func (c *Client) query(ctx context.Context, at place, port Port) (bool, error) {
	want, err := port.span()
	if err != nil {
		return false, err
	}
	var open bool
	if at.layer == Permanent {
		err = c.ask(ctx, busName, at.path, ifaceConfigZone+".queryPort", &open, port.Port, port.Protocol)
	} else {
		err = c.ask(ctx, busName, at.path, ifaceZone+".queryPort", &open, at.zone, port.Port, port.Protocol)
	}
	if err != nil || open || want.lo == want.hi {
		return open, err
	}
	// firewalld looks for one entry that holds the whole range; neighbours that cover it together do as well.
	entries, err := c.entries(ctx, at)
	return err == nil && len(gaps(want, spansOf(entries, port.Protocol))) == 0, err
}

// Ports gives the entries of one layer of a zone, as firewalld keeps them.
func (c *Client) Ports(ctx context.Context, layer Layer, zone string) ([]Port, error) {
	at, err := c.locate(ctx, "list the ports", layer, zone, Port{})
	if err != nil {
		return nil, err
	}
	entries, err := c.entries(ctx, at)
	if err != nil {
		return nil, c.fail(ctx, "list the ports", layer, at.zone, Port{}, err)
	}
	return entries, nil
}

func (c *Client) entries(ctx context.Context, at place) ([]Port, error) {
	if at.layer == Permanent {
		var entries []Port
		err := c.ask(ctx, busName, at.path, ifaceConfigZone+".getPorts", &entries)
		return entries, err
	}
	var rows [][]string
	if err := c.ask(ctx, busName, at.path, ifaceZone+".getPorts", &rows, at.zone); err != nil {
		return nil, err
	}
	var entries []Port
	for _, row := range rows {
		if len(row) == 2 {
			entries = append(entries, Port{row[0], row[1]})
		}
	}
	return entries, nil
}

// Open opens a port in one layer of a zone; the empty zone is the default zone. Where it is open already, by an entry of
// its own or inside somebody's range, nothing changes and nothing is ours. Calling it twice is free.
//
// When no reply comes in time, Open asks what became of the change, and reports that. Only when this has no answer
// either is the error an ErrUnknownOutcome: the port was not open before, and may or may not be open later.
func (c *Client) Open(ctx context.Context, layer Layer, zone string, port Port) (Change, error) {
	want, err := port.check()
	if err != nil {
		return Change{}, invalidPort("open", layer, zone, port, err)
	}
	at, err := c.locate(ctx, "open", layer, zone, port)
	done := Change{Zone: at.zone}
	if err != nil {
		return done, err
	}
	open, err := c.query(ctx, at, port)
	if err != nil {
		return done, c.fail(ctx, "open", layer, at.zone, port, err)
	}
	if open {
		return done, nil
	}
	missing := []span{want}
	if want.lo != want.hi {
		// From 0.9 on firewalld melts overlapping entries into one, and nobody could tell the administrator's part from
		// ours again. So only what is missing is added, beside what is there.
		entries, err := c.entries(ctx, at)
		if err != nil {
			return done, c.fail(ctx, "open", layer, at.zone, port, err)
		}
		missing = gaps(want, spansOf(entries, port.Protocol))
	}
	for _, m := range missing {
		part := m.port(port.Protocol)
		added, err := c.change(ctx, "open", at, part)
		if added {
			done.Ports = append(done.Ports, part)
		}
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// Add is Open for a caller that has just asked Query and was told no: it saves asking firewalld, whose answers take longer
// than all the rest, once more. Where somebody opened the port in between, nothing is ours.
func (c *Client) Add(ctx context.Context, layer Layer, zone string, port Port) (Change, error) {
	want, err := port.check()
	if err != nil {
		return Change{}, invalidPort("open", layer, zone, port, err)
	}
	if want.lo != want.hi {
		return c.Open(ctx, layer, zone, port) // of a range, a part may be open
	}
	at, err := c.locate(ctx, "open", layer, zone, port)
	done := Change{Zone: at.zone}
	if err != nil {
		return done, err
	}
	added, err := c.change(ctx, "open", at, port)
	if added {
		done.Ports = []Port{port}
	}
	return done, err
}

// Shut removes an entry that Open or Add added. What is not there needs no removing. Where the port lies inside a wider entry,
// an administrator opened that range, and removing the port would make firewalld 0.9 and newer cut a hole into it: the
// range stays whole and Change.Inside names it. A range of ours from which somebody removed a part loses the parts that are left.
func (c *Client) Shut(ctx context.Context, layer Layer, zone string, port Port) (Change, error) {
	ours, err := port.check()
	if err != nil {
		return Change{}, invalidPort("shut", layer, zone, port, err)
	}
	at, err := c.locate(ctx, "shut", layer, zone, port)
	done := Change{Zone: at.zone}
	if err != nil {
		return done, err
	}
	entries, err := c.entries(ctx, at)
	if err != nil {
		return done, c.fail(ctx, "shut", layer, at.zone, port, err)
	}
	spans := spansOf(entries, port.Protocol)
	for _, s := range spans {
		if s.overlaps(ours) && !ours.contains(s) {
			done.Inside = s.port(port.Protocol)
			return done, nil
		}
	}
	for _, s := range spans {
		if !ours.contains(s) {
			continue
		}
		part := s.port(port.Protocol)
		removed, err := c.change(ctx, "shut", at, part)
		if removed {
			done.Ports = append(done.Ports, part)
		}
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// change adds or removes one entry, which was seen to be missing or present.
func (c *Client) change(ctx context.Context, op string, at place, port Port) (changed bool, err error) {
	verb := ".addPort"
	if op == "shut" {
		verb = ".removePort"
	}
	method, args := ifaceZone+verb, []any{at.zone, port.Port, port.Protocol}
	switch {
	case at.layer == Permanent:
		method, args = ifaceConfigZone+verb, []any{port.Port, port.Protocol}
	case op == "open":
		args = append(args, int32(0)) // seconds until firewalld removes it again; 0 is never
	}
	err = c.call(ctx, changeTimeout, busName, at.path, method, nil, args...)
	if err == nil {
		return true, nil
	}
	var unsent *Error // the bus could not be reached
	if !errors.As(err, &unsent) {
		switch code, _ := classify(err); code {
		case CodeAlreadyEnabled, CodeNotEnabled:
			return false, nil // somebody else was faster
		case CodeNoAnswer:
			return c.outcome(ctx, op, at, port, err)
		}
	}
	return false, c.fail(ctx, op, at.layer, at.zone, port, err)
}

// outcome finds out what became of a change that got no reply.
//
// It uses the connection the change went out on while that lives: the bus keeps the order of messages from one sender,
// so an answer to this question comes after the change was done or refused. On a broken connection a new one is opened,
// and a bus or a firewalld that is just being restarted is waited for.
func (c *Client) outcome(ctx context.Context, op string, at place, port Port, cause error) (bool, error) {
	again, done := context.WithTimeout(context.WithoutCancel(ctx), requeryTimeout)
	defer done()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	e := newError(op, at.layer, at.zone, port, cause)
	for {
		open, err := c.Query(again, at.layer, at.zone, port)
		why := &Error{}
		errors.As(err, &why)
		switch {
		case err == nil && open == (op == "open"):
			return true, nil
		case err == nil:
			e.Message += ", and the change was not made"
			return false, e
		case why.Code == CodeNoBus, why.Code == CodeNotRunning, why.Code == CodeUnsupported:
			select { // nothing tells when a bus comes back
			case <-tick.C:
				continue
			case <-again.Done():
			}
		}
		e.Code = CodeUnknownOutcome
		e.Message += ", and it is not known whether the change was made"
		return false, e
	}
}
