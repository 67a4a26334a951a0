package power

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/types"
)

// Cipher suites (IPMI 2.0 specification, table 22-20): 17 is SHA-256 with AES-128, 3 is SHA-1 with AES-128 and what
// every IPMI 2.0 BMC has. Suites without encryption or authentication are never tried.
const (
	suiteSHA256 = types.CipherSuiteID17
	suiteSHA1   = types.CipherSuiteID3
)

// datagrams is a UDP connection that hands on only the answer to what was asked last. go-ipmi takes the first datagram
// that comes while it logs in; one that the network delivered twice, or late, would be read as the answer to another
// message and end in "wrong password".
type datagrams struct {
	net.Conn
	want byte // the payload type of the answer
}

// Payload types (IPMI 2.0 specification, table 13-16); each answer's is its request's plus one.
const (
	payloadOpenSession = 0x10
	payloadRAKP1       = 0x12
	payloadRAKP3       = 0x14
	payloadMask        = 0x3f
	payloadProtected   = 0xc0 // encrypted, authenticated: within a session
	authTypeRMCPPlus   = 0x06
)

// payload gives the payload type of an RMCP+ datagram.
func payload(b []byte) (byte, bool) {
	if len(b) < 6 || b[4] != authTypeRMCPPlus {
		return 0, false
	}
	return b[5] & payloadMask, true
}

func (d *datagrams) Write(b []byte) (int, error) {
	if p, ok := payload(b); ok {
		d.want = p
		if p == payloadOpenSession || p == payloadRAKP1 || p == payloadRAKP3 {
			d.want = p + 1
		}
	}
	return d.Conn.Write(b)
}

func (d *datagrams) Read(b []byte) (int, error) {
	for {
		n, err := d.Conn.Read(b)
		if err != nil {
			return n, err
		}
		// OpenIPMI's BMC answers a RAKP 3 that is sent again with an encrypted RAKP 4, which go-ipmi would read as clear.
		if p, ok := payload(b[:n]); ok && p == d.want && (p == 0 || b[5]&payloadProtected == 0) {
			return fill(b, n), nil
		}
	}
}

// Layout of an RMCP+ datagram outside of a session (table 13-8), and of the answers to the messages of a login.
const (
	lengthAt    = 14 // of the payload, two bytes, little endian
	payloadAt   = 16
	statusAt    = payloadAt + 1
	shortAnswer = 8 // that says nothing but a status
)

// fill completes an answer that ends after its status, as OpenIPMI's BMC sends it when it has no session left: the
// specification wants 8 bytes (table 13-10), and go-ipmi would take it for none.
func fill(b []byte, n int) int {
	if want := payloadAt + shortAnswer; b[5]&payloadMask > payloadOpenSession && b[5]&payloadMask <= payloadRAKP3+1 &&
		n > statusAt && n < want && len(b) >= want && b[statusAt] != 0 && int(b[lengthAt])+payloadAt == n && b[lengthAt+1] == 0 {
		clear(b[n:want])
		b[lengthAt] = shortAnswer
		return want
	}
	return n
}

// dialed gives go-ipmi a connection that was made before.
type dialed struct{ conn net.Conn }

func (d dialed) Dial(string, string) (net.Conn, error) { return d.conn, nil }

// session is one login.
type session struct {
	*client.Client
	suite types.CipherSuiteID
	used  time.Time
}

// idle is how long a session may rest before it is not trusted any more: a BMC ends one after 60 s ± 3 s without a
// command (IPMI 2.0 specification, 6.12.15).
const idle = 40 * time.Second

// login opens one session with one cipher suite. It sends what client.Connect20 sends, but for Get Channel
// Authentication Capabilities, so that each step's error keeps its type and nothing goes on in the background.
func login(ctx context.Context, address string, c Credentials, suite types.CipherSuiteID, wait time.Duration) (*session, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	conn, err := (&net.Dialer{Timeout: wait}).DialContext(ctx, "udp", address)
	if err != nil {
		return nil, err
	}
	cl, err := client.NewClient(host, 0, c.Username, string(c.Password))
	if err != nil {
		conn.Close()
		return nil, err
	}
	// The least that may switch power (specification, table G-1): operator.
	cl = cl.WithUDPProxy(dialed{&datagrams{Conn: conn}}).WithTimeout(wait).WithRetry(2).WithCipherSuiteID(suite).
		WithMaxPrivilegeLevel(types.PrivilegeLevelOperator)
	err = func() error {
		opened, err := cl.OpenSession(ctx)
		if err != nil {
			return err
		}
		auth, integrity, crypt, _ := types.GetCipherSuiteAlgorithms(suite)
		if types.AuthAlg(opened.AuthAlg) != auth || types.IntegrityAlg(opened.IntegrityAlg) != integrity || types.CryptAlg(opened.CryptAlg) != crypt {
			return errWeaker
		}
		if _, err = cl.RAKPMessage1(ctx); err != nil {
			return err
		}
		if _, err = cl.RAKPMessage3(ctx); err != nil {
			return err
		}
		// From here on a datagram that is sent again has to be a new one: a BMC drops a sequence number that it has
		// seen (specification, 6.12.13), also when its answer was what got lost.
		cl.WithRetry(0)
		return again(ctx, func() error {
			_, err := cl.SetSessionPrivilegeLevel(ctx, types.PrivilegeLevelOperator)
			return err
		})
	}()
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &session{cl, suite, time.Now()}, nil
}

// errWeaker is a BMC, or somebody between, that answers with other algorithms than those asked for.
var errWeaker = errors.New("it answered with another cipher suite than it was asked for")

// close ends the session at the BMC, which has few of them.
func (s *session) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	s.Client.Close(ctx) // a session that the BMC does not end now ends by itself
}

// again repeats a command within a session while nothing comes back, or the BMC says that it is busy.
func again(ctx context.Context, f func() error) error {
	var err error
	for range 4 {
		if err = f(); err == nil || !lost(err) && !busy(err) || ctx.Err() != nil {
			return err
		}
		if busy(err) {
			if waitErr := pause(ctx, 500*time.Millisecond); waitErr != nil {
				return err
			}
		}
	}
	return err
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lost tells whether no answer came: everything that is not an answer and not a fault of the network itself.
func lost(err error) bool {
	var completion *types.ResponseError
	var status *types.RmcpStatusError
	var op *net.OpError
	switch {
	case errors.As(err, &completion), errors.As(err, &status), errors.Is(err, client.ErrRAKPAuthentication), errors.Is(err, errWeaker):
		return false
	case errors.As(err, &op):
		return op.Timeout()
	}
	return true
}

// busy tells whether the BMC asks for patience (table 5-2): node busy, timeout, no response to give, initializing, and
// the unspecified error, which is what many say while they start.
func busy(err error) bool {
	var completion *types.ResponseError
	if !errors.As(err, &completion) {
		return false
	}
	return slices.Contains([]types.CompletionCode{types.CodeNodeBusy, 0xc3,
		types.CodeCannotProvideResponse, types.CodeCannotProvideResponseBMCInitialize, types.CodeUnspecifiedError}, completion.CompletionCode())
}

// noSuite tells whether the BMC does not have the cipher suite.
func noSuite(err error) bool {
	var status *types.RmcpStatusError
	return errors.Is(err, errWeaker) || errors.As(err, &status) && slices.Contains([]types.RmcpStatusCode{
		types.RmcpStatusCodeInvalidAuthAlg, types.RmcpStatusCodeInvalidIntegrityAlg, types.RmcpStatusCodeInvalidConfidentAlg,
		types.RmcpStatusCodeNoMatchingAuthPayload, types.RmcpStatusCodeNoMatchingIntegrityPayload,
		types.RmcpStatusCodeNoCipherSuiteMatch, types.RmcpStatusCodeIllegalParameter}, status.StatusCode())
}

// full tells whether the BMC has no session left.
func full(err error) bool {
	var status *types.RmcpStatusError
	return errors.As(err, &status) && (status.StatusCode() == types.RmcpStatusCodeNoResToCreateSess ||
		status.StatusCode() == types.RmcpStatusCodeNoResToCreateSessAtRole)
}

// hostPort adds IPMI's port, 623 (IANA asf-rmcp), where none is given.
func hostPort(address string) (string, error) {
	if address == "" {
		return "", errors.New("its address is empty")
	}
	if _, _, err := net.SplitHostPort(address); err == nil {
		return address, nil
	}
	if ip := net.ParseIP(address); ip != nil {
		return net.JoinHostPort(ip.String(), "623"), nil
	}
	if full := address + ":623"; !slices.Contains([]byte(address), ':') {
		if _, _, err := net.SplitHostPort(full); err == nil {
			return full, nil
		}
	}
	return "", fmt.Errorf("%q is no host, host:port or [IPv6]:port", address)
}
