package machine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// crashDir makes this test binary the process that is killed: it works on the store in that directory.
const crashDir = "TECTONIC_TEST_CRASH_DIR"

const crashMachines = 24

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		fmt.Fprintln(os.Stderr, workUntilKilled(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func crashMAC(i int) string { return fmt.Sprintf("02:00:00:00:00:%02x", i) }

// workUntilKilled sends every machine round and round, and says each answer when it has it: "machine state".
func workUntilKilled(dir string) error {
	s, err := Open(dir, Options{})
	if err != nil {
		return err
	}
	s.snapshotAfter = 64 << 10 // so that kills meet snapshots, too
	var mu sync.Mutex
	say := func(i int, what string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf("%d %s\n", i, what)
	}
	failed := make(chan error)
	for i := range crashMachines {
		go func() { failed <- rounds(s, i, func(what string) { say(i, what) }) }()
	}
	return <-failed
}

func rounds(s *Store, i int, say func(string)) error {
	ctx := context.Background()
	name, mac := fmt.Sprintf("n%d", i), crashMAC(i)
	d := definition(name, mac)
	for round := 0; ; round++ {
		d.Labels = map[string]string{"round": fmt.Sprint(round, rand.Uint64())}
		_, err := s.Put(ctx, d, "")
		if errors.Is(err, ErrConflict) { // killed while it was being installed
			if _, err := s.Arm(ctx, name, ArmRequest{Action: ActionInstall, Force: true}); err != nil {
				return err
			}
			say("armed")
		} else if err != nil {
			return err
		}
		if _, err := s.Arm(ctx, name, ArmRequest{Action: ActionInstall, Force: true}); err != nil {
			return err
		}
		say("armed")
		b, err := s.Boot(ctx, mac)
		if err != nil || !b.Install {
			return fmt.Errorf("%s: %+v, %w", name, b, err)
		}
		say("booting " + b.Token)
		if _, err := s.Hello(ctx, b.Token, Hello{MAC: mac}); err != nil {
			return err
		}
		if err := s.Checks(ctx, b.Token, Checks{[]Check{{Name: "disk", OK: true}}}); err != nil {
			return err
		}
		c, err := s.Claim(ctx, b.Token, Claim{})
		if err != nil {
			return err
		}
		say("installing " + c.Session)
		if err := s.Installed(ctx, c.Session); err != nil {
			return err
		}
		say("installed " + c.Ready)
		if err := s.Ready(ctx, c.Ready); err != nil {
			return err
		}
		say("ready")
	}
}

// follows says which states a machine can be in whose last answer was a given one: that, or the next which was on the
// disk but not answered.
var follows = map[State][]State{
	"":         {"", Accepted, Armed},
	Armed:      {Armed, Booting},
	Booting:    {Booting, Installing},
	Installing: {Installing, Installed},
	Installed:  {Installed, Ready},
	Ready:      {Ready, Armed},
}

// A provisioner that is killed at any moment has everything that it answered, grants nothing twice, and its timelines
// have no hole and nothing twice.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	killed := 25
	if testing.Short() {
		killed = 5
	}
	type answer struct {
		state State
		token string
	}
	last := map[int]answer{}
	boots := map[int]int{}
	answers := 0
	for round := range killed {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		cmd := exec.CommandContext(ctx, os.Args[0])
		cmd.Env = append(os.Environ(), crashDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var stderr strings.Builder
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// It is killed a random while after its first word; what it wrote until then is read to the end.
		after := time.Duration(rand.Int64N(int64(150 * time.Millisecond)))
		in := bufio.NewScanner(out)
		var kill *time.Timer
		heard := map[int]bool{}
		for in.Scan() {
			if kill == nil {
				kill = time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
			}
			var i int
			var a answer
			if n, _ := fmt.Sscan(in.Text(), &i, &a.state, &a.token); n < 2 {
				t.Fatalf("it says %q", in.Text())
			}
			last[i], heard[i] = a, true
			if a.state == Booting {
				boots[i]++
			}
			answers++
		}
		_ = cmd.Wait()
		cancel()
		if !strings.Contains(cmd.ProcessState.String(), "killed") {
			t.Fatalf("round %d: it ended by itself: %s %s", round, cmd.ProcessState, &stderr)
		}

		s, err := Open(dir, Options{})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for i := range crashMachines {
			name := fmt.Sprintf("n%d", i)
			a := last[i]
			st, err := s.Status(name)
			if err != nil && a.state != "" {
				t.Fatalf("round %d: %s was answered %s: %v", round, name, a.state, err)
			}
			// A new process begins with arming, whatever the state was.
			ok := slices.Contains(follows[a.state], st.State) || !heard[i] && st.State == Armed
			if !ok {
				t.Fatalf("round %d: %s was answered %s and is %s", round, name, a.state, st.State)
			}
			// The tokens that were given are still good for what they were given for.
			err = nil
			switch {
			case st.State == Booting && a.state == Booting:
				_, err = s.Hello(t.Context(), a.token, Hello{MAC: crashMAC(i)})
			case st.State == Installing && a.state == Installing:
				err = s.Progress(t.Context(), a.token, Progress{Stage: "write"})
			case st.State == Installed && a.state == Installed:
				err = s.Ready(t.Context(), a.token)
				last[i] = answer{state: Ready}
			}
			if err != nil {
				t.Fatalf("round %d: the token of %s in %s: %v", round, name, st.State, err)
			}
			if a.state != "" {
				checkTimeline(t, s, name, boots[i], round)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("killed %d times after %d answers", killed, answers)
	if answers < killed*crashMachines {
		t.Errorf("only %d answers were given: nothing was tested", answers)
	}
}

// checkTimeline compares a timeline with what was answered: each boot that was granted is in it, at most one more of
// each kill, in order, and each step follows the one before.
func checkTimeline(t *testing.T, s *Store, name string, boots, round int) {
	t.Helper()
	events, err := s.Timeline(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	before := map[string]string{"boot": "arm", "hello": "boot hello check", "check": "hello", "claim": "check", "installed": "claim progress", "ready": "installed"}
	n := 0
	for i, e := range events {
		if e.Kind == "boot" {
			n++
		}
		if i == 0 {
			continue
		}
		if e.Seq <= events[i-1].Seq {
			t.Fatalf("round %d: %s: event %d after %d", round, name, e.Seq, events[i-1].Seq)
		}
		if want := before[e.Kind]; want != "" && !strings.Contains(want, events[i-1].Kind) && events[0].Kind == "define" {
			t.Fatalf("round %d: %s: %s after %s (events %d, %d)", round, name, e.Kind, events[i-1].Kind, events[i-1].Seq, e.Seq)
		}
	}
	if n < boots || n > boots+round+1 {
		t.Fatalf("round %d: %s: %d boots in the timeline, %d were granted", round, name, n, boots)
	}
}
