package machine

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A machine's timeline is a file of one event a line, newest last. It is written after the journal has the events and
// caught up from the journal after a crash. A file that has grown to its bound becomes the ".1" beside it.
const (
	timelineDir   = "timelines"
	timelineBound = 1 << 20 // bytes
	timelineTail  = 16 << 10
)

// timelinePath is one of a machine's; a MAC address cannot be mistaken for a name, since none begins with "_".
func timelinePath(dir, key string) string {
	if strings.Contains(key, ":") {
		key = "_" + strings.ReplaceAll(key, ":", "-")
	}
	return filepath.Join(dir, timelineDir, key+".ndjson")
}

func appendTimeline(dir, key string, events []Event) error {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	for i := range events {
		if err := enc.Encode(&events[i]); err != nil {
			return err
		}
	}
	path := timelinePath(dir, key)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text.Bytes())
	info, statErr := f.Stat()
	if err := errors.Join(err, statErr, f.Close()); err != nil {
		return err
	}
	if info.Size() >= timelineBound {
		return os.Rename(path, path+".1")
	}
	return nil
}

// mendTimeline cuts off a half-written last line and tells the last event's number; 0 when there is none.
func mendTimeline(dir, key string) (uint64, error) {
	path := timelinePath(dir, key)
	last, err := mendFile(path)
	if err != nil || last > 0 {
		return last, err
	}
	return mendFile(path + ".1")
}

func mendFile(path string) (uint64, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	from := max(0, size-timelineTail)
	tail := make([]byte, size-from)
	if _, err := f.ReadAt(tail, from); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	// A power cut may have left zeros or an old block where the last lines were to be: step back to a good one.
	for {
		whole := bytes.LastIndexByte(tail, '\n') + 1
		start := bytes.LastIndexByte(tail[:max(0, whole-1)], '\n') + 1
		var e Event
		if whole > 0 && json.Unmarshal(tail[start:whole], &e) != nil {
			tail = tail[:start]
			continue
		}
		if at := from + int64(whole); at < size {
			if err := f.Truncate(at); err != nil {
				return 0, err
			}
		}
		return e.Seq, nil
	}
}

// readTimeline gives a timeline's events, oldest first. Lines that are not understood are left out: a timeline is
// evidence, and no reason to show none of it.
func readTimeline(dir, key string) ([]Event, error) {
	var events []Event
	path := timelinePath(dir, key)
	for _, p := range []string{path + ".1", path} {
		f, err := os.Open(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read the timeline of %s: %w", key, err)
		}
		in := bufio.NewScanner(f)
		in.Buffer(nil, timelineTail)
		for in.Scan() {
			var e Event
			if json.Unmarshal(in.Bytes(), &e) == nil && e.Seq > 0 {
				events = append(events, e)
			}
		}
		err = in.Err()
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("cannot read the timeline of %s: %w", key, err)
		}
	}
	slices.SortStableFunc(events, func(a, b Event) int {
		switch {
		case a.Seq < b.Seq:
			return -1
		case a.Seq > b.Seq:
			return 1
		}
		return 0
	})
	return slices.CompactFunc(events, func(a, b Event) bool { return a.Seq == b.Seq }), nil
}

func removeTimeline(dir, key string) error {
	path := timelinePath(dir, key)
	for _, p := range []string{path, path + ".1"} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
