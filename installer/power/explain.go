package power

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"syscall"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/types"
)

// Causes that callers tell apart, by errors.Is.
var (
	ErrCredentials = errors.New("wrong user name or password")
	ErrPrivilege   = errors.New("the user may not do that")
	ErrSessions    = errors.New("no session is left")
	ErrSilent      = errors.New("no answer")
)

// definite tells whether another login would end the same way.
func definite(err error) bool {
	var status *types.RmcpStatusError
	var dns *net.DNSError
	switch {
	case err == nil, full(err):
		return false
	case errors.As(err, &status):
		// The others are of a login that went wrong on the way: a session that the BMC does not know (any more).
		return noSuite(err) || slices.Contains([]types.RmcpStatusCode{types.RmcpStatusCodeUnauthorizedName, types.RmcpStatusCodeInvalidNameLength,
			types.RmcpStatusCodeInvalidIntegrityCheckValue, types.RmcpStatusCodeUnauthorizedRoleOfPriLevel, types.RmcpStatusCodeInvalidRole}, status.StatusCode())
	case errors.Is(err, client.ErrRAKPAuthentication), errors.Is(err, errWeaker), isAnswer(err) && !busy(err):
		return true
	}
	return errors.As(err, &dns) && dns.IsNotFound
}

// explain makes a sentence of an error of the library.
func (m *ipmi) explain(doing string, err error) error {
	if err == nil {
		return nil
	}
	var done *Error
	if errors.As(err, &done) {
		return err
	}
	e := &Error{Address: m.o.Address, Doing: doing, Err: err}
	var completion *types.ResponseError
	var status *types.RmcpStatusError
	var dns *net.DNSError
	wrap := func(cause error) { e.Err = fmt.Errorf("%w: %w", cause, err) }
	switch {
	case errors.Is(err, context.Canceled):
		e.Why = "it was interrupted"
	case errors.Is(err, client.ErrRAKPAuthentication):
		e.Why, e.Do = "the password is wrong", "correct the credentials file or environment of this machine"
		wrap(ErrCredentials)
	case errors.As(err, &status):
		m.explainStatus(e, status.StatusCode())
	case errors.As(err, &completion):
		explainCompletion(e, completion)
	case errors.Is(err, errWeaker):
		e.Why, e.Do = err.Error(), "update the BMC's firmware, or look who is between"
	case errors.As(err, &dns):
		e.Why, e.Do = fmt.Sprintf("its name %s does not resolve", dns.Name), "correct power.address or the DNS record"
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Why, e.Do = "nothing listens on that UDP port", "correct power.address, or turn on \"IPMI over LAN\" in the BMC's settings"
		wrap(ErrSilent)
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		e.Why, e.Do = "there is no route to it", "run this where the BMCs' network is reachable"
		wrap(ErrSilent)
	default:
		e.Why = "it does not answer"
		e.Do = "look whether it has that address, whether UDP port 623 is open on the way, and whether \"IPMI over LAN\" is on; a BMC that hangs may need to be unplugged"
		wrap(ErrSilent)
	}
	return e
}

func (m *ipmi) explainStatus(e *Error, code types.RmcpStatusCode) {
	wrap := func(cause error) { e.Err = fmt.Errorf("%w: %w", cause, e.Err) }
	switch code {
	case types.RmcpStatusCodeNoResToCreateSess, types.RmcpStatusCodeNoResToCreateSessAtRole:
		e.Why, e.Do = "it has no session left", "end other logins, or wait a minute for those that were left open"
		wrap(ErrSessions)
	case types.RmcpStatusCodeUnauthorizedName, types.RmcpStatusCodeInvalidNameLength:
		e.Why, e.Do = fmt.Sprintf("it has no user %q that may log in over LAN", m.o.Credentials.Username), "correct the credentials, or allow the user IPMI over LAN"
		wrap(ErrCredentials)
	case types.RmcpStatusCodeInvalidIntegrityCheckValue:
		e.Why, e.Do = "the password is wrong", "correct the credentials file or environment of this machine"
		wrap(ErrCredentials)
	case types.RmcpStatusCodeUnauthorizedRoleOfPriLevel, types.RmcpStatusCodeInvalidRole:
		e.Why, e.Do = fmt.Sprintf("the user %q is not an operator there", m.o.Credentials.Username), "give the user the privilege OPERATOR on the LAN channel"
		wrap(ErrPrivilege)
	default:
		if noSuite(e.Err) {
			e.Why, e.Do = "it has neither cipher suite 17 nor 3", "allow one of them in the BMC's settings, or update its firmware"
			return
		}
		e.Why, e.Do = fmt.Sprintf("it refuses the login: %s (status 0x%02x)", code, uint8(code)), "try again, and reset the BMC when that does not help"
	}
}

func explainCompletion(e *Error, completion *types.ResponseError) {
	code := completion.CompletionCode()
	switch {
	case code == types.CodeInsufficientPrivilege,
		e.Doing == "log in" && slices.Contains([]types.CompletionCode{types.CodeSetSessionPrivilegeLevelLevelNotAvailable, types.CodeSetSessionPrivilegeLevelExceedsLimit}, code):
		e.Why, e.Do = "the user's privilege does not suffice", "give the user the privilege OPERATOR on the LAN channel"
		e.Err = fmt.Errorf("%w: %w", ErrPrivilege, e.Err)
	case busy(completion):
		e.Why, e.Do = "it is busy", "try again in a minute"
	case code == types.CodeNotSupported:
		e.Why = "it says that this cannot be done in its present state"
	default:
		e.Why = fmt.Sprintf("it refuses: %s (completion code 0x%02x)", types.StrCC(types.CommandNone, uint8(code)), uint8(code))
	}
}
