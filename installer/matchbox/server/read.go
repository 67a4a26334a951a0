package server

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// reading is what a file holds: an object, or why it has none; info is nil when it is not there.
type reading struct {
	info    fs.FileInfo
	group   *group
	profile *profile
	text    *text
	err     error
}

// unsettled says whether somebody may be in the middle of writing the file. The next look at it tells.
func (r reading) unsettled() bool {
	if r.info == nil || time.Since(r.info.ModTime()) > patience {
		return false
	}
	return r.err != nil || r.info.Size() == 0
}

// read reads one file. It changes nothing.
func (s *store) read(k kind, id string) (r reading) {
	content, info, err := readFile(s.path(k, id))
	if errors.Is(err, fs.ErrNotExist) {
		return reading{}
	}
	r.info = info
	if err != nil || info.IsDir() {
		r.err = err
		return r
	}
	switch k {
	case groups:
		r.group, r.err = readGroup(id, content)
	case profiles:
		r.profile, r.err = readProfile(id, content)
	default:
		r.text = &text{name: id, body: content}
	}
	return r
}

// readFile reads a file and says what it was then. A directory has no content.
func readFile(path string) ([]byte, fs.FileInfo, error) {
	// A FIFO would hold up everything.
	if info, err := os.Stat(path); err != nil || info.IsDir() || !info.Mode().IsRegular() {
		if err == nil && !info.IsDir() {
			err = errors.New("is not a regular file")
		}
		return nil, info, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if info.Size() > maxFile {
		return nil, info, fmt.Errorf("has %d MiB, more than %d", info.Size()>>20, maxFile>>20)
	}
	var content bytes.Buffer
	content.Grow(int(info.Size()) + bytes.MinRead)
	_, err = content.ReadFrom(f)
	return content.Bytes(), info, err
}
