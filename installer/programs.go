package installer

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
	"github.com/tectonic-worker/tectonic-worker/installer/machine"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/server"
)

// architectures are those that a machine can have, as the cluster file names them.
var architectures = []string{"x86_64", "aarch64"}

// What an operator may ask the provisioner for besides machines.
const (
	askPrograms = "programs" // architecture to SHA-512, in hex
	askExplain  = "explain"  // Explained, of the labels in the query
	askInstance = "instance" // what matchbox.Client.Instance says of the same process
)

// PublishPrograms copies tectonic-machine into the assets, where machines fetch it, and gives the SHA-512 of each, by
// architecture. An architecture that is not installed is left out.
func PublishPrograms(programs, assets string) (map[string]string, error) {
	sums := map[string]string{}
	for _, arch := range architectures {
		text, err := os.ReadFile(filepath.Join(programs, arch, "tectonic-machine"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot publish tectonic-machine: %w", err)
		}
		sum := sha512.Sum512(text)
		sums[arch] = hex.EncodeToString(sum[:])
		if assets == "" {
			continue
		}
		path := filepath.Join(assets, "tectonic-machine", arch, "tectonic-machine")
		if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
			continue
		}
		err = os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = replaceFile(path, text, 0o644)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot publish tectonic-machine for %s: %w", arch, err)
		}
	}
	return sums, nil
}

// Explained is why a machine is served what it is.
type Explained struct {
	server.Explanation
	// Machine is the state that stands before all groups; nil where a matchbox knows no state.
	Machine *machine.Status `json:"machine,omitempty"`
}

// Explain asks the provisioner what a machine with these labels would be served, and why. An external matchbox says what
// it would serve, and not why.
func Explain(ctx context.Context, c *cluster.Cluster, labels map[string]string) (Explained, error) {
	if c.Matchbox.External {
		return explainExternal(ctx, c, labels)
	}
	query := url.Values{}
	for key, value := range labels {
		query.Set(key, value)
	}
	machines, err := Machines(c)
	if err != nil {
		return Explained{}, err
	}
	defer machines.Close()
	var e Explained
	return e, machines.Get(ctx, askExplain, query, &e)
}

func explainExternal(ctx context.Context, c *cluster.Cluster, labels map[string]string) (Explained, error) {
	mb, err := dialMatchbox(ctx, c)
	if err != nil {
		return Explained{}, err
	}
	defer mb.Close()
	e := Explained{Explanation: server.Explanation{Labels: labels}}
	group, err := mb.SelectGroup(ctx, labels)
	switch {
	case errors.Is(err, matchbox.ErrNotFound):
		return e, nil
	case err != nil:
		return e, err
	}
	e.Group, e.Profile = group.ID, group.Profile
	e.Matched = []server.Match{{Group: group.ID, Profile: group.Profile, Selector: group.Selector, Why: "chosen by " + c.Matchbox.RPC}}
	_, err = mb.ProfileGet(ctx, group.Profile)
	e.ProfileMissing = errors.Is(err, matchbox.ErrNotFound)
	if e.ProfileMissing {
		err = nil
	}
	return e, err
}

// ExplainDirectory answers the same from a matchbox's directory.
func ExplainDirectory(dataPath string, labels map[string]string) (Explained, error) {
	s, err := server.New(server.Options{DataPath: dataPath})
	if err != nil {
		return Explained{}, err
	}
	defer s.Close()
	return Explained{Explanation: s.Explain(labels)}, nil
}
