package machine

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options of a Store; the zero value is good.
type Options struct {
	Now func() time.Time // time.Now
	// ArmFor is how long an armed machine waits for its network boot; then it is as before. 24 hours.
	ArmFor time.Duration
	// TokenFor is how long after that boot its installer may claim the disk; then it is Failed. 30 minutes.
	TokenFor time.Duration
	// OnChange is told of each transition, in order and after it is on the disk. It must not block nor call the Store.
	OnChange func(Transition)
	Log      *slog.Logger // nil: nothing is logged
}

// maxDiscovered bounds the unknown machines that are remembered: anybody on the network can invent MAC addresses.
const maxDiscovered = 4096

// Store holds all machines of a provisioner. What a method answers for is on the disk. It is safe for concurrent use.
type Store struct {
	dir              string
	now              func() time.Time
	armFor, tokenFor time.Duration
	onChange         func(Transition)
	log              *slog.Logger
	snapshotAfter    int64

	mu       sync.Mutex
	machines map[string]*known
	byMAC    map[string]*known
	byToken  map[digest]*known
	unknown  []string // keys of Discovered, in the order they came
	seq      uint64
	pending  *batch
	broken   error
	closed   bool

	kick    chan struct{}
	tasks   chan task
	journal *journal
	feed    *feed
	behind  atomic.Bool // timelines or definitions could not be written: the journal must stay
	written chan struct{}
	stop    chan struct{}
	swept   chan struct{}
	locked  *os.File
}

// Open reads the state below dir, which is made when it is not there (0700). One process at a time can have it open.
func Open(dir string, opts Options) (*Store, error) {
	return open(dir, opts, openSegment)
}

func open(dir string, opts Options, segment func(string) (file, error)) (*Store, error) {
	s := &Store{
		dir: dir, now: opts.Now, armFor: opts.ArmFor, tokenFor: opts.TokenFor, onChange: opts.OnChange, log: opts.Log, snapshotAfter: snapshotAfter,
		machines: map[string]*known{}, byMAC: map[string]*known{}, byToken: map[digest]*known{},
		pending: newBatch(), kick: make(chan struct{}, 1), tasks: make(chan task, 64), feed: newFeed(),
		written: make(chan struct{}), stop: make(chan struct{}), swept: make(chan struct{}),
		journal: &journal{dir: dir, open: segment},
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.armFor <= 0 {
		s.armFor = 24 * time.Hour
	}
	if s.tokenFor <= 0 {
		s.tokenFor = 30 * time.Minute
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	for _, d := range []string{dir, filepath.Join(dir, definitionDir), filepath.Join(dir, timelineDir)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("cannot make the directory of the machines' state: %w", err)
		}
	}
	// Definitions hold secrets; a directory that was there may be open to others.
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot close %s to others, which holds secrets: %w", dir, err)
	}
	locked, err := lock(dir)
	if err != nil {
		return nil, err
	}
	s.locked = locked
	if err := s.load(); err != nil {
		return nil, errors.Join(err, locked.Close())
	}
	go s.commits()
	go s.scribe()
	go s.expiries(time.Second)
	return s, nil
}

// load reads everything, finishes what the journal says and the files do not have yet, and indexes it.
func (s *Store) load() error {
	lines := map[string][]Event{}
	definitions := map[string]json.RawMessage{}
	var events []Event
	apply := func(r record) error {
		s.seq = max(s.seq, r.Seq)
		if r.Event != nil {
			s.seq = max(s.seq, r.Event.Seq)
		}
		switch {
		case r.Key == "":
			return nil
		case r.Gone:
			delete(s.machines, r.Key)
			return nil
		}
		k := s.machines[r.Key]
		if k == nil {
			if r.Entry == nil {
				return nil
			}
			k = &known{key: r.Key}
			s.machines[r.Key] = k
		}
		if r.Entry != nil {
			k.entry = *r.Entry
		}
		if r.Inventory != nil {
			k.inventory = r.Inventory
		}
		if r.Event != nil {
			k.last = r.Event
		}
		return nil
	}
	// The snapshot's events are in the timelines already, and its definitions in their files.
	err := s.journal.replay(apply, func(r record) error {
		if r.Event != nil {
			events = append(events, *r.Event)
			lines[r.Key] = append(lines[r.Key], *r.Event)
		}
		switch {
		case r.Forgotten:
			delete(lines, r.Key)
			if err := removeTimeline(s.dir, r.Key); err != nil {
				return err
			}
		case r.Definition != nil || r.Gone:
			definitions[r.Key] = r.Definition
		}
		return apply(r)
	})
	if err != nil {
		return err
	}
	if len(events) > 0 {
		// Numbers are without a gap from the last unbroken run on.
		start := len(events) - 1
		for start > 0 && events[start-1].Seq == events[start].Seq-1 {
			start--
		}
		s.feed.publish(events[start:])
	}
	if err := s.catchUp(lines, definitions); err != nil {
		return err
	}
	return s.index()
}

// catchUp brings timelines and definitions up to the journal.
func (s *Store) catchUp(lines map[string][]Event, definitions map[string]json.RawMessage) error {
	for name, text := range definitions {
		var err error
		if text == nil {
			err = removeDefinition(s.dir, name)
		} else {
			err = writeDefinition(s.dir, name, text)
		}
		if err != nil {
			return fmt.Errorf("cannot write the definition of %s: %w", name, err)
		}
	}
	for key, events := range lines {
		last, err := mendTimeline(s.dir, key)
		if err != nil {
			return fmt.Errorf("cannot mend the timeline of %s: %w", key, err)
		}
		events = slices.DeleteFunc(events, func(e Event) bool { return e.Seq <= last })
		if len(events) == 0 {
			continue
		}
		if err := appendTimeline(s.dir, key, events); err != nil {
			return fmt.Errorf("cannot write the timeline of %s: %w", key, err)
		}
	}
	return nil
}

func (s *Store) index() error {
	err := readDefinitions(s.dir, func(name string, text []byte) {
		def, err := decodeDefinition(text)
		if err != nil || def.Name != name {
			s.log.Error("a definition is not used: apply the machine again", "machine", name, "error", err)
			return
		}
		k := s.machines[name]
		if k == nil {
			// Only a file put there by hand: the journal has every machine that was declared.
			k = &known{key: name, entry: entry{State: Accepted, Since: s.now()}}
			s.machines[name] = k
		}
		k.def, k.sum = def.public(), sha256.Sum256(text)
	})
	if err != nil {
		return err
	}
	for key, k := range s.machines {
		if k.def == nil && !isMAC(key) {
			s.log.Error("a machine without a definition is not known: apply it again", "machine", key)
			delete(s.machines, key)
			continue
		}
		for _, mac := range k.macs() {
			if other := s.byMAC[mac]; other != nil {
				if other.def != nil && k.def != nil {
					return fmt.Errorf("cannot use the machines' definitions: %s belongs to %s and to %s; correct one of %s and %s",
						mac, other.key, k.key, definitionPath(s.dir, other.key), definitionPath(s.dir, k.key))
				}
				if k.def == nil {
					continue
				}
			}
			s.byMAC[mac] = k
		}
		s.indexTokens(k)
		if k.def == nil {
			s.unknown = append(s.unknown, key)
		}
	}
	slices.SortFunc(s.unknown, func(a, b string) int { return s.machines[a].Since.Compare(s.machines[b].Since) })
	return nil
}

func (s *Store) indexTokens(k *known) {
	for _, d := range []digest{k.Once, k.Session, k.Ready} {
		if !d.none() {
			s.byToken[d] = k
		}
	}
}

func (s *Store) dropTokens(k *known) {
	for _, d := range []digest{k.Once, k.Session, k.Ready} {
		delete(s.byToken, d)
	}
}

func isMAC(key string) bool { return strings.Contains(key, ":") }

// Close ends the store when everything that was accepted is written.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.stop)
	close(s.kick)
	s.mu.Unlock()
	<-s.swept
	<-s.written
	s.feed.end()
	return errors.Join(s.journal.out.Close(), s.locked.Close())
}

// find gives a machine by its name, or by a MAC address in any notation. s.mu is held.
func (s *Store) find(name string) (*known, error) {
	if k := s.machines[name]; k != nil {
		return k, nil
	}
	if mac, err := ParseMAC(name); err == nil {
		if k := s.byMAC[mac]; k != nil {
			return k, nil
		}
	}
	return nil, refuse(ErrUnknown, "machine %q is not known here: apply the cluster file that declares it", oneLine(name, 64))
}

// List gives all machines, the declared ones by name and then the discovered ones by MAC address, without inventories;
// and the number of the last event, from which Follow goes on.
func (s *Store) List() ([]Status, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := make([]string, 0, len(s.machines))
	for key := range s.machines {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b string) int {
		if x, y := isMAC(a), isMAC(b); x != y {
			if x {
				return 1
			}
			return -1
		}
		return strings.Compare(a, b)
	})
	now := s.now()
	all := make([]Status, len(keys))
	for i, key := range keys {
		all[i] = s.machines[key].status(now, false)
	}
	return all, s.seq
}

// Last is the number of the last event.
func (s *Store) Last() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seq
}

// Status gives one machine, by its name or one of its MAC addresses.
func (s *Store) Status(name string) (Status, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.find(name)
	if err != nil {
		return Status{}, err
	}
	return k.status(s.now(), true), nil
}

// Timeline gives a machine's events, oldest first: also those of the time before it was declared.
func (s *Store) Timeline(ctx context.Context, name string) ([]Event, error) {
	s.mu.Lock()
	k, err := s.find(name)
	var keys []string
	if err == nil {
		keys = append(keys, k.key)
		if k.def != nil {
			keys = append(keys, k.def.MACs...)
		}
	}
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if err := s.settled(ctx); err != nil {
		return nil, err
	}
	var all []Event
	for _, key := range keys {
		events, err := readTimeline(s.dir, key)
		if err != nil {
			return nil, err
		}
		all = append(all, events...)
	}
	slices.SortStableFunc(all, func(a, b Event) int {
		if a.Seq < b.Seq {
			return -1
		}
		return 1
	})
	return all, nil
}
