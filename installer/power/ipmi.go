package power

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/command/chassis"
	"github.com/bougou/go-ipmi/pkg/types"
)

// IPMI says which BMC. Zero durations are the defaults.
type IPMI struct {
	Address     string // host, host:port, [IPv6]:port; 623 when no port is given
	Credentials Credentials
	Answer      time.Duration // how long one answer is waited for: 1 s
	Settle      time.Duration // how long a BMC may take until it shows what it was told: 20 s
	Poll        time.Duration // how often it is asked meanwhile: 1 s
	Command     time.Duration // bounds one command with all of its tries: 30 s
}

// tries bounds how often a power command is given, and how often a login is begun after one got lost.
const tries = 3

type ipmi struct {
	o       IPMI
	turn    chan struct{} // holds one token: the BMC's
	session *session
	suite   types.CipherSuiteID // that worked; 0: not known yet
	closed  bool
}

// OpenIPMI logs in. The error says whether nobody answers, the credentials are wrong, or the BMC has no session left.
func OpenIPMI(ctx context.Context, o IPMI) (Machine, error) {
	for _, d := range []struct {
		d *time.Duration
		v time.Duration
	}{{&o.Answer, time.Second}, {&o.Settle, 20 * time.Second}, {&o.Poll, time.Second}, {&o.Command, 30 * time.Second}} {
		if *d.d <= 0 {
			*d.d = d.v
		}
	}
	address, err := hostPort(o.Address)
	if err != nil {
		return nil, fmt.Errorf("cannot reach a BMC: %w", err)
	}
	o.Address = address
	if err := o.Credentials.check(); err != nil {
		return nil, fmt.Errorf("cannot log in at the BMC %s: %w", address, err)
	}
	m := &ipmi{o: o, turn: make(chan struct{}, 1)}
	m.turn <- struct{}{}
	if _, err := m.chassis(ctx, "log in"); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// do gives a command, in a session that is opened where there is none. Every command that is given here may be given
// twice: after an answer got lost nobody knows whether the first arrived.
func (m *ipmi) do(ctx context.Context, doing string, f func(context.Context, *client.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, m.o.Command)
	defer cancel()
	select {
	case <-m.turn:
	case <-ctx.Done():
		return m.explain(doing, fmt.Errorf("another command is under way: %w", ctx.Err()))
	}
	defer func() { m.turn <- struct{}{} }()
	if m.closed {
		return m.explain(doing, errors.New("it was closed"))
	}
	var err error
	denied := false
	for range tries {
		if err = m.open(ctx); err != nil {
			break // open has its own tries
		}
		if err = again(ctx, func() error { return f(ctx, m.session.Client) }); err == nil {
			m.session.used = time.Now()
			return nil
		}
		var completion *types.ResponseError
		if errors.As(err, &completion) {
			// A session was made an operator's when it was opened. OpenIPMI's BMC forgets that when the message that
			// opened it comes a second time, so that a refusal is believed when a new session gets it too.
			if completion.CompletionCode() != types.CodeInsufficientPrivilege || denied {
				break // an answer
			}
			denied = true
		}
		// The BMC does not know the session any more, or is gone. A new login tells.
		m.drop()
		if ctx.Err() != nil {
			break
		}
	}
	return m.explain(doing, err)
}

func (m *ipmi) drop() {
	if m.session != nil {
		m.session.close()
		m.session = nil
	}
}

// open logs in where that is needed.
func (m *ipmi) open(ctx context.Context) error {
	if m.session != nil && time.Since(m.session.used) < idle {
		return nil
	}
	m.drop()
	suites := []types.CipherSuiteID{suiteSHA256, suiteSHA1}
	if m.suite != 0 {
		suites = []types.CipherSuiteID{m.suite}
	}
	wait := 250 * time.Millisecond
	var err error
	for try := range tries {
		if try > 0 {
			if full(err) {
				wait = 2 * time.Second // those who hold the sessions have to leave first
			}
			if pauseErr := pause(ctx, wait); pauseErr != nil {
				return err
			}
			wait *= 2
		}
		for _, suite := range suites {
			var s *session
			suiteErr := error(nil)
			if s, suiteErr = login(ctx, m.o.Address, m.o.Credentials, suite, m.o.Answer); suiteErr == nil {
				m.session, m.suite = s, suite
				return nil
			}
			// What the stronger suite got as an answer says more than a weaker one's silence.
			if err == nil || !noSuite(suiteErr) && !lost(suiteErr) || lost(err) || noSuite(err) && lost(suiteErr) {
				err = suiteErr
			}
			// The other suite would be told the same, and a BMC counts wrong passwords.
			if ctx.Err() != nil || definite(suiteErr) && !noSuite(suiteErr) {
				return err
			}
		}
		if definite(err) {
			return err
		}
	}
	return err
}

// chassis reads the power state and what the BMC knows of its supply.
func (m *ipmi) chassis(ctx context.Context, doing string) (*chassis.GetChassisStatusResponse, error) {
	var status *chassis.GetChassisStatusResponse
	err := m.do(ctx, doing, func(ctx context.Context, c *client.Client) error {
		var err error
		status, err = c.GetChassisStatus(ctx)
		return err
	})
	return status, err
}

func (m *ipmi) Status(ctx context.Context) (State, error) {
	status, err := m.chassis(ctx, "read the power state")
	if err != nil {
		return Unknown, err
	}
	return stateOf(status), nil
}

func stateOf(s *chassis.GetChassisStatusResponse) State {
	if s.PowerIsOn {
		return On
	}
	return Off
}

func (m *ipmi) On(ctx context.Context) error {
	return m.force(ctx, On, "switch the power on", chassis.ChassisControlPowerUp)
}

func (m *ipmi) Off(ctx context.Context, soft time.Duration) error {
	const doing = "switch the power off"
	if soft > 0 {
		state, err := m.Status(ctx)
		if err != nil || state == Off {
			return err
		}
		err = m.control(ctx, "ask for a shutdown", chassis.ChassisControlSoftShutdown)
		var completion *types.ResponseError
		if err != nil && !errors.As(err, &completion) {
			return err
		}
		// A BMC that has no soft shutdown says so; then there is nothing to wait for.
		if err == nil {
			if _, err := m.await(ctx, Off, soft, doing); err == nil || !errors.Is(err, errNotShown) {
				return err
			}
		}
	}
	return m.force(ctx, Off, doing, chassis.ChassisControlPowerDown)
}

func (m *ipmi) Cycle(ctx context.Context, soft time.Duration) error {
	// Not the BMC's own cycle: whether that happened cannot be seen, off and on can.
	if err := m.Off(ctx, soft); err != nil {
		return err
	}
	return m.On(ctx)
}

func (m *ipmi) control(ctx context.Context, doing string, control chassis.ChassisControl) error {
	return m.do(ctx, doing, func(ctx context.Context, c *client.Client) error {
		_, err := c.ChassisControl(ctx, control)
		return err
	})
}

// errNotShown is a BMC that took a command and does not show its effect.
var errNotShown = errors.New("it acknowledged the command, but reports the old state")

// force gives a command until its effect is shown, at most tries times.
func (m *ipmi) force(ctx context.Context, want State, doing string, control chassis.ChassisControl) error {
	status, err := m.chassis(ctx, doing)
	if err != nil {
		return err
	}
	for range tries {
		if stateOf(status) == want {
			return nil
		}
		if err := m.control(ctx, doing, control); err != nil {
			return err
		}
		now, err := m.await(ctx, want, m.o.Settle, doing)
		if err == nil || !errors.Is(err, errNotShown) {
			return err
		}
		status = now
	}
	return &Error{Address: m.o.Address, Doing: doing, Err: errNotShown,
		Why: fmt.Sprintf("it acknowledged the command %d times and still reports %q%s", tries, stateOf(status), supply(status)),
		Do:  "look at the machine itself, and reset the BMC (\"ipmitool mc reset cold\") when it is wrong about it"}
}

// supply adds what the BMC knows of the power supply.
func supply(s *chassis.GetChassisStatusResponse) string {
	text := ""
	for _, f := range []struct {
		is   bool
		text string
	}{
		{s.PowerControlFault, "a power control fault"}, {s.PowerFault, "a fault of the power supply"},
		{s.PowerOverload, "an overload of the power supply"}, {s.InterLock, "an open chassis interlock"},
	} {
		if f.is {
			text += ", with " + f.text
		}
	}
	return text
}

// await asks until the machine is as wanted. A BMC has no event for that.
func (m *ipmi) await(ctx context.Context, want State, within time.Duration, doing string) (*chassis.GetChassisStatusResponse, error) {
	deadline := time.Now().Add(within)
	for {
		status, err := m.chassis(ctx, doing)
		if err != nil {
			return nil, err
		}
		if stateOf(status) == want {
			return status, nil
		}
		left := time.Until(deadline)
		if left <= 0 {
			return status, errNotShown
		}
		if err := pause(ctx, min(m.o.Poll, left)); err != nil {
			return status, m.explain(doing, err)
		}
	}
}

func (m *ipmi) Close() error {
	select {
	case <-m.turn:
	case <-time.After(m.o.Command):
		return &Error{Address: m.o.Address, Doing: "log out", Why: "a command is still under way"}
	}
	m.drop()
	m.closed = true
	m.turn <- struct{}{}
	return nil
}
