package server

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/tectonic-worker/tectonic-worker/installer/matchbox"
)

// until waits for what the follower brings about.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		case <-tick.C:
		}
	}
}

// chosen is the group for one label, empty when there is none.
func (s *Server) chosen(key, value string) string {
	g, _ := s.store.index.choose(map[string]string{key: value})
	if g == nil {
		return ""
	}
	return g.id
}

func TestFollow(t *testing.T) {
	dir := writeData(t, map[string]string{"groups/a.json": `{"id":"a","profile":"p","selector":{"k":"a"}}`})
	s := start(t, Options{DataPath: dir})
	if got := s.chosen("k", "a"); got != "a" {
		t.Fatalf("at the start %q is chosen, want a", got)
	}
	group := func(id, value string) string {
		return fmt.Sprintf(`{"id":%q,"profile":"p","selector":{"k":%q}}`, id, value)
	}
	rename := func(from, to string) {
		if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	steps := []struct {
		name string
		do   func()
		done func() bool
	}{
		{"a new file", func() { writeFile(t, dir, "groups/b.json", group("b", "b")) }, func() bool { return s.chosen("k", "b") == "b" }},
		{"overwritten in place", func() { writeFile(t, dir, "groups/b.json", group("b", "b2")) }, func() bool { return s.chosen("k", "b2") == "b" && s.chosen("k", "b") == "" }},
		{"replaced by a rename", func() {
			writeFile(t, dir, "groups/x", group("b", "b3"))
			rename("groups/x", "groups/b.json")
		}, func() bool { return s.chosen("k", "b3") == "b" && s.chosen("k", "b2") == "" }},
		{"renamed", func() { rename("groups/b.json", "groups/c.json") }, func() bool { return s.chosen("k", "b3") == "c" }},
		{"deleted", func() { _ = os.Remove(filepath.Join(dir, "groups/c.json")) }, func() bool { return s.chosen("k", "b3") == "" }},
		{"broken", func() { writeFile(t, dir, "groups/a.json", `{`) }, func() bool { return s.chosen("k", "a") == "" && len(s.Problems()) == 1 }},
		{"mended", func() { writeFile(t, dir, "groups/a.json", group("a", "a")) }, func() bool { return s.chosen("k", "a") == "a" && len(s.Problems()) == 0 }},
		{"a profile", func() { writeFile(t, dir, "profiles/p.json", `{"id":"p","ignition_id":"i.ign"}`) }, func() bool { return s.store.index.profile("p") != nil }},
		{"a config", func() { writeFile(t, dir, "ignition/i.ign", `one`) }, func() bool {
			c := s.store.config(ignition, "i.ign")
			return c != nil && string(c.body) == "one"
		}},
		{"a config, changed", func() { writeFile(t, dir, "ignition/i.ign", `two`) }, func() bool { return string(s.store.config(ignition, "i.ign").body) == "two" }},
		{"the directory is replaced", func() {
			writeFile(t, dir, "new/d.json", group("d", "d"))
			rename("groups", "old")
			rename("new", "groups")
		}, func() bool { return s.chosen("k", "d") == "d" && s.chosen("k", "a") == "" }},
		{"and followed", func() { writeFile(t, dir, "groups/e.json", group("e", "e")) }, func() bool { return s.chosen("k", "e") == "e" }},
		{"the directory is gone", func() { rename("groups", "older") }, func() bool { return s.chosen("k", "d") == "" }},
		{"and comes again", func() { writeFile(t, dir, "groups/f.json", group("f", "f")) }, func() bool { return s.chosen("k", "f") == "f" }},
	}
	for _, step := range steps {
		step.do()
		until(t, step.name, step.done)
	}
}

// TestFollowConfigMap changes files as Kubernetes changes a mounted ConfigMap: nothing happens to the files themselves.
func TestFollowConfigMap(t *testing.T) {
	dir := writeData(t, nil)
	groups := filepath.Join(dir, "groups")
	version := func(name, value string) {
		writeFile(t, groups, name+"/m.json", fmt.Sprintf(`{"id":"m","profile":"p","selector":{"k":%q}}`, value))
		link := filepath.Join(groups, "..data_tmp")
		if err := os.Symlink(name, link); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(link, filepath.Join(groups, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	version("..1", "one")
	if err := os.Symlink("..data/m.json", filepath.Join(groups, "m.json")); err != nil {
		t.Fatal(err)
	}
	s := start(t, Options{DataPath: dir})
	if got := s.chosen("k", "one"); got != "m" {
		t.Fatalf("at the start %q is chosen", got)
	}
	version("..2", "two")
	until(t, "the new version", func() bool { return s.chosen("k", "two") == "m" && s.chosen("k", "one") == "" })
}

// TestFollowKeepsAGroupThatIsBeingWritten truncates a machine's group and writes it slowly, as another matchbox does:
// never may the machine fall to the default group meanwhile.
func TestFollowKeepsAGroupThatIsBeingWritten(t *testing.T) {
	content := `{"id":"m","profile":"p","selector":{"k":"m"}}`
	dir := writeData(t, map[string]string{"groups/m.json": content, "groups/default.json": `{"id":"default","profile":"p"}`})
	s := start(t, Options{DataPath: dir})
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	asking.Go(func() {
		for ctx.Err() == nil {
			if got := s.chosen("k", "m"); got != "m" {
				t.Errorf("the machine got group %q", got)
				return
			}
		}
	})
	for range 3 {
		f, err := os.Create(filepath.Join(dir, "groups/m.json"))
		if err != nil {
			t.Fatal(err)
		}
		tick := time.NewTicker(30 * time.Millisecond)
		for part := range slices.Chunk([]byte(content), 10) {
			<-tick.C
			if _, err := f.Write(part); err != nil {
				t.Fatal(err)
			}
		}
		tick.Stop()
		f.Close()
		for k := range kinds {
			s.store.rescan(k)
		}
	}
	cancel()
	asking.Wait()
	writeFile(t, dir, "groups/m.json", `{"id":"m","profile":"q","selector":{"k":"m"}}`)
	until(t, "the last version", func() bool { return s.store.index.group("m").profile == "q" })
}

// TestRescan finds what nobody told of.
func TestRescan(t *testing.T) {
	dir := writeData(t, nil)
	log := slog.New(slog.DiscardHandler)
	s, err := openStore(dir, log)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		writeFile(t, dir, fmt.Sprintf("groups/g%d.json", i), fmt.Sprintf(`{"id":"g%d","profile":"p","selector":{"k":"%d"}}`, i, i))
	}
	s.rescan(groups)
	if n := s.index.count(groups); n != 300 {
		t.Fatalf("%d groups, want 300", n)
	}
	writeFile(t, dir, "groups/g0.json", `{"id":"g0","profile":"p","selector":{"k":"changed"}}`)
	if err := os.Remove(filepath.Join(dir, "groups/g1.json")); err != nil {
		t.Fatal(err)
	}
	s.rescan(groups)
	g, _ := s.index.choose(map[string]string{"k": "changed"})
	gone, _ := s.index.choose(map[string]string{"k": "1"})
	if n := s.index.count(groups); n != 299 || g == nil || gone != nil {
		t.Errorf("%d groups, changed %v, deleted %v", n, g, gone)
	}
}

// TestFollowOverflow loses events, as the kernel does when there are too many, and is told so.
func TestFollowOverflow(t *testing.T) {
	dir := writeData(t, nil)
	s, err := openStore(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	f := newFollower(s)
	if f.watcher == nil {
		t.Fatal("no watch")
	}
	// Nobody reads the real events; the loss is told on a channel that takes the place of theirs.
	lost := make(chan error)
	f.watcher.Errors = lost
	f.watcher.Events = make(chan fsnotify.Event)
	ctx, cancel := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() { f.run(ctx) })
	writeFile(t, dir, "groups/g.json", `{"id":"g","profile":"p"}`)
	lost <- fsnotify.ErrEventOverflow
	until(t, "the group whose event was lost", func() bool { return s.index.group("g") != nil })
	cancel()
	following.Wait()
}

// TestIndexUnderChange puts and deletes while others ask, for the race detector and for an index that ends up like a new
// one.
func TestIndexUnderChange(t *testing.T) {
	dir := writeData(t, nil)
	s := start(t, Options{DataPath: dir})
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for range 2 {
		all.Go(func() {
			for ctx.Err() == nil {
				s.store.index.matches(map[string]string{"k": "1", "l": "1", "mac": "52:54:00:00:00:01"})
				s.store.index.groupList()
			}
		})
	}
	var writers sync.WaitGroup
	for w := range 3 {
		writers.Go(func() {
			for i := range 40 {
				selector := map[string]string{"k": fmt.Sprint(i % 3)}
				if i%2 == 0 {
					selector["l"] = fmt.Sprint(i % 5)
				}
				g, err := newGroup(matchbox.Group{ID: fmt.Sprintf("g%d-%d", w, i%7), Profile: "p", Selector: selector, Metadata: json.RawMessage(`{"a":1}`)})
				if err == nil {
					err = s.store.putGroup(g)
				}
				if i%4 == 0 && err == nil {
					err = s.store.remove(groups, fmt.Sprintf("g%d-%d", w, (i+3)%7))
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	cancel()
	all.Wait()
	fresh, err := openStore(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	same := func() bool { return describe(s.store.index) == describe(fresh.index) }
	until(t, "the index is as a new one", same)
}

// describe writes an index down.
func describe(x *index) string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var lines []string
	for set, g := range x.sets {
		line := fmt.Sprintf("set %q:", set)
		for ; g != nil; g = g.next {
			line += " " + g.id
		}
		lines = append(lines, line)
	}
	for p, n := range x.wanted {
		lines = append(lines, fmt.Sprintf("wanted %v %d", p, n))
	}
	for key, s := range x.shapes {
		lines = append(lines, fmt.Sprintf("shape %q %v %d", key, s.keys, s.users))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// BenchmarkPut is what a put costs, alone and with fifteen others: it waits for the disk.
func BenchmarkPut(b *testing.B) {
	for _, writers := range []int{1, 16} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			s := start(b, Options{DataPath: writeData(b, nil)})
			var all sync.WaitGroup
			for w := range writers {
				all.Go(func() {
					for i := w; i < b.N; i += writers {
						g, err := newGroup(matchbox.Group{ID: fmt.Sprintf("g%d", i), Profile: "p", Selector: map[string]string{"k": fmt.Sprint(i)}})
						if err == nil {
							err = s.store.putGroup(g)
						}
						if err != nil {
							b.Error(err)
						}
					}
				})
			}
			all.Wait()
		})
	}
}
