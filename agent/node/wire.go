package node

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

// maxBody bounds an answer, in bytes. A list of 500 nodes has about 10 MB.
const maxBody = 64 << 20

// An exchange is what was seen of one request on the wire: which phase it reached, and what the answer said beside its body.
type exchange struct {
	mu         sync.Mutex
	lookup     phase
	connect    phase
	handshake  phase
	target     string // the address dialled last
	proxied    bool
	local      netip.Addr
	date       time.Time
	received   time.Time
	status     int
	retryAfter time.Duration
	html       bool
}

type phase struct{ begun, done bool }

type exchangeKey struct{}

// withExchange also takes client-go's own log away: what it has to say comes back as an error.
func withExchange(ctx context.Context) (context.Context, *exchange) {
	ex := &exchange{}
	ctx = klog.NewContext(ctx, klog.New(nil))
	return context.WithValue(ctx, exchangeKey{}, ex), ex
}

// trace follows a request. Several addresses may be dialled at once; the phase is done when one of them is.
func (ex *exchange) trace() *httptrace.ClientTrace {
	do := func(f func()) { ex.mu.Lock(); defer ex.mu.Unlock(); f() }
	return &httptrace.ClientTrace{
		DNSStart: func(httptrace.DNSStartInfo) { do(func() { ex.lookup.begun = true }) },
		DNSDone:  func(i httptrace.DNSDoneInfo) { do(func() { ex.lookup.done = i.Err == nil }) },
		ConnectStart: func(_, addr string) {
			do(func() { ex.connect.begun, ex.target = true, addr })
		},
		ConnectDone: func(_, addr string, err error) {
			do(func() {
				if err == nil {
					ex.connect.done, ex.target = true, addr
				}
			})
		},
		TLSHandshakeStart: func() { do(func() { ex.handshake.begun = true }) },
		TLSHandshakeDone:  func(_ tls.ConnectionState, err error) { do(func() { ex.handshake.done = err == nil }) },
		GotConn: func(i httptrace.GotConnInfo) {
			do(func() {
				ex.lookup, ex.connect, ex.handshake = phase{true, true}, phase{true, true}, phase{true, true}
				if a, ok := i.Conn.LocalAddr().(*net.TCPAddr); ok {
					ex.local = a.AddrPort().Addr().Unmap()
				}
			})
		},
	}
}

// wire is the only way out: it adds the credential, follows the request and bounds the answer.
type wire struct {
	base  *http.Transport
	token string
	agent string
}

func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	ex, _ := req.Context().Value(exchangeKey{}).(*exchange)
	if ex == nil {
		ex = &exchange{}
	}
	req = req.Clone(httptrace.WithClientTrace(req.Context(), ex.trace()))
	if w.token != "" {
		req.Header.Set("Authorization", "Bearer "+w.token)
	}
	if w.agent != "" {
		req.Header.Set("User-Agent", w.agent)
	}
	if proxy, err := w.base.Proxy(req); err == nil && proxy != nil {
		ex.mu.Lock()
		ex.proxied = true
		ex.mu.Unlock()
	}
	resp, err := w.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	ex.answer(resp)
	if req.URL.Query().Get("watch") == "" {
		resp.Body = &boundedBody{resp.Body, maxBody}
	}
	return resp, nil
}

func (ex *exchange) answer(resp *http.Response) {
	ex.mu.Lock()
	defer ex.mu.Unlock()
	ex.status, ex.received = resp.StatusCode, time.Now()
	ex.date, _ = http.ParseTime(resp.Header.Get("Date"))
	ex.retryAfter = retryAfter(resp.Header.Get("Retry-After"), ex.received)
	ex.html = len(resp.Header.Get("Content-Type")) >= 9 && resp.Header.Get("Content-Type")[:9] == "text/html"
}

// retryAfter reads both forms of the header, RFC 9110 section 10.2.3.
func retryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.Atoi(value); err == nil {
		return time.Duration(min(max(seconds, 0), 24*3600)) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(at.Sub(now), 0), 24*time.Hour)
	}
	return 0
}

// boundedBody fails, instead of ending, when there is more than its bound.
type boundedBody struct {
	io.ReadCloser
	left int64
}

var errTooLarge = errors.New("the answer is larger than any that is expected")

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errTooLarge
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n, errTooLarge
	}
	return n, err
}
