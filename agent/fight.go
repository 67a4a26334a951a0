package agent

import (
	"fmt"
	"time"
)

// When a repair that is undone again and again is given up: after the third
// time within the window, until what it is about is as wanted again, or the
// rest is over.
const (
	fightRepairs = 3
	fightWindow  = 10 * time.Minute
	fightRest    = time.Hour
)

// fights remembers what was repaired, so that the agent does not wrestle with
// somebody who wants it otherwise. The zero value is ready.
type fights struct {
	of map[Key]*fight
}

type fight struct {
	repairs []time.Time // within the window, oldest first
	since   time.Time   // when we gave up; zero while we have not
}

// refuse says why k is not to be repaired now, or nothing.
func (f *fights) refuse(k Key, now time.Time) string {
	g := f.of[k]
	if g == nil {
		return ""
	}
	if !g.since.IsZero() {
		if now.Sub(g.since) < fightRest {
			return fmt.Sprintf("it was repaired %d times within %d minutes and undone each time; left as it is until %s, or until it is as wanted",
				fightRepairs, fightWindow/time.Minute, g.since.Add(fightRest).UTC().Format("15:04 MST"))
		}
		delete(f.of, k)
		return ""
	}
	for len(g.repairs) > 0 && now.Sub(g.repairs[0]) > fightWindow {
		g.repairs = g.repairs[1:]
	}
	if len(g.repairs) < fightRepairs {
		return ""
	}
	g.since = now
	return f.refuse(k, now)
}

// repaired notes a repair that somebody might undo.
func (f *fights) repaired(k Key, now time.Time) {
	if f.of == nil {
		f.of = map[Key]*fight{}
	}
	if f.of[k] == nil {
		f.of[k] = &fight{}
	}
	f.of[k].repairs = append(f.of[k].repairs, now)
}

// asWanted ends a fight that we had given up: the other side gave in.
func (f *fights) asWanted(k Key) {
	if g := f.of[k]; g != nil && !g.since.IsZero() {
		delete(f.of, k)
	}
}
