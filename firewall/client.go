package firewall

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

// How long a call may take when the caller's context does not end it earlier.
const (
	// changeTimeout: calls queue behind a reload, and reloads of large rule sets were seen to take more than a minute.
	changeTimeout = 90 * time.Second
	// queryTimeout is for calls that change nothing.
	queryTimeout = 20 * time.Second
	// requeryTimeout is how long, after a change with an unknown outcome, we try to learn what became of it. It is spent
	// even when the caller's own deadline has passed, because the ledger needs the answer.
	requeryTimeout = 10 * time.Second
)

const (
	objectPath = dbus.ObjectPath("/org/fedoraproject/FirewallD1")
	configPath = dbus.ObjectPath("/org/fedoraproject/FirewallD1/config")

	ifaceMain       = busName
	ifaceZone       = busName + ".zone"
	ifaceConfig     = busName + ".config"
	ifaceConfigZone = busName + ".config.zone"

	ifaceBus        = "org.freedesktop.DBus"
	ifaceProperties = "org.freedesktop.DBus.Properties"
)

// Client talks to firewalld on one connection, which it opens again when the bus was restarted. It is safe for concurrent use.
type Client struct {
	address string

	mu   sync.Mutex
	conn *dbus.Conn
}

// Connect connects to the system bus: DBUS_SYSTEM_BUS_ADDRESS, else its usual place. It needs the bus, not firewalld.
// The error is an ErrNoBus.
func Connect(ctx context.Context) (*Client, error) {
	return Dial(ctx, os.Getenv("DBUS_SYSTEM_BUS_ADDRESS"))
}

// Dial connects to the bus at a D-Bus address ("unix:path=/run/dbus/system_bus_socket"); the empty address is the system bus.
func Dial(ctx context.Context, address string) (*Client, error) {
	c := &Client{address: address}
	if _, err := c.live(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// Close ends the connection.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return nil
	}
	conn := c.conn
	c.conn = nil
	if err := conn.Close(); err != nil && conn.Connected() {
		return err
	}
	return nil
}

// live gives a connection that was alive a moment ago.
func (c *Client) live(ctx context.Context) (*dbus.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil && c.conn.Connected() {
		return c.conn, nil
	}
	conn, err := dial(ctx, c.address)
	if err != nil {
		return nil, busError(c.address, err)
	}
	c.conn = conn
	return conn, nil
}

// dial connects within the context. godbus takes no context for the handshake, and a broker that accepts but never
// speaks would hold it for ever; ending the connection's own context ends the handshake.
func dial(ctx context.Context, address string, options ...dbus.ConnOption) (*dbus.Conn, error) {
	ctx, done := context.WithTimeout(ctx, queryTimeout)
	defer done()
	life, end := context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, end)
	options = append(options, dbus.WithContext(life))
	var conn *dbus.Conn
	var err error
	if address == "" {
		conn, err = dbus.ConnectSystemBus(options...)
	} else {
		conn, err = dbus.Connect(address, options...)
	}
	if err != nil {
		end()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	if !stop() { // the deadline passed in the last instant and took the connection with it
		_ = conn.Close()
		return nil, context.Cause(ctx)
	}
	return conn, nil
}

// call makes one call and stores the reply in out. Nothing is ever started by it: a stopped firewalld stays stopped.
func (c *Client) call(ctx context.Context, limit time.Duration, dest string, path dbus.ObjectPath, method string, out any, args ...any) error {
	ctx, done := context.WithTimeout(ctx, limit)
	defer done()
	conn, err := c.live(ctx)
	if err != nil {
		return err
	}
	call := conn.Object(dest, path).CallWithContext(ctx, method, dbus.FlagNoAutoStart, args...)
	if broken(call.Err) {
		c.drop(conn)
	}
	if call.Err != nil || out == nil {
		return call.Err
	}
	return call.Store(out)
}

// ask is call for what changes nothing: a connection that broke under it is opened again, once.
func (c *Client) ask(ctx context.Context, dest string, path dbus.ObjectPath, method string, out any, args ...any) error {
	err := c.call(ctx, queryTimeout, dest, path, method, out, args...)
	if broken(err) && ctx.Err() == nil {
		err = c.call(ctx, queryTimeout, dest, path, method, out, args...)
	}
	return err
}

// broken tells whether the connection ended before the reply came: the error is neither a reply nor a deadline.
func broken(err error) bool {
	var reply dbus.Error
	var ours *Error
	switch {
	case err == nil, errors.As(err, &ours), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return false
	case errors.As(err, &reply):
		return reply.Name == errBus+"Disconnected"
	}
	return true
}

// drop forgets a connection that broke. godbus itself notices only when it next reads from it.
func (c *Client) drop(conn *dbus.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == conn {
		c.conn = nil
	}
	_ = conn.Close()
}

// fail is newError, and where firewalld is absent it asks systemd why, so that stopped, masked and not installed are
// three different sentences.
func (c *Client) fail(ctx context.Context, op string, layer Layer, zone string, port Port, err error) error {
	e := newError(op, layer, zone, port, err)
	switch {
	case e.Code == CodeNotRunning:
		absent := State{Presence: c.absence(ctx)}
		e.Message, e.Remedy = absent.sentence()
	case e.Code == CodePanic:
		e.Remedy += again(op)
	}
	return e
}

// again names the command that is to be repeated after a remedy.
func again(op string) string {
	if op == "shut" {
		return `, then "tectonic-worker leave" again`
	}
	return `, then "tectonic-worker join" again`
}
