package matchbox_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tectonic-worker/tectonic-worker/installer/matchbox"
)

// BenchmarkApply1000 plans and applies a cluster of 1,000 machines to an empty matchbox: one write each, and two for the
// configs. The metric is the time of one such apply.
func BenchmarkApply1000(b *testing.B) {
	for _, target := range targets(b) {
		b.Run(target.name, func(b *testing.B) {
			ca := newAuthority(b, "site authority")
			w := wantedOf("c", 1000)
			s := setting{data: dataDir(b), ca: ca, pair: ca.server(b, nil)}
			run := target.start(b, s)
			c := dial(b, run.endpoint, ca)
			for b.Loop() {
				p, err := c.Plan(b.Context(), w, matchbox.PlanOptions{Cluster: "c"})
				if err == nil {
					err = c.Apply(b.Context(), p)
				}
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if n := p.Count(matchbox.Create); n != 1004 {
					b.Fatalf("%d were created, not 1004", n)
				}
				for _, dir := range []string{"groups", "profiles", "ignition", "generic"} {
					if err := os.RemoveAll(filepath.Join(s.data, dir)); err != nil {
						b.Fatal(err)
					}
				}
				// Our server learns of it from the file system.
				waitFor(b, "the server has noticed", func() bool { groups, err := c.GroupList(b.Context()); return err == nil && len(groups) == 0 })
				b.StartTimer()
			}
		})
	}
}
