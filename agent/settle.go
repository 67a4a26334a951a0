package agent

import (
	"path"

	"github.com/tectonic-worker/tectonic-worker/agent/container"
	"github.com/tectonic-worker/tectonic-worker/agent/host"
	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
)

// sweep deletes the unfinished files of killed runs, wherever one of ours
// writes. Call it under the lock.
func sweep(root host.Root) {
	for _, dir := range []string{"/etc/sysconfig", "/etc/kubernetes", "/etc/selinux", path.Dir(container.RktTrustedKeyPath), StateDir, RunDir, kubelet.RootDir} {
		root.Sweep(dir)
	}
}

// settle closes the records of files that a killed run has begun to change and
// that nothing in this run's plan looked at: settings that say already what is
// needed are no part of it.
func settle(root host.Root, l *Ledger) error {
	for _, e := range l.Entries() {
		if e.Done || e.Kind != KindFile {
			continue
		}
		var before, after fileState
		if err := decode(e, &before, &after); err != nil {
			return err
		}
		now, err := readState(root, e.Name)
		if err != nil {
			return err
		}
		switch {
		case now.Exists == before.Exists && now.SHA256 == before.SHA256:
			err = l.Void(e.Key)
		case now.Exists == after.Exists && now.SHA256 == after.SHA256:
			err = l.Done(e.Key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
