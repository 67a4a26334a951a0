package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/tectonic-worker/tectonic-worker/agent/host"
)

// KindFile is a file with wanted content, mode and owner.
const KindFile Kind = "file"

// fileState is a file as the ledger keeps it.
type fileState struct {
	Exists  bool        `json:"exists"`
	Mode    fs.FileMode `json:"mode,omitempty"`
	UID     int         `json:"uid,omitempty"`
	GID     int         `json:"gid,omitempty"`
	SHA256  string      `json:"sha256,omitempty"`
	Content []byte      `json:"content,omitempty"` // of what stood there before, so that it can come back
	Dirs    []string    `json:"dirs,omitempty"`    // directories we made for it
}

// maxSaved bounds what of a former file goes into the ledger: nothing that a
// worker needs is near it.
const maxSaved = 1 << 20

// tooLarge refuses to replace a file that could not be put back.
func tooLarge(path string, now fileState) error {
	if len(now.Content) > maxSaved {
		return fmt.Errorf("cannot replace %s: it is larger than %d KiB, which is too much to keep for putting it back; move it away, then try again", path, maxSaved>>10)
	}
	return nil
}

// file is a file that holds exactly content.
type file struct {
	root    host.Root
	path    string
	content []byte
	mode    fs.FileMode // of a new file, and of an old one where force is set
	force   bool        // the mode and root's ownership are part of what is wanted
	secret  bool        // the diff must not show the content
}

func (f *file) Key() Key { return Key{KindFile, f.path} }

func (f *file) Check(context.Context) (Finding, error) {
	now, err := readState(f.root, f.path)
	if err != nil {
		return Finding{}, err
	}
	if err := tooLarge(f.path, now); err != nil {
		return Finding{}, err
	}
	want := f.want(now)
	find := Finding{
		OK:       now.Exists && now.SHA256 == want.SHA256 && now.Mode == want.Mode && now.UID == want.UID && now.GID == want.GID,
		Evidence: fmt.Sprintf("%s %04o", f.path, want.Mode.Perm()),
		Before:   now, After: want,
	}
	if !find.OK {
		find.Diff = f.diff(now)
	}
	return find, nil
}

func (f *file) want(now fileState) fileState {
	w := fileState{Exists: true, Mode: f.mode, SHA256: digest(f.content)}
	if now.Exists && !f.force {
		w.Mode, w.UID, w.GID = now.Mode, now.UID, now.GID
	}
	return w
}

func (f *file) Apply(context.Context) (Applied, error) {
	now, err := readState(f.root, f.path)
	if err != nil {
		return Applied{}, err
	}
	if _, err := f.root.MkdirAll(dirOf(f.path), 0o755); err != nil {
		return Applied{}, err
	}
	w := f.want(now)
	return Applied{Changed: true}, f.root.WriteFile(f.path, f.content, host.File{Mode: w.Mode, UID: w.UID, GID: w.GID})
}

func (f *file) diff(now fileState) string {
	switch {
	case f.secret && !now.Exists:
		return fmt.Sprintf("create %s, mode %04o, %d bytes (content not shown: it is a credential)\n", f.path, f.mode.Perm(), len(f.content))
	case f.secret && now.SHA256 != digest(f.content):
		return fmt.Sprintf("replace %s, mode %04o, %d bytes (content not shown: it is a credential)\n", f.path, f.mode.Perm(), len(f.content))
	case now.SHA256 == digest(f.content):
		return fmt.Sprintf("set mode %04o and owner root on %s\n", f.mode.Perm(), f.path)
	}
	return unified(f.path, now.Content, f.content)
}

// absent wants a file not to be there. In the ledger it is a KindFile like any
// other: what stood there can come back.
type absent struct {
	root host.Root
	path string
}

func (a *absent) Key() Key { return Key{KindFile, a.path} }

func (a *absent) Check(context.Context) (Finding, error) {
	now, err := readState(a.root, a.path)
	if err != nil {
		return Finding{}, err
	}
	if err := tooLarge(a.path, now); err != nil {
		return Finding{}, err
	}
	f := Finding{OK: !now.Exists, Evidence: a.path + " removed", Before: now, After: fileState{}}
	if !f.OK {
		f.Diff = "remove " + a.path + "\n"
	}
	return f, nil
}

func (a *absent) Apply(context.Context) (Applied, error) {
	return Applied{Changed: true}, a.root.Remove(a.path)
}

// restoreFile puts back what stood at a path before us, if nobody else changed
// it since.
func restoreFile(root host.Root, e Entry) (string, error) {
	var before, after fileState
	if err := decode(e, &before, &after); err != nil {
		return "", err
	}
	now, err := readState(root, e.Name)
	if err != nil {
		return "", err
	}
	switch {
	case now.Exists == before.Exists && now.SHA256 == before.SHA256 && now.Mode == before.Mode:
		return "was not changed", removeDirs(root, before.Dirs)
	case !now.Exists && after.Exists:
		return "is gone already", removeDirs(root, before.Dirs)
	case now.SHA256 != after.SHA256:
		return "kept: somebody changed it after us", nil
	case !before.Exists:
		if err := root.Remove(e.Name); err != nil {
			return "", err
		}
		return "removed", removeDirs(root, before.Dirs)
	}
	err = root.WriteFile(e.Name, before.Content, host.File{Mode: before.Mode, UID: before.UID, GID: before.GID})
	return "put back", err
}

// removeDirs removes the directories we made, deepest first, where nothing of
// anybody else's came to lie in them.
func removeDirs(root host.Root, dirs []string) error {
	for i := len(dirs) - 1; i >= 0; i-- {
		root.RemoveDir(dirs[i])
	}
	return nil
}

func readState(root host.Root, path string) (fileState, error) {
	st, err := root.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fileState{Dirs: missingDirs(root, dirOf(path))}, nil
	}
	if err != nil {
		return fileState{}, fmt.Errorf("cannot look at %s: %w", path, err)
	}
	if !st.Mode.IsRegular() {
		return fileState{}, fmt.Errorf("cannot use %s: it is not a regular file; move it away, then try again", path)
	}
	data, err := root.ReadFile(path)
	if err != nil {
		return fileState{}, err
	}
	return fileState{Exists: true, Mode: st.Mode.Perm(), UID: st.UID, GID: st.GID, SHA256: digest(data), Content: data}, nil
}

// missingDirs lists the directories that writing into dir would make, topmost
// first.
func missingDirs(root host.Root, dir string) []string {
	var missing []string
	for ; dir != "/" && !root.Exists(dir); dir = dirOf(dir) {
		missing = append([]string{dir}, missing...)
	}
	return missing
}

func decode(e Entry, before, after any) error {
	if err := json.Unmarshal(e.Before, before); err != nil {
		return fmt.Errorf("cannot understand the ledger's record of %s: %w", e.Key, err)
	}
	if len(bytes.TrimSpace(e.After)) == 0 {
		return nil
	}
	if err := json.Unmarshal(e.After, after); err != nil {
		return fmt.Errorf("cannot understand the ledger's record of %s: %w", e.Key, err)
	}
	return nil
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
