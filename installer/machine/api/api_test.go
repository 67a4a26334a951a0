package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

// A machine's whole way, and the operator who watches it.
func TestWholeWay(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	list, err := w.client.Machines(ctx)
	w.ok(err)
	if len(list.Machines) != 0 {
		t.Fatalf("%+v", list)
	}
	seen := make(chan machine.Event, 100)
	followed := make(chan error, 1)
	stop, end := context.WithCancel(ctx)
	go func() {
		followed <- w.client.Follow(stop, list.Seq, func(e machine.Event) error { seen <- e; return nil })
	}()

	once := w.booted("n1", mac)
	var order machine.Instruction
	w.well(w.says(machine.PathHello, once, machine.Hello{MAC: mac, Inventory: machine.Inventory{Cores: 4}}, &order))
	if order.Machine != "n1" || order.Action != machine.ActionInstall {
		t.Errorf("order %+v", order)
	}
	w.well(w.says(machine.PathChecks, once, machine.Checks{Checks: []machine.Check{{Name: "disk", OK: true}}}, nil))
	var claimed machine.Claimed
	w.well(w.says(machine.PathClaim, once, machine.Claim{Disk: machine.InventoryDisk{Name: "vda"}}, &claimed))
	if string(claimed.Files[0].Content) != "hunter2" || len(claimed.Config) == 0 {
		t.Errorf("claimed %+v", claimed)
	}
	status, text := w.says(machine.PathClaim, once, machine.Claim{}, nil)
	if status != http.StatusGone {
		t.Errorf("claimed twice: %d %s", status, text)
	}
	w.well(w.says(machine.PathProgress, claimed.Session, machine.Progress{Stage: "write", Percent: 50}, nil))
	w.well(w.says(machine.PathInstalled, claimed.Session, machine.Answer{}, nil))
	w.well(w.says(machine.PathReady, claimed.Ready, machine.Answer{}, nil))

	s, err := w.client.Machine(ctx, "52-54-00-A1-9C-AE")
	w.ok(err)
	if s.State != machine.Ready || s.Inventory.Cores != 4 {
		t.Errorf("%+v", s)
	}
	observed, err := w.client.Observe(ctx, []machine.Event{{MAC: mac, Source: machine.SourceDHCP, Kind: "ack", Message: "has 192.0.2.7"}, {MAC: "52:54:00:00:00:01", Source: machine.SourceDHCP, Kind: "discover"}})
	w.ok(err)
	if observed != (Observed{1, 1}) {
		t.Errorf("%+v", observed)
	}
	events, err := w.client.Timeline(ctx, "n1")
	w.ok(err)
	if len(events) != 10 || events[1].Message[:5] != "armed" || !strings.HasSuffix(events[1].Message, ", by alice") {
		t.Errorf("timeline %+v", events)
	}
	for i, want := range events {
		if got := <-seen; got.Seq != want.Seq || got.Message != want.Message {
			t.Errorf("event %d: followed %+v, in the timeline %+v", i, got, want)
		}
	}
	end()
	if err := <-followed; !errors.Is(err, context.Canceled) {
		t.Errorf("the follow ended with %v", err)
	}
	for _, secret := range []string{once, claimed.Session, claimed.Ready, "hunter2"} {
		if strings.Contains(w.log.String(), secret) {
			t.Error("a secret is in the log")
		}
	}

	var document map[string]string
	w.ok(w.client.Get(ctx, "programs", url.Values{"for": {"x86_64"}}, &document))
	if document["asked"] != "x86_64" {
		t.Errorf("another document: %v", document)
	}

	// The operator's other verbs, and refusals as sentences.
	_, err = w.client.Arm(ctx, "n1", machine.ArmRequest{Action: machine.ActionInstall})
	if !errors.Is(err, machine.ErrConflict) || err.Error() != "cannot arm n1: it is ready, and its disk would be overwritten; force it if that is meant" {
		t.Errorf("%v", err)
	}
	res, err := w.client.Arm(ctx, "n1", machine.ArmRequest{Action: machine.ActionWipe, Force: true, External: true})
	w.ok(err)
	if res.Token == "" || res.Status.Action != machine.ActionWipe {
		t.Errorf("%+v", res)
	}
	st, err := w.client.Disarm(ctx, "n1", false)
	w.ok(err)
	if st.State != machine.Ready {
		t.Errorf("disarmed: %+v", st)
	}
	if _, err = w.client.Accept(ctx, "n1"); !errors.Is(err, machine.ErrConflict) {
		t.Errorf("%v", err)
	}
	w.ok(w.client.Delete(ctx, "n1", false))
	if err = w.client.Delete(ctx, "n1", true); !errors.Is(err, machine.ErrUnknown) {
		t.Errorf("%v", err)
	}
	if _, err = w.client.Machine(ctx, "../machines"); !errors.Is(err, machine.ErrUnknown) {
		t.Errorf("%v", err)
	}
}

// Operators' calls need a certificate of the CA; a token is none, and a machine's calls take no certificate for one.
func TestWhoMayCall(t *testing.T) {
	w := newWorld(t)
	once := w.booted("n1", mac)
	calls := []struct{ method, path string }{
		{"GET", pathMachines}, {"GET", pathMachines + "/n1"}, {"PUT", pathMachines + "/n1"}, {"DELETE", pathMachines + "/n1"},
		{"POST", pathMachines + "/n1/arm"}, {"POST", pathMachines + "/n1/wipe"}, {"POST", pathMachines + "/n1/disarm"}, {"POST", pathMachines + "/n1/accept"},
		{"GET", pathMachines + "/n1/timeline"}, {"POST", pathEvents}, {"GET", pathEvents}, {"GET", machine.APIPath + "programs"},
	}
	for _, c := range calls {
		req, err := http.NewRequestWithContext(t.Context(), c.method, w.server.URL+c.path, strings.NewReader("{}"))
		w.ok(err)
		req.Header.Set("Authorization", "Bearer "+once)
		res, err := w.machine.Do(req)
		w.ok(err)
		_ = res.Body.Close()
		if res.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s %s without a certificate: %d", c.method, c.path, res.StatusCode)
		}
	}
	other := newAuthority(t)
	stranger := other.operator(t, "mallory")
	stranger.RootCAs = w.ca.pool
	expired := &tls.Config{RootCAs: w.ca.pool, Certificates: []tls.Certificate{w.ca.pair(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "late"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, NotAfter: time.Now().Add(-time.Minute),
	})}}
	for name, c := range map[string]*tls.Config{"none": {RootCAs: w.ca.pool}, "a stranger's": stranger, "an expired one": expired, "another CA": other.operator(t, "alice")} {
		client := w.connect(c)
		_, err := client.Machines(t.Context())
		if err == nil {
			t.Errorf("certificate %s: it is let in", name)
		}
		if name == "another CA" && (!errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "certs")) {
			t.Errorf("certificate %s: %v", name, err)
		}
		client.Close()
	}
	s, err := w.store.Status("n1")
	w.ok(err)
	if s.State != machine.Booting {
		t.Errorf("n1 is %s", s.State)
	}
	res, err := w.client.http.Post(w.server.URL+machine.PathClaim, "application/json", strings.NewReader("{}"))
	w.ok(err)
	_ = res.Body.Close()
	if res.StatusCode != http.StatusUnauthorized {
		t.Errorf("a claim with a certificate for a token: %d", res.StatusCode)
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	c := NewClient("https://"+l.Addr().String()+"/", &tls.Config{})
	_, err = c.Machines(t.Context())
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "connection refused") || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("%v", err)
	}
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	c = NewClient(strings.TrimPrefix(plain.URL, "http://"), &tls.Config{})
	if _, err = c.Machines(t.Context()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("%v", err)
	}
}

// Bodies are bounded and strict where a mistake would be dangerous.
func TestBodies(t *testing.T) {
	w := newWorld(t)
	once := w.booted("n1", mac)
	for _, row := range []struct {
		path, body string
		want       int
	}{
		{machine.PathHello, "", 400}, {machine.PathHello, "{", 400}, {machine.PathHello, "[]", 400}, {machine.PathHello, "{} {}", 400},
		{machine.PathHello, `{"mac":"x"}`, 400}, {machine.PathHello, `{"mac":"52:54:00:a1:9c:af"}`, 409}, {machine.PathHello, "null", 400},
		{machine.PathHello, `{"mac":"` + strings.Repeat("x", maxMachineBody) + `"}`, 413},
		{machine.PathChecks, `{"checks":[]}`, 400}, {machine.PathClaim, `{}`, 409}, {machine.PathProgress, `{"stage":"x"}`, 401},
		{machine.PathHello, `{"mac":"` + mac + `","later":true}`, 200}, // a newer installer says more
	} {
		if status, text := w.post(row.path, once, []byte(row.body), nil); status != row.want {
			t.Errorf("%s %.60q: %d %s, want %d", row.path, row.body, status, text, row.want)
		}
	}
	ctx := t.Context()
	text, err := json.Marshal(definition("n2", "52:54:00:00:00:02"))
	w.ok(err)
	for _, row := range []struct {
		name string
		body []byte
		want int
	}{
		{"n2", bytes.Replace(text, []byte(`"disk"`), []byte(`"dsik"`), 1), 400}, // a hint must not be dropped
		{"n3", text, 400},
		{"n2", append(bytes.Repeat([]byte(" "), maxDefinitionBody), text...), 413},
		{"n2", text, 200},
	} {
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, w.server.URL+of(row.name), bytes.NewReader(row.body))
		w.ok(err)
		res, err := w.client.http.Do(req)
		w.ok(err)
		_ = res.Body.Close()
		if res.StatusCode != row.want {
			t.Errorf("PUT %s, %d bytes: %d, want %d", row.name, len(row.body), res.StatusCode, row.want)
		}
	}
	_, err = w.client.Observe(ctx, make([]machine.Event, maxEvents+1))
	if err == nil {
		t.Error("a flood of events is taken")
	}
}

// An address that shows unknown tokens is not listened to for a minute; others are.
func TestBadTokens(t *testing.T) {
	w := newWorld(t)
	at := time.Now()
	w.clock = func() time.Time { return at }
	once := w.booted("n1", mac)
	for i := range maxBad {
		if status, _ := w.says(machine.PathHello, fmt.Sprint("guess", i), machine.Hello{MAC: mac}, nil); status != http.StatusUnauthorized {
			t.Fatalf("guess %d: %d", i, status)
		}
	}
	if status, _ := w.says(machine.PathHello, once, machine.Hello{MAC: mac}, nil); status != http.StatusTooManyRequests {
		t.Errorf("after %d guesses: %d", maxBad, status)
	}
	if _, err := w.client.Machines(t.Context()); err != nil {
		t.Errorf("the operator is kept out: %v", err)
	}
	at = at.Add(badWindow)
	w.well(w.says(machine.PathHello, once, machine.Hello{MAC: mac}, nil))
	if strings.Contains(w.log.String(), "guess") || strings.Contains(w.log.String(), once) {
		t.Error("a token is in the log")
	}

	l := newLimiter(w.clock)
	for i := range 3 * maxSenders {
		l.count(group(netipFrom(i)))
	}
	if len(l.by) > maxSenders {
		t.Errorf("%d senders are remembered", len(l.by))
	}
}

// A provisioner that is stopped does not wait for who watches it.
func TestShutdown(t *testing.T) {
	w := newWorld(t)
	// First, so that there is one connection: net/http waits 5 s for one that was opened and never used.
	_, err := w.client.Put(t.Context(), definition("n1", mac))
	w.ok(err)
	started := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- w.client.Follow(t.Context(), 0, func(machine.Event) error { close(started); return nil })
	}()
	<-started
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := w.server.Config.Shutdown(ctx); err != nil {
		t.Errorf("it waits: %v", err)
	}
	if err := <-ended; !errors.Is(err, ErrUnreachable) {
		t.Errorf("who followed is told %v", err)
	}
}

// Whoever follows hears of a provisioner that went away.
func TestFollowEnds(t *testing.T) {
	w := newWorld(t)
	started := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- w.client.Follow(t.Context(), 0, func(machine.Event) error { close(started); return nil })
	}()
	_, err := w.client.Put(t.Context(), definition("n1", mac))
	w.ok(err)
	<-started
	w.ok(w.store.Close())
	select {
	case err := <-ended:
		if !errors.Is(err, ErrUnreachable) {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
	}
	if _, err := w.client.Put(t.Context(), definition("n2", "52:54:00:00:00:02")); !errors.Is(err, machine.ErrBroken) {
		t.Errorf("a closed store: %v", err)
	}
}
