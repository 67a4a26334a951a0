package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/host"
	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
	"github.com/tectonic-worker/tectonic-worker/units"
)

const (
	// acceptedPath is the kubeconfig that was last proved good, by join or by
	// Adopt: what the kubelet starts with while the one in /etc/kubernetes is
	// not.
	acceptedPath = StateDir + "/kubeconfig"
	// refusedPath says which content of /etc/kubernetes/kubeconfig the API
	// server, or a look at it, has refused.
	refusedPath = StateDir + "/kubeconfig.refused"
	// launchedPath is the digest of the kubeconfig that the kubelet was started
	// with; gone after a boot, as that kubelet is.
	launchedPath = RunDir + "/kubeconfig.sha256"
	// fallbackPath is acceptedPath where the kubelet's container sees it.
	fallbackPath = RunDir + "/kubeconfig"
)

// AdoptState is what became of the kubeconfig on disk.
type AdoptState string

const (
	AdoptUnchanged AdoptState = "unchanged" // it is the one that the kubelet runs with
	AdoptDone      AdoptState = "adopted"   // new, good, and the kubelet was restarted with it
	AdoptRefused   AdoptState = "refused"   // new and no good; the kubelet goes on with the last good one
	AdoptWaiting   AdoptState = "waiting"   // new, and nobody can tell yet: call Adopt again
	AdoptGone      AdoptState = "gone"      // the file is not there
)

// Adoption is what Adopt found and did. Reason is a sentence with a remedy, for
// a condition's message; empty where all is well. News: it was not said before,
// also not by a process before this one, so that a journal line and an Event
// are due.
type Adoption struct {
	State     AdoptState
	Reason    string
	News      bool
	Restarted bool // the kubelet
}

// Limits of the wait for a kubeconfig that is being written.
const (
	adoptSettle = 500 * time.Millisecond // two equal looks this far apart
	adoptCopy   = 10 * time.Second       // how long one that can't be read may still be on its way
)

// Adopt looks at the kubeconfig on disk and, where it is another one than the
// kubelet runs with, proves it as join does: whole, valid, and accepted by the
// API server. A good one is kept aside and the kubelet restarted once. One that
// is no good is left where it is and the running kubelet alone: it read its
// credential at its start; should it be started again meanwhile, the launcher
// gives it the last good one.
//
// Call it when the file changed and, because an API server that can't be
// reached leaves AdoptWaiting behind, from time to time. It takes join's lock
// itself, for which the error is a *host.BusyError; every other error is this
// host's.
func (s *System) Adopt(ctx context.Context, environ []string) (Adoption, error) {
	lock, err := s.lock(ctx, "agent")
	if err != nil {
		return Adoption{}, err
	}
	defer lock.Unlock()
	a := &adopter{handles: handles{sys: s}, facts: &Facts{Now: s.Now()}}
	defer a.close()
	return a.run(ctx, environ)
}

type adopter struct {
	handles
	facts *Facts
}

// refusal is the record at refusedPath.
type refusal struct {
	SHA256 string    `json:"sha256"`
	State  string    `json:"state"`
	Reason string    `json:"reason"`
	Time   time.Time `json:"time"`
}

func (a *adopter) run(ctx context.Context, environ []string) (Adoption, error) {
	data, k, err := a.settled(ctx)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		text := fmt.Sprintf("%s is gone: the running kubelet goes on with the credential that it has, but will not start again; put it back", kubelet.KubeconfigPath)
		if a.sys.Root.Exists(acceptedPath) {
			text += " (the last good one is in " + acceptedPath + ")"
		}
		return a.say("", AdoptGone, text)
	case ctx.Err() != nil:
		return Adoption{}, ctx.Err()
	}
	sum := digest(data)
	if k != nil {
		sum = digest(k.Data())
	}
	inUse, kept := a.sys.inUse(sum), sum == digest(a.sys.read(acceptedPath))
	switch {
	case inUse && kept:
		return Adoption{State: AdoptUnchanged}, a.sys.Root.Remove(refusedPath)
	case inUse && err != nil: // an expired one for instance: no news of the file
		return Adoption{State: AdoptUnchanged}, nil
	case err != nil:
		return a.refuse(data, err)
	}
	err = a.prove(ctx, k, environ)
	var api *node.APIError
	said, known := a.sys.refused()
	switch {
	case ctx.Err() != nil:
		return Adoption{}, ctx.Err()
	case inUse && err == nil:
		return Adoption{State: AdoptUnchanged}, a.sys.keepAccepted(k.Data())
	case inUse:
		return Adoption{State: AdoptUnchanged}, nil
	case errors.As(err, &api) && api.Retry():
		if known && said.SHA256 == digest(data) && said.State == string(AdoptRefused) {
			return Adoption{State: AdoptRefused, Reason: said.Reason}, nil
		}
		return a.say(digest(data), AdoptWaiting, fmt.Sprintf("the new %s is not in use yet, because it can't be proved: %v", kubelet.KubeconfigPath, err))
	case err != nil:
		return a.refuse(data, err)
	}
	a.facts.Kubeconfig = k
	return a.accept(ctx, data)
}

// prove asks the API server, as join does.
func (a *adopter) prove(ctx context.Context, k *node.Kubeconfig, environ []string) error {
	g := &gatherer{sys: a.sys, h: &a.handles, f: a.facts}
	if err := g.settings(Inputs{Environ: environ}); err != nil {
		return err
	}
	if k.NodeName != "" && k.NodeName != a.facts.NodeName {
		return fmt.Errorf("its certificate is for node %s, and this node's name is %s", k.NodeName, a.facts.NodeName)
	}
	c, err := a.sys.Cluster(k, g.proxy())
	if err != nil {
		return err
	}
	_, err = c.Reach(ctx)
	return err
}

// settled reads the kubeconfig when two looks found the same, and gives one
// that can't be read some time to become whole.
func (a *adopter) settled(ctx context.Context) ([]byte, *node.Kubeconfig, error) {
	tick := time.NewTicker(adoptSettle)
	defer tick.Stop()
	var before []byte
	for begin, looks := time.Now(), 0; ; looks++ {
		data, err := a.sys.ownFile(kubelet.KubeconfigPath)
		if err != nil && data == nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
		settled := looks > 0 && bytes.Equal(data, before)
		before = data
		var k *node.Kubeconfig
		if err == nil {
			if k, err = node.Parse(data); err == nil {
				err = k.Validate(a.sys.Now())
			}
		}
		if settled && (err == nil || !onItsWay(err) || time.Since(begin) > adoptCopy) {
			return data, k, err
		}
		select {
		case <-ctx.Done():
			return data, nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// onItsWay tells whether the rest of the file may still come.
func onItsWay(err error) bool {
	var ps node.Problems
	if !errors.As(err, &ps) {
		return false
	}
	for _, p := range ps {
		if p.Cause == node.Malformed || p.Cause == node.Incomplete {
			return true
		}
	}
	return false
}

// ownFile reads a regular file of root's. A mode that lets others read it is
// tightened.
func (s *System) ownFile(path string) ([]byte, error) {
	st, err := s.Root.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !st.Mode.IsRegular():
		return nil, errors.New("it is no regular file; copy the kubeconfig itself there")
	case st.UID != 0:
		return nil, fmt.Errorf("it belongs to user %d, who could change it at any time; run \"chown root:root %s\"", st.UID, path)
	case st.Mode.Perm()&0o177 != 0:
		s.Log.Warn("the kubeconfig was readable for others: its mode is 0600 now", "file", path, "mode", fmt.Sprintf("%04o", st.Mode.Perm()))
		if err := s.Root.Chmod(path, 0o600); err != nil {
			return nil, err
		}
	}
	return s.Root.ReadFile(path)
}

// refuse leaves everything as it is, and notes what was refused so that the
// launcher does not take it either.
func (a *adopter) refuse(data []byte, why error) (Adoption, error) {
	goesOn := "the kubelet goes on with the last good one (" + acceptedPath + ")"
	if !a.sys.Root.Exists(acceptedPath) {
		goesOn = "the running kubelet goes on with the one that it was started with"
	}
	return a.say(digest(data), AdoptRefused, fmt.Sprintf("the new %s is refused: %v; %s", kubelet.KubeconfigPath, why, goesOn))
}

// say returns what is to be told, and notes that it was.
func (a *adopter) say(sum string, state AdoptState, reason string) (Adoption, error) {
	out := Adoption{State: state, Reason: reason}
	said, known := a.sys.refused()
	if known && said.SHA256 == sum && said.State == string(state) {
		// The text may hold a time or a port that differs from look to look.
		return out, nil
	}
	out.News = true
	a.sys.Log.Warn(reason)
	data, err := json.Marshal(refusal{SHA256: sum, State: string(state), Reason: reason, Time: a.sys.Now().UTC()})
	if err != nil {
		return out, err
	}
	if _, err := a.sys.Root.MkdirAll(StateDir, 0o700); err != nil {
		return out, err
	}
	return out, a.sys.Root.WriteFile(refusedPath, append(data, '\n'), host.File{Mode: 0o600})
}

// accept keeps the kubeconfig aside, then makes the kubelet read it.
func (a *adopter) accept(ctx context.Context, data []byte) (Adoption, error) {
	k := a.facts.Kubeconfig
	if !bytes.Equal(k.Data(), data) { // its only context had to be named
		if err := a.sys.Root.WriteFile(kubelet.KubeconfigPath, k.Data(), host.File{Mode: 0o600}); err != nil {
			return Adoption{}, err
		}
	}
	if err := a.sys.keepAccepted(k.Data()); err != nil {
		return Adoption{}, err
	}
	l, err := OpenLedger(a.sys.Root)
	if err != nil {
		return Adoption{}, err
	}
	resources := []Resource{a.caFile(a.facts)}
	if a.staleIdentity(a.facts) {
		resources = append(resources, &absent{a.sys.Root, kubelet.NodeKubeconfigPath})
	}
	for _, r := range resources {
		if _, err := ensure(ctx, l, &undoList{}, r); err != nil {
			return Adoption{}, err
		}
	}
	out := Adoption{State: AdoptDone, News: true}
	us, err := a.units(ctx)
	if err != nil {
		return out, err
	}
	st, err := us.Unit(ctx, units.Kubelet)
	if err != nil {
		return out, err
	}
	// A kubelet that an administrator stopped is kubelet.path's to start.
	if st.Active == "inactive" {
		return out, nil
	}
	a.sys.Log.Info("the new kubeconfig is good: restarting the kubelet with it", "credential", k.String())
	if err := us.Restart(ctx, units.Kubelet); err != nil {
		return out, err
	}
	out.Restarted = true
	return out, nil
}

// keepAccepted keeps a kubeconfig that was proved good.
func (s *System) keepAccepted(data []byte) error {
	if digest(s.read(acceptedPath)) != digest(data) {
		if _, err := s.Root.MkdirAll(StateDir, 0o700); err != nil {
			return err
		}
		if err := s.Root.WriteFile(acceptedPath, data, host.File{Mode: 0o600}); err != nil {
			return err
		}
	}
	return s.Root.Remove(refusedPath)
}

// forgetCredentials removes what is kept of kubeconfigs and keys, for a host
// that is no worker any more.
func (s *System) forgetCredentials() error {
	for _, p := range []string{acceptedPath, refusedPath, renewKeyPath, launchedPath, fallbackPath} {
		if err := s.Root.Remove(p); err != nil {
			return err
		}
	}
	return nil
}

// read is a file's content, or nothing.
func (s *System) read(path string) []byte {
	data, err := s.Root.ReadFile(path)
	if err != nil {
		return nil
	}
	return data
}

// inUse tells whether the kubelet was started with the kubeconfig of that
// digest. Where nothing is noted of its start, the last good one is meant.
func (s *System) inUse(sum string) bool {
	launched := string(bytes.TrimSpace(s.read(launchedPath)))
	if launched == "" {
		launched = digest(s.read(acceptedPath))
	}
	return sum == launched
}

// refused is what was said last of a kubeconfig that is not in use.
func (s *System) refused() (refusal, bool) {
	var r refusal
	data, err := s.Root.ReadFile(refusedPath)
	return r, err == nil && json.Unmarshal(data, &r) == nil
}

// launchCredential finds the kubeconfig to start the kubelet with: the one in
// /etc/kubernetes, and where that is no good or was refused, the last good one.
func (g *gatherer) launchCredential(in Inputs) error {
	s := g.sys
	err := g.credential(in)
	if err != nil && g.ownIsValid(err) {
		err = nil
	}
	if said, known := s.refused(); err == nil && known && said.State == string(AdoptRefused) && said.SHA256 == digest(g.f.KubeconfigData) {
		err = badConfig(errors.New(said.Reason))
	}
	if err == nil {
		return s.Root.Remove(fallbackPath)
	}
	data := s.read(acceptedPath)
	if data == nil {
		if g.f.Kubeconfig != nil && valid(g.f.KubeconfigData, g.f.Now) == nil {
			return nil // refused by the API server, but there is no other
		}
		return err
	}
	k, kerr := node.Parse(data)
	if kerr == nil {
		kerr = k.Validate(g.f.Now)
	}
	if kerr != nil {
		return err
	}
	if _, kerr := s.Root.MkdirAll(RunDir, 0o700); kerr != nil {
		return kerr
	}
	if kerr := s.Root.WriteFile(fallbackPath, data, host.File{Mode: 0o600}); kerr != nil {
		return kerr
	}
	s.Log.Error("the kubelet starts with the LAST GOOD kubeconfig, not with "+kubelet.KubeconfigPath, "why", err, "in use", acceptedPath)
	g.f.Kubeconfig, g.f.KubeconfigData, g.f.KubeconfigFrom, g.f.KubeconfigInUse = k, data, acceptedPath, fallbackPath
	return nil
}

// ownIsValid tells whether nothing is wrong but that the node certificate in
// the kubeconfig has expired, and the kubelet has a newer one of its own.
func (g *gatherer) ownIsValid(err error) bool {
	var ps node.Problems
	if g.f.Kubeconfig == nil || g.f.Kubeconfig.NodeName == "" || !errors.As(err, &ps) || !ps.OnlyTime() {
		return false
	}
	leaf, err := g.sys.ownCertificate()
	return err == nil && g.f.Now.After(leaf.NotBefore) && g.f.Now.Before(leaf.NotAfter)
}

// noteLaunched tells Adopt what the kubelet is about to run with.
func (s *System) noteLaunched(kubeconfig []byte) error {
	return s.Root.WriteFile(launchedPath, []byte(digest(kubeconfig)+"\n"), host.File{Mode: 0o600})
}
