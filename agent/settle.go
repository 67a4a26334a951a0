package agent

import "github.com/tectonic-worker/tectonic-worker/agent/host"

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
