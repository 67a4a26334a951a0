package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tectonic-worker/tectonic-worker/agent/host"
)

var (
	keyA = Key{KindFile, "/etc/a"}
	keyB = Key{KindDir, "/srv/b"}
)

func raw(s string) json.RawMessage { return json.RawMessage(s) }

// line is a record as it stands in the file.
func line(op op, k Key, before, after string) string {
	r := record{Op: op, Key: k}
	if before != "" {
		r.Before = raw(before)
	}
	if after != "" {
		r.After = raw(after)
	}
	b, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	return string(b) + "\n"
}

func openLedger(t testing.TB, r host.Root) *Ledger {
	t.Helper()
	return must[*Ledger](t)(OpenLedger(r))
}

type want struct {
	Key           string
	Before, After string
	Done          bool
}

func short(entries []Entry) []want {
	var out []want
	for _, e := range entries {
		out = append(out, want{e.Key.String(), string(e.Before), string(e.After), e.Done})
	}
	return out
}

func TestLedgerReplay(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []want
		err        string
	}{
		{"none", "", nil, ""},
		{"intent alone", line(opIntent, keyA, `1`, `2`), []want{{"file /etc/a", "1", "2", false}}, ""},
		{"done", line(opIntent, keyA, `1`, `2`) + line(opDone, keyA, "", ""), []want{{"file /etc/a", "1", "2", true}}, ""},
		{"void", line(opIntent, keyA, `1`, `2`) + line(opDone, keyA, "", "") + line(opVoid, keyA, "", ""), nil, ""},
		{"void of one", line(opIntent, keyA, `1`, `2`) + line(opIntent, keyB, `3`, `4`) + line(opVoid, keyA, "", ""), []want{{"directory /srv/b", "3", "4", false}}, ""},
		{"what stood first is kept", line(opIntent, keyA, `1`, `2`) + line(opDone, keyA, "", "") + line(opIntent, keyA, `2`, `3`),
			[]want{{"file /etc/a", "1", "3", false}}, ""},
		{"ours again after void", line(opIntent, keyA, `1`, `2`) + line(opVoid, keyA, "", "") + line(opIntent, keyA, `8`, `9`), []want{{"file /etc/a", "8", "9", false}}, ""},
		{"done and void of nothing", line(opDone, keyA, "", "") + line(opVoid, keyB, "", ""), nil, ""},
		{"blank lines", "\n \n" + line(opIntent, keyA, `1`, `2`) + "\n", []want{{"file /etc/a", "1", "2", false}}, ""},
		{"torn last line", line(opIntent, keyA, `1`, `2`) + `{"time":"2026-01-01T00:00:00Z","op":"int`, []want{{"file /etc/a", "1", "2", false}}, ""},
		// Without its newline a record was not on disk when the power went, so
		// its change had not begun.
		{"torn at the newline", line(opIntent, keyA, `1`, `2`) + strings.TrimSuffix(line(opDone, keyA, "", ""), "\n"), []want{{"file /etc/a", "1", "2", false}}, ""},
		{"corrupt in the middle", line(opIntent, keyA, `1`, `2`) + "{oops\n" + line(opDone, keyA, "", ""), nil,
			"cannot read the ledger /var/lib/tectonic-worker/ledger.jsonl, line 2: "},
		{"corrupt whole last line", line(opIntent, keyA, `1`, `2`) + "{oops\n", nil, "line 2: "},
		{"from the future", line(opIntent, keyA, `1`, `2`) + line("merge", keyA, "", ""), nil, `line 2: unknown operation "merge", written by a newer tectonic-worker; install that version again`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := testRoot(t)
			write(t, r, LedgerPath, c.text, 0o600)
			l, err := OpenLedger(r)
			if (err != nil) != (c.err != "") || !strings.Contains(message(err), c.err) {
				t.Fatalf("error %v, want %q", err, c.err)
			}
			if err != nil {
				return
			}
			if diff := cmp.Diff(c.want, short(l.Entries())); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// Memory and file agree after every operation.
func TestLedgerWrites(t *testing.T) {
	r := testRoot(t)
	l := openLedger(t, r)
	if len(l.Entries()) != 0 || r.Exists(StateDir) {
		t.Fatal("opening a ledger made something")
	}
	for i, do := range []func() error{
		func() error { return l.Intend(keyA, raw(`1`), raw(`2`)) },
		func() error { return l.Done(keyA) },
		func() error { return l.Intend(keyB, raw(`3`), raw(`4`)) },
		func() error { return l.Intend(keyA, raw(`2`), raw(`5`)) },
		func() error { return l.Void(keyB) },
		func() error { return l.Done(keyA) },
		func() error { return l.Void(keyA) },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(short(l.Entries()), short(openLedger(t, r).Entries())); diff != "" {
			t.Errorf("after operation %d (-memory +file)\n%s", i, diff)
		}
	}
	for p, mode := range map[string]os.FileMode{StateDir: os.ModeDir | 0o700, LedgerPath: 0o600} {
		if f, err := r.Stat(p); err != nil || f.Mode != mode {
			t.Errorf("%s has mode %v, %v; it can hold credentials", p, f.Mode, err)
		}
	}
	if err := l.Discard(); err != nil || r.Exists(LedgerPath) {
		t.Errorf("an empty ledger stays: %v", err)
	}
	if err := l.Discard(); err != nil || r.Exists(LedgerPath) {
		t.Errorf("discarding nothing: %v", err)
	}
}

func TestLedgerMendsTornLine(t *testing.T) {
	r := testRoot(t)
	whole := line(opIntent, keyA, `1`, `2`)
	for _, torn := range []string{`{"time":"2026-`, strings.TrimSuffix(line(opDone, keyA, "", ""), "\n")} {
		write(t, r, LedgerPath, whole+torn, 0o600)
		l := openLedger(t, r)
		if err := l.Intend(keyB, raw(`3`), raw(`4`)); err != nil {
			t.Fatal(err)
		}
		if got := read(t, r, LedgerPath); !strings.HasPrefix(got, whole+`{"time"`) || strings.Count(got, "\n") != 2 {
			t.Errorf("the file is %s", got)
		}
		if diff := cmp.Diff(short(l.Entries()), short(openLedger(t, r).Entries())); diff != "" {
			t.Errorf("(-memory +file)\n%s", diff)
		}
	}
	write(t, r, LedgerPath, `{"half`, 0o600) // the very first record
	if err := openLedger(t, r).Intend(keyA, raw(`1`), raw(`2`)); err != nil {
		t.Fatal(err)
	}
	if got := keys(openLedger(t, r).Entries()); len(got) != 1 {
		t.Errorf("entries %q", got)
	}
}

// Disk full (fault 5): nothing is changed without its record, and half a
// record does not stay.
func TestLedgerDiskFull(t *testing.T) {
	r := testRoot(t)
	smallDisk(t, r, StateDir, "64k")
	l := openLedger(t, r)
	if err := l.Intend(keyA, raw(`1`), raw(`2`)); err != nil {
		t.Fatal(err)
	}
	before := read(t, r, LedgerPath)
	big := raw(`"` + strings.Repeat("x", 1<<20) + `"`)
	err := l.Intend(keyB, big, raw(`4`))
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "nothing was changed without it") {
		t.Errorf("error %v", err)
	}
	if _, known := l.Find(keyB); known {
		t.Error("the entry is kept in memory")
	}
	if got := read(t, r, LedgerPath); got != before {
		t.Errorf("%d bytes of half a record stay", len(got)-len(before))
	}
	if err := l.Done(keyA); err != nil {
		t.Errorf("a small record after it: %v", err)
	}
}

func TestLedgerRefusesLink(t *testing.T) {
	r := testRoot(t)
	write(t, r, StateDir+"/other", "", 0o600)
	if err := os.Symlink("other", r.Path(LedgerPath)); err != nil {
		t.Fatal(err)
	}
	if err := openLedger(t, r).Intend(keyA, nil, nil); err == nil || read(t, r, StateDir+"/other") != "" {
		t.Errorf("wrote through a link: %v", err)
	}
}

const records = 8

// writeRecords appends records of several pages each, whose names begin with
// who, and lets the ledger be discarded in between.
func writeRecords(r host.Root, who string) error {
	l, err := OpenLedger(r)
	if err != nil {
		return err
	}
	content := raw(`"` + strings.Repeat(who[:1], 20_000) + `"`)
	for i := range records {
		k := Key{KindFile, fmt.Sprintf("/%s/%d", who, i)}
		gone := Key{KindFile, fmt.Sprintf("/%s/gone", who)}
		if err := errors.Join(l.Intend(gone, nil, nil), l.Void(gone), (&Ledger{root: r}).Discard(), l.Intend(k, content, nil)); err != nil {
			return err
		}
	}
	return nil
}

// The kubelet's launcher appends while a join does: no record is lost, none is
// mixed with another, and neither discards what the other has written.
func TestLedgerTwoProcesses(t *testing.T) {
	r := testRoot(t)
	var cmds []*exec.Cmd
	for range 3 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), asWriter+"="+string(r))
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	for _, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Errorf("a writer failed: %v", err)
		}
	}
	data, err := os.ReadFile(r.Path(LedgerPath))
	if err != nil {
		t.Fatal(err)
	}
	l := &Ledger{root: r}
	if err := l.replay(data); err != nil { // no limit of size
		t.Fatal(err)
	}
	if got := len(l.Entries()); got != len(cmds)*records {
		t.Errorf("%d entries, want %d", got, len(cmds)*records)
	}
}

// Half a record is not torn while the one who writes it holds the ledger.
func TestLedgerWaitsForTheOther(t *testing.T) {
	r := testRoot(t)
	if err := openLedger(t, r).Intend(keyA, raw(`1`), raw(`2`)); err != nil {
		t.Fatal(err)
	}
	other, err := openLedger(t, r).open()
	if err != nil {
		t.Fatal(err)
	}
	whole := line(opIntent, keyB, `3`, `4`)
	if _, err := other.WriteString(whole[:20]); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	mine := openLedger(t, r)
	go func() { done <- mine.Done(keyA) }()
	select {
	case err := <-done:
		t.Fatalf("did not wait: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if _, err := other.WriteString(whole[20:]); err != nil {
		t.Fatal(err)
	}
	other.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	want := []want{{"file /etc/a", "1", "2", true}, {"directory /srv/b", "3", "4", false}}
	if diff := cmp.Diff(want, short(openLedger(t, r).Entries())); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// A ledger that only looks empty from here stays.
func TestLedgerDiscardKeepsTheOthers(t *testing.T) {
	r := testRoot(t)
	mine := openLedger(t, r)
	if err := openLedger(t, r).Intend(keyB, raw(`3`), raw(`4`)); err != nil {
		t.Fatal(err)
	}
	if err := mine.Discard(); err != nil {
		t.Fatal(err)
	}
	if got := keys(openLedger(t, r).Entries()); len(got) != 1 {
		t.Errorf("entries %q", got)
	}
}

// Whatever is in the file: no panic, no resource twice, and a torn end changes
// nothing.
func FuzzLedger(f *testing.F) {
	f.Add([]byte(line(opIntent, keyA, `{"exists":false}`, `{"exists":true}`) + line(opDone, keyA, "", "")))
	f.Add([]byte(line(opVoid, keyA, "", "") + "\n\n{"))
	f.Add([]byte(`{"op":"intent","kind":"file","name":"x","before":nul`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var l, whole Ledger
		err := l.replay(data)
		if werr := whole.replay(data[:bytes.LastIndexByte(data, '\n')+1]); message(err) != message(werr) {
			t.Fatalf("with the torn end %v, without %v", err, werr)
		}
		if diff := cmp.Diff(short(whole.Entries()), short(l.Entries())); diff != "" {
			t.Fatal(diff)
		}
		seen := map[Key]bool{}
		for _, e := range l.Entries() {
			if seen[e.Key] {
				t.Fatalf("%s stands twice", e.Key)
			}
			seen[e.Key] = true
			var before, after fileState
			_ = decode(e, &before, &after)
		}
	})
}
