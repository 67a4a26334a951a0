package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

// nodeEvent is a change of one Node as the API server told it.
type nodeEvent struct {
	at    time.Time
	kind  string // ADDED, MODIFIED, DELETED
	name  string
	ready bool
}

// nodes is a watch on all Nodes at the API server, by plain HTTP: the same observer for both sides, with no program of its
// own to start and no interval.
type nodes struct {
	events chan nodeEvent
	err    error // why events ended
}

func watchNodes(ctx context.Context, cp *lab.ControlPlane) (*nodes, error) {
	admin, err := cp.CA.Issue(lab.Subject{Name: "bench", Organizations: []string{"system:masters"}})
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(admin.Cert, admin.Key)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cp.CA.Cert)
	client := &http.Client{Transport: &http.Transport{
		DialContext: cp.Dial, TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}},
	}}
	// Version 0 is what the API server has at hand. Without one it insists on its newest, which a server that has just started
	// and never saw a Node does not get to ("Too large resource version").
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, cp.Server+"/api/v1/nodes?watch=1&resourceVersion=0&timeoutSeconds=3600", nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("cannot watch the nodes: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("cannot watch the nodes: %s", resp.Status)
	}
	w := &nodes{events: make(chan nodeEvent, 1000)}
	go func() {
		defer close(w.events)
		defer resp.Body.Close()
		w.err = w.read(json.NewDecoder(resp.Body))
	}()
	return w, nil
}

func (w *nodes) read(d *json.Decoder) error {
	for {
		var e struct {
			Type   string
			Object json.RawMessage
		}
		if err := d.Decode(&e); err != nil {
			return err
		}
		event := nodeEvent{at: time.Now(), kind: e.Type}
		var node struct {
			Metadata struct{ Name string }
			Status   struct {
				Conditions []struct{ Type, Status string }
			}
		}
		// An event of type ERROR has a Status instead of a Node.
		if err := json.Unmarshal(e.Object, &node); e.Type == "ERROR" || err != nil {
			return errors.Join(fmt.Errorf("%s: %s", e.Type, e.Object), err)
		}
		event.name = node.Metadata.Name
		for _, c := range node.Status.Conditions {
			event.ready = event.ready || c.Type == "Ready" && c.Status == "True"
		}
		w.events <- event
	}
}

// await gives the first event of that Node that is as wanted. Those before it are dropped.
func (w *nodes) await(ctx context.Context, name string, wanted func(nodeEvent) bool) (nodeEvent, error) {
	for {
		select {
		case e, ok := <-w.events:
			if !ok {
				return e, errors.Join(errors.New("the watch on the nodes ended"), w.err)
			}
			if e.name == name && wanted(e) {
				return e, nil
			}
		case <-ctx.Done():
			return nodeEvent{}, fmt.Errorf("waiting for node %s: %w", name, ctx.Err())
		}
	}
}

func added(e nodeEvent) bool   { return e.kind == "ADDED" }
func deleted(e nodeEvent) bool { return e.kind == "DELETED" }
func isReady(e nodeEvent) bool { return e.kind != "DELETED" && e.ready }
