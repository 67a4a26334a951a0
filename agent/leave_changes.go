package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/tectonic-worker/tectonic-worker/agent/host"
	"github.com/tectonic-worker/tectonic-worker/agent/selinux"
	"github.com/tectonic-worker/tectonic-worker/firewall"
)

// putBack walks the ledger backwards. It goes on after an error: what can be
// put back, is; the rest stays in the ledger for the next run.
func (l *leaver) putBack(ctx context.Context, s *StepResult) error {
	entries := l.ledger.Entries()
	if len(entries) == 0 {
		s.Evidence = "nothing is left to put back"
		return nil
	}
	var failed error
	count := 0
	for i := len(entries) - 1; i >= 0; i-- {
		e := entries[i]
		un := Undone{Key: e.Key}
		var err error
		if un.Evidence, err = l.giveBack(ctx, e); err == nil && !l.o.DryRun {
			err = l.ledger.Void(e.Key)
		}
		if err != nil {
			un.Error = err.Error()
			failed = errors.Join(failed, fmt.Errorf("%s: %w", e.Key, err))
			count++
		} else if l.o.DryRun {
			would(s, e.Key, fmt.Sprintf("%s: %s", e.Key, un.Evidence))
		}
		l.res.PutBack = append(l.res.PutBack, un)
	}
	s.Status, s.Evidence = l.changed(), fmt.Sprintf("%d of %d changes", len(entries)-count, len(entries))
	if failed != nil {
		return &PutBackError{failed}
	}
	return nil
}

// PutBackError is what leave could not put back, all at once.
type PutBackError struct{ Err error }

func (e *PutBackError) Error() string {
	return fmt.Sprintf("cannot put back everything, and what is left is remembered: mend this, then run \"tectonic-worker leave\" again:\n%v", e.Err)
}

func (e *PutBackError) Unwrap() error { return e.Err }

// giveBack is restore for a host that leaves for good: where somebody changed a
// file after us, what stood before us comes back and the changed one is kept
// beside it. In a dry run it tells what it would do.
func (l *leaver) giveBack(ctx context.Context, e Entry) (string, error) {
	switch e.Kind {
	case KindFile:
		return giveBackFile(l.sys.Root, e, !l.o.DryRun)
	case KindPort:
		return l.giveBackPort(ctx, e)
	}
	if l.o.DryRun {
		return "put back as it was", nil
	}
	return l.restore(ctx, e)
}

// giveBackPort shuts what is ours. A firewall that does not run has nothing
// open; one that is gone for good has nothing left to shut.
func (l *leaver) giveBackPort(ctx context.Context, e Entry) (string, error) {
	fw, err := l.firewall(ctx)
	if err != nil {
		return "", err
	}
	st, err := fw.State(ctx)
	if err != nil {
		return "", err
	}
	var before, after portState
	if err := decode(e, &before, &after); err != nil {
		return "", err
	}
	switch {
	case st.Serves():
	case st.Presence == firewall.NotInstalled:
		return "firewalld is not installed any more", nil
	case after.Layer == firewall.Runtime && (st.Presence == firewall.Stopped || st.Presence == firewall.Masked):
		return "nothing is open: firewalld does not run", nil
	default:
		return "", fmt.Errorf("cannot shut it: %s", st.Note())
	}
	if l.o.DryRun {
		return fmt.Sprintf("shut %v in zone %s (%s)", after.Ports, after.Zone, after.Layer), nil
	}
	return restorePort(ctx, fw, e)
}

// savedSuffix ends the name of a file that somebody changed after us.
const savedSuffix = ".tectonic-saved"

// giveBackFile puts back what stood at a path before us. With do false it only
// tells.
func giveBackFile(root host.Root, e Entry, do bool) (string, error) {
	var before, after fileState
	if err := decode(e, &before, &after); err != nil {
		return "", err
	}
	now, err := readState(root, e.Name)
	if err != nil {
		return "", err
	}
	touched := now.Exists && now.SHA256 != after.SHA256 && now.SHA256 != before.SHA256
	switch {
	case !touched && !do:
		if !before.Exists {
			return "removed", nil
		}
		return "put back as it was", nil
	case !touched:
		return restoreFile(root, e)
	case e.Name == selinux.ConfigPath:
		return giveBackSELinuxConfig(root, e, before, after, now, do)
	}
	saved, err := saveBeside(root, e.Name, now, do)
	if err != nil {
		return "", err
	}
	evidence := "removed"
	if before.Exists {
		evidence = "put back as it was"
	}
	evidence += "; somebody changed it after us: that is kept as " + saved
	switch {
	case !do:
		return evidence, nil
	case before.Exists:
		return evidence, root.WriteFile(e.Name, before.Content, host.File{Mode: before.Mode, UID: before.UID, GID: before.GID})
	}
	if err := root.Remove(e.Name); err != nil {
		return "", err
	}
	return evidence, removeDirs(root, before.Dirs)
}

// giveBackSELinuxConfig puts the mode at boot back in a file that has other
// changes by now: they stay, and so does a mode that is not ours any more.
func giveBackSELinuxConfig(root host.Root, e Entry, before, after, now fileState, do bool) (string, error) {
	was, err := selinux.ParseConfig(before.Content)
	if err != nil {
		return "kept: what stood there before us cannot be understood", nil
	}
	is, err := selinux.ParseConfig(now.Content)
	if err != nil {
		return "kept: somebody changed it after us", nil
	}
	// The ledger has the digest of what we wrote, and not its content; what we
	// set is told by writing it again.
	ours := is
	for _, m := range []selinux.Mode{selinux.Permissive, selinux.Enforcing, selinux.Disabled} {
		if c, err := selinux.EditConfig(before.Content, m); err == nil && digest(c) == after.SHA256 {
			ours = m
		}
	}
	if is != ours || is == was {
		return fmt.Sprintf("kept %s at boot: somebody changed it after us", is), nil
	}
	content, err := selinux.EditConfig(now.Content, was)
	if err != nil {
		return "", err
	}
	evidence := fmt.Sprintf("%s at boot again; what else was changed in it stays", was)
	if !do {
		return evidence, nil
	}
	return evidence, root.WriteFile(e.Name, content, host.File{Mode: now.Mode, UID: now.UID, GID: now.GID})
}

// saveBeside keeps a file's content under a name of its own, and never
// overwrites another there.
func saveBeside(root host.Root, path string, now fileState, do bool) (string, error) {
	for n := 1; n < 100; n++ {
		saved := path + savedSuffix
		if n > 1 {
			saved = fmt.Sprintf("%s.%d", saved, n)
		}
		there, err := readState(root, saved)
		switch {
		case err != nil:
			continue // a directory, or what else somebody put there
		case there.Exists && there.SHA256 == now.SHA256:
			return saved, nil // by a run that was killed right after
		case there.Exists:
			continue
		case !do:
			return saved, nil
		}
		return saved, root.WriteFile(saved, now.Content, host.File{Mode: now.Mode, UID: now.UID, GID: now.GID})
	}
	return "", fmt.Errorf("cannot keep what somebody made of it: there are 99 files named %s%s already; move them away", path, savedSuffix)
}
