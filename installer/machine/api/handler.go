// Package api is the HTTPS side of package machine: the handler that machines and operators talk to, and the
// operator's client. It owns who may call what and how much, and decides nothing about a machine itself.
package api

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

// Paths of the operator's API, below machine.APIPath.
const (
	pathMachines = machine.APIPath + "machines"
	pathEvents   = machine.APIPath + "events"
)

// Bounds of a request's body in bytes.
const (
	maxMachineBody    = 512 << 10
	maxEventsBody     = 4 << 20
	maxDefinitionBody = 16<<20 + 64<<10
)

// requestTime bounds every call but a follow.
const requestTime = 30 * time.Second

// Options of the handler; the zero value is good.
type Options struct {
	Now func() time.Time
	Log *slog.Logger // nil: nothing is logged. Tokens never are.
	// Operator says who an operator is by a verified certificate; nil takes every one that the TLS configuration
	// verified, by its common name.
	Operator func(*x509.Certificate) (name string, ok bool)
	// Answers are what else an operator may GET below machine.APIPath, by its last word: documents of the provisioner
	// that this package knows nothing of.
	Answers map[string]func(query url.Values) any
}

type handler struct {
	store *machine.Store
	opts  Options
	bad   *limiter

	watchEnd sync.Once
	ending   chan struct{} // closed when the server that this is put into shuts down
}

// Handler serves the machines' API (bearer tokens) and the operators' (verified client certificates). The server that
// it is put into asks for client certificates and verifies those that are given.
func Handler(store *machine.Store, opts Options) http.Handler {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Operator == nil {
		opts.Operator = func(c *x509.Certificate) (string, bool) { return c.Subject.CommonName, true }
	}
	h := &handler{store: store, opts: opts, bad: newLimiter(opts.Now), ending: make(chan struct{})}
	mux := http.NewServeMux()

	mux.HandleFunc("POST "+machine.PathHello, bearer(h, func(ctx context.Context, token string, in machine.Hello) (machine.Instruction, error) {
		return h.store.Hello(ctx, token, in)
	}))
	mux.HandleFunc("POST "+machine.PathChecks, bearer(h, func(ctx context.Context, token string, in machine.Checks) (machine.Answer, error) {
		return machine.Answer{}, h.store.Checks(ctx, token, in)
	}))
	mux.HandleFunc("POST "+machine.PathClaim, bearer(h, func(ctx context.Context, token string, in machine.Claim) (machine.Claimed, error) {
		return h.store.Claim(ctx, token, in)
	}))
	mux.HandleFunc("POST "+machine.PathProgress, bearer(h, func(ctx context.Context, token string, in machine.Progress) (machine.Answer, error) {
		return machine.Answer{}, h.store.Progress(ctx, token, in)
	}))
	mux.HandleFunc("POST "+machine.PathInstalled, bearer(h, func(ctx context.Context, token string, _ machine.Answer) (machine.Answer, error) {
		return machine.Answer{}, h.store.Installed(ctx, token)
	}))
	mux.HandleFunc("POST "+machine.PathFailed, bearer(h, func(ctx context.Context, token string, in machine.Failure) (machine.Answer, error) {
		return machine.Answer{}, h.store.Failed(ctx, token, in)
	}))
	mux.HandleFunc("POST "+machine.PathReady, bearer(h, func(ctx context.Context, token string, _ machine.Answer) (machine.Answer, error) {
		return machine.Answer{}, h.store.Ready(ctx, token)
	}))

	mux.HandleFunc("GET "+pathMachines, h.operator(h.list))
	mux.HandleFunc("GET "+pathMachines+"/{name}", h.operator(h.status))
	mux.HandleFunc("PUT "+pathMachines+"/{name}", h.operator(h.put))
	mux.HandleFunc("DELETE "+pathMachines+"/{name}", h.operator(h.remove))
	mux.HandleFunc("POST "+pathMachines+"/{name}/arm", h.operator(h.arm(machine.ActionInstall)))
	mux.HandleFunc("POST "+pathMachines+"/{name}/wipe", h.operator(h.arm(machine.ActionWipe)))
	mux.HandleFunc("POST "+pathMachines+"/{name}/disarm", h.operator(h.disarm))
	mux.HandleFunc("POST "+pathMachines+"/{name}/accept", h.operator(h.accept))
	mux.HandleFunc("GET "+pathMachines+"/{name}/timeline", h.operator(h.timeline))
	mux.HandleFunc("POST "+pathEvents, h.operator(h.observe))
	for word, document := range opts.Answers {
		mux.HandleFunc("GET "+machine.APIPath+word, h.operator(func(w http.ResponseWriter, r *http.Request, _ string) error {
			answer(w, document(r.URL.Query()))
			return nil
		}))
	}
	mux.HandleFunc("GET "+pathEvents, h.operator(h.follow))
	return mux
}

// bearer makes a machine's endpoint: its token, its body, one call.
func bearer[In, Out any](h *handler, call func(context.Context, string, In) (Out, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		from := remote(r)
		if wait := h.bad.blocked(from); wait > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(wait/time.Second)+1))
			sayError(w, http.StatusTooManyRequests, "too many calls with unknown tokens came from this address; wait")
			return
		}
		token, ok := tokenOf(r)
		if !ok {
			h.bad.count(from)
			h.opts.Log.Warn("a call without a token", "path", r.URL.Path, "remote", from)
			w.Header().Set("WWW-Authenticate", "Bearer")
			sayError(w, http.StatusUnauthorized, `the call has no token; send "Authorization: Bearer" with the one from the kernel arguments or the claim`)
			return
		}
		var in In
		if err := read(w, r, maxMachineBody, false, &in); err != nil {
			h.fail(w, r, err)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), requestTime)
		defer cancel()
		out, err := call(ctx, token, in)
		if err != nil {
			if errors.Is(err, machine.ErrNoToken) {
				h.bad.count(from)
			}
			h.fail(w, r, err)
			return
		}
		answer(w, out)
	}
}

func tokenOf(r *http.Request) (string, bool) {
	const scheme = "Bearer "
	v := r.Header.Get("Authorization")
	if len(v) <= len(scheme) || v[:len(scheme)] != scheme || len(v) > 200 {
		return "", false
	}
	return v[len(scheme):], true
}

// operator makes an operator's endpoint. who is the certificate's name, for the timeline.
func (h *handler) operator(call func(w http.ResponseWriter, r *http.Request, who string) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
			sayError(w, http.StatusUnauthorized, "an operator's call needs a client certificate of the provisioner's CA; see \"tectonic-installer certs\"")
			return
		}
		who, ok := h.opts.Operator(r.TLS.PeerCertificates[0])
		if !ok {
			sayError(w, http.StatusForbidden, "this client certificate is none of an operator's")
			return
		}
		if err := call(w, r, who); err != nil {
			h.fail(w, r, err)
		}
	}
}

// badInput is input of a kind that the store never sees.
type badInput struct {
	status int
	text   string
}

func (e *badInput) Error() string { return e.text }

func read(w http.ResponseWriter, r *http.Request, limit int64, strict bool, into any) error {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(requestTime)) // not every server has one
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit))
	if strict {
		dec.DisallowUnknownFields()
	}
	err := dec.Decode(into)
	if err == nil {
		if _, more := dec.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the JSON")
		}
	}
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return &badInput{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is larger than %d bytes", limit)}
	case errors.Is(err, io.EOF):
		return &badInput{http.StatusBadRequest, "the body is empty; send a JSON object"}
	case err != nil:
		return &badInput{http.StatusBadRequest, fmt.Sprintf("the body is not the JSON that is wanted: %.200q", err.Error())}
	}
	return nil
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(v) // the caller went away
}

type errorBody struct {
	Error string `json:"error"`
}

func sayError(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(errorBody{text})
}

// statuses pairs the store's refusals with HTTP's; the client reads it backwards.
var statuses = []struct {
	err    error
	status int
}{
	{machine.ErrInvalid, http.StatusBadRequest},
	{machine.ErrNoToken, http.StatusUnauthorized},
	{machine.ErrUnknown, http.StatusNotFound},
	{machine.ErrConflict, http.StatusConflict},
	{machine.ErrSpent, http.StatusGone},
	{machine.ErrBroken, http.StatusServiceUnavailable},
}

func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusInternalServerError
	var bad *badInput
	if errors.As(err, &bad) {
		status = bad.status
	}
	for _, s := range statuses {
		if errors.Is(err, s.err) {
			status = s.status
		}
	}
	level := slog.LevelWarn
	if status >= 500 {
		level = slog.LevelError
	}
	h.opts.Log.Log(r.Context(), level, "a call was refused", "path", r.URL.Path, "remote", remote(r), "status", status, "why", err.Error())
	sayError(w, status, err.Error())
}

// remote is who calls, without the port; the zero address where that is not known.
func remote(r *http.Request) netip.Addr {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	a, _ := netip.ParseAddr(host)
	return a.Unmap().WithZone("")
}
