package machine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// However many ask at once, one boot script carries the installer.
func TestBootOnce(t *testing.T) {
	w := newWorld(t)
	w.armed("n1", ActionInstall, macA, macB)
	const callers = 64
	got := make(chan Decision, callers)
	start := make(chan struct{})
	for i := range callers {
		mac := []string{macA, macB}[i%2]
		go func() {
			<-start
			d, err := w.Boot(context.Background(), mac)
			if err != nil {
				t.Error(err)
			}
			got <- d
		}()
	}
	close(start)
	installs := 0
	for range callers {
		if (<-got).Install {
			installs++
		}
	}
	if installs != 1 {
		t.Fatalf("%d boot scripts carried the installer", installs)
	}
	if s := w.state("n1", Failed); !strings.Contains(s.Reason, "again") {
		t.Errorf("reason %q", s.Reason)
	}
}

// Of many live systems with one token, one may write.
func TestClaimOnce(t *testing.T) {
	w := newWorld(t)
	w.armed("n1", ActionInstall, macA)
	token := w.boots(macA)
	w.greets(token, macA)
	const callers = 64
	got := make(chan error, callers)
	start := make(chan struct{})
	for i := range callers {
		go func() {
			<-start
			_, err := w.Claim(context.Background(), token, Claim{Run: fmt.Sprint(i)})
			got <- err
		}()
	}
	close(start)
	claims := 0
	for range callers {
		if err := <-got; err == nil {
			claims++
		} else if !errors.Is(err, ErrSpent) {
			t.Error(err)
		}
	}
	if claims != 1 {
		t.Fatalf("%d claims", claims)
	}
}

func TestClaimAgain(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	_, tok := w.into(Installing, ActionInstall, false)
	w.reopen()
	again, err := w.Claim(ctx, tok.once, Claim{Run: theRun})
	w.ok(err)
	w.refused(w.Progress(ctx, tok.session, Progress{Stage: "write"}), ErrNoToken)
	w.refused(w.Ready(ctx, tok.ready), ErrNoToken)
	_, err = w.Claim(ctx, tok.once, Claim{})
	w.refused(err, ErrSpent)
	w.ok(w.Progress(ctx, again.Session, Progress{Stage: "write"}))
	_, err = w.Claim(ctx, tok.once, Claim{Run: theRun})
	w.refused(err, ErrSpent) // it was answered: progress was heard
	w.ok(w.Installed(ctx, again.Session))
	w.ok(w.Ready(ctx, again.Ready))
}

// Each token is good for its own calls, on its own machine, and no longer after the next arming.
func TestTokens(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	_, tok := w.into(Installing, ActionInstall, false)
	calls := map[string]func(string) error{
		"hello":     func(k string) error { _, err := w.Hello(ctx, k, Hello{MAC: macA}); return err },
		"checks":    func(k string) error { return w.Checks(ctx, k, fit()) },
		"claim":     func(k string) error { _, err := w.Claim(ctx, k, Claim{}); return err },
		"progress":  func(k string) error { return w.Progress(ctx, k, Progress{Stage: "write"}) },
		"installed": func(k string) error { return w.Installed(ctx, k) },
		"failed":    func(k string) error { return w.Failed(ctx, k, Failure{Reason: "x"}) },
		"ready":     func(k string) error { return w.Ready(ctx, k) },
	}
	refuse := func(name string, token string, calls map[string]func(string) error, but ...string) {
		for call, do := range calls {
			if strings.Contains(strings.Join(but, " "), call) {
				continue
			}
			err := do(token)
			if !errors.Is(err, ErrNoToken) && !errors.Is(err, ErrSpent) && !errors.Is(err, ErrConflict) {
				t.Errorf("%s with %s: %v", call, name, err)
			}
			if err != nil && strings.Contains(err.Error(), "tectonic-") && token != "" && strings.Contains(err.Error(), token) {
				t.Errorf("%s with %s: the error holds the token", call, name)
			}
		}
	}
	for _, bad := range []string{"", "x", strings.Repeat("A", 10000), tok.once + "A", tok.once[:len(tok.once)-1], strings.Replace(tok.session, "session", "ready", 1)} {
		refuse("a wrong token", bad, calls)
	}
	refuse("the spent token", tok.once, calls)
	refuse("the session token", tok.session, calls, "progress", "installed", "failed")
	refuse("the ready token", tok.ready, calls, "ready")
	w.state("n1", Installing)
	_, err := w.Arm(ctx, "n1", ArmRequest{Action: ActionInstall, Force: true})
	w.ok(err)
	for _, old := range []string{tok.once, tok.session, tok.ready} {
		refuse("a token of the last installation", old, calls)
	}
	w.state("n1", Armed)

	// Bound to the card that booted.
	once := w.boots(macA)
	_, err = w.Hello(ctx, once, Hello{MAC: macB})
	w.refused(err, ErrConflict)
	w.state("n1", Booting)
}

func TestExternal(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	_, err := w.Put(ctx, definition("n1", macA, macB), "")
	w.ok(err)
	res, err := w.Arm(ctx, "n1", ArmRequest{Action: ActionInstall, External: true})
	w.ok(err)
	w.disk(macA)
	w.state("n1", Armed)
	again, err := w.Arm(ctx, "n1", ArmRequest{Action: ActionInstall, External: true})
	w.ok(err)
	_, err = w.Hello(ctx, res.Token, Hello{MAC: macA})
	w.refused(err, ErrNoToken)
	w.reopen()
	_, err = w.Hello(ctx, again.Token, Hello{MAC: "52:54:00:00:00:01"})
	w.refused(err, ErrConflict)
	w.greets(again.Token, macB)
	if s := w.state("n1", Booting); s.Last.MAC != macB {
		t.Errorf("the card that booted is %s", s.Last.MAC)
	}
	w.claims(again.Token)
	_, err = w.Hello(ctx, again.Token, Hello{MAC: macB}) // matchbox served it twice
	w.refused(err, ErrSpent)
}

func TestExpiry(t *testing.T) {
	w := newWorld(t)
	w.armed("n1", ActionInstall, macA)
	w.at = w.at.Add(24*time.Hour + time.Second)
	w.disk(macA) // by itself, before anything swept
	w.state("n1", Accepted)

	w.armed("n1", ActionInstall, macA)
	token := w.boots(macA)
	w.greets(token, macA)
	w.at = w.at.Add(31 * time.Minute)
	_, err := w.Claim(t.Context(), token, Claim{})
	w.refused(err, ErrSpent)
	w.state("n1", Failed)
}

func TestOverdue(t *testing.T) {
	for s, after := range map[State]time.Duration{Armed: dueBoot, Booting: dueClaim, Installing: dueProgress, Installed: dueFirstBoot} {
		w := newWorld(t)
		name, _ := w.into(s, ActionInstall, false)
		w.at = w.at.Add(after)
		if st := w.state(name, s); st.Overdue != nil || st.Next == "" {
			t.Errorf("%s in time: %+v", s, st)
		}
		w.at = w.at.Add(time.Second)
		if st := w.state(name, s); st.Overdue == nil || !st.Overdue.Equal(w.at.Add(-time.Second)) {
			t.Errorf("%s is late, and shown as %v", s, st.Overdue)
		}
	}
	for _, s := range []State{Discovered, Accepted, Ready, Failed} {
		w := newWorld(t)
		name, _ := w.into(s, ActionInstall, false)
		w.at = w.at.Add(1000 * time.Hour)
		if st := w.state(name, s); st.Overdue != nil {
			t.Errorf("%s is overdue", s)
		}
	}
}

func TestDiscovered(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	// A computer that wants an address is nobody's business; one that loads a boot file is.
	for _, e := range []Event{{MAC: macB, Source: SourceDHCP, Kind: "discover"}, {MAC: macB, Source: SourceDHCP, Kind: "ack"}, {MAC: macB, Source: SourcePower, Kind: "on"}} {
		if known, err := w.Observe(e); err != nil || known {
			t.Errorf("%+v: %v, %v", e, known, err)
		}
	}
	_, err := w.Status(macB)
	w.refused(err, ErrUnknown)
	if known, err := w.Observe(Event{MAC: macB, Source: SourceTFTP, Kind: "file", Message: "undionly.kpxe"}); err != nil || !known {
		t.Errorf("a boot file: %v, %v", known, err)
	}
	w.state(macB, Discovered)
	w.disk(macA)
	w.disk(macA)
	_, err = w.Arm(ctx, macA, ArmRequest{Action: ActionInstall, Force: true})
	w.refused(err, ErrConflict)
	w.reopen()
	w.state(macA, Discovered)
	_, err = w.Put(ctx, definition("n1", "5254.00a1.9cae"), "alice")
	w.ok(err)
	w.state("n1", Accepted)
	w.state(macA, Accepted) // by its MAC address
	all, _ := w.List()
	if len(all) != 2 || all[0].Name != "n1" || all[1].Name != "" {
		t.Errorf("listed: %+v", all)
	}
	events, err := w.Timeline(ctx, "n1")
	w.ok(err)
	if len(events) != 3 || events[0].Kind != "discovered" || events[2].Message != "declared: it was discovered as "+macA+", by alice" {
		t.Errorf("timeline: %+v", events)
	}

	// While the disk does not keep up, lines are dropped and transitions are not.
	waiting := w.pending
	w.mu.Lock()
	w.pending = &batch{records: make([]record, maxWaiting), done: waiting.done}
	if w.discover("02:00:00:00:00:01", "x") != nil || w.note(w.machines["n1"], SourceDHCP, "ack", "x", "") != nil {
		t.Error("lines pile up without a bound")
	}
	if w.fail(w.machines["n1"], verbFailed, SourceState, "failed", "x") != nil {
		t.Error("an accepted machine fails")
	}
	w.pending = waiting
	w.mu.Unlock()

	// Anybody can invent addresses: what is remembered is bounded, and no declared machine is lost by it.
	for i := range maxDiscovered + 10 {
		if _, err := w.Observe(Event{MAC: fmt.Sprintf("020000%06x", i), Source: SourceIPXE, Kind: "boot"}); err != nil {
			t.Fatal(err)
		}
	}
	if all, _ := w.List(); len(all) != maxDiscovered+1 {
		t.Errorf("%d machines are remembered", len(all))
	}
	_, err = w.Status("020000000000")
	w.refused(err, ErrUnknown)
	files := func() int {
		all, err := filepath.Glob(filepath.Join(w.dir, timelineDir, "_*"))
		w.ok(err)
		return len(all)
	}
	w.ok(w.settled(ctx))
	// Of each that is remembered, and what n1 did before it was declared.
	if n := files(); n != maxDiscovered+1 {
		t.Errorf("%d timelines of unknown machines are kept", n)
	}
	w.reopen()
	if n := files(); n != maxDiscovered+1 {
		t.Errorf("%d timelines of unknown machines are kept after a start", n)
	}
	if all, _ := w.List(); len(all) != maxDiscovered+1 || all[0].Name != "n1" {
		t.Errorf("%d machines are remembered after a start", len(all))
	}
}

func TestPut(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	d := definition("n1", macA)
	_, err := w.Put(ctx, d, "")
	w.ok(err)
	_, seq := w.List()
	_, err = w.Put(ctx, d, "")
	w.ok(err)
	if _, now := w.List(); now != seq {
		t.Error("what is as it was is a new event")
	}
	_, err = w.Put(ctx, definition("n2", macA), "")
	w.refused(err, ErrConflict)
	for _, wrong := range []func(*Definition){
		func(d *Definition) { d.Name = "../n1" }, func(d *Definition) { d.Name = "" }, func(d *Definition) { d.Name = macA },
		func(d *Definition) { d.Name = "_52-54" }, func(d *Definition) { d.Name = strings.Repeat("a", 300) }, func(d *Definition) { d.MACs = nil },
		func(d *Definition) { d.MACs = []string{"52:54:00"} }, func(d *Definition) { d.MACs = []string{macA, strings.ToUpper(macA)} },
		func(d *Definition) { d.Exit = "reboot" }, func(d *Definition) { d.Files[0].Path = "/a/../b" }, func(d *Definition) { d.Files[0].Mode = 0o10000 },
		func(d *Definition) { d.Config = []byte("{") }, func(d *Definition) { d.Files[0].Content = make([]byte, maxDefinition) }, func(d *Definition) { d.Image.OS = "" },
	} {
		bad := definition("n3", macB)
		wrong(&bad)
		_, err := w.Put(ctx, bad, "")
		w.refused(err, ErrInvalid)
	}

	// What an installer was told is what the claim gives.
	w.armed("n1", ActionInstall, macA)
	d.Role = "controller"
	_, err = w.Put(ctx, d, "")
	w.ok(err)
	d.MACs = []string{macA, macB}
	_, err = w.Put(ctx, d, "")
	w.refused(err, ErrConflict)
	token := w.boots(macA)
	w.greets(token, macA)
	_, err = w.Put(ctx, d, "")
	w.refused(err, ErrConflict)
	w.claims(token)
	_, err = w.Put(ctx, d, "")
	w.refused(err, ErrConflict)

	// A deleted machine's card is unknown again, its name free, its tokens dead.
	w.refused(w.Delete(ctx, "n1", false, ""), ErrConflict)
	w.ok(w.Delete(ctx, "n1", true, ""))
	w.refused(w.Delete(ctx, "n1", true, ""), ErrUnknown)
	_, err = w.Hello(ctx, token, Hello{MAC: macA})
	w.refused(err, ErrNoToken)
	w.reopen()
	_, err = w.Status("n1")
	w.refused(err, ErrUnknown)
	_, err = w.Put(ctx, definition("n2", macA), "")
	w.ok(err)
}

// Whatever a machine says is one printable line of bounded length without a token in it.
func TestMessages(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	_, tok := w.into(Installing, ActionInstall, false)
	for _, message := range []string{
		"\x1b[2J\x1b]0;owned\x07", "a\nb\r\nc", "\u202egnp.exe", "\u2028", "bad \xff\xfe utf8", strings.Repeat("long ", 10000), strings.Repeat("é", 5000),
		"tectonic.token=" + tok.once + " quiet", tok.session, tok.ready + tok.ready,
	} {
		w.ok(w.Progress(ctx, tok.session, Progress{Stage: "write " + message, Percent: 1 << 30, Message: message}))
		_, err := w.Observe(Event{MAC: macA, Source: SourceDHCP, Kind: "ack", Message: message})
		w.ok(err)
	}
	w.ok(w.Failed(ctx, tok.session, Failure{"\x1b[1m", "\x00" + tok.once}))
	events, err := w.Timeline(ctx, "n1")
	w.ok(err)
	s := w.state("n1", Failed)
	lines := []string{s.Reason, s.Stage}
	for _, e := range events {
		lines = append(lines, e.Message)
	}
	for _, l := range lines {
		if len(l) > maxMessage || !utf8.ValidString(l) || strings.ContainsAny(l, "\x00\x1b\n\r\x07\u202e\u2028") || tokenShape.MatchString(l) {
			t.Errorf("%d bytes: %.100q", len(l), l)
		}
	}
	for _, e := range []Event{{Source: "state", Kind: "x"}, {Source: "dhcp", Kind: "two words"}, {Source: "dhcp"}, {Source: "dhcp", Kind: "ack", MAC: "zz"}} {
		if _, err := w.Observe(e); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", e, err)
		}
	}
}

// A machine in a loop fills neither its timeline nor the disk, and its transitions are told all the same.
func TestFlood(t *testing.T) {
	w := newWorld(t)
	_, tok := w.into(Installing, ActionInstall, false)
	for i := range 10_000 {
		w.ok(w.Progress(t.Context(), tok.session, Progress{Stage: "write", Percent: i % 100}))
	}
	if s := w.state("n1", Installing); s.Percent != 99 {
		t.Errorf("the last progress is not shown: %d %%", s.Percent)
	}
	w.ok(w.Installed(t.Context(), tok.session))
	events, err := w.Timeline(t.Context(), "n1")
	w.ok(err)
	if len(events) > maxLinesPerMinute+20 || events[len(events)-1].Kind != "installed" {
		t.Errorf("%d lines, the last is %s", len(events), events[len(events)-1].Kind)
	}
	w.at = w.at.Add(time.Minute)
	w.disk(macA)
	events, err = w.Timeline(t.Context(), "n1")
	w.ok(err)
	if last := events[len(events)-1].Message; !strings.Contains(last, "9700 lines before this one are left out") {
		t.Errorf("what was left out is not said: %s", last)
	}

	// A timeline is bounded over the years, too.
	big := strings.Repeat("x", 490)
	for range 6000 {
		w.at = w.at.Add(time.Second)
		_, err := w.Observe(Event{MAC: macA, Source: SourceDHCP, Kind: "ack", Message: big})
		w.ok(err)
	}
	events, err = w.Timeline(t.Context(), "n1")
	w.ok(err)
	if n := len(events) * 600; n < timelineBound || n > 3*timelineBound {
		t.Errorf("%d events are kept", len(events))
	}
	for i := 1; i < len(events); i++ {
		if events[i].Seq != events[i-1].Seq+1 {
			t.Fatalf("event %d follows %d", events[i].Seq, events[i-1].Seq)
		}
	}
}

func TestFollow(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	w.armed("n1", ActionInstall, macA)
	w.reopen()
	var got []string
	events := w.Follow(ctx, 1)
	w.boots(macA)
	w.disk(macA)
	for range 3 {
		e := <-events
		got = append(got, fmt.Sprint(e.Seq, e.Machine, e.Kind))
	}
	if s := strings.Join(got, " "); s != "2n1arm 3n1boot 4n1boot" {
		t.Errorf("followed %s", s)
	}
	// Who comes too late for what is held is told so.
	for i := range 3 * feedLength {
		if _, err := w.Observe(Event{MAC: fmt.Sprintf("0200000000%02x", i%200), Source: SourceIPXE, Kind: "boot"}); err != nil {
			t.Fatal(err)
		}
		w.at = w.at.Add(time.Second)
		if i%1000 == 0 {
			w.ok(w.settled(ctx))
		}
	}
	w.ok(w.settled(ctx))
	_, last := w.List()
	first := <-w.Follow(ctx, 5)
	if first.Kind != "gap" || first.Seq < last-2*feedLength || first.Seq > last-feedLength+1 {
		t.Errorf("after a gap: %+v", first)
	}
	seq := uint64(4)
	for e := range events { // the slow reader from before
		if e.Kind != "gap" && e.Seq <= seq {
			t.Fatalf("%d after %d", e.Seq, seq)
		}
		if seq = e.Seq; seq == last {
			break
		}
	}
	w.ok(w.Close())
	if _, more := <-events; more {
		t.Error("the stream goes on after the store was closed")
	}
}

func TestOnChange(t *testing.T) {
	var got []string
	s, err := Open(t.TempDir(), Options{OnChange: func(c Transition) {
		got = append(got, fmt.Sprintf("%s%s:%s>%s", c.Machine, c.MAC, c.From, c.To))
	}})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{Store: s, t: t}
	w.disk(macB)
	w.armed("n1", ActionInstall, macA)
	token := w.boots(macA)
	w.greets(token, macA)
	w.ok(w.Progress(t.Context(), w.claims(token).Session, Progress{Stage: "write"}))
	w.ok(w.Delete(t.Context(), "n1", true, ""))
	w.ok(s.Close())
	want := macB + ":>discovered n1:>accepted n1:accepted>armed n1" + macA + ":armed>booting n1" + macA + ":booting>installing n1:installing>"
	if g := strings.Join(got, " "); g != want {
		t.Errorf("told\n%s, want\n%s", g, want)
	}
}
