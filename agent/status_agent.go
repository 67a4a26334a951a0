package agent

import (
	"context"
	"errors"
	"time"
)

// agentTime bounds the question to the agent, which answers from memory.
const agentTime = 3 * time.Second

// agentRepairs is how many of the agent's repairs fit on one screen.
const agentRepairs = 5

// agent asks the daemon what it repaired. A host is a worker without it too.
func (s *statusLook) agent(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, agentTime)
	defer cancel()
	a := &s.out.Agent
	st, err := AskAgent(ctx, s.sys)
	switch {
	case errors.Is(err, ErrNoAgent):
		a.Why = "does not run: what drifts is not repaired"
		return
	case err != nil:
		a.Why = redactAll(err.Error())
		return
	}
	a.Running, a.Reloads = true, st.Firewall.Reloads
	if at := st.LastLook.Time; !at.IsZero() {
		a.LastReconcile = &at
	}
	for _, r := range st.Repairs[max(0, len(st.Repairs)-agentRepairs):] {
		a.Repairs = append(a.Repairs, RepairSeen{r.Time, oneLine(r.Key.String() + ": " + r.Evidence)})
	}
	if st.Drift {
		// What the agent was told to leave, or gave up on, it knows the reason of.
		s.note("the agent says: " + orWord(st.Why, "something is not as wanted, and it does not repair it"))
	}
}
