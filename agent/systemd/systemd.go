// Package systemd runs jobs on units over systemd's own D-Bus API and tells
// systemd how we are (sd_notify). It waits for job results and property
// signals; it must not poll where one of them exists, and must not know which
// units there are.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// callTimeout bounds one call to PID 1 that is not a job. daemon-reload runs
// every generator on the host, which a busy machine takes seconds for.
const callTimeout = 60 * time.Second

// Conn is a connection to the system's PID 1.
type Conn struct {
	c   *dbus.Conn
	end context.CancelFunc
}

// ErrNoBus is a systemd that can't be reached.
var ErrNoBus = errors.New("cannot reach systemd over D-Bus")

// Connect reaches systemd, by the system bus or its private socket. ctx bounds
// the connecting; the connection lasts until Close.
func Connect(ctx context.Context) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	// go-systemd ends a connection with its context, and what a failed run did
	// is put back after its deadline.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, end)
	c, err := dbus.NewWithContext(life)
	if err == nil && !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		end()
		return nil, fmt.Errorf("%w: %v; is this host booted with systemd, and is dbus running (systemctl status dbus)?", ErrNoBus, err)
	}
	return &Conn{c, end}, nil
}

// Close ends the connection.
func (c *Conn) Close() {
	c.c.Close()
	c.end()
}

// State is what systemd says of a unit.
type State struct {
	Name      string
	Load      string // "loaded", "not-found", "masked", "bad-setting" …
	Active    string // "active", "activating", "inactive", "failed" …
	Sub       string // "running", "dead", "auto-restart" …
	File      string // UnitFileState: "enabled", "disabled", "static", "masked" …
	Fragment  string // where the unit file lies
	DropIns   []string
	Stale     bool // NeedDaemonReload: the file changed since systemd read it
	Condition bool // the last start's conditions held (true where it never started)

	// Of services only.
	MainPID    uint32
	ExitCode   int32  // of the main process's last run
	Result     string // "success", "exit-code", "signal", "start-limit-hit" …
	Restarts   uint32 // NRestarts; 0 before systemd 235, which does not count them
	StatusText string
	Started    time.Time // when the unit last became active
}

// Running tells whether the unit's process is up (or, of a path unit, whether
// it is watching).
func (s State) Running() bool { return s.Active == "active" }

// Enabled tells whether the unit starts at boot.
func (s State) Enabled() bool { return s.File == "enabled" || s.File == "enabled-runtime" }

// Unit reads the state of a unit; one that does not exist has Load
// "not-found", which is not an error.
func (c *Conn) Unit(ctx context.Context, name string) (State, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	p, err := c.c.GetUnitPropertiesContext(ctx, name)
	if err != nil {
		return State{}, fmt.Errorf("cannot read the state of %s: %w", name, err)
	}
	s := State{
		Name: name, Load: str(p["LoadState"]), Active: str(p["ActiveState"]), Sub: str(p["SubState"]),
		File: str(p["UnitFileState"]), Fragment: str(p["FragmentPath"]), Condition: true,
	}
	s.DropIns, _ = p["DropInPaths"].([]string)
	s.Stale, _ = p["NeedDaemonReload"].(bool)
	if at, _ := p["ConditionTimestamp"].(uint64); at != 0 {
		s.Condition, _ = p["ConditionResult"].(bool)
	}
	if us, _ := p["ActiveEnterTimestamp"].(uint64); us != 0 {
		s.Started = time.UnixMicro(int64(us))
	}
	if !strings.HasSuffix(name, ".service") {
		return s, nil
	}
	p, err = c.c.GetUnitTypePropertiesContext(ctx, name, "Service")
	if err != nil {
		return s, fmt.Errorf("cannot read the state of %s: %w", name, err)
	}
	s.MainPID, _ = p["MainPID"].(uint32)
	s.ExitCode, _ = p["ExecMainStatus"].(int32)
	s.Restarts, _ = p["NRestarts"].(uint32)
	s.Result, s.StatusText = str(p["Result"]), str(p["StatusText"])
	return s, nil
}

func str(v any) string { s, _ := v.(string); return s }

// Reload makes systemd read the unit files again.
func (c *Conn) Reload(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := c.c.ReloadContext(ctx); err != nil {
		return fmt.Errorf("cannot make systemd read its unit files again: %w", err)
	}
	return nil
}

// Enable makes a unit start at boot. Enabling an enabled one is nothing.
func (c *Conn) Enable(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, _, err := c.c.EnableUnitFilesContext(ctx, []string{name}, false, false); err != nil {
		return fmt.Errorf("cannot enable %s: %w", name, err)
	}
	return c.Reload(ctx)
}

// Disable makes a unit not start at boot.
func (c *Conn) Disable(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := c.c.DisableUnitFilesContext(ctx, []string{name}, false); err != nil {
		return fmt.Errorf("cannot disable %s: %w", name, err)
	}
	return c.Reload(ctx)
}

// JobError is a job that systemd ran and that did not end in "done".
type JobError struct{ Verb, Unit, Result string }

func (e *JobError) Error() string {
	return fmt.Sprintf("cannot %s %s: the job ended as %q", e.Verb, e.Unit, e.Result)
}

// Start starts a unit and waits for the job's result.
func (c *Conn) Start(ctx context.Context, name string) error {
	return c.job(ctx, "start", name, c.c.StartUnitContext)
}

// Restart stops and starts a unit and waits for the job's result.
func (c *Conn) Restart(ctx context.Context, name string) error {
	return c.job(ctx, "restart", name, c.c.RestartUnitContext)
}

// Stop stops a unit and waits for the job's result. A unit that does not exist
// is stopped.
func (c *Conn) Stop(ctx context.Context, name string) error {
	err := c.job(ctx, "stop", name, c.c.StopUnitContext)
	var de godbus.Error
	if errors.As(err, &de) && de.Name == "org.freedesktop.systemd1.NoSuchUnit" {
		return nil
	}
	return err
}

// StartNoWait queues the start of a unit: for a caller that the unit is
// ordered after, which would otherwise wait for itself.
func (c *Conn) StartNoWait(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := c.c.StartUnitContext(ctx, name, "replace", nil); err != nil {
		return fmt.Errorf("cannot start %s: %w", name, err)
	}
	return nil
}

type jobFunc func(ctx context.Context, name, mode string, ch chan<- string) (int, error)

func (c *Conn) job(ctx context.Context, verb, name string, f jobFunc) error {
	done := make(chan string, 1)
	if _, err := f(ctx, name, "replace", done); err != nil {
		return fmt.Errorf("cannot %s %s: %w", verb, name, err)
	}
	// The signal that a job ended is lost with the bus, and go-systemd has no
	// event for that.
	alive := time.NewTicker(time.Second)
	defer alive.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot %s %s: systemd's job did not end in time: %w", verb, name, ctx.Err())
		case result := <-done:
			if result != "done" && result != "skipped" {
				return &JobError{Verb: verb, Unit: name, Result: result}
			}
			return nil
		case <-alive.C:
			if !c.c.Connected() {
				return fmt.Errorf("cannot %s %s: %w: the connection was lost before systemd's job ended; look at dbus (systemctl status dbus), then try again", verb, name, ErrNoBus)
			}
		}
	}
}

// Changes delivers a value whenever a property of one of the units changed,
// until ctx ends. Values are dropped, not queued, while the reader is busy: it
// reads the state anew in any case. A connection has one such reader.
func (c *Conn) Changes(ctx context.Context, names ...string) (<-chan struct{}, error) {
	updates := make(chan *dbus.PropertiesUpdate, 64)
	if err := c.c.Subscribe(); err != nil {
		return nil, fmt.Errorf("cannot watch systemd's units: %w", err)
	}
	c.c.SetPropertiesSubscriber(updates, make(chan error, 1))
	out := make(chan struct{}, 1)
	go func() {
		for {
			select {
			case <-ctx.Done():
				c.c.SetPropertiesSubscriber(nil, nil)
				_ = c.c.Unsubscribe()
				return
			case u := <-updates:
				for _, n := range names {
					if u.UnitName == n {
						select {
						case out <- struct{}{}:
						default:
						}
					}
				}
			}
		}
	}()
	return out, nil
}

// Notify sends one message to the service manager (sd_notify(3)), and is
// nothing where we were not started by one.
func Notify(state string) error {
	_, err := daemon.SdNotify(false, state)
	return err
}

// Ready is the message that ends a unit's start.
const Ready = daemon.SdNotifyReady
