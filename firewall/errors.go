package firewall

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"
)

// Code says why firewalld did not do what it was asked. Most are firewalld's own words (firewalld.dbus(5), "Errors").
type Code string

// The codes this package acts on. Others are passed through as firewalld gave them.
const (
	CodeAlreadyEnabled Code = "ALREADY_ENABLED"
	CodeNotEnabled     Code = "NOT_ENABLED"
	CodeCommandFailed  Code = "COMMAND_FAILED"
	CodePanic          Code = "PANIC_MODE"
	CodeAccessDenied   Code = "ACCESS_DENIED" // lockdown
	CodeInvalidPort    Code = "INVALID_PORT"
	CodeInvalidZone    Code = "INVALID_ZONE"
	CodeFailed         Code = "RUNNING_BUT_FAILED"
	CodeNotRunning     Code = "NOT_RUNNING"
	CodeNotAuthorized  Code = "NOT_AUTHORIZED"
	CodeUnknown        Code = "UNKNOWN_ERROR"

	// CodeNoAnswer is ours: a call got no reply in time, or the connection broke before the reply. Nothing was changed.
	CodeNoAnswer Code = "NO_ANSWER"
	// CodeUnknownOutcome is ours: a change got no reply, and the question what became of it got none either.
	CodeUnknownOutcome Code = "UNKNOWN_OUTCOME"
	// CodeNoBus is ours: the system bus cannot be reached.
	CodeNoBus Code = "NO_BUS"
	// CodeUnsupported is ours: the other end does not know the method, so it is not the firewalld we know.
	CodeUnsupported Code = "UNSUPPORTED"
)

// Sentinels for errors.Is.
var (
	ErrNotRunning    = errors.New("firewalld is not running")
	ErrPanic         = errors.New("firewalld is in panic mode")
	ErrNotAuthorized = errors.New("firewalld refuses this user")
	ErrInvalidZone   = errors.New("firewalld has no such zone")
	ErrNoBus         = errors.New("the system bus cannot be reached")
	// ErrNoAnswer means that nothing was changed, unless the error is an ErrUnknownOutcome as well.
	ErrNoAnswer = errors.New("firewalld does not answer")
	// ErrUnknownOutcome means that a change was sent and nobody can say whether it happened: keep the ledger's intent.
	ErrUnknownOutcome = errors.New("it is not known whether firewalld made the change")
)

var sentinels = map[error][]Code{
	ErrNotRunning:     {CodeNotRunning},
	ErrPanic:          {CodePanic},
	ErrNotAuthorized:  {CodeNotAuthorized, CodeAccessDenied},
	ErrInvalidZone:    {CodeInvalidZone},
	ErrNoBus:          {CodeNoBus},
	ErrNoAnswer:       {CodeNoAnswer, CodeUnknownOutcome},
	ErrUnknownOutcome: {CodeUnknownOutcome},
}

// Error is one thing that could not be done, as an operator's sentence.
type Error struct {
	Code    Code
	Op      string // what was to be done: "open", "shut", "query", "read"
	Layer   Layer  // empty where no layer is concerned
	Zone    string // empty where no zone is concerned
	Port    Port   // zero where no port is concerned
	Message string // why, in full
	Remedy  string // what to do about it; empty where nothing can be advised
	Err     error  // the cause, where a caller may want to inspect it (context errors)
}

// Error gives "cannot open 4789/udp in zone public: firewalld is in panic mode; run …".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("cannot " + e.Op)
	if e.Port != (Port{}) {
		b.WriteString(" " + e.Port.String())
	}
	if e.Zone != "" {
		b.WriteString(" in zone " + e.Zone)
	}
	if e.Layer == Permanent {
		b.WriteString(" permanently")
	}
	b.WriteString(": " + short(e.Message))
	if e.Remedy != "" {
		b.WriteString("; " + e.Remedy)
	}
	return b.String()
}

// Is matches the sentinels by code.
func (e *Error) Is(target error) bool {
	return slices.Contains(sentinels[target], e.Code)
}

// Unwrap gives the cause, so that errors.Is finds context.DeadlineExceeded.
func (e *Error) Unwrap() error { return e.Err }

// short keeps the first line of a message, cut at 300 bytes: COMMAND_FAILED carries the whole rule set it tried to load.
func short(message string) string {
	line, _, more := strings.Cut(strings.TrimSpace(message), "\n")
	if len(line) > 300 {
		line, more = strings.ToValidUTF8(line[:300], ""), true
	}
	if more {
		line += " …"
	}
	return line
}

const (
	busName          = "org.fedoraproject.FirewallD1"
	errException     = busName + ".Exception"
	errNotAuthorized = "NotAuthorizedException"
	errBus           = "org.freedesktop.DBus.Error."
)

// codeShape is how firewalld spells its codes.
var codeShape = regexp.MustCompile(`^[A-Z][A-Z0-9]*(_[A-Z0-9]+)+$`)

// parseException splits the text of a firewalld exception. Every FirewallError and every Python exception that firewalld did not
// expect arrives under one D-Bus name; only the text before the first colon tells them apart, and an error without
// details is the bare code.
func parseException(text string) (Code, string) {
	code, detail, _ := strings.Cut(text, ":")
	if !codeShape.MatchString(code) {
		return CodeUnknown, strings.TrimSpace(text)
	}
	return Code(code), strings.TrimSpace(detail)
}

// classify turns what godbus returned for a call into a code and firewalld's own words.
func classify(err error) (Code, string) {
	var d dbus.Error
	if !errors.As(err, &d) {
		// Not a reply at all: the deadline passed, the caller gave up, or the connection broke.
		return CodeNoAnswer, err.Error()
	}
	text := errorText(d)
	switch {
	case strings.Contains(d.Name, errNotAuthorized), strings.Contains(text, errNotAuthorized),
		strings.HasPrefix(d.Name, "org.freedesktop.PolicyKit1.Error."):
		// python-slip, which firewalld 0.9 and older use, has the same word under another prefix.
		return CodeNotAuthorized, text
	case d.Name == errException:
		return parseException(text)
	}
	switch strings.TrimPrefix(d.Name, errBus) {
	case "AccessDenied", "AuthFailed", "InteractiveAuthorizationRequired":
		return CodeNotAuthorized, text
	case "ServiceUnknown", "NameHasNoOwner":
		return CodeNotRunning, text
	case "NoReply", "Timeout", "TimedOut", "Disconnected", "NoServer", "NoNetwork":
		return CodeNoAnswer, text
	case "UnknownMethod", "UnknownObject", "UnknownInterface", "UnknownProperty", "InvalidArgs", "InvalidSignature":
		return CodeUnsupported, text
	}
	return CodeUnknown, d.Name + ": " + text
}

func errorText(d dbus.Error) string {
	if len(d.Body) > 0 {
		if s, ok := d.Body[0].(string); ok {
			return s
		}
	}
	return d.Name
}

// explain gives why and remedy, in words, for what happened to an operation.
func explain(code Code, detail string) (why, remedy string) {
	switch code {
	case CodePanic:
		return "firewalld is in panic mode and drops every packet", `run "firewall-cmd --panic-off"`
	case CodeAccessDenied:
		return "firewalld is in lockdown and tectonic-worker is not on its whitelist",
			`run "firewall-cmd --lockdown-off", or add tectonic-worker to the lockdown whitelist`
	case CodeNotAuthorized:
		return "firewalld refuses this user (" + detail + ")",
			"run as root; if it was root, look at polkit's rules for org.fedoraproject.FirewallD1.config and at the bus policy"
	case CodeInvalidZone:
		return "firewalld has no such zone",
			`"firewall-cmd --get-zones" lists those that there are; set FIREWALL_ZONE to one of them (a zone just made with --permanent exists at runtime after the next "firewall-cmd --reload")`
	case CodeFailed:
		return "firewalld runs but could not load its configuration", `run "firewall-cmd --check-config" and correct what it names`
	case CodeCommandFailed:
		return "firewalld could not change the packet filter: " + detail, `see "journalctl -u firewalld"`
	case CodeUnsupported:
		return "firewalld does not know this call: " + detail, "firewalld 0.4.4 or newer is needed"
	case CodeNoAnswer:
		return "firewalld does not answer (" + detail + ")",
			`see "systemctl status firewalld"; a reload of many rules can take minutes, so try again when it is done`
	case CodeUnknown:
		return "firewalld reports: " + detail, `see "journalctl -u firewalld"`
	}
	why = "firewalld reports " + string(code)
	if detail != "" {
		why += ": " + detail
	}
	return why, ""
}

// newError builds the sentence for a call that failed. Use (*Client).fail where firewalld may be absent.
func newError(op string, layer Layer, zone string, port Port, err error) *Error {
	var known *Error
	if errors.As(err, &known) {
		e := *known
		e.Op, e.Layer, e.Zone, e.Port = op, layer, zone, port
		return &e
	}
	code, detail := classify(err)
	e := &Error{Code: code, Op: op, Layer: layer, Zone: zone, Port: port}
	e.Message, e.Remedy = explain(code, detail)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		e.Err = err
	}
	return e
}

// invalidPort is the error for a port that no firewalld would take.
func invalidPort(op string, layer Layer, zone string, port Port, err error) *Error {
	return &Error{
		Code: CodeInvalidPort, Op: op, Layer: layer, Zone: zone, Port: port,
		Message: err.Error(), Remedy: `write ports as "10250/tcp" or "30000-32767/tcp"`,
	}
}

func busError(address string, err error) *Error {
	if address == "" {
		address = "its usual place"
	}
	return &Error{
		Code: CodeNoBus, Op: "talk to firewalld", Err: err,
		Message: fmt.Sprintf("the system bus at %s cannot be reached: %v", address, err),
		Remedy:  `see "systemctl status dbus"`,
	}
}
