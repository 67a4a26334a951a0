package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// eventNamespace holds the Events of Nodes, which have no namespace themselves: the kubelet's choice, and where kubectl looks.
const eventNamespace = metav1.NamespaceDefault

// eventSource is who reports, in Events.
const eventSource = "tectonic-worker"

// maxEventMessage is what the API server takes at most (k8s.io/kubernetes/pkg/apis/core/validation, validateV1EventSeries).
const maxEventMessage = 1024

// An Event is something that happened on a Node, for the people who read "kubectl describe node".
type Event struct {
	Node    string
	Reason  string // UpperCamelCase, stable
	Message string
	Warning bool
	At      time.Time

	// Set by Events.Add.
	Name  string    // of the object
	Count int       // how often it happened
	First time.Time // when for the first time
}

// PostEvent writes an Event: a new object for the first of its kind, else the count and the time of the one that is there. An
// object that the API server has forgotten meanwhile (after an hour, by default) is made anew.
func (c *Client) PostEvent(ctx context.Context, e Event) error {
	op := "report the event " + e.Reason + " on node " + clean(e.Node)
	if e.Count > 1 {
		patch, err := json.Marshal(map[string]any{"count": e.Count, "lastTimestamp": metav1.NewTime(e.At)})
		if err != nil {
			return err
		}
		_, _, err = c.raw(ctx, op, c.rest.Patch(types.StrategicMergePatchType).Namespace(eventNamespace).Resource("events").Name(e.Name).Body(patch))
		if !IsReason(err, NotFound) {
			return err
		}
	}
	kind := corev1.EventTypeNormal
	if e.Warning {
		kind = corev1.EventTypeWarning
	}
	message := e.Message
	if len(message) > maxEventMessage {
		message = strings.ToValidUTF8(message[:maxEventMessage-len("…")], "") + "…"
	}
	event := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: e.Name, Namespace: eventNamespace},
		// The UID of a Node in its kubelet's Events is its name; older kubectl finds no others.
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: e.Node, UID: types.UID(e.Node)},
		Reason:         e.Reason, Message: message, Type: kind, Count: int32(max(e.Count, 1)),
		FirstTimestamp: metav1.NewTime(e.First), LastTimestamp: metav1.NewTime(e.At),
		Source:              corev1.EventSource{Component: eventSource, Host: e.Node},
		ReportingController: eventSource, ReportingInstance: e.Node,
	}
	_, _, err := c.raw(ctx, op, c.rest.Post().Namespace(eventNamespace).Resource("events").Body(event))
	if IsReason(err, Conflict) { // the answer to an earlier attempt got lost
		return nil
	}
	return err
}

// SetCondition writes one condition of a Node and leaves the others to their owners. Since is when Status became what it is.
func (c *Client) SetCondition(ctx context.Context, node string, cond Condition) error {
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []corev1.NodeCondition{{
		Type: corev1.NodeConditionType(cond.Type), Status: corev1.ConditionStatus(cond.Status), Reason: cond.Reason, Message: cond.Message,
		LastHeartbeatTime: metav1.NewTime(c.now()), LastTransitionTime: metav1.NewTime(cond.Since),
	}}}})
	if err != nil {
		return err
	}
	_, _, err = c.raw(ctx, "set the condition "+cond.Type+" of node "+clean(node),
		c.rest.Patch(types.StrategicMergePatchType).Resource("nodes").Name(node).SubResource("status").Body(patch))
	return err
}

// eventWindow is how long an equal Event counts as the same one.
const eventWindow = 10 * time.Minute

// Events counts equal Events, so that what happens again and again is one object with a count. The zero value is empty.
type Events struct {
	recent map[eventKey]Event
}

type eventKey struct {
	node, reason, message string
	warning               bool
}

// Add gives e its name and its count.
func (es *Events) Add(e Event) Event {
	if es.recent == nil {
		es.recent = map[eventKey]Event{}
	}
	for k, old := range es.recent {
		if e.At.Sub(old.At) > eventWindow {
			delete(es.recent, k)
		}
	}
	key := eventKey{e.Node, e.Reason, e.Message, e.Warning}
	old, again := es.recent[key]
	if again {
		e.Name, e.First, e.Count = old.Name, old.First, old.Count+1
	} else {
		// As the kubelet names its own: unique on this Node, and it sorts by time.
		e.Name, e.First, e.Count = fmt.Sprintf("%s.%x", e.Node, e.At.UnixNano()), e.At, 1
	}
	es.recent[key] = e
	return e
}

// FollowNode watches a Node for as long as ctx lasts, for a program that runs for months: one request in half an hour or more,
// and nothing on the wire in between but what happens to the Node. see is called with every state that differs from the one
// before, lost with the reason whenever the watch broke and is tried again. It returns an APIError where trying on is of no
// use, and ctx's error at its end.
func (c *Client) FollowNode(ctx context.Context, name string, see func(NodeState), lost func(error)) error {
	w := nodeWatch{c: c, name: name, patient: true, last: NodeState{Name: clean(name)}, see: func(s NodeState) bool {
		see(s)
		return false
	}}
	for failures := 0; ; {
		w.seen = false // what is seen after a gap is told even where it is the same, as a sign of life
		progress, err := w.once(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var api *APIError
		if errors.As(err, &api) && final(api) {
			return err
		}
		if progress {
			failures = 0
		}
		failures++
		if err != nil {
			lost(err)
		}
		wait := backoff(failures, 500*time.Millisecond, 2*time.Minute)
		if api != nil && api.Status == http.StatusTooManyRequests {
			wait = max(wait, api.RetryAfter)
		}
		again := time.NewTimer(wait)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return ctx.Err()
		}
	}
}
