package agent

import (
	"context"
	"fmt"

	"github.com/tectonic-worker/tectonic-worker/agent/host"
)

// KindDir is a directory that has to be there.
const KindDir Kind = "directory"

// dirState is what the ledger keeps: the directories that were missing,
// topmost first.
type dirState struct {
	Missing []string `json:"missing"`
}

// directory wants a directory to exist; one that does is as wanted, whatever
// its mode.
type directory struct {
	root host.Root
	path string
}

func (d *directory) Key() Key { return Key{KindDir, d.path} }

func (d *directory) Check(context.Context) (Finding, error) {
	missing := missingDirs(d.root, d.path)
	f := Finding{OK: len(missing) == 0, Evidence: d.path, Before: dirState{missing}, After: dirState{}}
	if !f.OK {
		f.Diff = fmt.Sprintf("make the directory %s\n", d.path)
	}
	return f, nil
}

func (d *directory) Apply(context.Context) (Applied, error) {
	_, err := d.root.MkdirAll(d.path, 0o755)
	return Applied{Changed: true}, err
}

// restoreDir removes the directories that we made, where they are empty.
func restoreDir(root host.Root, e Entry) (string, error) {
	var before, after dirState
	if err := decode(e, &before, &after); err != nil {
		return "", err
	}
	for i := len(before.Missing) - 1; i >= 0; i-- {
		if !root.RemoveDir(before.Missing[i]) && root.Exists(before.Missing[i]) {
			break
		}
	}
	if root.Exists(e.Name) {
		return "kept: it is not empty", nil
	}
	return "removed", nil
}
