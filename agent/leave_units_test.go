package agent

import (
	"strings"
	"testing"

	"github.com/tectonic-worker/tectonic-worker/units"
)

// systemd knows no state of a template, only of its instances.
func TestStopOrder(t *testing.T) {
	order := stopOrder()
	for _, name := range order {
		if strings.Contains(name, "@.") {
			t.Errorf("leave would ask for the state of the template %s", name)
		}
	}
	if order[0] != units.Agent {
		t.Errorf("leave stops %s before the agent, which would start it again", order[0])
	}
}
