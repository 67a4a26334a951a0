package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"
	"time"
)

// agentTime bounds the question to the agent, which answers from memory.
const agentTime = 2 * time.Second

// agent asks the daemon what it repaired. A host is a worker without it, so
// that it does not run is only worth a note where it is meant to.
func (s *statusLook) agent(ctx context.Context) {
	a := &s.out.Agent
	body, err := s.askAgent(ctx)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		a.Why = "it does not run"
		return
	case errors.Is(err, fs.ErrPermission):
		a.Why = "it answers to root alone"
		return
	case err != nil:
		a.Why = err.Error()
		s.problem(fmt.Errorf("the agent does not answer: %w; read \"journalctl -u tectonic-worker\"", err))
		return
	}
	if err := readAgent(body, a); err != nil {
		a.Why = err.Error()
		s.problem(err)
	}
}

func (s *statusLook) askAgent(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, agentTime)
	defer cancel()
	const socket = RunDir + "/agent.sock"
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", s.sys.Root.Path(socket))
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/status", nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			return nil, op.Err
		}
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %s", resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, 1<<20))
}

// readAgent takes from the agent's own document what an operator asks first.
func readAgent(body []byte, a *AgentSeen) error {
	var doc struct {
		LastReconcile *time.Time `json:"lastReconcile"`
		Reloads       int        `json:"reloads"`
		Repairs       []struct {
			Time time.Time `json:"time"`
			Key
			What string `json:"what"`
		} `json:"repairs"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return fmt.Errorf("cannot read the agent's answer: %w", err)
	}
	a.Running, a.LastReconcile, a.Reloads = true, doc.LastReconcile, doc.Reloads
	for _, r := range doc.Repairs[max(0, len(doc.Repairs)-5):] {
		a.Repairs = append(a.Repairs, RepairSeen{r.Time, orWord(r.What, r.Key.String())})
	}
	return nil
}
