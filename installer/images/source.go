package images

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// source is where files come from. A validator names one version of a file, so that a transfer that goes on does not
// join two versions; it is empty when the source has none.
type source interface {
	// open gives the file's bytes from offset on, or from 0 where start says so.
	open(ctx context.Context, name string, offset int64, validator string) (part, error)
	// size is -1 when it is not known.
	size(ctx context.Context, name string) (int64, error)
	String() string
}

type part struct {
	body      io.ReadCloser
	start     int64
	total     int64 // of the whole file; -1 when not known
	validator string
}

// temporary marks an error of something that may be different a moment later.
type temporary struct{ error }

func (t temporary) Unwrap() error { return t.error }

// transport tells errors of the network that pass from those that stay: a name that does not exist, a certificate that
// is not trusted, a redirect that we do not follow.
func transport(err error) error {
	var name *net.DNSError
	var certificate *tls.CertificateVerificationError
	if (errors.As(err, &name) && name.IsNotFound) || errors.As(err, &certificate) || errors.Is(err, errRedirect) {
		return err
	}
	return temporary{err}
}

var errRedirect = errors.New("a redirect was not followed")

func newSource(where string, client *http.Client) (source, error) {
	if u, err := url.Parse(where); err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" {
		if u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return nil, fmt.Errorf("the source %s has a user, a query or a fragment; give a plain URL", u.Redacted())
		}
		if client == nil {
			client = defaultClient()
		}
		return &httpSource{base: strings.TrimRight(where, "/"), client: client}, nil
	} else if err == nil && u.Scheme == "file" {
		where = u.Path
	} else if strings.Contains(where, "://") {
		return nil, fmt.Errorf("the source %q is no http, https or file URL", where)
	}
	info, err := os.Stat(where)
	if err != nil {
		return nil, fmt.Errorf("cannot read the source: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("the source %s is not a directory; mount an image file first (mount -o loop,ro)", where)
	}
	return dirSource(where), nil
}

func defaultClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout:   30 * time.Second,
			ResponseHeaderTimeout: 60 * time.Second,
			ForceAttemptHTTP2:     true,
			MaxIdleConnsPerHost:   parallel,
		},
		CheckRedirect: func(to *http.Request, via []*http.Request) error {
			if len(via) >= 10 {
				return fmt.Errorf("%w: there were ten before it", errRedirect)
			}
			if via[0].URL.Scheme == "https" && to.URL.Scheme != "https" {
				return fmt.Errorf("%w: it leads from https to %s", errRedirect, to.URL.Redacted())
			}
			return nil
		},
	}
}

type httpSource struct {
	base   string
	client *http.Client
}

func (s *httpSource) String() string { return s.base }

func (s *httpSource) request(ctx context.Context, method, name string) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, method, s.base+"/"+(&url.URL{Path: name}).EscapedPath(), nil)
	if err != nil {
		return nil, err
	}
	// Bytes as they are signed, and as a range counts them.
	r.Header.Set("Accept-Encoding", "identity")
	return r, nil
}

func (s *httpSource) open(ctx context.Context, name string, offset int64, validator string) (part, error) {
	r, err := s.request(ctx, http.MethodGet, name)
	if err != nil {
		return part{}, err
	}
	if offset > 0 && validator != "" {
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
		r.Header.Set("If-Range", validator)
	} else {
		offset = 0
	}
	resp, err := s.client.Do(r)
	if err != nil {
		return part{}, transport(err)
	}
	p := part{body: resp.Body, total: resp.ContentLength, validator: validatorOf(resp.Header)}
	switch {
	case resp.StatusCode == http.StatusOK:
		return p, nil
	case resp.StatusCode == http.StatusPartialContent && offset > 0:
		start, total, ok := contentRange(resp.Header.Get("Content-Range"))
		if ok && start == offset {
			p.start, p.total, p.validator = start, total, validator
			return p, nil
		}
		resp.Body.Close()
		return s.open(ctx, name, 0, "")
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && offset > 0:
		resp.Body.Close()
		return s.open(ctx, name, 0, "")
	}
	resp.Body.Close()
	return part{}, statusError(r.URL, resp.StatusCode)
}

func statusError(u *url.URL, status int) error {
	err := fmt.Errorf("%s answers %d %s", u.Redacted(), status, http.StatusText(status))
	switch {
	case status == http.StatusNotFound || status == http.StatusGone:
		return fmt.Errorf("%w: %w", err, fs.ErrNotExist)
	case status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout:
		return temporary{err}
	}
	return err
}

func (s *httpSource) size(ctx context.Context, name string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	r, err := s.request(ctx, http.MethodHead, name)
	if err != nil {
		return -1, err
	}
	resp, err := s.client.Do(r)
	if err != nil {
		return -1, err
	}
	resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return -1, statusError(r.URL, resp.StatusCode)
	}
	if resp.StatusCode != http.StatusOK {
		return -1, nil // a server that knows no HEAD; the transfer will tell
	}
	return resp.ContentLength, nil
}

// validatorOf prefers the entity tag; a weak one must not be used in If-Range (RFC 9110, 13.1.5).
func validatorOf(h http.Header) string {
	if tag := h.Get("ETag"); tag != "" && !strings.HasPrefix(tag, "W/") {
		return tag
	}
	return h.Get("Last-Modified")
}

// contentRange reads "bytes 100-199/200" (RFC 9110, 14.4); total is -1 for "*".
func contentRange(s string) (start, total int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	span, size, slash := strings.Cut(s, "/")
	first, _, dash := strings.Cut(span, "-")
	start, err := strconv.ParseInt(first, 10, 64)
	if !ok || !slash || !dash || err != nil {
		return 0, 0, false
	}
	if size == "*" {
		return start, -1, true
	}
	total, err = strconv.ParseInt(size, 10, 64)
	return start, total, err == nil
}

// dirSource is a local directory: a mounted DVD, a disk that was carried here.
type dirSource string

func (d dirSource) String() string { return string(d) }

func (d dirSource) open(_ context.Context, name string, offset int64, validator string) (part, error) {
	f, err := os.Open(filepath.Join(string(d), filepath.FromSlash(name)))
	if err != nil {
		return part{}, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", f.Name())
	}
	if err != nil {
		f.Close()
		return part{}, err
	}
	p := part{body: f, total: info.Size(), validator: fmt.Sprintf("%d-%d", info.Size(), info.ModTime().UnixNano())}
	if offset > 0 && offset <= info.Size() && validator == p.validator {
		if _, err := f.Seek(offset, io.SeekStart); err != nil {
			f.Close()
			return part{}, err
		}
		p.start = offset
	}
	return p, nil
}

func (d dirSource) size(_ context.Context, name string) (int64, error) {
	info, err := os.Stat(filepath.Join(string(d), filepath.FromSlash(name)))
	if err != nil {
		return -1, err
	}
	return info.Size(), nil
}

// maxSmall bounds what is read into memory; the largest is a repository's list of packages.
const maxSmall = 256 << 20

// small reads a file whole, retrying as a transfer does.
func (s *syncer) small(ctx context.Context, name string) ([]byte, error) {
	var buf bytes.Buffer
	err := s.retry(ctx, func(ctx context.Context, alive func()) (progress bool, err error) {
		buf.Reset()
		p, err := s.source.open(ctx, name, 0, "")
		if err != nil {
			return false, err
		}
		defer p.body.Close()
		n, err := io.Copy(&buf, io.LimitReader(&watched{p.body, alive}, maxSmall+1))
		if err == nil && n > maxSmall {
			return false, fmt.Errorf("it is larger than %s", human(maxSmall))
		}
		if err != nil || (p.total >= 0 && n != p.total) {
			return false, temporary{fmt.Errorf("it broke off after %s: %w", human(n), cmp.Or(err, io.ErrUnexpectedEOF))}
		}
		return true, nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read %s from %s: %w", name, s.source, err)
	}
	return buf.Bytes(), nil
}
