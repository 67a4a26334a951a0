package server

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"
)

// request is what an endpoint knows of who asks, and what it found for them.
type request struct {
	*http.Request
	server *Server
	labels map[string]string

	group   *group
	profile *profile
	asked   bool   // the gate was asked
	install bool   // the gate let an installer go out
	reason  string // why the answer is not what the profile says
}

// choose finds the request's group and profile.
func (r *request) choose() bool {
	r.group, r.profile = r.server.store.index.choose(r.labels)
	return r.profile != nil
}

// answer is what goes back.
type answer struct {
	status      int
	contentType string
	body        []byte
	ranges      bool  // its parts may be asked for, and its type is guessed from its body
	err         error // what only the log says
}

const (
	textPlain = "text/plain; charset=utf-8"
	textJSON  = "application/json"
	// matchbox calls it that.
	plainText = "plain/text"
)

func ok(contentType string, body []byte) answer {
	return answer{status: http.StatusOK, contentType: contentType, body: body}
}

// notFound is matchbox's one answer to all that goes wrong.
func notFound(err error) answer {
	return answer{status: http.StatusNotFound, contentType: textPlain, body: []byte("404 page not found\n"), err: err}
}

func root(r *request) answer {
	if r.URL.Path != "/" {
		return notFound(nil)
	}
	return ok(textPlain, []byte("matchbox\n"))
}

func chain(*request) answer { return ok(textPlain, []byte(chainScript)) }

var (
	errNoGroup   = errors.New("no group matches")
	errNoProfile = errors.New("the group's profile does not exist")
	errNoBoot    = errors.New("the profile has no boot")
	errNoConfig  = errors.New("the profile names no such config, or it does not exist")
)

func (r *request) unmatched() error {
	if r.group == nil {
		return errNoGroup
	}
	return errNoProfile
}

// ignition answers with a finished config as it is, and with Butane's translation of all others.
func (s *Server) ignition(r *request) answer {
	if !r.choose() {
		return notFound(r.unmatched())
	}
	t := s.store.config(ignition, r.profile.IgnitionID)
	if t == nil {
		return notFound(errNoConfig)
	}
	body, err := t.ignition(r.context, &s.done)
	switch {
	case errors.Is(err, errBroken):
		// matchbox answers with an empty config: its machine comes up without users or units. A machine that is told of
		// a server's error asks again, and goes on when the file is mended.
		return answer{status: http.StatusInternalServerError, contentType: textPlain, body: []byte(err.Error() + "\n"), err: err}
	case err != nil:
		return notFound(err)
	}
	return ok(textJSON, body)
}

func (s *Server) generic(r *request) answer { return s.template(r, generic) }

func (s *Server) cloud(r *request) answer { return s.template(r, cloud) }

func (s *Server) template(r *request, k kind) answer {
	if !r.choose() {
		return notFound(r.unmatched())
	}
	name := r.profile.GenericID
	if k == cloud {
		name = r.profile.CloudID
	}
	t := s.store.config(k, name)
	if t == nil {
		return notFound(errNoConfig)
	}
	body, err := t.render(r.context)
	if err != nil {
		return notFound(err)
	}
	return answer{status: http.StatusOK, body: body, ranges: true}
}

func (s *Server) metadata(r *request) answer {
	r.choose()
	if r.group == nil {
		return notFound(errNoGroup)
	}
	return ok(plainText, r.group.metadataBody(r.labels, rawQuery(r.URL)))
}

// context is what templates see.
func (r *request) context() map[string]any { return r.group.context(r.labels, rawQuery(r.URL)) }

// endpoint makes a handler of what answers at a path.
func (s *Server) endpoint(name string, answer func(*request) answer) http.Handler {
	seen := s.figures.endpoint(name)
	return http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		began := time.Now()
		r := &request{Request: hr, server: s, labels: labels(hr)}
		a := answer(r)
		rec := recorder{ResponseWriter: w}
		a.write(&rec, hr)
		s.record(r, seen, began, &rec, a.err)
	})
}

func (a answer) write(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	if a.ranges {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.body))
		return
	}
	h["Content-Type"] = typeHeader(a.contentType)
	h["Content-Length"] = []string{strconv.Itoa(len(a.body))}
	if a.status >= 400 {
		h["X-Content-Type-Options"] = []string{"nosniff"}
	}
	w.WriteHeader(a.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(a.body)
	}
}

// typeHeader spares the usual answers a slice.
func typeHeader(t string) []string {
	if h, ok := typeHeaders[t]; ok {
		return h
	}
	return []string{t}
}

var typeHeaders = map[string][]string{textPlain: {textPlain}, textJSON: {textJSON}, plainText: {plainText}}

// record tells the log, the figures and the observer of a request.
func (s *Server) record(r *request, seen *endpointFigures, began time.Time, rec *recorder, failed error) {
	took := time.Since(began)
	seen.count(rec.status, took)
	mac := machineAddress(r.labels)
	var groupID, profileID string
	if r.group != nil {
		groupID = r.group.id
	}
	if r.profile != nil {
		profileID = r.profile.ID
	}
	if observe := s.options.Observe; observe != nil {
		observe(Event{
			Time: began, MAC: mac, Path: r.URL.Path, Status: rec.status, Group: groupID, Profile: profileID,
			Asked: r.asked, Install: r.install, Remote: remote(r.Request),
		})
	}
	log, level := s.options.Log, slog.LevelInfo
	if failed != nil && rec.status >= 500 {
		level = slog.LevelError
	}
	if !log.Enabled(r.Context(), level) {
		return
	}
	attributes := make([]slog.Attr, 0, 12)
	attributes = append(attributes,
		slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Int("status", rec.status),
		slog.Int64("bytes", rec.bytes), slog.Duration("took", took), slog.String("remote", r.RemoteAddr))
	for _, a := range [...]struct{ key, value string }{{"mac", mac}, {"group", groupID}, {"profile", profileID}, {"reason", r.reason}} {
		if a.value != "" {
			attributes = append(attributes, slog.String(a.key, a.value))
		}
	}
	if failed != nil {
		attributes = append(attributes, slog.String("problem", failed.Error()))
	}
	log.LogAttrs(r.Context(), level, "request", attributes...)
}
