package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

// Command is one of the product's that faults are injected into.
type Command struct {
	Name string
	Argv []string
	// Before makes the host as the command finds it.
	Before func(context.Context, *Target) error
	// After says what the next run of the command does not mend; may be nil. The next join is looked at for every command.
	After func(context.Context, *Target) ([]string, error)
	// PutsBack tells that the command, where it fails, leaves everything as it was.
	PutsBack bool
}

// Join makes a worker of a host that is none.
var Join = Command{"join", JoinArgs, func(ctx context.Context, t *Target) error { return t.Reset(ctx) }, nil, true}

// Launch is what kubelet.service runs, on a host that was set up by hand.
var Launch = Command{"kubelet run", []string{"tectonic-worker", "kubelet", "run"}, func(ctx context.Context, t *Target) error {
	if err := t.Reset(ctx); err != nil {
		return err
	}
	_, err := t.Host.Must(ctx, "/bin/sh", "-ec", "tar -C / -xf /root/after.tar; rm /etc/kubernetes/ca.crt /etc/kubernetes/kubelet.yaml")
	return err
}, nil, false}

var leaveArgs = []string{"tectonic-worker", "leave", "--local", "--timeout", "60s"}

// Leave takes a worker out of its cluster, as an erased package does: with nobody else's help.
var Leave = Command{"leave", leaveArgs, func(ctx context.Context, t *Target) error {
	if err := t.Reset(ctx); err != nil {
		return err
	}
	_, err := t.Host.Must(ctx, JoinArgs...)
	return err
}, leftForGood, false}

// leftForGood runs leave again and says what it leaves.
func leftForGood(ctx context.Context, t *Target) ([]string, error) {
	r, err := t.Host.Exec(ctx, leaveArgs...)
	if err != nil {
		return nil, err
	}
	if r.Code != 0 {
		return []string{"the next leave fails: " + r.String()}, nil
	}
	var broken []string
	now, err := t.look()
	if err != nil {
		return nil, err
	}
	for _, path := range managed {
		if now[path] != t.old[path] {
			broken = append(broken, fmt.Sprintf("after the next leave %s is %q, and was %q before any join: %s", path, now[path], t.old[path], r))
		}
	}
	ports, err := t.Open(ctx)
	if err != nil {
		return nil, err
	}
	if strings.Contains(ports, "10250") || strings.Contains(ports, "4789") {
		broken = append(broken, "after the next leave ports of ours are open:\n"+ports+r.String())
	}
	records, err := t.ledger()
	if err != nil || len(records) > 0 {
		broken = append(broken, fmt.Sprintf("after the next leave there is a ledger with %d records (%v)", len(records), err))
	}
	return append(broken, t.temporary()...), nil
}

// Commands are all of them.
var Commands = []Command{Join, Launch, Leave}

// Step is what one fault did, in a line, and what it broke.
type Step struct {
	What   string
	Hit    Point
	Broken []string
}

// Plan lists the faults that can be injected into a command: a kill before each of its system calls that changes or reads
// one of the worker's files, and each call's errors.
func (t *Target) Plan(ctx context.Context, c Command) ([]Fault, error) {
	if err := c.Before(ctx, t); err != nil {
		return nil, err
	}
	r, points, err := t.Inject(ctx, Fault{}, c.Argv...)
	if err != nil {
		return nil, err
	}
	if r.Code != 0 {
		return nil, fmt.Errorf("%s fails without a fault: %s", c.Name, r)
	}
	var plan []Fault
	seen := map[Fault]bool{}
	for _, p := range points {
		if !p.Ours() {
			continue
		}
		for _, with := range append([]string{"signal=KILL"}, errorsOf[p.Call]...) {
			if with != "signal=KILL" {
				with = "error=" + with
			}
			f := Fault{p.Call, p.Path, p.WhenHere, with}
			if strings.Contains(p.Path, "/.tmp-") {
				f = Fault{p.Call, "", p.When, with} // its name is another one in each run
			}
			if !seen[f] {
				seen[f] = true
				plan = append(plan, f)
			}
		}
	}
	return plan, nil
}

// Shuffle orders a plan at random, but so that the calls that make a change durable come first and in turn.
func Shuffle(plan []Fault, random *rand.Rand) {
	random.Shuffle(len(plan), func(i, j int) { plan[i], plan[j] = plan[j], plan[i] })
	next := 0
	for progress := true; progress; {
		progress = false
		for _, call := range []string{"renameat", "fsync", "write", "ftruncate", "mkdirat"} {
			for _, kill := range []bool{true, false} {
				for i := next; i < len(plan); i++ {
					if plan[i].Call == call && (plan[i].With == "signal=KILL") == kill {
						plan[next], plan[i] = plan[i], plan[next]
						next++
						progress = true
						break
					}
				}
			}
		}
	}
}

// Do injects one fault into a command, and looks at everything that has to hold then and after the next join.
func (t *Target) Do(ctx context.Context, c Command, f Fault) (Step, error) {
	if err := c.Before(ctx, t); err != nil {
		return Step{}, err
	}
	r, points, err := t.Inject(ctx, f, c.Argv...)
	if err != nil {
		return Step{What: c.Name + ": " + f.String()}, err
	}
	at, did := hit(points, f, r.Code)
	s := Step{What: fmt.Sprintf("%s: %s, at %s: exit code %d", c.Name, f, at, r.Code), Hit: at}
	if !did {
		s.What = fmt.Sprintf("%s: %s: not reached, exit code %d", c.Name, f, r.Code)
	}
	// What the language's runtime makes of an error that it never gets from a kernel is not ours to say.
	if at.Ours() || !did {
		s.Broken = t.Broken(r)
		if c.PutsBack {
			s.Broken = append(s.Broken, t.NotPutBack(r)...)
		}
		if len(s.Broken) > 0 {
			s.Broken = append(s.Broken, r.String())
		}
	}
	if c.After != nil {
		broken, err := c.After(ctx, t)
		s.Broken = append(s.Broken, broken...)
		if err != nil {
			return s, err
		}
	}
	return t.converge(ctx, s)
}

// converge adds to a step what does not hold after the next join.
func (t *Target) converge(ctx context.Context, s Step) (Step, error) {
	broken, err := t.NotConverged(ctx)
	s.Broken = append(s.Broken, broken...)
	return s, err
}

// failed tells whether a run ended with a failure of its own.
func failed(r lab.Result) bool { return r.Code == 1 || r.Code == 69 || r.Code == 75 || r.Code == 78 }
