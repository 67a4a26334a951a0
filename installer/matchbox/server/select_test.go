package server

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/matchbox"
)

// indexOf indexes groups with these selectors; each one's id is its place.
func indexOf(t testing.TB, selectors []map[string]string) *index {
	t.Helper()
	x := newIndex()
	for i, selector := range selectors {
		g, err := newGroup(matchbox.Group{ID: fmt.Sprintf("g%06d", i), Profile: "p", Selector: selector})
		if err != nil {
			t.Fatal(err)
		}
		x.putGroup(g.id, g)
	}
	return x
}

// naive goes through all groups, as matchbox does.
func naive(x *index, labels map[string]string) []string {
	var fit []*group
	for _, g := range x.groups {
		if !slices.ContainsFunc(g.pairs, func(p pair) bool { value, has := labels[p.key]; return !has || value != p.value }) {
			fit = append(fit, g)
		}
	}
	sort.Slice(fit, func(i, j int) bool {
		a, b := fit[i], fit[j]
		return cmp.Or(len(b.pairs)-len(a.pairs), strings.Compare(b.order(), a.order()), strings.Compare(a.id, b.id)) < 0
	})
	return ids(fit)
}

func ids(all []*group) []string {
	var list []string
	for _, g := range all {
		list = append(list, g.id)
	}
	return list
}

// TestSelect compares both ways of looking up with going through all, on many random groups and labels.
func TestSelect(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	some := func(keys, values, most int) map[string]string {
		m := map[string]string{}
		for range random.IntN(most + 1) {
			m[fmt.Sprintf("k%d", random.IntN(keys))] = fmt.Sprint(random.IntN(values))
		}
		return m
	}
	bySubsets, byShapes := 0, 0
	for range 300 {
		// Few keys make many equal selectors; many keys make more sets of keys than labels.
		keys := 1 + random.IntN(12)
		selectors := make([]map[string]string, random.IntN(60))
		for i := range selectors {
			selectors[i] = some(keys, 3, 5)
		}
		x := indexOf(t, selectors)
		for i := range selectors { // some change, some go
			if random.IntN(3) == 0 {
				g, err := newGroup(matchbox.Group{ID: fmt.Sprintf("g%06d", i), Profile: "p", Selector: some(keys, 3, 5)})
				if err != nil {
					t.Fatal(err)
				}
				if random.IntN(2) == 0 {
					g = nil
				}
				x.putGroup(fmt.Sprintf("g%06d", i), g)
			}
		}
		for range 10 {
			labels := some(keys, 3, 14)
			want := naive(x, labels)
			if got := ids(x.matches(labels)); !slices.Equal(got, want) {
				t.Fatalf("labels %v among %v:\n got %v\nwant %v", labels, selectors, got, want)
			}
			first, _ := x.choose(labels)
			if (first == nil) != (len(want) == 0) || first != nil && first.id != want[0] {
				t.Fatalf("labels %v: chose %v, want the first of %v", labels, first, want)
			}
			asked := 0
			for key, value := range labels {
				if x.wanted[pair{key, value}] > 0 {
					asked++
				}
			}
			if 1<<asked <= 2*len(x.shapes)+8 {
				bySubsets++
			} else {
				byShapes++
			}
		}
	}
	if bySubsets < 100 || byShapes < 100 {
		t.Errorf("%d look-ups by subsets, %d by sets of keys: one of them is hardly tried", bySubsets, byShapes)
	}
}

// TestSelectSetsDoNotCollide has selectors that look the same when they are merely joined.
func TestSelectSetsDoNotCollide(t *testing.T) {
	x := indexOf(t, []map[string]string{{"a": "1,b=2"}, {"a": "1", "b": "2"}, {"a=1": "x"}, {"a": "1=x"}})
	for i, labels := range []map[string]string{{"a": "1,b=2"}, {"a": "1", "b": "2"}, {"a=1": "x"}, {"a": "1=x"}} {
		if got, want := ids(x.matches(labels)), []string{fmt.Sprintf("g%06d", i)}; !slices.Equal(got, want) {
			t.Errorf("%v matches %v, want %v", labels, got, want)
		}
	}
}

// TestSelectDoesNotGrow asks an index of 100,000 groups, each with a key of its own as well, and one of 10. A walk
// through all of them would take ten thousand times as long.
func TestSelectDoesNotGrow(t *testing.T) {
	sizes := []int{10, 100_000}
	took := make([]time.Duration, len(sizes))
	for i, size := range sizes {
		selectors := make([]map[string]string, size)
		for j := range selectors {
			selectors[j] = map[string]string{"mac": fmt.Sprintf("52:54:00:%02x:%02x:%02x", j>>16, j>>8&0xff, j&0xff)}
			if j%2 == 1 {
				selectors[j][fmt.Sprintf("key%d", j)] = "1"
			}
		}
		x := indexOf(t, selectors)
		labels := map[string]string{"uuid": "u", "mac": "52:54:00:00:00:04", "domain": "d", "hostname": "h", "serial": "s", "arch": "a"}
		took[i] = time.Hour
		for range 50 { // the fastest of many says what it costs
			began := time.Now()
			for range 100 {
				if g, _ := x.choose(labels); g == nil || g.id != "g000004" {
					t.Fatalf("chose %v", g)
				}
			}
			took[i] = min(took[i], time.Since(began))
		}
	}
	if took[1] > 10*took[0] {
		t.Errorf("100 selections take %s among 100,000 groups and %s among 10", took[1], took[0])
	}
}
