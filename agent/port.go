package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/tectonic-worker/tectonic-worker/firewall"
)

// KindPort is an open port in one zone of firewalld, in one of its two layers.
const KindPort Kind = "port"

// portState is what the ledger keeps of a port.
type portState struct {
	Layer firewall.Layer `json:"layer"`
	Zone  string         `json:"zone"`
	// Ports is what is ours to shut: the port itself, or, of a range that was
	// open in part, the rest of it.
	Ports []firewall.Port `json:"ports"`
}

// port wants a port to be open.
type port struct {
	fw    Firewall
	layer firewall.Layer
	zone  string
	port  firewall.Port
}

func (p *port) Key() Key {
	return Key{KindPort, fmt.Sprintf("%s/%s/%s", p.layer, p.zone, p.port)}
}

func (p *port) Check(ctx context.Context) (Finding, error) {
	open, err := p.fw.Query(ctx, p.layer, p.zone, p.port)
	if err != nil {
		return Finding{}, err
	}
	what := fmt.Sprintf("%s in zone %s (%s)", p.port, p.zone, p.layer)
	f := Finding{
		OK: open, Evidence: what,
		Before: portState{p.layer, p.zone, nil}, After: portState{p.layer, p.zone, []firewall.Port{p.port}},
	}
	if !open {
		f.Diff = "open " + what + "\n"
	}
	return f, nil
}

func (p *port) Apply(ctx context.Context) (Applied, error) {
	c, err := p.fw.Add(ctx, p.layer, p.zone, p.port)
	if err != nil {
		return Applied{}, err
	}
	a := Applied{Changed: c.Changed()}
	if len(c.Ports) != 1 || c.Ports[0] != p.port {
		a.After = portState{p.layer, p.zone, c.Ports}
	}
	return a, nil
}

// restorePort shuts the ports that we opened.
func restorePort(ctx context.Context, fw Firewall, e Entry) (string, error) {
	var before, after portState
	if err := decode(e, &before, &after); err != nil {
		return "", err
	}
	evidence := "was shut already"
	for _, p := range after.Ports {
		c, err := fw.Shut(ctx, after.Layer, after.Zone, p)
		switch {
		case errors.Is(err, firewall.ErrInvalidZone):
			return "the zone is gone", nil
		case err != nil:
			return "", err
		case c.Changed():
			evidence = "shut"
		case c.Inside != firewall.Port{}:
			evidence = fmt.Sprintf("kept open: it lies inside %s, which is not ours", c.Inside)
		}
	}
	return evidence, nil
}
