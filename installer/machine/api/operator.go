package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

// Machines is the answer to a list. Seq is the number of the last event that it has in it: follow from there.
type Machines struct {
	Machines []machine.Status `json:"machines"`
	Seq      uint64           `json:"seq"`
}

// armBody is what arm and wipe are asked with.
type armBody struct {
	Force    bool `json:"force,omitempty"`
	External bool `json:"external,omitempty"`
}

type forceBody struct {
	Force bool `json:"force,omitempty"`
}

// Observed is the answer to events: how many were taken, and how many are of no machine that is known.
type Observed struct {
	Taken   int `json:"taken"`
	Unknown int `json:"unknown"`
}

// maxEvents bounds the events of one call.
const maxEvents = 10_000

func bounded(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.Context(), requestTime)
}

func (h *handler) list(w http.ResponseWriter, _ *http.Request, _ string) error {
	all, seq := h.store.List()
	answer(w, Machines{all, seq})
	return nil
}

func (h *handler) status(w http.ResponseWriter, r *http.Request, _ string) error {
	s, err := h.store.Status(r.PathValue("name"))
	if err == nil {
		answer(w, s)
	}
	return err
}

func (h *handler) put(w http.ResponseWriter, r *http.Request, who string) error {
	var d machine.Definition
	// Strict: a hint for the disk that is not understood must not be dropped silently.
	if err := read(w, r, maxDefinitionBody, true, &d); err != nil {
		return err
	}
	if d.Name != r.PathValue("name") {
		return &badInput{http.StatusBadRequest, "the definition's name is not the one in the URL"}
	}
	ctx, cancel := bounded(r)
	defer cancel()
	s, err := h.store.Put(ctx, d, who)
	if err == nil {
		answer(w, s)
	}
	return err
}

func (h *handler) remove(w http.ResponseWriter, r *http.Request, who string) error {
	force, err := flag(r, "force")
	if err != nil {
		return err
	}
	ctx, cancel := bounded(r)
	defer cancel()
	if err := h.store.Delete(ctx, r.PathValue("name"), force, who); err != nil {
		return err
	}
	answer(w, machine.Answer{})
	return nil
}

func (h *handler) arm(action machine.Action) func(http.ResponseWriter, *http.Request, string) error {
	return func(w http.ResponseWriter, r *http.Request, who string) error {
		var in armBody
		if err := read(w, r, maxMachineBody, true, &in); err != nil {
			return err
		}
		ctx, cancel := bounded(r)
		defer cancel()
		res, err := h.store.Arm(ctx, r.PathValue("name"), machine.ArmRequest{Action: action, Force: in.Force, External: in.External, By: who})
		if err == nil {
			answer(w, res)
		}
		return err
	}
}

func (h *handler) disarm(w http.ResponseWriter, r *http.Request, who string) error {
	var in forceBody
	if err := read(w, r, maxMachineBody, true, &in); err != nil {
		return err
	}
	ctx, cancel := bounded(r)
	defer cancel()
	s, err := h.store.Disarm(ctx, r.PathValue("name"), in.Force, who)
	if err == nil {
		answer(w, s)
	}
	return err
}

func (h *handler) accept(w http.ResponseWriter, r *http.Request, who string) error {
	var in machine.Answer
	if err := read(w, r, maxMachineBody, true, &in); err != nil {
		return err
	}
	ctx, cancel := bounded(r)
	defer cancel()
	s, err := h.store.Accept(ctx, r.PathValue("name"), who)
	if err == nil {
		answer(w, s)
	}
	return err
}

func (h *handler) timeline(w http.ResponseWriter, r *http.Request, _ string) error {
	ctx, cancel := bounded(r)
	defer cancel()
	events, err := h.store.Timeline(ctx, r.PathValue("name"))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	for i := range events {
		if err := enc.Encode(&events[i]); err != nil {
			return nil // the caller went away
		}
	}
	return nil
}

func (h *handler) observe(w http.ResponseWriter, r *http.Request, _ string) error {
	var events []machine.Event
	if err := read(w, r, maxEventsBody, true, &events); err != nil {
		return err
	}
	if len(events) > maxEvents {
		return &badInput{http.StatusRequestEntityTooLarge, "there are more than " + strconv.Itoa(maxEvents) + " events; send them in parts"}
	}
	var out Observed
	for _, e := range events {
		known, err := h.store.Observe(e)
		if err != nil {
			return err
		}
		if known {
			out.Taken++
		} else {
			out.Unknown++
		}
	}
	answer(w, out)
	return nil
}

// keepAlive is how often a quiet stream has an empty line, so that either side notices when the other is gone.
const keepAlive = 10 * time.Second

// follow streams events, one JSON object a line.
func (h *handler) follow(w http.ResponseWriter, r *http.Request, _ string) error {
	var from uint64
	if v := r.URL.Query().Get("from"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			return &badInput{http.StatusBadRequest, "from is not the number of an event"}
		}
		from = n
	}
	follow, err := flag(r, "follow")
	if err != nil {
		return err
	}
	// A stream has no end of its own, and http.Server.Shutdown waits for it.
	if s, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok {
		h.watchEnd.Do(func() { s.RegisterOnShutdown(func() { close(h.ending) }) })
	}
	last := h.store.Last()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	out := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	enc := json.NewEncoder(w)
	tick := time.NewTicker(keepAlive)
	defer tick.Stop()
	if !follow && from >= last {
		return nil
	}
	if out.Flush() != nil { // who follows shall know that it was heard, also when nothing happens
		return nil
	}
	events := h.store.Follow(ctx, from)
	for {
		_ = out.SetWriteDeadline(time.Now().Add(3 * keepAlive)) // not every server has one
		select {
		case e, ok := <-events:
			if !ok || enc.Encode(e) != nil {
				return nil
			}
			if !follow && e.Seq >= last {
				return nil
			}
		case <-h.ending:
			return nil
		case <-tick.C:
			if _, err := w.Write([]byte("\n")); err != nil {
				return nil
			}
		}
		if out.Flush() != nil {
			return nil
		}
	}
}

func flag(r *http.Request, name string) (bool, error) {
	switch v := r.URL.Query().Get(name); v {
	case "", "0", "false":
		return false, nil
	case "1", "true":
		return true, nil
	}
	return false, &badInput{http.StatusBadRequest, name + " is 1 or 0"}
}
