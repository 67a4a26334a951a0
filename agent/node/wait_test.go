package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd/api"
)

// nodeJSON is a Node as the API server writes it.
func nodeJSON(version int, ready string) string {
	return fmt.Sprintf(`{"kind":"Node","apiVersion":"v1","metadata":{"name":"w1","resourceVersion":"%d"},"status":{"conditions":[{"type":"Ready","status":%q,"reason":"R","message":"m"}]}}`, version, ready)
}

func listJSON(version int, items ...string) string {
	return fmt.Sprintf(`{"kind":"NodeList","apiVersion":"v1","metadata":{"resourceVersion":"%d"},"items":[%s]}`, version, strings.Join(items, ","))
}

func eventJSON(kind, object string) string {
	return fmt.Sprintf(`{"type":%q,"object":%s}`+"\n", kind, object)
}

const gone = `{"kind":"Status","apiVersion":"v1","status":"Failure","code":410,"reason":"Expired","message":"too old resource version: 5 (9)"}`

// watchDouble answers lists with list and the n-th watch with watch(n). A watch that returns ends its stream.
type watchDouble struct {
	*double
	lists, watches atomic.Int32
	versions       chan string
}

func newWatchDouble(t *testing.T, list func(n int32) string, watch func(n int32, w http.ResponseWriter, r *http.Request)) *watchDouble {
	t.Helper()
	d := &watchDouble{versions: make(chan string, 1000)}
	d.double = newDouble(t, leaf{}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/nodes" || r.URL.Query().Get("fieldSelector") != "metadata.name=w1" {
			t.Errorf("not expected: %s", r.URL)
		}
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Query().Get("watch") == "" {
			io.WriteString(w, list(d.lists.Add(1)))
			return
		}
		d.versions <- r.URL.Query().Get("resourceVersion")
		n := d.watches.Add(1)
		w.(http.Flusher).Flush()
		watch(n, w, r)
	})
	return d
}

func send(w http.ResponseWriter, text string) { io.WriteString(w, text); w.(http.Flusher).Flush() }

func (d *watchDouble) client(t *testing.T) *Client {
	return client(t, d.URL, d.ca.pem, api.AuthInfo{Token: secretToken}, Options{})
}

// follow waits for w1 and gives the states seen, as "ready" or "not" or "none".
func follow(ctx context.Context, c *Client) (string, error) {
	var seen []string
	err := c.WaitNode(ctx, "w1", func(s NodeState) {
		switch {
		case s.Ready:
			seen = append(seen, "ready")
		case s.Registered:
			seen = append(seen, "not")
		default:
			seen = append(seen, "none")
		}
	})
	return strings.Join(seen, " "), err
}

func TestWatch(t *testing.T) {
	notReady := func(int32) string { return listJSON(5, nodeJSON(5, "False")) }
	tests := []struct {
		name           string
		list           func(n int32) string
		watch          func(n int32, w http.ResponseWriter, r *http.Request)
		seen           string
		lists, watches int32
		last           string // the resource version of the last watch
	}{
		{"ready at once", func(int32) string { return listJSON(5, nodeJSON(5, "True")) }, nil, "ready", 1, 0, ""},
		{"registered, then ready", func(int32) string { return listJSON(5) }, func(_ int32, w http.ResponseWriter, _ *http.Request) {
			send(w, eventJSON("ADDED", nodeJSON(6, "Unknown")))
			send(w, eventJSON("BOOKMARK", `{"kind":"Node","apiVersion":"v1","metadata":{"resourceVersion":"8"}}`))
			send(w, eventJSON("MODIFIED", nodeJSON(9, "True")))
		}, "none not ready", 1, 1, "5"},
		{"deleted and back", notReady, func(_ int32, w http.ResponseWriter, _ *http.Request) {
			send(w, eventJSON("DELETED", nodeJSON(6, "False"))+eventJSON("ADDED", nodeJSON(7, "False"))+eventJSON("MODIFIED", nodeJSON(8, "True")))
		}, "not none not ready", 1, 1, "5"},
		{"heartbeats are not reported", notReady, func(_ int32, w http.ResponseWriter, _ *http.Request) {
			for v := 6; v < 20; v++ {
				send(w, eventJSON("MODIFIED", nodeJSON(v, "False")))
			}
			send(w, eventJSON("MODIFIED", nodeJSON(21, "True")))
		}, "not ready", 1, 1, "5"},
		{"expired version in the stream", func(n int32) string { return listJSON(int(4+n), nodeJSON(5, "False")) }, func(n int32, w http.ResponseWriter, _ *http.Request) {
			if n == 1 {
				send(w, eventJSON("ERROR", gone))
				return
			}
			send(w, eventJSON("MODIFIED", nodeJSON(9, "True")))
		}, "not ready", 2, 2, "6"},
		{"ended in the ordinary way", notReady, func(n int32, w http.ResponseWriter, r *http.Request) {
			if n == 1 {
				send(w, eventJSON("BOOKMARK", `{"kind":"Node","apiVersion":"v1","metadata":{"resourceVersion":"17"}}`))
				select {
				case <-time.After(1100 * time.Millisecond):
				case <-r.Context().Done():
				}
				return
			}
			send(w, eventJSON("MODIFIED", nodeJSON(18, "True")))
		}, "not ready", 1, 2, "17"},
		{"cut off", notReady, func(n int32, w http.ResponseWriter, _ *http.Request) {
			if n == 1 {
				panic(http.ErrAbortHandler)
			}
			send(w, eventJSON("MODIFIED", nodeJSON(9, "True")))
		}, "not ready", 2, 2, "5"},
		{"garbage", notReady, func(n int32, w http.ResponseWriter, _ *http.Request) {
			if n == 1 {
				send(w, "<html>\x1b[31m")
				return
			}
			send(w, eventJSON("MODIFIED", nodeJSON(9, "True")))
		}, "not ready", 2, 2, "5"},
		{"another object", notReady, func(n int32, w http.ResponseWriter, _ *http.Request) {
			if n == 1 {
				send(w, eventJSON("ADDED", strings.Replace(nodeJSON(6, "True"), "w1", "w2", 1)))
				return
			}
			send(w, eventJSON("MODIFIED", nodeJSON(9, "True")))
		}, "not ready", 2, 2, "5"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := newWatchDouble(t, test.list, test.watch)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			seen, err := follow(ctx, d.client(t))
			if err != nil || seen != test.seen {
				t.Errorf("saw %q, want %q: %v", seen, test.seen, err)
			}
			if d.lists.Load() != test.lists || d.watches.Load() != test.watches {
				t.Errorf("%d lists and %d watches, want %d and %d", d.lists.Load(), d.watches.Load(), test.lists, test.watches)
			}
			last := ""
			for len(d.versions) > 0 {
				last = <-d.versions
			}
			if last != test.last {
				t.Errorf("the last watch began at %q, want %q", last, test.last)
			}
		})
	}
}

// HTTP 410 to the watch itself, as old servers answer, leads to a new list too.
func TestWatchGoneByStatus(t *testing.T) {
	d := newWatchDouble(t, func(int32) string { return listJSON(5, nodeJSON(5, "False")) }, nil)
	d.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.URL.Query().Get("watch") == "":
			io.WriteString(w, listJSON(5, nodeJSON(5, map[bool]string{true: "True", false: "False"}[d.lists.Add(1) > 1])))
		default:
			status(w, http.StatusGone, "Expired", "too old resource version")
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if seen, err := follow(ctx, d.client(t)); err != nil || seen != "not ready" || d.lists.Load() != 2 {
		t.Errorf("saw %q with %d lists: %v", seen, d.lists.Load(), err)
	}
}

// A server that ends every watch at once is not hammered.
func TestWatchBacksOff(t *testing.T) {
	d := newWatchDouble(t, func(int32) string { return listJSON(5, nodeJSON(5, "False")) }, func(int32, http.ResponseWriter, *http.Request) {})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := follow(ctx, d.client(t))
	var notReady *NotReadyError
	if !errors.As(err, &notReady) || !errors.Is(err, context.DeadlineExceeded) || notReady.Last.Reason != "R" {
		t.Errorf("got %v", err)
	}
	if n := d.requests.Load(); n > 40 {
		t.Errorf("%d requests in 2 seconds", n)
	}
}

// A silent stream ends with the caller, and a credential that is rejected ends the wait.
func TestWatchEnds(t *testing.T) {
	t.Run("silence", func(t *testing.T) {
		d := newWatchDouble(t, func(int32) string { return listJSON(5, nodeJSON(5, "False")) }, func(_ int32, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		if seen, err := follow(ctx, d.client(t)); !errors.Is(err, context.DeadlineExceeded) || seen != "not" || time.Since(begun) > 3*time.Second {
			t.Errorf("saw %q in %v: %v", seen, time.Since(begun), err)
		}
	})
	t.Run("401", func(t *testing.T) {
		d := newDouble(t, leaf{}, func(w http.ResponseWriter, _ *http.Request) { status(w, 401, "Unauthorized", "Unauthorized") })
		_, err := follow(t.Context(), client(t, d.URL, d.ca.pem, api.AuthInfo{Token: secretToken}, Options{}))
		expect(t, err, LayerAuthentication, Unauthorized, "cannot watch node w1")
		if d.requests.Load() != 1 {
			t.Errorf("%d requests", d.requests.Load())
		}
	})
	t.Run("the server goes away", func(t *testing.T) {
		d := newWatchDouble(t, func(int32) string { return listJSON(5, nodeJSON(5, "False")) }, func(_ int32, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		err := d.client(t).WaitNode(ctx, "w1", func(NodeState) {
			d.Listener.Close()
			go d.CloseClientConnections()
		})
		var notReady *NotReadyError
		if !errors.As(err, &notReady) || !IsReason(err, ConnectionRefused) || !strings.Contains(err.Error(), "node w1 is not Ready: R: m; cannot watch node w1:") {
			t.Errorf("got %v", err)
		}
	})
}

// Before Kubernetes 1.19 there was certificates.k8s.io/v1beta1 alone, without signers.
func TestCSRsOfOldServers(t *testing.T) {
	d := newDouble(t, leaf{}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/apis/certificates.k8s.io/v1beta1/certificatesigningrequests" || r.URL.RawQuery != "" {
			status(w, 404, "NotFound", "the server could not find the requested resource")
			return
		}
		item := func(name, node, created string, conditions ...any) any {
			return map[string]any{"metadata": map[string]any{"name": name, "creationTimestamp": created}, "spec": map[string]any{"request": request(t, node), "username": "system:bootstrap:abcdef"},
				"status": map[string]any{"conditions": conditions, "certificate": map[bool]any{true: []byte("x")}[name == "b"]}}
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{"kind": "CertificateSigningRequestList", "apiVersion": "certificates.k8s.io/v1beta1", "items": []any{
			item("a", "w1", "2024-01-01T00:00:00Z", map[string]string{"type": "Denied", "message": "no"}),
			item("b", "w1", "2024-01-02T00:00:00Z", map[string]string{"type": "Approved"}),
			item("c", "w2", "2024-01-03T00:00:00Z"),
		}})
	})
	all, err := client(t, d.URL, d.ca.pem, api.AuthInfo{Token: bootstrap}, Options{}).CSRs(t.Context(), "w1")
	if err != nil || len(all) != 2 || all[0].Name != "b" || all[0].State != CSRIssued || all[1].State != CSRDenied || all[1].Message != "no" {
		t.Errorf("got %+v, %v", all, err)
	}
}
