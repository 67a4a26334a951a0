package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A segment is one file of the journal. Snapshot N holds everything that the segments before N said; what is known is
// the last snapshot and the segments from its number on.
const (
	segmentPrefix  = "journal-"
	snapshotPrefix = "snapshot-"
)

func segmentPath(dir, prefix string, n int) string {
	return filepath.Join(dir, fmt.Sprintf("%s%08d", prefix, n))
}

// numbered lists the numbers of the files with a prefix, in order.
func numbered(dir, prefix string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []int
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), prefix)
		if !ok {
			continue
		}
		if n, err := strconv.Atoi(digits); err == nil && len(digits) == 8 {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all, nil
}

// file is what the journal needs of an *os.File; tests watch what was synced.
type file interface {
	Write([]byte) (int, error)
	Sync() error
	Close() error
}

// journal appends frames to the newest segment.
type journal struct {
	dir  string
	n    int   // the newest segment
	size int64 // its bytes
	out  file
	open func(path string) (file, error)
}

func openSegment(path string) (file, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
}

// replay gives the snapshot's records and then the segments', and leaves the journal ready to append. A torn last frame
// is cut off.
func (j *journal) replay(snapshot, apply func(record) error) error {
	snapshots, err := numbered(j.dir, snapshotPrefix)
	if err != nil {
		return fmt.Errorf("cannot read the machines' state in %s: %w", j.dir, err)
	}
	segments, err := numbered(j.dir, segmentPrefix)
	if err != nil {
		return fmt.Errorf("cannot read the machines' state in %s: %w", j.dir, err)
	}
	first := 1
	if len(snapshots) > 0 {
		first = snapshots[len(snapshots)-1]
		path := segmentPath(j.dir, snapshotPrefix, first)
		if err := readWhole(path, snapshot); err != nil {
			return err
		}
	}
	segments = slices.DeleteFunc(segments, func(n int) bool { return n < first })
	for i, n := range segments {
		path := segmentPath(j.dir, segmentPrefix, n)
		if n != first+i {
			return fmt.Errorf("cannot tell the machines' state: %s is missing; restore %s from a backup", segmentPath(j.dir, segmentPrefix, first+i), j.dir)
		}
		if i < len(segments)-1 {
			if err := readWhole(path, apply); err != nil {
				return err
			}
			continue
		}
		good, size, err := readSegment(path, apply)
		if err != nil {
			return err
		}
		if good < size {
			if err := cut(path, good); err != nil {
				return fmt.Errorf("cannot cut the torn end off %s: %w", path, err)
			}
		}
		j.size = good
	}
	j.n = max(first, first+len(segments)-1)
	if j.out, err = j.open(segmentPath(j.dir, segmentPrefix, j.n)); err != nil {
		return fmt.Errorf("cannot write the machines' state: %w", err)
	}
	return syncDir(j.dir)
}

func readSegment(path string, apply func(record) error) (good, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, 0, fmt.Errorf("cannot read the machines' state: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, 0, fmt.Errorf("cannot read the machines' state: %w", err)
	}
	good, err = readFrames(f, apply)
	if err != nil {
		return good, info.Size(), damaged(path, err)
	}
	return good, info.Size(), nil
}

// readWhole reads a file that must have no torn end.
func readWhole(path string, apply func(record) error) error {
	good, size, err := readSegment(path, apply)
	if err != nil {
		return err
	}
	if good < size {
		return damaged(path, fmt.Errorf("it is good to byte %d of %d", good, size))
	}
	return nil
}

func damaged(path string, why error) error {
	return fmt.Errorf("cannot trust the machines' state, because %s is damaged: %w; nothing is served an installer until %s is restored from a backup, "+
		"or moved away, after which every machine is to be applied again", path, why, filepath.Dir(path))
}

func cut(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(at); err != nil {
		return err
	}
	return f.Sync()
}

// append writes one frame and returns when it is on the disk.
func (j *journal) append(records []record) error {
	frame, err := encodeFrame(records)
	if err != nil {
		return err
	}
	if _, err := j.out.Write(frame); err != nil {
		return err
	}
	if err := j.out.Sync(); err != nil {
		return err
	}
	j.size += int64(len(frame))
	return nil
}

// turn begins the next segment.
func (j *journal) turn() error {
	out, err := j.open(segmentPath(j.dir, segmentPrefix, j.n+1))
	if err != nil {
		return err
	}
	if err := syncDir(j.dir); err != nil {
		return errors.Join(err, out.Close())
	}
	err = j.out.Close()
	j.out, j.n, j.size = out, j.n+1, 0
	return err
}

// writeSnapshot makes snapshot n from records and removes what it replaces.
func writeSnapshot(dir string, n int, records []record) error {
	path := segmentPath(dir, snapshotPrefix, n)
	out, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	const perFrame = 256
	for part := range slices.Chunk(records, perFrame) {
		frame, err := encodeFrame(part)
		if err == nil {
			_, err = out.Write(frame)
		}
		if err != nil {
			return errors.Join(err, out.Close())
		}
	}
	if err := errors.Join(out.Sync(), out.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	if err := syncDir(dir); err != nil {
		return err
	}
	for _, prefix := range []string{segmentPrefix, snapshotPrefix} {
		old, err := numbered(dir, prefix)
		if err != nil {
			return err
		}
		for _, o := range old {
			if o >= n {
				break
			}
			if err := os.Remove(segmentPath(dir, prefix, o)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}
