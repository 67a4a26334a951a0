package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tectonic-worker/tectonic-worker/agent/host"
)

const (
	// StateDir holds the ledger; 0700, because a saved file can be a credential.
	StateDir = "/var/lib/tectonic-worker"
	// LedgerPath is the ledger: one JSON record a line, only ever appended to.
	LedgerPath = StateDir + "/ledger.jsonl"
)

// Kind is the kind of a resource, as it stands in the ledger.
type Kind string

// Key names a resource: its kind, and its name within the kind.
type Key struct {
	Kind Kind   `json:"kind"`
	Name string `json:"name"`
}

func (k Key) String() string { return string(k.Kind) + " " + k.Name }

// op is what a ledger record says of its resource.
type op string

const (
	opIntent op = "intent" // is about to be changed; before is what stood there
	opDone   op = "done"   // was changed by us
	opVoid   op = "void"   // was not changed by us after all, or was put back
)

type record struct {
	Time time.Time `json:"time"`
	Op   op        `json:"op"`
	Key
	Before json.RawMessage `json:"before,omitempty"`
	After  json.RawMessage `json:"after,omitempty"`
}

// Entry is one change of ours that stands on the host.
type Entry struct {
	Key
	Before json.RawMessage // what stood there before our first change
	After  json.RawMessage // what we last made of it
	Done   bool            // false: a run ended between the intent and the change
	Since  time.Time
}

// Ledger is what this project changed on the host, in the order of the
// changes. Every record is on disk before the change it announces.
type Ledger struct {
	root    host.Root
	entries []Entry
}

// OpenLedger reads the ledger; a host that never had one has an empty one. A
// last line that a power cut tore is dropped: its change had not begun.
func OpenLedger(root host.Root) (*Ledger, error) {
	l := &Ledger{root: root}
	data, err := root.ReadFile(LedgerPath)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the ledger: %w", err)
	}
	return l, l.replay(data)
}

func (l *Ledger) replay(data []byte) error {
	lines := bytes.Split(data, []byte("\n"))
	for i, line := range lines[:len(lines)-1] { // after the last newline: nothing, or a torn line
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			return fmt.Errorf("cannot read the ledger %s, line %d: %w; it says what to put back on this host: restore it from a backup, or move it away to start without it", LedgerPath, i+1, err)
		}
		switch r.Op {
		case opIntent, opDone, opVoid:
		default:
			return fmt.Errorf("cannot use the ledger %s, line %d: unknown operation %q, written by a newer tectonic-worker; install that version again", LedgerPath, i+1, r.Op)
		}
		l.apply(r)
	}
	return nil
}

// Entries lists the changes that stand, oldest first.
func (l *Ledger) Entries() []Entry { return append([]Entry(nil), l.entries...) }

// Find returns the entry of a resource we changed.
func (l *Ledger) Find(k Key) (Entry, bool) {
	for _, e := range l.entries {
		if e.Key == k {
			return e, true
		}
	}
	return Entry{}, false
}

// Intend records that k is about to be changed from before to after. It
// returns when the record is on disk. Where k is already ours, what stood
// there before our first change is kept.
func (l *Ledger) Intend(k Key, before, after json.RawMessage) error {
	if _, ours := l.Find(k); ours {
		before = nil // a repair a day must not make the ledger grow by a file a day
	}
	return l.append(record{Op: opIntent, Key: k, Before: before, After: after}, true)
}

// Done records that the change was made. It is not synced: losing it costs
// only a check.
func (l *Ledger) Done(k Key) error { return l.append(record{Op: opDone, Key: k}, false) }

// Void records that k is not ours (any more).
func (l *Ledger) Void(k Key) error { return l.append(record{Op: opVoid, Key: k}, false) }

// Discard deletes a ledger that has no entries left, those of another process
// included.
func (l *Ledger) Discard() error {
	if len(l.entries) > 0 || !l.root.Exists(LedgerPath) {
		return nil
	}
	f, err := l.open()
	if err != nil {
		return fmt.Errorf("cannot open the ledger %s: %w", LedgerPath, err)
	}
	defer f.Close()
	now, err := OpenLedger(l.root)
	if err != nil || len(now.entries) > 0 {
		return err
	}
	return l.root.Remove(LedgerPath)
}

func (l *Ledger) append(r record, sync bool) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot write the ledger %s: %w; nothing was changed without it", LedgerPath, err)
		}
	}()
	if _, err := l.root.MkdirAll(StateDir, 0o700); err != nil {
		return err
	}
	r.Time = time.Now().UTC().Truncate(time.Millisecond)
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := l.open()
	if err != nil {
		return err
	}
	defer f.Close()
	if err := mendTornLine(f); err != nil {
		return err
	}
	before, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err := f.Write(append(line, '\n')); err != nil {
		_ = f.Truncate(before) // disk full: half a record must not stay
		return err
	}
	if sync {
		if err := f.Sync(); err != nil {
			return err
		}
		if before == 0 {
			if err := l.root.SyncDir(StateDir); err != nil {
				return err
			}
		}
	}
	l.apply(r)
	return nil
}

// open opens the ledger for appending, and locks it until it is closed: the
// kubelet's launcher may append while a join does, and neither may take what
// the other has written in part for a torn line. It is held for one record, so
// there is nothing to wait for but the disk.
func (l *Ledger) open() (*os.File, error) {
	for {
		f, err := os.OpenFile(l.root.Path(LedgerPath), os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return nil, err
		}
		for err = unix.EINTR; errors.Is(err, unix.EINTR); {
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		}
		var st unix.Stat_t
		if err == nil {
			err = unix.Fstat(int(f.Fd()), &st)
		}
		if err == nil && st.Nlink > 0 {
			return f, nil
		}
		f.Close()
		if err != nil {
			return nil, err
		}
		// The other one discarded it meanwhile.
	}
}

// mendTornLine cuts off a last line without a newline, which a power cut left.
func mendTornLine(f *os.File) error {
	fi, err := f.Stat()
	if err != nil || fi.Size() == 0 {
		return err
	}
	last := make([]byte, 1)
	if _, err := f.ReadAt(last, fi.Size()-1); err != nil || last[0] == '\n' {
		return err
	}
	data := make([]byte, fi.Size())
	if _, err := f.ReadAt(data, 0); err != nil {
		return err
	}
	return f.Truncate(int64(bytes.LastIndexByte(data, '\n') + 1))
}

func (l *Ledger) apply(r record) {
	for i := range l.entries {
		e := &l.entries[i]
		if e.Key != r.Key {
			continue
		}
		switch r.Op {
		case opIntent:
			e.After, e.Done = r.After, false
		case opDone:
			e.Done = true
		case opVoid:
			l.entries = append(l.entries[:i], l.entries[i+1:]...)
		}
		return
	}
	if r.Op == opIntent {
		l.entries = append(l.entries, Entry{Key: r.Key, Before: r.Before, After: r.After, Since: r.Time})
	}
}
