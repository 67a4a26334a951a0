package node

import (
	"context"
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Equal Events within ten minutes are one object with a count.
func TestEvents(t *testing.T) {
	var es Events
	at := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	add := func(minutes int, message string) Event {
		return es.Add(Event{Node: "w1", Reason: "R", Message: message, At: at.Add(time.Duration(minutes) * time.Minute)})
	}
	first, other, second := add(0, "a"), add(1, "b"), add(9, "a")
	if first.Count != 1 || other.Count != 1 || first.Name == other.Name {
		t.Errorf("%+v, %+v", first, other)
	}
	if second.Count != 2 || second.Name != first.Name || !second.First.Equal(first.At) {
		t.Errorf("the second is %+v", second)
	}
	if late := add(20, "a"); late.Count != 1 || late.Name == first.Name {
		t.Errorf("eleven minutes later: %+v", late)
	}
}

// A node reports on itself with its own credential, and on no other node; what
// others wrote into its status stays.
func TestRealEvents(t *testing.T) {
	p := startControlPlane(t)
	for _, name := range []string{"e1", "e2"} {
		p.apply(t, p.admin, "/api/v1/nodes", object("Node", "v1", name, nil))
	}
	ctx := t.Context()
	worker := p.cert(t, "system:node:e1", "system:nodes")
	if err := p.admin.SetCondition(ctx, "e1", Condition{Type: "SomebodyElses", Status: "True", Reason: "R", Message: "m", Since: time.Now()}); err != nil {
		t.Fatal(err)
	}
	since := time.Now().Add(-time.Hour).Truncate(time.Second)
	for _, status := range []string{"False", "True"} {
		if err := worker.SetCondition(ctx, "e1", Condition{Type: "TectonicWorkerDrift", Status: status, Reason: "R" + status, Message: "m", Since: since}); err != nil {
			t.Fatal(err)
		}
	}
	n, err := worker.Node(ctx, "e1")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]Condition{}
	for _, c := range n.Conditions {
		found[c.Type] = c
	}
	if c := found["TectonicWorkerDrift"]; c.Status != "True" || c.Reason != "RTrue" || !c.Since.Equal(since) || found["SomebodyElses"].Status != "True" {
		t.Errorf("conditions %+v", n.Conditions)
	}
	expect(t, worker.SetCondition(ctx, "e2", Condition{Type: "T", Status: "True", Since: since}), LayerAuthorization, Forbidden, "cannot set the condition T of node e2")
	expect(t, p.admin.SetCondition(ctx, "none", Condition{Type: "T", Status: "True", Since: since}), LayerAPI, NotFound, "cannot set the condition T of node none")

	var es Events
	e := es.Add(Event{Node: "e1", Reason: "TectonicWorkerRepaired", Message: "a port", At: time.Now()})
	again := es.Add(Event{Node: "e1", Reason: "TectonicWorkerRepaired", Message: "a port", At: time.Now()})
	for _, e := range []Event{e, e, again} { // the answer to the first one got lost
		if err := worker.PostEvent(ctx, e); err != nil {
			t.Fatal(err)
		}
	}
	read := func() (list corev1.EventList) {
		t.Helper()
		if err := p.admin.get(ctx, "list events", p.admin.rest.Get().Namespace("default").Resource("events"), &list); err != nil {
			t.Fatal(err)
		}
		return list
	}
	list := read()
	if len(list.Items) != 1 || list.Items[0].Count != 2 || list.Items[0].InvolvedObject.Name != "e1" || list.Items[0].Source.Component != eventSource || list.Items[0].Type != "Normal" {
		t.Errorf("Events %+v", list.Items)
	}
	// One that the API server has forgotten is made anew.
	if _, _, err := p.admin.raw(ctx, "delete an event", p.admin.rest.Delete().Namespace("default").Resource("events").Name(e.Name)); err != nil {
		t.Fatal(err)
	}
	if err := worker.PostEvent(ctx, again); err != nil {
		t.Fatal(err)
	}
	if list := read(); len(list.Items) != 1 || list.Items[0].Count != 2 {
		t.Errorf("Events %+v", list.Items)
	}
	expect(t, p.cert(t, "nobody").PostEvent(ctx, e), LayerAuthorization, Forbidden, "cannot report the event TectonicWorkerRepaired on node e1")
}

// FollowNode sees each change once, by one watch, and ends with its context.
func TestRealFollowNode(t *testing.T) {
	p := startControlPlane(t)
	p.apply(t, p.admin, "/api/v1/nodes", object("Node", "v1", "f1", nil))
	worker := p.cert(t, "system:node:f1", "system:nodes")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	seen := make(chan NodeState, 16)
	done := make(chan error, 1)
	go func() {
		done <- worker.FollowNode(ctx, "f1", func(s NodeState) { seen <- s }, func(err error) { t.Errorf("lost: %v", err) })
	}()
	next := func() NodeState {
		t.Helper()
		select {
		case s := <-seen:
			return s
		case <-ctx.Done():
			t.Fatal("nothing was seen")
		}
		return NodeState{}
	}
	if s := next(); !s.Registered || s.Ready {
		t.Errorf("%+v", s)
	}
	if err := p.admin.SetCondition(ctx, "f1", Condition{Type: "Ready", Status: "True", Since: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if s := next(); !s.Ready {
		t.Errorf("%+v", s)
	}
	if err := p.admin.DeleteNode(ctx, "f1"); err != nil {
		t.Fatal(err)
	}
	if s := next(); s.Registered {
		t.Errorf("%+v", s)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("it ends with %v", err)
	}
	if len(seen) != 0 {
		t.Errorf("seen once more: %+v", <-seen)
	}
	refused := p.cert(t, "nobody").FollowNode(t.Context(), "f1", func(NodeState) {}, func(error) {})
	expect(t, refused, LayerAuthorization, Forbidden, "watch node f1")
}
