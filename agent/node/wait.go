package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
)

// A NotReadyError is a wait for a Node that ended before the Node was Ready. It unwraps to what ended it.
type NotReadyError struct {
	Last NodeState // as seen last
	Err  error     // context.DeadlineExceeded, or the APIError of the last attempt to watch
}

func (e *NotReadyError) Error() string {
	s := e.Last.Why()
	var api *APIError
	if errors.As(e.Err, &api) {
		s += "; " + api.Error()
	}
	if e.Last.CNIMissing() {
		s += `; the cluster's network plugin has not set this node up: look at its DaemonSet ("kubectl -n kube-system get pods -o wide")`
	}
	return s
}

func (e *NotReadyError) Unwrap() error { return e.Err }

// WaitNode watches a Node until it is Ready. report, if not nil, is called with every state that differs from the one before,
// the first of them, possibly "not registered", at once. It returns nil when the Node is Ready, an APIError when trying on is
// of no use (a credential rejected or without the right), and a NotReadyError when ctx ends.
func (c *Client) WaitNode(ctx context.Context, name string, report func(NodeState)) error {
	return c.WatchNode(ctx, name, func(s NodeState) bool {
		if report != nil {
			report(s)
		}
		return s.Ready
	})
}

// WatchNode watches a Node until see returns true, like WaitNode does for Ready. A connection that breaks is made again, with
// backoff; a resource version that the server has forgotten leads to a fresh list.
func (c *Client) WatchNode(ctx context.Context, name string, see func(NodeState) (enough bool)) error {
	w := nodeWatch{c: c, name: name, see: see, last: NodeState{Name: clean(name)}}
	for failures := 0; ; {
		progress, err := w.once(ctx)
		if w.enough {
			return nil
		}
		if ctx.Err() != nil {
			return &NotReadyError{Last: w.last, Err: ctxOr(ctx, w.err)}
		}
		var api *APIError
		if errors.As(err, &api) && final(api) {
			return err
		}
		w.err = err
		if progress {
			failures = 0
		}
		failures++
		select {
		case <-time.After(backoff(failures, 200*time.Millisecond, 15*time.Second)):
		case <-ctx.Done():
			return &NotReadyError{Last: w.last, Err: ctxOr(ctx, w.err)}
		}
	}
}

// final tells the failures that waiting does not mend. A name that is not found may be, in the middle of a wait.
func final(e *APIError) bool {
	switch e.Reason {
	case Unexpected, Interrupted, NameNotFound:
		return false
	}
	return !e.Retry()
}

// ctxOr keeps both: errors.Is finds the context's end, errors.As the last APIError.
func ctxOr(ctx context.Context, err error) error {
	if err == nil {
		return ctx.Err()
	}
	return errors.Join(ctx.Err(), err)
}

type nodeWatch struct {
	c       *Client
	name    string
	patient bool // see FollowNode
	see     func(NodeState) bool
	last    NodeState
	seen    bool
	enough  bool
	err     error // why the last attempt ended
}

func (w *nodeWatch) observe(s NodeState) bool {
	if w.seen && reflect.DeepEqual(s, w.last) {
		return w.enough
	}
	w.last, w.seen = s, true
	w.enough = w.see(s)
	return w.enough
}

// once lists and then watches until the stream ends. progress tells that the server answered, so that the next backoff starts
// anew.
func (w *nodeWatch) once(ctx context.Context) (progress bool, err error) {
	op := "watch node " + clean(w.name)
	// The selector is what a node's own credential is limited to (AuthorizeNodeWithSelectors).
	selector := fields.OneTermEqualSelector("metadata.name", w.name).String()
	var nodes corev1.NodeList
	list := w.c.rest.Get().Resource("nodes").VersionedParams(&metav1.ListOptions{FieldSelector: selector}, parameters)
	if err := w.c.get(ctx, op, list, &nodes); err != nil {
		return false, err
	}
	w.err = nil
	state := NodeState{Name: clean(w.name)}
	if len(nodes.Items) > 0 {
		state = stateOf(&nodes.Items[0])
	}
	if w.observe(state) {
		return true, nil
	}
	version := nodes.ResourceVersion
	for ctx.Err() == nil {
		var again bool
		if version, again, err = w.stream(ctx, op, selector, version); !again || w.enough {
			return true, err
		}
	}
	return true, ctx.Err()
}

// stream is one watch request. again tells that it ended in the ordinary way and may go on from the version.
func (w *nodeWatch) stream(ctx context.Context, op, selector, version string) (next string, again bool, err error) {
	// The server ends the watch by itself; should its end get lost, so do we a little later.
	life := 4*time.Minute + rand.N(2*time.Minute)
	if w.patient {
		life = 30*time.Minute + rand.N(30*time.Minute)
	}
	seconds := int64(life / time.Second)
	ctx, cancel := context.WithTimeout(ctx, life+30*time.Second)
	defer cancel()
	ctx, ex := withExchange(ctx)
	begun := time.Now()
	stream, err := w.c.rest.Get().Resource("nodes").MaxRetries(0).VersionedParams(&metav1.ListOptions{
		Watch: true, FieldSelector: selector, ResourceVersion: version, AllowWatchBookmarks: !w.patient, TimeoutSeconds: &seconds,
	}, parameters).Watch(ctx)
	if err != nil {
		return version, false, w.c.explain(ctx, op, ex, err)
	}
	defer stream.Stop()
	for event := range stream.ResultChan() {
		if event.Type == watch.Error {
			status, _ := event.Object.(*metav1.Status)
			if status != nil && (status.Code == http.StatusGone || status.Reason == metav1.StatusReasonExpired) {
				return "", false, nil // list anew
			}
			what := "the API server ended the watch"
			if status != nil {
				what += ": " + clean(status.Message)
			}
			return "", false, &APIError{Layer: LayerAPI, Reason: ServerFailed, Op: op, What: what}
		}
		n, ok := event.Object.(*corev1.Node)
		if !ok || n.Name != w.name && event.Type != watch.Bookmark {
			return "", false, &APIError{Layer: LayerAPI, Reason: ServerFailed, Op: op, What: fmt.Sprintf("the API server sent a %T in a watch of one node", event.Object)}
		}
		version = n.ResourceVersion
		switch event.Type {
		case watch.Added, watch.Modified:
			w.observe(stateOf(n))
		case watch.Deleted:
			w.observe(NodeState{Name: clean(w.name)})
		}
		if w.enough {
			return version, true, nil
		}
	}
	if ctx.Err() == nil && time.Since(begun) < time.Second {
		// A server that ends every watch at once would otherwise be asked without a pause.
		return version, false, &APIError{Layer: LayerHTTP, Reason: ConnectionReset, Op: op, What: "the watch ended at once"}
	}
	return version, true, nil
}
