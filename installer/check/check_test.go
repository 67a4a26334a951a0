package check

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// lines are results for comparing: name, level and target.
func lines(results []Result, levels ...Level) []string {
	var out []string
	for _, r := range results {
		for _, l := range levels {
			if r.Level == l {
				out = append(out, fmt.Sprintf("%s %s %s: %s", r.Level, r.Name, r.Target, r.Message))
			}
		}
	}
	return out
}

func TestAllIsWell(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.becomeReady(t, "node1", "52:54:00:00:00:01")
	results := Run(t.Context(), s.cluster, s.options)
	if diff := cmp.Diff([]string(nil), lines(results, Failed, Warning)); diff != "" {
		t.Errorf("not well:\n%s", diff)
	}
	if Worst(results) != OK {
		t.Errorf("worst is %s", Worst(results))
	}
	for _, r := range results {
		t.Logf("%+v", r)
	}
	count := map[string]int{}
	for _, r := range results {
		count[fmt.Sprintf("%s %s", r.Name, r.Level)]++
		if r.Message == "" {
			t.Errorf("%+v says nothing", r)
		}
	}
	want := map[string]int{
		"tls ok":      4, // CA, client, and what the two servers show
		"files ok":    1,
		"bmc ok":      3, // the credentials, and two machines
		"dns ok":      6, // the provisioner, two names of the cluster, three machines
		"port ok":     6, // the provisioner's three and those of the one machine that is ready
		"matchbox ok": 2, "machines ok": 1,
		"bmc skipped": 1, "port skipped": 2,
	}
	if diff := cmp.Diff(want, count); diff != "" {
		t.Errorf("what was asked (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(results, Run(t.Context(), s.cluster, s.options)); diff != "" {
		t.Errorf("a second run says something else:\n%s", diff)
	}
	if strings.Contains(fmt.Sprintf("%+v", results), "s3cret") {
		t.Error("a secret is in the results")
	}
}
