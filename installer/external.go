package installer

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/credentials"
	"github.com/tectonic-worker/tectonic-worker/installer/machine"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/server"
)

// external keeps the install groups of an external matchbox to machines that may still be installed: they are removed as
// soon as a machine is neither armed nor booting any more.
type external struct {
	options matchbox.Options
	log     *slog.Logger

	ctx    context.Context
	cancel context.CancelFunc
	done   sync.WaitGroup
	mu     sync.Mutex
	wanted map[string]bool // machines whose groups are to go
	kick   chan struct{}
}

// retryExternal is how long a matchbox that does not answer is left alone.
const retryExternal = 10 * time.Second

func newExternal(config server.Config, log *slog.Logger) (*external, error) {
	tlsConfig, err := credentials.LoadClient(config.CAFile, config.MatchboxCertFile, config.MatchboxKeyFile)
	if err != nil {
		return nil, err
	}
	e := &external{
		options: matchbox.Options{Endpoint: config.MatchboxEndpoint, TLS: tlsConfig}, log: log,
		wanted: map[string]bool{}, kick: make(chan struct{}, 1),
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	return e, nil
}

// changed is told of each transition and must not wait.
func (e *external) changed(t machine.Transition) {
	if t.Machine == "" {
		return
	}
	e.mu.Lock()
	switch t.To {
	case machine.Armed:
		delete(e.wanted, t.Machine)
	case machine.Booting:
	default:
		if t.From == machine.Armed || t.From == machine.Booting {
			e.wanted[t.Machine] = true
		}
	}
	e.mu.Unlock()
	select {
	case e.kick <- struct{}{}:
	default:
	}
}

// start begins with what an earlier process may have left behind.
func (e *external) start(store *machine.Store) {
	all, _ := store.List()
	e.mu.Lock()
	for _, m := range all {
		if m.Name != "" && m.State != machine.Armed && m.State != machine.Booting {
			e.wanted[m.Name] = true
		}
	}
	e.mu.Unlock()
	e.done.Go(func() {
		for {
			wait := e.removeAll(store)
			select {
			case <-e.ctx.Done():
				return
			case <-e.kick:
			case <-wait:
			}
		}
	})
}

// removeAll removes what is to go; what cannot be removed now is tried again when the channel fires.
func (e *external) removeAll(store *machine.Store) <-chan time.Time {
	e.mu.Lock()
	var names []string
	for name := range e.wanted {
		names = append(names, name)
	}
	e.mu.Unlock()
	if len(names) == 0 {
		return nil
	}
	err := func() error {
		mb, err := matchbox.Dial(e.ctx, e.options)
		if err != nil {
			return err
		}
		defer mb.Close()
		for _, name := range names {
			st, err := store.Status(name)
			if err == nil {
				err = deleteInstallGroups(e.ctx, mb, st.Cluster, name)
			}
			if err != nil && !errors.Is(err, machine.ErrUnknown) {
				return err
			}
			e.mu.Lock()
			delete(e.wanted, name)
			e.mu.Unlock()
		}
		return nil
	}()
	if err == nil || e.ctx.Err() != nil {
		return nil
	}
	e.log.Warn("install groups stay in the external matchbox for now; no machine can claim a disk with them", "machines", names, "error", err.Error())
	return time.After(retryExternal)
}

func (e *external) close() {
	e.cancel()
	e.done.Wait()
}

// deleteInstallGroups removes the groups that an external matchbox has for installing one machine of ours, and their
// profiles. What is gone already is no error.
func deleteInstallGroups(ctx context.Context, mb *matchbox.Client, cluster, name string) error {
	groups, err := mb.GroupList(ctx)
	if err != nil {
		return err
	}
	profiles := map[string]bool{}
	for _, g := range groups {
		var whose struct {
			Cluster   string `json:"cluster"`
			Machine   string `json:"machine"`
			ManagedBy string `json:"managed_by"`
		}
		if json.Unmarshal(g.Metadata, &whose) != nil || whose.ManagedBy != matchbox.ManagedBy || whose.Cluster != cluster || whose.Machine != name {
			continue
		}
		if err := mb.GroupDelete(ctx, g.ID); err != nil && !errors.Is(err, matchbox.ErrNotFound) {
			return err
		}
		profiles[g.Profile] = true
	}
	for id := range profiles {
		if err := mb.ProfileDelete(ctx, id); err != nil && !errors.Is(err, matchbox.ErrNotFound) {
			return err
		}
	}
	return nil
}
