// Package cri asks a container runtime over its socket what it is and how it
// is: the three questions of the Container Runtime Interface that a worker has.
// gRPC is HTTP/2 with five bytes before each message, and the standard library
// speaks that; the gRPC library would double the binary. It must not change
// anything in the runtime, nor start a container.
package cri

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// callTimeout bounds one question; the runtime answers from memory.
const callTimeout = 5 * time.Second

// maxAnswer bounds an answer: without "verbose" the longest is a few KiB.
const maxAnswer = 1 << 20

// services are the names that the same service has had: v1 since containerd
// 1.6 and CRI-O 1.23, v1alpha2 before.
var services = []string{"runtime.v1.RuntimeService", "runtime.v1alpha2.RuntimeService"}

// unimplemented is gRPC's status code of a method that the server has not.
const unimplemented = 12

// A StatusError is a runtime that answered and said no.
type StatusError struct {
	Method  string
	Code    int // of google.golang.org/grpc/codes
	Message string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("the container runtime refuses %s: %s (gRPC status %d)", e.Method, e.Message, e.Code)
}

// Unimplemented tells whether err is a runtime that has no such method.
func Unimplemented(err error) bool {
	var s *StatusError
	return errors.As(err, &s) && s.Code == unimplemented
}

// Client talks to one socket. Nothing is sent before the first question.
type Client struct {
	http    *http.Client
	service string // the one that answered; empty before the first answer
}

// New prepares a client for the Unix socket at path.
func New(path string) *Client {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	return &Client{http: &http.Client{Transport: &http.Transport{
		Protocols:             &p,
		ResponseHeaderTimeout: callTimeout,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}}}
}

// Close ends the connection.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Version is who answers: "containerd", "v1.7.24".
func (c *Client) Version(ctx context.Context) (name, version string, err error) {
	answer, err := c.ask(ctx, "Version")
	if err != nil {
		return "", "", err
	}
	err = fields(answer, func(n protowire.Number, _ uint64, data []byte) error {
		switch n {
		case 2:
			name = string(data)
		case 3:
			version = string(data)
		}
		return nil
	})
	return name, version, err
}

// Condition is one of the runtime's conditions: RuntimeReady, NetworkReady.
type Condition struct {
	Type            string
	OK              bool
	Reason, Message string
}

// Status is how the runtime says it is.
func (c *Client) Status(ctx context.Context) ([]Condition, error) {
	answer, err := c.ask(ctx, "Status")
	if err != nil {
		return nil, err
	}
	var all []Condition
	err = fields(answer, func(n protowire.Number, _ uint64, status []byte) error {
		if n != 1 {
			return nil
		}
		return fields(status, func(n protowire.Number, _ uint64, condition []byte) error {
			if n != 1 {
				return nil
			}
			var one Condition
			defer func() { all = append(all, one) }()
			return fields(condition, func(n protowire.Number, v uint64, data []byte) error {
				switch n {
				case 1:
					one.Type = string(data)
				case 2:
					one.OK = v != 0
				case 3:
					one.Reason = string(data)
				case 4:
					one.Message = string(data)
				}
				return nil
			})
		})
	})
	return all, err
}

// CgroupDriver is the runtime's driver, "systemd" or "cgroupfs": CRI's
// RuntimeConfig, which containerd has since 2.0 and CRI-O since 1.28. Of an
// older one the error is Unimplemented.
func (c *Client) CgroupDriver(ctx context.Context) (string, error) {
	answer, err := c.ask(ctx, "RuntimeConfig")
	if err != nil {
		return "", err
	}
	driver := ""
	err = fields(answer, func(n protowire.Number, _ uint64, linux []byte) error {
		if n != 1 {
			return nil
		}
		driver = "systemd" // 0, which protobuf leaves out
		return fields(linux, func(n protowire.Number, v uint64, _ []byte) error {
			if n == 1 && v == 1 {
				driver = "cgroupfs"
			}
			return nil
		})
	})
	if err == nil && driver == "" {
		err = errors.New("the container runtime's answer to RuntimeConfig names no cgroup driver")
	}
	return driver, err
}

// ask sends an empty message, which is a whole question for all three methods.
func (c *Client) ask(ctx context.Context, method string) ([]byte, error) {
	if c.service != "" {
		return c.call(ctx, c.service, method)
	}
	var err error
	for _, s := range services {
		var answer []byte
		// Version is in both services; another method may be missing in one.
		if answer, err = c.call(ctx, s, "Version"); err != nil {
			if Unimplemented(err) {
				continue
			}
			return nil, err
		}
		c.service = s
		if method == "Version" {
			return answer, nil
		}
		return c.call(ctx, s, method)
	}
	return nil, err
}

func (c *Client) call(ctx context.Context, service, method string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// The host is for the :authority alone; the dialer knows the socket.
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost/"+service+"/"+method, bytes.NewReader(make([]byte, 5)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	resp, err := c.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, fmt.Errorf("the container runtime does not answer %s: %w", method, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("the container runtime's answer to %s broke off: %w", method, err)
	}
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/grpc") {
		return nil, fmt.Errorf("what answers %s is no container runtime: %s", method, resp.Status)
	}
	if err := status(method, resp); err != nil {
		return nil, err
	}
	if len(body) > maxAnswer || len(body) < 5 || body[0] != 0 || int(binary.BigEndian.Uint32(body[1:])) != len(body)-5 {
		return nil, fmt.Errorf("the container runtime's answer to %s is no gRPC message", method)
	}
	return body[5:], nil
}

// status reads gRPC's own status, which an answer without a message has in its
// header and any other in its trailer.
func status(method string, resp *http.Response) error {
	for _, h := range []http.Header{resp.Trailer, resp.Header} {
		value := h.Get("Grpc-Status")
		if value == "" {
			continue
		}
		code, err := strconv.Atoi(value)
		if err != nil {
			return fmt.Errorf("the container runtime answers %s with the status %q", method, value)
		}
		if code == 0 {
			return nil
		}
		message := h.Get("Grpc-Message")
		if plain, err := url.PathUnescape(message); err == nil {
			message = plain
		}
		return &StatusError{Method: method, Code: code, Message: message}
	}
	return fmt.Errorf("the container runtime's answer to %s broke off", method)
}

// fields calls see for every field of a protobuf message: a number's value, or
// the bytes of a text or message.
func fields(message []byte, see func(n protowire.Number, v uint64, data []byte) error) error {
	for len(message) > 0 {
		n, kind, size := protowire.ConsumeTag(message)
		if size < 0 {
			return malformed(size)
		}
		message = message[size:]
		var v uint64
		var data []byte
		switch kind {
		case protowire.VarintType:
			v, size = protowire.ConsumeVarint(message)
		case protowire.BytesType:
			data, size = protowire.ConsumeBytes(message)
		default:
			size = protowire.ConsumeFieldValue(n, kind, message)
		}
		if size < 0 {
			return malformed(size)
		}
		message = message[size:]
		if err := see(n, v, data); err != nil {
			return err
		}
	}
	return nil
}

func malformed(size int) error {
	return fmt.Errorf("the container runtime's answer cannot be read: %w", protowire.ParseError(size))
}
