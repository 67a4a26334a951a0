package power

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/bougou/go-ipmi/pkg/types"
)

// What ipmi_sim never says, as the library hands it on.
func TestExplain(t *testing.T) {
	m := &ipmi{o: IPMI{Address: "bmc1:623", Credentials: Credentials{"ADMIN", "s3cret"}}}
	completion := func(code types.CompletionCode) error {
		return fmt.Errorf("library: %w", types.NewResponseError(code, "words"))
	}
	status := func(code types.RmcpStatusCode) error {
		return fmt.Errorf("library: %w", types.NewRmcpStatusError(code))
	}
	for _, tt := range []struct {
		doing string
		err   error
		cause error
		want  string
	}{
		{"log in", status(types.RmcpStatusCodeUnauthorizedRoleOfPriLevel), ErrPrivilege, `the user "ADMIN" is not an operator there`},
		{"log in", completion(types.CodeSetSessionPrivilegeLevelExceedsLimit), ErrPrivilege, "OPERATOR"},
		{"switch the power on", completion(types.CodeInsufficientPrivilege), ErrPrivilege, "OPERATOR"},
		{"log in", status(types.RmcpStatusCodeInvalidIntegrityCheckValue), ErrCredentials, "the password is wrong"},
		{"log in", status(types.RmcpStatusCodeNoCipherSuiteMatch), nil, "neither cipher suite 17 nor 3"},
		{"log in", errWeaker, nil, "another cipher suite"},
		{"log in", status(types.RmcpStatusCodeInvalidSessionID), nil, "refuses the login"},
		{"switch the power on", completion(types.CodeNodeBusy), nil, "it is busy"},
		{"switch the power on", completion(types.CodeNotSupported), nil, "present state"},
		{"request a boot from pxe", completion(types.CodeParameterNotSupported), nil, "completion code 0x80"},
		{"log in", &net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}, ErrSilent, "no route"},
		{"log in", context.DeadlineExceeded, ErrSilent, "does not answer"},
		{"log in", context.Canceled, nil, "interrupted"},
	} {
		err := m.explain(tt.doing, tt.err)
		if !strings.HasPrefix(err.Error(), "cannot "+tt.doing+" at the BMC bmc1:623: ") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: %v; want %q", tt.err, err, tt.want)
		}
		if tt.cause != nil && !errors.Is(err, tt.cause) || !errors.Is(err, tt.err) {
			t.Errorf("%v: the cause is lost: %v", tt.err, errors.Unwrap(err))
		}
		for _, other := range []error{ErrCredentials, ErrPrivilege, ErrSessions, ErrSilent} {
			if other != tt.cause && errors.Is(err, other) {
				t.Errorf("%v is also %v", tt.err, other)
			}
		}
	}
}

func TestHostPort(t *testing.T) {
	for in, want := range map[string]string{
		"bmc1": "bmc1:623", "10.0.0.1": "10.0.0.1:623", "10.0.0.1:9623": "10.0.0.1:9623", "fd00::1": "[fd00::1]:623",
		"[fd00::1]:9623": "[fd00::1]:9623", "": "", "a:b:c": "",
	} {
		got, err := hostPort(in)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
}
