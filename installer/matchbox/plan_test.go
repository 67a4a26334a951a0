package matchbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tectonic-worker/tectonic-worker/installer/assets"
	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox"
)

// wantedOf is what a cluster of so many machines wants.
func wantedOf(name string, machines int) matchbox.Wanted {
	w := matchbox.Wanted{
		Ignition: map[string][]byte{name + "-install-x86_64.ign": []byte(`{"ignition":{"version":"3.3.0"}}`)},
		Generic:  map[string][]byte{name + "-kickstart-x86_64": []byte("text\n")},
		Profiles: []matchbox.Profile{
			{ID: name + "-install-x86_64", IgnitionID: name + "-install-x86_64.ign", Boot: matchbox.NetBoot{Kernel: "/assets/k", Initrd: []string{"/assets/i"}, Args: []string{"a=b"}}},
			{ID: name + "-install-rhel", GenericID: name + "-kickstart-x86_64", Boot: matchbox.NetBoot{Kernel: "/assets/r"}},
		},
	}
	for i := range machines {
		w.Groups = append(w.Groups, group(name, fmt.Sprintf("m%d", i), fmt.Sprintf("52:54:00:00:%02x:%02x", i/256, i%256)))
	}
	return w
}

func group(name, machine, mac string) matchbox.Group {
	metadata, _ := json.Marshal(map[string]string{"cluster": name, "machine": machine, "managed_by": "tectonic-installer"})
	return matchbox.Group{ID: name + "-install-" + machine + "-0", Name: machine, Profile: name + "-install-x86_64",
		Selector: map[string]string{"mac": mac}, Metadata: metadata}
}

func plan(t *testing.T, c *matchbox.Client, w matchbox.Wanted, name string, prune bool) matchbox.Plan {
	t.Helper()
	p, err := c.Plan(t.Context(), w, matchbox.PlanOptions{Cluster: name, Prune: prune})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// apply applies, and checks that there is nothing left to do.
func apply(t *testing.T, c *matchbox.Client, w matchbox.Wanted, name string, prune bool) {
	t.Helper()
	if err := c.Apply(t.Context(), plan(t, c, w, name, prune)); err != nil {
		t.Fatal(err)
	}
	if again := plan(t, c, w, name, prune); !again.Empty() {
		t.Errorf("after apply: %v", summary(again))
	}
}

// summary is what a plan does, without what it keeps.
func summary(p matchbox.Plan) []string {
	var all []string
	for _, c := range p.Changes {
		if c.Action != matchbox.Keep {
			all = append(all, fmt.Sprintf("%s %s %s", c.Action, c.Kind, c.ID))
		}
	}
	return all
}

func files(t *testing.T, data string) []string {
	t.Helper()
	var all []string
	for _, dir := range []string{"groups", "profiles", "ignition", "generic"} {
		entries, err := os.ReadDir(filepath.Join(data, dir))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for _, e := range entries {
			all = append(all, dir+"/"+e.Name())
		}
	}
	return all
}

func TestApply(t *testing.T) {
	onTargets(t, func(t *testing.T, _ *running, c *matchbox.Client, data string) {
		w := wantedOf("c", 2)
		first := plan(t, c, w, "c", false)
		want := []string{
			"create ignition c-install-x86_64.ign", "create generic c-kickstart-x86_64",
			"create profile c-install-rhel", "create profile c-install-x86_64",
			"create group c-install-m0-0", "create group c-install-m1-0",
		}
		if d := cmp.Diff(want, summary(first)); d != "" {
			t.Error(d)
		}
		if got := files(t, data); len(got) > 0 {
			t.Errorf("a plan wrote %v", got)
		}
		apply(t, c, w, "c", false)

		// The same in other words is no change: another notation of a MAC, another order of keys.
		same := wantedOf("c", 2)
		same.Groups[0].Selector = map[string]string{"mac": "52-54-00-00-00-00"}
		same.Groups[1].Metadata = json.RawMessage("{ \"managed_by\": \"tectonic-installer\",\n\"machine\":\"m1\",  \"cluster\":\"c\"}")
		if p := plan(t, c, same, "c", true); !p.Empty() || len(p.Changes) != 6 || p.Count(matchbox.Keep) != 6 {
			t.Errorf("the same: %v", summary(p))
		}

		changed := wantedOf("c", 3)
		changed.Ignition["c-install-x86_64.ign"] = []byte(`{"ignition":{"version":"3.4.0"}}`)
		changed.Profiles[0].Boot.Args = []string{"a=b", "tectonic.token=0123456789abcdef"}
		p := plan(t, c, changed, "c", false)
		if d := cmp.Diff([]string{"update ignition c-install-x86_64.ign", "update profile c-install-x86_64", "create group c-install-m2-0"}, summary(p)); d != "" {
			t.Error(d)
		}
		var text strings.Builder
		for _, change := range p.Changes {
			text.WriteString(change.Diff)
		}
		for _, part := range []string{`-    "version": "3.3.0"`, `+    "version": "3.4.0"`, `tectonic.token=(hidden)`, `+    "mac": "52:54:00:00:00:02"`} {
			if !strings.Contains(text.String(), part) {
				t.Errorf("no %q in\n%s", part, text.String())
			}
		}
		if strings.Contains(text.String(), "0123456789abcdef") {
			t.Errorf("a plan shows a token:\n%s", text.String())
		}
		apply(t, c, changed, "c", false)
		changed.Profiles[0].Boot.Args[1] = "tectonic.token=fedcba9876543210"
		if p := plan(t, c, changed, "c", false); len(summary(p)) != 1 || strings.Contains(p.Changes[3].Diff, "fedc") {
			t.Errorf("another token: %v", p)
		}
	})
}

// What is ours and gone goes; others' stays, be its name what it may.
func TestPrune(t *testing.T) {
	onTargets(t, func(t *testing.T, _ *running, c *matchbox.Client, data string) {
		ctx := t.Context()
		others := []error{
			// Somebody's by hand, with names as ours.
			c.IgnitionPut(ctx, "hand.ign", []byte(`{"ignition":{"version":"3.3.0"}}`)),
			c.ProfilePut(ctx, matchbox.Profile{ID: "c-worker", IgnitionID: "hand.ign"}),
			c.GroupPut(ctx, matchbox.Group{ID: "c-install-hand", Profile: "c-worker", Selector: map[string]string{"mac": "02:00:00:00:00:01"}, Metadata: json.RawMessage(`{"managed_by":"hand","cluster":"c"}`)}),
			// One of ours that somebody's group uses.
			c.IgnitionPut(ctx, "c-install-used.ign", []byte(`{"ignition":{"version":"3.3.0"}}`)),
			c.ProfilePut(ctx, matchbox.Profile{ID: "c-install-used", IgnitionID: "c-install-used.ign"}),
			c.GroupPut(ctx, matchbox.Group{ID: "hand", Profile: "c-install-used", Selector: map[string]string{"mac": "02:00:00:00:00:02"}}),
		}
		if err := errors.Join(others...); err != nil {
			t.Fatal(err)
		}
		// Another cluster, whose name begins as ours with "-install".
		apply(t, c, wantedOf("c-install", 1), "c-install", true)
		stays := files(t, data)

		apply(t, c, wantedOf("c", 3), "c", false)
		w := wantedOf("c", 1)
		w.Generic = nil
		w.Profiles = w.Profiles[:1]
		w.Profiles[0].IgnitionID, w.Ignition = "c-install-2.ign", map[string][]byte{"c-install-2.ign": []byte(`{"ignition":{"version":"3.4.0"}}`)}

		kept := plan(t, c, w, "c", false)
		want := []string{"group c-install-m1-0", "group c-install-m2-0", "profile c-install-rhel", "generic c-kickstart-x86_64", "ignition c-install-x86_64.ign"}
		var orphans []string
		for _, o := range kept.Orphans {
			orphans = append(orphans, fmt.Sprintf("%s %s", o.Kind, o.ID))
		}
		if d := cmp.Diff(want, orphans); d != "" {
			t.Errorf("orphans: %s", d)
		}
		if slices.ContainsFunc(kept.Changes, func(c matchbox.Change) bool { return c.Action == matchbox.Delete }) {
			t.Errorf("deletes without being told to: %v", summary(kept))
		}

		apply(t, c, w, "c", true)
		want = append(slices.Clone(stays), "groups/c-install-m0-0.json", "profiles/c-install-x86_64.json", "ignition/c-install-2.ign")
		if d := cmp.Diff(sorted(want), sorted(files(t, data))); d != "" {
			t.Error(d)
		}

		// Nothing wanted: only others' is left.
		apply(t, c, matchbox.Wanted{}, "c", true)
		if d := cmp.Diff(sorted(stays), sorted(files(t, data))); d != "" {
			t.Error(d)
		}
	})
}

func sorted(all []string) []string { slices.Sort(all); return all }

// A config that no profile names any more is found by the name that a rendered one has.
func TestForgottenConfigs(t *testing.T) {
	onTargets(t, func(t *testing.T, _ *running, c *matchbox.Client, data string) {
		for _, arch := range []string{"x86_64", "aarch64"} {
			site := &cluster.Cluster{Name: "c"}
			if err := c.IgnitionPut(t.Context(), assets.IgnitionID(site, arch), []byte(`{"ignition":{"version":"3.3.0"}}`)); err != nil {
				t.Fatal(err)
			}
			if err := c.GenericPut(t.Context(), assets.KickstartID(site, arch), []byte("text")); err != nil {
				t.Fatal(err)
			}
		}
		if p := plan(t, c, matchbox.Wanted{}, "c", true); p.Count(matchbox.Delete) != 4 {
			t.Errorf("%v", summary(p))
		}
		apply(t, c, matchbox.Wanted{}, "c", true)
		if left := files(t, data); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}

// A group's id that is somebody else's is not taken, and somebody's group that comes between is said.
func TestOthers(t *testing.T) {
	onTargets(t, func(t *testing.T, _ *running, c *matchbox.Client, data string) {
		ctx := t.Context()
		w := wantedOf("c", 2)
		put := func(g matchbox.Group) {
			t.Helper()
			if err := c.GroupPut(ctx, g); err != nil {
				t.Fatal(err)
			}
		}
		put(matchbox.Group{ID: "default-1", Profile: "x"})
		put(matchbox.Group{ID: "default-2", Profile: "x", Metadata: json.RawMessage(`{"a":"b"}`)})
		put(matchbox.Group{ID: "same", Profile: "x", Selector: map[string]string{"MAC": "52-54-00-00-00-00"}})
		put(matchbox.Group{ID: "more", Profile: "x", Selector: map[string]string{"mac": "52:54:00:00:00:01", "os": "installed"}})
		warnings := plan(t, c, w, "c", false).Warnings
		if len(warnings) != 3 {
			t.Errorf("warnings: %q", warnings)
		}
		for i, part := range []string{`group "more"`, `group "same"`, `2 default groups ("default-1", "default-2")`} {
			if i < len(warnings) && !strings.Contains(warnings[i], part) {
				t.Errorf("warning %d does not say %q: %s", i, part, warnings[i])
			}
		}

		put(matchbox.Group{ID: "c-install-m0-0", Profile: "x", Selector: map[string]string{"mac": "02:00:00:00:00:09"}})
		foreign := group("d", "m1", "02:00:00:00:00:08")
		foreign.ID = "c-install-m1-0"
		put(foreign)
		before := files(t, data)
		_, err := c.Plan(ctx, w, matchbox.PlanOptions{Cluster: "c"})
		if err == nil {
			t.Fatal("somebody else's group is taken")
		}
		for _, part := range []string{`"c-install-m0-0": matchbox has one of that id`, `"c-install-m1-0": it is cluster "d"'s`} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("error does not say %q: %v", part, err)
			}
		}
		if d := cmp.Diff(before, files(t, data)); d != "" {
			t.Error(d)
		}
	})
}

// What matchbox takes without a word and then serves by chance, or not at all, is not sent to it.
func TestContradictions(t *testing.T) {
	ca := newAuthority(t, "site authority")
	var calls atomic.Int32
	run := startOurs(t, setting{data: dataDir(t), ca: ca, pair: ca.server(t, nil), intercept: func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		calls.Add(1)
		return handle(ctx, req)
	}})
	c := dial(t, run.endpoint, ca)
	tests := []struct {
		name   string
		change func(*matchbox.Wanted)
		want   []string
	}{
		{"a MAC twice, in two notations", func(w *matchbox.Wanted) { w.Groups[1].Selector = map[string]string{"mac": "5254.0000.0000"} }, []string{`groups "c-install-m0-0" and "c-install-m1-0" select the same machines`}},
		{"a MAC twice, the key in two spellings", func(w *matchbox.Wanted) { w.Groups[1].Selector = map[string]string{"MAC": "52:54:00:00:00:00"} }, []string{"select the same machines"}},
		{"default groups", func(w *matchbox.Wanted) { w.Groups[0].Selector, w.Groups[1].Selector = nil, map[string]string{} }, []string{`"c-install-m0-0" selects every machine`, `"c-install-m1-0" selects every machine`}},
		{"no MAC address", func(w *matchbox.Wanted) { w.Groups[0].Selector = map[string]string{"mac": "52:54"} }, []string{`"52:54", which is not a MAC address`}},
		{"an id twice", func(w *matchbox.Wanted) {
			w.Groups[1].ID = w.Groups[0].ID
			w.Profiles[1].ID = w.Profiles[0].ID
		}, []string{`group "c-install-m0-0" is there twice`, `profile "c-install-x86_64" is there twice`}},
		{"missing parts", func(w *matchbox.Wanted) {
			w.Groups[0].Profile, w.Profiles[0].IgnitionID, w.Profiles[1].GenericID = "p", "i", "g"
		}, []string{`the profile "p", which is not part`, `the Ignition config "i", which is not part`, `the generic config "g", which is not part`}},
		{"not the cluster's", func(w *matchbox.Wanted) {
			w.Groups[0].Metadata = json.RawMessage(`{"managed_by":"tectonic-installer","cluster":"d"}`)
			w.Ignition["other.ign"] = nil
		}, []string{`group "c-install-m0-0" does not say`, `"other.ign" does not begin with c-`}},
		{"not a file name", func(w *matchbox.Wanted) { w.Generic["c-/../../x"] = nil }, []string{"not a plain file name"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := wantedOf("c", 2)
			tt.change(&w)
			_, err := c.Plan(t.Context(), w, matchbox.PlanOptions{Cluster: "c"})
			if err == nil {
				t.Fatal("taken")
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error does not say %q: %v", part, err)
				}
			}
		})
	}
	if calls.Load() > 0 {
		t.Errorf("%d calls were made", calls.Load())
	}
}

// Whoever dies after whichever call: nothing refers to what is missing, no machine has two groups, and the next run
// converges, also a prune.
func TestInterruptedAnywhere(t *testing.T) {
	before, after := wantedOf("c", 3), wantedOf("c", 3)
	// Of this name only its profile knows.
	before.Ignition = map[string][]byte{"c-install-1.ign": []byte(`{"ignition":{"version":"3.3.0"}}`)}
	before.Profiles[0].IgnitionID = "c-install-1.ign"
	// After it another machine has the first one's card, configs and profiles have new names.
	after.Ignition, after.Generic = map[string][]byte{"c-install-2.ign": []byte(`{"ignition":{"version":"3.4.0"}}`)}, map[string][]byte{"c-kickstart-2": []byte("text\n")}
	after.Profiles[0].ID, after.Profiles[0].IgnitionID = "c-install-aarch64", "c-install-2.ign"
	after.Profiles[1].GenericID = "c-kickstart-2"
	after.Groups = []matchbox.Group{group("c", "n0", "52:54:00:00:00:00"), group("c", "m1", "52:54:00:00:00:01")}
	for i := range after.Groups {
		after.Groups[i].Profile = "c-install-aarch64"
	}
	want := []string{
		"generic/c-kickstart-2", "groups/c-install-m1-0.json", "groups/c-install-n0-0.json", "ignition/c-install-2.ign",
		"profiles/c-install-aarch64.json", "profiles/c-install-rhel.json",
	}

	ca := newAuthority(t, "site authority")
	pair := ca.server(t, nil)
	const forEver = 1 << 30
	for n, done := 0, false; !done; n++ {
		if n > 40 {
			t.Fatal("it never comes to its end")
		}
		data := dataDir(t)
		var left atomic.Int32
		left.Store(forEver)
		run := startOurs(t, setting{data: data, ca: ca, pair: pair, intercept: func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			writes := strings.HasSuffix(info.FullMethod, "Put") || strings.HasSuffix(info.FullMethod, "Delete")
			if writes && left.Add(-1) < 0 {
				return nil, status.Error(codes.Internal, "the end of this run")
			}
			return handle(ctx, req)
		}})
		c := dial(t, run.endpoint, ca)
		apply(t, c, before, "c", false)

		left.Store(int32(n))
		p := plan(t, c, after, "c", true)
		err := c.Apply(t.Context(), p)
		done = err == nil
		consistent(t, data)

		left.Store(forEver)
		apply(t, c, after, "c", true)
		if d := cmp.Diff(want, sorted(files(t, data))); d != "" {
			t.Errorf("interrupted after %d writes: %s", n, d)
		}
		run.kill()
		if done && n != len(summary(p)) {
			t.Errorf("came to its end after %d writes of %d changes", n, len(summary(p)))
		}
	}
}

// consistent reads matchbox's files: each group's profile is there, each profile that a group has has its configs, and
// no two groups are for one machine.
func consistent(t *testing.T, data string) {
	t.Helper()
	macs := map[string]string{}
	groups, err := filepath.Glob(filepath.Join(data, "groups", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range groups {
		var g matchbox.Group
		readJSON(t, path, &g)
		if other, ok := macs[g.Selector["mac"]]; ok {
			t.Errorf("groups %s and %s are for one machine", other, g.ID)
		}
		macs[g.Selector["mac"]] = g.ID
		var p matchbox.Profile
		readJSON(t, filepath.Join(data, "profiles", g.Profile+".json"), &p)
		for _, config := range []string{filepath.Join("ignition", p.IgnitionID), filepath.Join("generic", p.GenericID)} {
			if _, err := os.Stat(filepath.Join(data, config)); err != nil {
				t.Errorf("profile %s of group %s: %v", p.ID, g.ID, err)
			}
		}
	}
}

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
		return
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Errorf("%s: %v", path, err)
	}
}

// matchbox is killed in the middle, with files half written or not; after its restart the same run converges.
func TestServerKilledWhileApplying(t *testing.T) {
	for _, target := range targets(t) {
		t.Run(target.name, func(t *testing.T) {
			ca := newAuthority(t, "site authority")
			s := setting{data: dataDir(t), ca: ca, pair: ca.server(t, nil)}
			run := target.start(t, s)
			s.port = run.port
			w := wantedOf("c", 300)
			for i := range 4 {
				c, err := matchbox.Dial(t.Context(), matchbox.Options{Endpoint: run.endpoint, TLS: ca.operator(t), Timeout: 300 * time.Millisecond})
				if err != nil {
					t.Fatal(err)
				}
				p := plan(t, c, w, "c", false)
				ended := make(chan error, 1)
				go func() { ended <- c.Apply(t.Context(), p) }()
				// Once the next part of the groups is there.
				waitFor(t, "groups are written", func() bool { return len(files(t, s.data)) > 4+40*i || len(ended) > 0 })
				run.kill()
				if err := <-ended; err == nil {
					t.Log("it was done before the kill")
				} else if !errors.Is(err, matchbox.ErrUnreachable) {
					t.Errorf("error: %v", err)
				}
				c.Close()
				run = target.start(t, s)
			}
			c := dial(t, run.endpoint, ca)
			apply(t, c, w, "c", true)
			if got := len(files(t, s.data)); got != 304 {
				t.Errorf("%d files, want 304", got)
			}
			consistent(t, s.data)
		})
	}
}
