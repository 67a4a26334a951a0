package installer

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
	"github.com/tectonic-worker/tectonic-worker/installer/machine"
	"github.com/tectonic-worker/tectonic-worker/installer/machine/api"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/server"
)

// architectures are those that a machine can have, as the cluster file names them.
var architectures = []string{"x86_64", "aarch64"}

// What the provisioner answers to an operator besides the machines' API.
const (
	pathPrograms = machine.APIPath + "programs"
	pathExplain  = machine.APIPath + "explain"
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
		if err := publish(filepath.Join(assets, "tectonic-machine", arch), "tectonic-machine", text); err != nil {
			return nil, fmt.Errorf("cannot publish tectonic-machine for %s: %w", arch, err)
		}
	}
	return sums, nil
}

// publish puts a file into a directory whole, or not at all.
func publish(dir, name string, text []byte) error {
	path := filepath.Join(dir, name)
	if old, err := os.ReadFile(path); err == nil && string(old) == string(text) {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+name+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Explained is why a machine is served what it is.
type Explained struct {
	server.Explanation
	// Machine is the state that stands before all groups; nil where a matchbox knows no state.
	Machine *machine.Status `json:"machine,omitempty"`
}

// operatorHandler answers what only the provisioner knows, to operators alone. The rest is the machines' API.
func operatorHandler(rest http.Handler, programs map[string]string, explain func(labels map[string]string) Explained) http.Handler {
	mux := http.NewServeMux()
	operator := func(answer func(r *http.Request) any) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
				w.WriteHeader(http.StatusUnauthorized)
				_, _ = io.WriteString(w, `{"error": "this is for operators: give a client certificate"}`+"\n")
				return
			}
			_ = json.NewEncoder(w).Encode(answer(r))
		}
	}
	mux.HandleFunc("GET "+pathPrograms, operator(func(*http.Request) any { return programs }))
	mux.HandleFunc("GET "+pathExplain, operator(func(r *http.Request) any {
		labels := map[string]string{}
		for key, values := range r.URL.Query() {
			labels[key] = values[0]
		}
		return explain(labels)
	}))
	mux.Handle("/", rest)
	return mux
}

// ask gets a document from the provisioner.
func ask(ctx context.Context, c *cluster.Cluster, pathAndQuery string, into any) error {
	config, err := operatorTLS(c)
	if err != nil {
		return err
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.Matchbox.Machines+pathAndQuery, nil)
	if err != nil {
		return fmt.Errorf("cannot ask the provisioner: matchbox.machines of %s: %w", c.Path, err)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return fmt.Errorf("cannot ask the provisioner at %s: %w (%w); is \"tectonic-installer serve\" running there with --machine-address?", c.Matchbox.Machines, err, api.ErrUnreachable)
	}
	defer resp.Body.Close()
	body := json.NewDecoder(io.LimitReader(resp.Body, 16<<20))
	if resp.StatusCode != http.StatusOK {
		var refusal struct {
			Error string `json:"error"`
		}
		_ = body.Decode(&refusal)
		return fmt.Errorf("the provisioner at %s refused: %s %s", c.Matchbox.Machines, resp.Status, refusal.Error)
	}
	if err := body.Decode(into); err != nil {
		return fmt.Errorf("the provisioner at %s answered what is not understood: %w; is it of another version?", c.Matchbox.Machines, err)
	}
	return nil
}

// Explain asks the provisioner what a machine with these labels would be served, and why.
func Explain(ctx context.Context, c *cluster.Cluster, labels map[string]string) (Explained, error) {
	query := url.Values{}
	for key, value := range labels {
		query.Set(key, value)
	}
	var e Explained
	return e, ask(ctx, c, pathExplain+"?"+query.Encode(), &e)
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
