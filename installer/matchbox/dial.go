package matchbox

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"

	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/rpcpb"
)

const (
	// DefaultTimeout bounds a call with all its repetitions.
	DefaultTimeout = 30 * time.Second
	// oneTry bounds one of them: a server that accepts and says nothing must not use up the whole call.
	oneTry = 10 * time.Second
	// maxAnswer is the largest answer taken, in bytes: a list of some 500,000 groups.
	maxAnswer = 256 << 20
)

// Options say which matchbox, and as whom.
type Options struct {
	// Endpoint is host:port of the gRPC API, usually port 8081.
	Endpoint string
	// TLS holds the operator's certificate and the authority that signed the server's. The API has no other
	// authentication, and none without TLS.
	TLS *tls.Config
	// Timeout bounds every call, its repetitions included; 0: DefaultTimeout.
	Timeout time.Duration
}

// Client is an operator of one matchbox. Its methods may be called at once. Every call is idempotent and is repeated,
// within its deadline, when matchbox could not be reached or had no room.
type Client struct {
	endpoint string
	tls      *tls.Config
	timeout  time.Duration
	conn     *grpc.ClientConn

	groups   rpcpb.GroupsClient
	profiles rpcpb.ProfilesClient
	ignition rpcpb.IgnitionClient
	generic  rpcpb.GenericClient
	choose   rpcpb.SelectClient
}

// Dial connects, and fails with the cause when the server cannot be reached (ErrUnreachable) or one of the two does not
// trust the other (ErrUntrusted). It goes straight to the endpoint, whatever proxy the environment names.
func Dial(ctx context.Context, opts Options) (*Client, error) {
	if err := checkEndpoint(opts.Endpoint); err != nil {
		return nil, err
	}
	if opts.TLS == nil {
		return nil, fmt.Errorf("cannot reach matchbox at %s: no client certificate is given, and its API takes nothing without one", opts.Endpoint)
	}
	if opts.Timeout == 0 {
		opts.Timeout = DefaultTimeout
	}
	c := &Client{endpoint: opts.Endpoint, tls: opts.TLS.Clone(), timeout: opts.Timeout}
	c.tls.MinVersion = max(c.tls.MinVersion, tls.VersionTLS12)

	dialing, cancel := context.WithTimeout(ctx, min(opts.Timeout, oneTry))
	defer cancel()
	if err := c.probe(dialing); err != nil {
		return nil, err
	}

	conn, err := grpc.NewClient("passthrough:///"+opts.Endpoint,
		grpc.WithTransportCredentials(credentials.NewTLS(c.tls)),
		grpc.WithContextDialer(dialTCP),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithDisableServiceConfig(),
		// Repetitions are ours: they know which error is for good.
		grpc.WithDisableRetry(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstPause, Multiplier: 2, Jitter: 0.2, MaxDelay: longestPause},
			MinConnectTimeout: oneTry,
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("cannot reach matchbox at %s: %w", opts.Endpoint, err)
	}
	c.conn = conn
	c.groups, c.profiles = rpcpb.NewGroupsClient(conn), rpcpb.NewProfilesClient(conn)
	c.ignition, c.generic, c.choose = rpcpb.NewIgnitionClient(conn), rpcpb.NewGenericClient(conn), rpcpb.NewSelectClient(conn)
	return c, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Endpoint is the host:port that the client talks to.
func (c *Client) Endpoint() string { return c.endpoint }

func checkEndpoint(endpoint string) error {
	if scheme, rest, ok := strings.Cut(endpoint, "://"); ok {
		return fmt.Errorf("cannot reach matchbox at %q: an RPC endpoint is host:port, without %q; write %q", endpoint, scheme+"://", strings.TrimRight(rest, "/"))
	}
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil || host == "" || port == "" {
		return fmt.Errorf("cannot reach matchbox at %q: an RPC endpoint is host:port, such as matchbox.example.com:8081", endpoint)
	}
	return nil
}

func dialTCP(ctx context.Context, address string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", address)
}

// preface begins an HTTP/2 connection (RFC 9113, 3.4): the fixed text and an empty SETTINGS frame.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// probe makes one connection as gRPC would, as far as the server's first frame: with TLS 1.3 a server that refuses a
// client's certificate says so only after the client thinks the handshake done. gRPC itself gives errors as text only,
// and often the deadline's instead of the cause.
func (c *Client) probe(ctx context.Context) error {
	conn, err := dialTCP(ctx, c.endpoint)
	if err != nil {
		return c.explain(ctx, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	config := c.tls.Clone()
	config.NextProtos = []string{"h2"}
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(c.endpoint)
	}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		return c.explain(ctx, err)
	}
	if _, err := io.WriteString(secure, preface); err != nil {
		return c.explain(ctx, err)
	}
	var header [9]byte
	if _, err := io.ReadFull(secure, header[:]); err != nil {
		return c.explain(ctx, err)
	}
	if settings := byte(4); header[3] != settings {
		return c.untrusted(errors.New("it speaks TLS but not gRPC; name matchbox's RPC port, usually 8081"))
	}
	return nil
}
