package matchbox_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tectonic-worker/tectonic-worker/installer/matchbox"
)

func TestObjects(t *testing.T) {
	onTargets(t, func(t *testing.T, _ *running, c *matchbox.Client, data string) {
		ctx := t.Context()
		profile := matchbox.Profile{ID: "p1", Name: "a profile", IgnitionID: "p1.ign", GenericID: "p1-generic", CloudID: "p1-cloud",
			Boot: matchbox.NetBoot{Kernel: "/assets/k", Initrd: []string{"/assets/i", "/assets/j"}, Args: []string{"a=b", "mac=${mac:hexhyp}"}}}
		if err := c.ProfilePut(ctx, profile); err != nil {
			t.Fatal(err)
		}
		got, err := c.ProfileGet(ctx, "p1")
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(profile, got); d != "" {
			t.Errorf("profile: %s", d)
		}
		// A profile that boots nothing is one all the same.
		if err := c.ProfilePut(ctx, matchbox.Profile{ID: "p0"}); err != nil {
			t.Fatal(err)
		}
		profiles, err := c.ProfileList(ctx)
		if err != nil || len(profiles) != 2 {
			t.Errorf("ProfileList: %v, %v", profiles, err)
		}

		group := matchbox.Group{ID: "g1", Name: "a group", Profile: "p1", Selector: map[string]string{"mac": "52:54:00:a1:9c:ae", "os": "x"},
			Metadata: json.RawMessage(`{"cluster":"c","nested":{"n":1}}`)}
		if err := c.GroupPut(ctx, group); err != nil {
			t.Fatal(err)
		}
		gotGroup, err := c.GroupGet(ctx, "g1")
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(group, gotGroup, sameJSON); d != "" {
			t.Errorf("group: %s", d)
		}
		if err := c.GroupPut(ctx, matchbox.Group{ID: "g0", Profile: "p0"}); err != nil {
			t.Fatal(err)
		}
		groups, err := c.GroupList(ctx)
		if err != nil || len(groups) != 2 {
			t.Errorf("GroupList: %v, %v", groups, err)
		}

		selected, err := c.SelectGroup(ctx, map[string]string{"mac": "52-54-00-A1-9C-AE", "os": "x"})
		if err != nil || selected.ID != "g1" {
			t.Errorf("SelectGroup: %v, %v", selected, err)
		}
		selectedProfile, err := c.SelectProfile(ctx, map[string]string{"mac": "52:54:00:00:00:00"})
		if err != nil || selectedProfile.ID != "p0" {
			t.Errorf("SelectProfile of the default group: %v, %v", selectedProfile, err)
		}

		ignition := []byte(`{"ignition":{"version":"3.3.0"}}`)
		if err := c.IgnitionPut(ctx, "p1.ign", ignition); err != nil {
			t.Fatal(err)
		}
		if got, err := c.IgnitionGet(ctx, "p1.ign"); err != nil || string(got) != string(ignition) {
			t.Errorf("IgnitionGet: %q, %v", got, err)
		}
		generic := []byte("install\nurl {{.request.query.mac}}\n")
		if err := c.GenericPut(ctx, "p1-generic", generic); err != nil {
			t.Fatal(err)
		}
		if got, err := c.GenericGet(ctx, "p1-generic"); err != nil || string(got) != string(generic) {
			t.Errorf("GenericGet: %q, %v", got, err)
		}
		// The files are where matchbox has them, whoever wrote them.
		for _, path := range []string{"groups/g1.json", "profiles/p1.json", "ignition/p1.ign", "generic/p1-generic"} {
			if _, err := os.Stat(filepath.Join(data, path)); err != nil {
				t.Error(err)
			}
		}

		for _, del := range []func() error{
			func() error { return c.GroupDelete(ctx, "g1") },
			func() error { return c.ProfileDelete(ctx, "p1") },
			func() error { return c.IgnitionDelete(ctx, "p1.ign") },
			func() error { return c.GenericDelete(ctx, "p1-generic") },
		} {
			// Twice: what is gone is as wanted.
			if err := errors.Join(del(), del()); err != nil {
				t.Error(err)
			}
		}
		for _, path := range []string{"groups/g1.json", "profiles/p1.json", "ignition/p1.ign", "generic/p1-generic"} {
			if _, err := os.Stat(filepath.Join(data, path)); err == nil {
				t.Errorf("%s is still there", path)
			}
		}
	})
}

var sameJSON = cmp.Comparer(func(a, b json.RawMessage) bool {
	var x, y any
	if len(a) == 0 || len(b) == 0 {
		return len(a) == len(b)
	}
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && cmp.Equal(x, y)
})

// An empty directory, in which matchbox has made nothing yet, holds nothing; it is no error to look.
func TestNothingThere(t *testing.T) {
	onTargets(t, func(t *testing.T, _ *running, c *matchbox.Client, _ string) {
		ctx := t.Context()
		if groups, err := c.GroupList(ctx); err != nil || len(groups) > 0 {
			t.Errorf("GroupList: %v, %v", groups, err)
		}
		if profiles, err := c.ProfileList(ctx); err != nil || len(profiles) > 0 {
			t.Errorf("ProfileList: %v, %v", profiles, err)
		}
		for name, read := range map[string]func() error{
			"GroupGet":    func() error { _, err := c.GroupGet(ctx, "x"); return err },
			"ProfileGet":  func() error { _, err := c.ProfileGet(ctx, "x"); return err },
			"IgnitionGet": func() error { _, err := c.IgnitionGet(ctx, "x"); return err },
			"GenericGet":  func() error { _, err := c.GenericGet(ctx, "x"); return err },
			"SelectGroup": func() error { _, err := c.SelectGroup(ctx, map[string]string{"mac": "52:54:00:a1:9c:ae"}); return err },
			"SelectProfile": func() error {
				_, err := c.SelectProfile(ctx, map[string]string{"mac": "52:54:00:a1:9c:ae"})
				return err
			},
		} {
			if err := read(); !errors.Is(err, matchbox.ErrNotFound) {
				t.Errorf("%s: %v, want ErrNotFound", name, err)
			}
		}
		// Not there is one thing, refused another.
		if err := c.ProfilePut(ctx, matchbox.Profile{ID: "p"}); err != nil {
			t.Fatal(err)
		}
		if err := c.GroupPut(ctx, matchbox.Group{ID: "no-profile"}); err == nil || errors.Is(err, matchbox.ErrNotFound) {
			t.Errorf("a group without a profile: %v", err)
		}
	})
}

func TestIDs(t *testing.T) {
	onTargets(t, func(t *testing.T, _ *running, c *matchbox.Client, data string) {
		if err := c.ProfilePut(t.Context(), matchbox.Profile{ID: "x"}); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"", ".", "..", "../profiles/x", "a/b", `a\b`, "a\x00b", "a\nb", ".hidden", "\xff", strings.Repeat("n", 300)} {
			for name, do := range map[string]func() error{
				"GroupPut":       func() error { return c.GroupPut(t.Context(), matchbox.Group{ID: id, Profile: "x"}) },
				"IgnitionPut":    func() error { return c.IgnitionPut(t.Context(), id, []byte("x")) },
				"IgnitionDelete": func() error { return c.IgnitionDelete(t.Context(), id) },
				"ProfileGet":     func() error { _, err := c.ProfileGet(t.Context(), id); return err },
			} {
				if err := do(); err == nil {
					t.Errorf("%s took the id %q", name, id)
				} else if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) {
					t.Errorf("%s of %q: control characters in %q", name, id, err)
				}
			}
		}
		if _, err := os.Stat(filepath.Join(data, "profiles", "x.json")); err != nil {
			t.Error(err)
		}
	})
}

// 4 MiB is gRPC's limit for a message, and matchbox keeps it.
func TestTooLarge(t *testing.T) {
	onTargets(t, func(t *testing.T, _ *running, c *matchbox.Client, _ string) {
		err := c.GenericPut(t.Context(), "large", make([]byte, 10<<20))
		if err == nil {
			t.Fatal("10 MiB were taken")
		}
		if !strings.Contains(err.Error(), "larger than matchbox takes") {
			t.Errorf("error does not say that it is too large: %v", err)
		}
	})
}
