package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

// Client is an operator's way to the machines' state.
type Client struct {
	base string
	http *http.Client
}

// NewClient makes a client of the machines' API at endpoint (host:port, or https://host:port) with an operator's
// certificate. It connects when it is first used.
func NewClient(endpoint string, config *tls.Config) *Client {
	endpoint = strings.TrimSuffix(strings.TrimPrefix(endpoint, "https://"), "/")
	return &Client{
		base: "https://" + endpoint,
		http: &http.Client{
			Transport: &http.Transport{
				TLSClientConfig: config, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 32,
				TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: requestTime + 5*time.Second, IdleConnTimeout: time.Minute,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Close gives up idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Error is the provisioner's refusal: its own sentence. errors.Is finds machine.ErrUnknown, machine.ErrConflict ….
type Error struct {
	Status int // HTTP's
	Text   string
}

func (e *Error) Error() string { return e.Text }

// Is pairs HTTP's status with the store's kinds of refusal.
func (e *Error) Is(target error) bool {
	for _, s := range statuses {
		if s.status == e.Status && s.err == target {
			return true
		}
	}
	return false
}

// ErrUnreachable is found in an error when the provisioner did not answer at all.
var ErrUnreachable = errors.New("not reachable")

type unreachable struct {
	base string
	why  error
}

func (u *unreachable) Error() string {
	do := "is \"tectonic-installer serve --machine-address\" running there, and is the port open?"
	var unknown *tls.CertificateVerificationError
	switch {
	case errors.As(u.why, &unknown):
		do = "is this the CA, and the name, that its certificate was made with? See \"tectonic-installer certs\""
	case strings.Contains(u.why.Error(), "certificate required"), strings.Contains(u.why.Error(), "bad certificate"), strings.Contains(u.why.Error(), "unknown certificate authority"):
		do = "it does not take this client certificate; is it of the provisioner's CA, and not expired?"
	}
	return fmt.Sprintf("cannot reach the machines' API at %s: %v; %s", u.base, u.why, do)
}

func (u *unreachable) Unwrap() []error { return []error{ErrUnreachable, u.why} }

func (c *Client) send(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var in io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		in = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, in)
	if err != nil {
		return nil, fmt.Errorf("%q is not where a machines' API can be: %w", c.base, err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		if ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled) {
			return nil, context.Canceled
		}
		return nil, &unreachable{c.base, err}
	}
	if res.StatusCode == http.StatusOK {
		return res, nil
	}
	defer res.Body.Close()
	var said errorBody
	text, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if json.Unmarshal(text, &said) != nil || said.Error == "" {
		said.Error = fmt.Sprintf("%s answered %s to %s %s: is that the machines' API?", c.base, res.Status, method, path)
	}
	return nil, &Error{res.StatusCode, said.Error}
}

// call does one call and reads its answer; out may be nil.
func (c *Client) call(ctx context.Context, method, path string, body, out any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTime+10*time.Second)
	defer cancel()
	res, err := c.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if out != nil {
		if err := json.NewDecoder(res.Body).Decode(out); err != nil {
			return fmt.Errorf("cannot read the answer of %s to %s %s: %w", c.base, method, path, err)
		}
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10)) // so that the connection is used again
	return nil
}

func of(name string, rest ...string) string {
	return pathMachines + "/" + url.PathEscape(name) + strings.Join(rest, "")
}

// Get asks for one of the provisioner's other documents (Options.Answers).
func (c *Client) Get(ctx context.Context, word string, query url.Values, out any) error {
	path := machine.APIPath + word
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return c.call(ctx, http.MethodGet, path, nil, out)
}

// Machines gives all machines, and the number of the last event that they have in them.
func (c *Client) Machines(ctx context.Context) (m Machines, err error) {
	err = c.call(ctx, http.MethodGet, pathMachines, nil, &m)
	return m, err
}

// Machine gives one, by its name or a MAC address, with its inventory.
func (c *Client) Machine(ctx context.Context, name string) (s machine.Status, err error) {
	err = c.call(ctx, http.MethodGet, of(name), nil, &s)
	return s, err
}

// Put declares a machine; see machine.Store.Put.
func (c *Client) Put(ctx context.Context, d machine.Definition) (s machine.Status, err error) {
	err = c.call(ctx, http.MethodPut, of(d.Name), d, &s)
	return s, err
}

// Delete forgets a machine.
func (c *Client) Delete(ctx context.Context, name string, force bool) error {
	path := of(name)
	if force {
		path += "?force=1"
	}
	return c.call(ctx, http.MethodDelete, path, nil, nil)
}

// Arm arms a machine for r.Action.
func (c *Client) Arm(ctx context.Context, name string, r machine.ArmRequest) (res machine.ArmResult, err error) {
	verb := "/arm"
	if r.Action == machine.ActionWipe {
		verb = "/wipe"
	}
	err = c.call(ctx, http.MethodPost, of(name, verb), armBody{r.Force, r.External}, &res)
	return res, err
}

// Disarm takes arming back.
func (c *Client) Disarm(ctx context.Context, name string, force bool) (s machine.Status, err error) {
	err = c.call(ctx, http.MethodPost, of(name, "/disarm"), forceBody{force}, &s)
	return s, err
}

// Accept clears a failure.
func (c *Client) Accept(ctx context.Context, name string) (s machine.Status, err error) {
	err = c.call(ctx, http.MethodPost, of(name, "/accept"), machine.Answer{}, &s)
	return s, err
}

// Observe adds events to timelines.
func (c *Client) Observe(ctx context.Context, events []machine.Event) (o Observed, err error) {
	err = c.call(ctx, http.MethodPost, pathEvents, events, &o)
	return o, err
}

// Timeline gives a machine's events, oldest first.
func (c *Client) Timeline(ctx context.Context, name string) ([]machine.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime+10*time.Second)
	defer cancel()
	var events []machine.Event
	err := c.stream(ctx, of(name, "/timeline"), func(e machine.Event) error {
		events = append(events, e)
		return nil
	})
	return events, err
}

// Follow gives each event with a number above from to take, those that the provisioner still holds first, until ctx
// ends, take returns an error (which Follow then returns), or the stream breaks.
func (c *Client) Follow(ctx context.Context, from uint64, take func(machine.Event) error) error {
	err := c.stream(ctx, pathEvents+"?follow=1&from="+strconv.FormatUint(from, 10), take)
	if err == nil && ctx.Err() == nil {
		return &unreachable{c.base, errors.New("it ended the stream of events")}
	}
	return err
}

var errQuiet = errors.New("nothing was heard from it for a while")

// stream reads NDJSON. The provisioner sends an empty line where it has nothing to say, so silence means that it is gone.
func (c *Client) stream(ctx context.Context, path string, take func(machine.Event) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	res, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	quiet := time.AfterFunc(4*keepAlive, func() { cancel(errQuiet) })
	defer quiet.Stop()
	in := bufio.NewScanner(res.Body)
	in.Buffer(nil, 64<<10)
	for in.Scan() {
		quiet.Reset(4 * keepAlive)
		if len(bytes.TrimSpace(in.Bytes())) == 0 {
			continue
		}
		var e machine.Event
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			return fmt.Errorf("cannot read the events of %s: %w", c.base, err)
		}
		if err := take(e); err != nil {
			return err
		}
	}
	if err := in.Err(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		if errors.Is(err, context.Canceled) {
			return err
		}
		return &unreachable{c.base, err}
	}
	return nil
}
