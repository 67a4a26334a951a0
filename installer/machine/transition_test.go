package machine

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	states = []State{Discovered, Accepted, Armed, Booting, Installing, Installed, Ready, Failed}
	verbs  = []verb{verbArm, verbArmForced, verbDisarm, verbStop, verbAccept, verbBoot, verbHello, verbFit, verbUnfit, verbClaim, verbReclaim,
		verbProgress, verbInstalled, verbWiped, verbFailed, verbReady, verbExpire, verbRemove, verbDiscard}
)

// documented reads the table of docs/machine-states.md.
func documented(t *testing.T) map[verb]map[State]string {
	text, err := os.ReadFile("../../docs/machine-states.md")
	if err != nil {
		t.Fatal(err)
	}
	table := map[verb]map[State]string{}
	var columns []string
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if len(cells) != len(states)+1 || strings.HasPrefix(cells[0], "---") {
			continue
		}
		if cells[0] == "" {
			columns = cells[1:]
			continue
		}
		row := map[State]string{}
		for i, c := range columns {
			row[State(c)] = cells[i+1]
		}
		table[verb(cells[0])] = row
	}
	return table
}

// tokens are what a machine got on its way into a state; also those that are no longer good.
type tokens struct{ once, session, ready string }

const theRun = "run-1"

// into brings a new machine into a state by the calls that lead there.
func (w *world) into(s State, action Action, external bool) (name string, tok tokens) {
	w.t.Helper()
	ctx := w.t.Context()
	if s == Discovered {
		w.disk(macA)
		return macA, tok
	}
	_, err := w.Put(ctx, definition("n1", macA), "")
	w.ok(err)
	res, err := w.Arm(ctx, "n1", ArmRequest{Action: action, External: external})
	w.ok(err)
	tok.once = res.Token
	if s == Armed {
		return "n1", tok
	}
	if !external {
		tok.once = w.boots(macA)
	}
	w.greets(tok.once, macA)
	if s == Booting {
		return "n1", tok
	}
	if s == Accepted { // with a token from before
		_, err := w.Disarm(ctx, "n1", false, "")
		w.ok(err)
		return "n1", tok
	}
	c, err := w.Claim(ctx, tok.once, Claim{Run: theRun})
	w.ok(err)
	tok.session, tok.ready = c.Session, c.Ready
	switch s {
	case Installed, Ready:
		w.ok(w.Installed(ctx, tok.session))
		if s == Ready {
			w.ok(w.Ready(ctx, tok.ready))
		}
	case Failed:
		w.ok(w.Failed(ctx, tok.session, Failure{"write", "disk error"}))
	}
	return "n1", tok
}

func (w *world) do(v verb, name string, tok tokens) error {
	ctx := w.t.Context()
	switch v {
	case verbArm, verbArmForced:
		_, err := w.Arm(ctx, name, ArmRequest{Action: ActionInstall, Force: v == verbArmForced})
		return err
	case verbDisarm, verbStop:
		_, err := w.Disarm(ctx, name, v == verbStop, "")
		return err
	case verbAccept:
		_, err := w.Accept(ctx, name, "")
		return err
	case verbBoot:
		_, err := w.Boot(ctx, macA)
		return err
	case verbHello:
		_, err := w.Hello(ctx, tok.once, Hello{MAC: macA, Inventory: inventory()})
		return err
	case verbFit:
		return w.Checks(ctx, tok.once, fit())
	case verbUnfit:
		return w.Checks(ctx, tok.once, Checks{[]Check{{Name: "memory", Wanted: "8 GiB", Found: "4 GiB"}}})
	case verbClaim:
		_, err := w.Claim(ctx, tok.once, Claim{Run: "another run"})
		return err
	case verbReclaim:
		_, err := w.Claim(ctx, tok.once, Claim{Run: theRun})
		return err
	case verbProgress:
		return w.Progress(ctx, tok.session, Progress{Stage: "write", Percent: 1})
	case verbInstalled, verbWiped:
		return w.Installed(ctx, tok.session)
	case verbFailed:
		token := tok.session
		if token == "" {
			token = tok.once
		}
		return w.Failed(ctx, token, Failure{"check", "no"})
	case verbReady:
		return w.Ready(ctx, tok.ready)
	case verbExpire:
		w.at = w.at.Add(25 * time.Hour)
		w.expire()
		return nil
	case verbRemove, verbDiscard:
		return w.Delete(ctx, name, v == verbDiscard, "")
	}
	return fmt.Errorf("%s is not done by any call", v)
}

// Every verb in every state does what the documentation says, and it is on the disk.
func TestStateTable(t *testing.T) {
	table := documented(t)
	if len(table) != len(verbs) {
		t.Errorf("%d verbs are documented, there are %d", len(table), len(verbs))
	}
	for _, s := range states {
		for v := range transitions[s] {
			if !slices.Contains(verbs, v) {
				t.Errorf("%s in %s is not tested", v, s)
			}
		}
		for _, v := range verbs {
			want, ok := table[v][s]
			if !ok {
				t.Errorf("%s in %s is not documented", v, s)
				continue
			}
			if want == "–" {
				continue
			}
			t.Run(fmt.Sprintf("%s/%s", s, v), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				action, external := ActionInstall, false
				if v == verbWiped {
					action = ActionWipe
				}
				if s == Armed && (v == verbHello || v == verbFailed) {
					external = true
				}
				name, tok := w.into(s, action, external)
				before := w.state(name, s)
				err := w.do(v, name, tok)
				after := State(want)
				switch want {
				case "refused":
					if err == nil {
						t.Fatal("it is not refused")
					}
					after = s
				case "same":
					after = s
				case "back":
					after = Accepted
				}
				if want != "refused" && err != nil {
					t.Fatalf("it is refused: %v", err)
				}
				for range 2 {
					if want == "gone" {
						_, err := w.Status(name)
						w.refused(err, ErrUnknown)
					} else {
						got := w.state(name, after)
						if want == "refused" && (got.Reason != before.Reason || !got.Since.Equal(before.Since)) {
							t.Errorf("a refused call changed %+v to %+v", before, got)
						}
						if (got.Reason != "") != (got.State == Failed) {
							t.Errorf("it is %s with reason %q", got.State, got.Reason)
						}
					}
					w.reopen()
				}
				if want != "gone" && after != Armed {
					w.disk(macA)
				}
			})
		}
	}
}

// Disarming leads back to what was before, whatever it was.
func TestDisarmGoesBack(t *testing.T) {
	for _, s := range []State{Accepted, Installed, Ready, Failed} {
		for _, booted := range []bool{false, true} {
			w := newWorld(t)
			name, _ := w.into(s, ActionInstall, false)
			before := w.state(name, s)
			_, err := w.Arm(t.Context(), name, ArmRequest{Action: ActionInstall, Force: true})
			w.ok(err)
			if booted {
				w.boots(macA)
			}
			w.reopen()
			_, err = w.Disarm(t.Context(), name, false, "bob")
			w.ok(err)
			if got := w.state(name, s); got.Reason != before.Reason {
				t.Errorf("%s: the reason was %q and is %q", s, before.Reason, got.Reason)
			}
		}
	}
}
