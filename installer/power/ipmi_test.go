package power

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

func TestSwitch(t *testing.T) {
	t.Parallel()
	sw := &lab.Switch{}
	m := open(t, quick(startBMC(t, sw).Address.String()))
	ctx := within(t, 30*time.Second)
	status := func(want State) {
		t.Helper()
		if got, err := m.Status(ctx); err != nil || got != want {
			t.Fatalf("power is %s, %v; want %s", got, err, want)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	status(Off)
	must(m.Off(ctx, 0)) // off already: nothing is done
	must(m.On(ctx))
	status(On)
	must(m.On(ctx))
	must(m.Cycle(ctx, 0))
	status(On)
	must(m.Off(ctx, time.Second))
	status(Off)
	for _, b := range []Boot{{Device: PXE}, {PXE, true}, {Device: Default}} {
		back, err := m.SetBoot(ctx, b)
		if err != nil || back.Device != b.Device {
			t.Errorf("asked for %s, read back %s, %v", b, back, err)
		}
	}
	want := []string{"power true", "power false", "power true", "shutdown", "power false", "boot pxe", "boot pxe", "boot none"}
	if diff := cmp.Diff(want, sw.Calls()); diff != "" {
		t.Errorf("what the machine was told (-want +got):\n%s", diff)
	}
}

// Each thing that keeps a login from working is told apart, and none of them tells the password.
func TestLoginFailures(t *testing.T) {
	t.Parallel()
	b := startBMC(t, nil)
	hung := startBMC(t, nil)
	if err := hung.Hang(); err != nil {
		t.Fatal(err)
	}
	gone := startBMC(t, nil)
	gone.Kill()
	for _, tt := range []struct {
		name     string
		address  string
		username string
		password Secret
		want     error
		text     string
	}{
		{"wrong password", b.Address.String(), user, "s3cret-but-not-it", ErrCredentials, "the password is wrong"},
		{"no such user", b.Address.String(), "nobody", password, ErrCredentials, `no user "nobody"`},
		{"nothing listens", gone.Address.String(), user, password, ErrSilent, "nothing listens on that UDP port"},
		{"it hangs", hung.Address.String(), user, password, ErrSilent, "it does not answer"},
		{"no such name", "bmc.invalid:623", user, password, nil, "its name bmc.invalid does not resolve"},
		{"no address", "", user, password, nil, "address is empty"},
		{"not an address", "a:b:c", user, password, nil, "is no host"},
		{"password too long", b.Address.String(), user, "s3cret-s3cret-s3cret-", nil, "at most 20"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := impatient(tt.address)
			o.Credentials = Credentials{tt.username, tt.password}
			start := time.Now()
			_, err := OpenIPMI(within(t, 30*time.Second), o)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%v; want one that says %q", err, tt.text)
			}
			if took := time.Since(start); took > 15*time.Second {
				t.Errorf("that took %s", took)
			}
			for e := err; e != nil; e = errors.Unwrap(e) {
				if text := fmt.Sprintf("%v %+v %#v", e, e, e); strings.Contains(text, string(tt.password)) {
					t.Errorf("the password is in %s", text)
				}
			}
			t.Log(err)
		})
	}
}

// ipmi_sim does not have cipher suite 17. That it was asked for first, and not again in the next session, is seen on
// the wire.
func TestCipherSuites(t *testing.T) {
	t.Parallel()
	b := startBMC(t, nil)
	r := startRelay(t, b.Address.String(), 1, badness{})
	o := quick(r.Address)
	o.Answer = time.Second
	m := open(t, o)
	if err := b.Restart(t.Context()); err != nil { // a new session is needed
		t.Fatal(err)
	}
	if _, err := m.Status(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	var algorithms []byte
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, q := range r.requests {
		if p, ok := payload(q); ok && p == payloadOpenSession {
			algorithms = append(algorithms, q[16+12]) // the authentication payload's algorithm (table 13-9)
		}
	}
	if diff := cmp.Diff([]byte{3, 1, 1}, algorithms); diff != "" { // HMAC-SHA256, HMAC-SHA1
		t.Errorf("algorithms asked for (-want +got):\n%s", diff)
	}
}

// When all sessions are taken the BMC says so, and one that ends is taken. ipmi_sim has 63.
func TestSessionLimit(t *testing.T) {
	t.Parallel()
	b := startBMC(t, nil)
	var held []Machine
	var err error
	for range 80 {
		var m Machine
		if m, err = OpenIPMI(within(t, 20*time.Second), quick(b.Address.String())); err != nil {
			break
		}
		held = append(held, m)
		t.Cleanup(func() { m.Close() })
	}
	if !errors.Is(err, ErrSessions) || !strings.Contains(err.Error(), "no session left") || len(held) == 0 {
		t.Fatalf("after %d logins: %v", len(held), err)
	}
	t.Logf("after %d logins: %v", len(held), err)
	held[0].Close()
	open(t, quick(b.Address.String()))
}

// liar is a machine whose BMC acknowledges everything.
type liar struct {
	lab.Switch
	power func(told bool, asked int) bool
	boot  string
	mu    sync.Mutex
	asked int
}

func (l *liar) Power() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	return l.power(l.Switch.Power(), l.asked)
}

func (l *liar) Boot() string { return l.boot }

func TestLies(t *testing.T) {
	t.Parallel()
	count := func(calls []string, call string) (n int) {
		for _, c := range calls {
			if c == call {
				n++
			}
		}
		return n
	}
	t.Run("on is never shown", func(t *testing.T) {
		t.Parallel()
		l := &liar{power: func(bool, int) bool { return false }}
		err := open(t, quick(startBMC(t, l).Address.String())).On(within(t, 30*time.Second))
		if err == nil || !errors.Is(err, errNotShown) || !strings.Contains(err.Error(), `3 times and still reports "off"`) {
			t.Errorf("%v", err)
		}
		if n := count(l.Calls(), "power true"); n != tries {
			t.Errorf("it was told %d times, want %d", n, tries)
		}
	})
	t.Run("on is shown late", func(t *testing.T) {
		t.Parallel()
		l := &liar{power: func(told bool, asked int) bool { return told && asked > 6 }}
		o := quick(startBMC(t, l).Address.String())
		o.Settle = 10 * time.Second
		if err := open(t, o).On(within(t, 30*time.Second)); err != nil {
			t.Error(err)
		}
		if n := count(l.Calls(), "power true"); n != 1 {
			t.Errorf("it was told %d times, want once", n)
		}
	})
	t.Run("the operating system does not go", func(t *testing.T) {
		t.Parallel()
		sw := &lab.Switch{Soft: func(*lab.Switch) {}}
		m := open(t, quick(startBMC(t, sw).Address.String()))
		if err := errors.Join(m.On(within(t, 20*time.Second)), m.Off(within(t, 20*time.Second), 200*time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"power true", "shutdown", "power false"}, sw.Calls()); diff != "" {
			t.Errorf("what the machine was told (-want +got):\n%s", diff)
		}
	})
	t.Run("the boot device is not kept", func(t *testing.T) {
		t.Parallel()
		l := &liar{power: func(told bool, _ int) bool { return told }, boot: "default"}
		_, err := open(t, quick(startBMC(t, l).Address.String())).SetBoot(within(t, 30*time.Second), Boot{Device: PXE})
		if err == nil || !strings.Contains(err.Error(), "reads back") {
			t.Errorf("%v", err)
		}
		if n := count(l.Calls(), "boot pxe"); n != tries {
			t.Errorf("it was told %d times, want %d", n, tries)
		}
	})
}

// Datagrams that are lost, doubled and overtake each other cost time, and change nothing.
func TestBadNetwork(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			sw := &lab.Switch{}
			r := startRelay(t, startBMC(t, sw, lab.BMCUser{Name: user, Password: password, Sessions: 60}).Address.String(), seed,
				badness{0.15, 0.2, 0.3}) // each way; of a question and its answer one is lost in 28 %
			o := quick(r.Address)
			o.Answer, o.Command = 100*time.Millisecond, 30*time.Second
			m, err := OpenIPMI(within(t, 60*time.Second), o)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			for round := range 8 {
				ctx := within(t, 60*time.Second)
				if err := m.On(ctx); err != nil || !sw.Power() {
					t.Fatalf("round %d: on: %v; power %t", round, err, sw.Power())
				}
				r.quiet()
				if err := m.Off(ctx, 0); err != nil || sw.Power() {
					t.Fatalf("round %d: off: %v; power %t", round, err, sw.Power())
				}
				if back, err := m.SetBoot(ctx, Boot{Device: PXE}); err != nil || back.Device != PXE || sw.Boot() != "pxe" {
					t.Fatalf("round %d: boot: %v, %v", round, back, err)
				}
				r.quiet()
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			t.Logf("%d requests; %d datagrams lost, %d doubled", len(r.requests), r.lost, r.doubled)
			if r.lost < 10 || r.doubled < 10 {
				t.Error("the network was not bad enough for this to say anything")
			}
		})
	}
}

// A BMC that resets while it works on a command has forgotten the session, and may or may not have done it.
func TestResetMidCommand(t *testing.T) {
	t.Parallel()
	var b *lab.BMC
	reset := make(chan error, 1)
	var once sync.Once
	sw := &lab.Switch{}
	sw.Changed = func(bool, string) {
		once.Do(func() { go func() { reset <- b.Restart(context.Background()) }() })
	}
	b = startBMC(t, sw)
	m := open(t, impatient(b.Address.String()))
	if err := m.On(within(t, 30*time.Second)); err != nil || !sw.Power() {
		t.Fatalf("%v; power %t", err, sw.Power())
	}
	if err := <-reset; err != nil {
		t.Fatal(err)
	}
	if state, err := m.Status(within(t, 30*time.Second)); err != nil || state != On {
		t.Errorf("%s, %v", state, err)
	}
}

// A BMC that hangs costs one command's time and no more, and works on when it is back.
func TestHang(t *testing.T) {
	t.Parallel()
	b := startBMC(t, nil)
	o := impatient(b.Address.String())
	o.Command = 2 * time.Second
	m := open(t, o)
	if err := b.Hang(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err := m.Status(t.Context())
	if took := time.Since(start); !errors.Is(err, ErrSilent) || took > 6*time.Second {
		t.Errorf("%v after %s", err, took)
	}
	if err := b.Resume(); err != nil {
		t.Fatal(err)
	}
	if state, err := m.Status(within(t, 20*time.Second)); err != nil || state != Off {
		t.Errorf("%s, %v", state, err)
	}
}

// However many ask, a BMC has one question before it.
func TestOneAtATime(t *testing.T) {
	t.Parallel()
	r := startRelay(t, startBMC(t, nil).Address.String(), 1, badness{})
	o := quick(r.Address)
	o.Answer = 2 * time.Second // nothing is asked again
	m := open(t, o)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := m.Status(within(t, 30*time.Second)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.most != 1 || len(r.requests) < 16 {
		t.Errorf("%d questions at once, of %d", r.most, len(r.requests))
	}
}
