package packaging

import (
	"bytes"
	"cmp"
	"compress/gzip"
	_ "embed"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/tectonic-worker/tectonic-worker/sysconfig"
	"github.com/tectonic-worker/tectonic-worker/units"
)

const (
	docDir     = "/usr/share/doc/" + Name
	licenseDir = "/usr/share/licenses/" + Name
	libexecDir = "/usr/libexec/" + Name
)

var (
	version  = regexp.MustCompile(`^[0-9]+\.[A-Za-z0-9._+]*(~[A-Za-z0-9._+]+)?$`)
	describe = regexp.MustCompile(`^(.*)-([0-9]+)-(g[0-9a-f]+)$`)
)

//go:embed man/tectonic-worker.8
var commandPage []byte

// runtimeDir is made at each boot. It is not the unit's RuntimeDirectory=, which systemd removes when the agent stops, and
// with it the lock and rkt's note of the kubelet's pod.
const runtimeDir = "# See tmpfiles.d(5).\nd /run/tectonic-worker 0700 root root -\n"

// files lists what is in the package, sorted by path.
func files(o Options, modified time.Time) ([]File, error) {
	out := []File{
		{Path: sysconfig.Path, Mode: 0o644, Kind: Config, Body: sysconfig.Shipped},
		{Path: path.Dir(sysconfig.KubeletEnvPath), Mode: 0o755, Kind: Dir},
		{Path: sysconfig.KubeletEnvPath, Mode: 0o644, Kind: Config, Body: sysconfig.ShippedKubeletEnv},
		{Path: "/etc/kubernetes/kubeconfig", Mode: 0o600, Kind: GhostConfig},
		{Path: "/etc/kubernetes/ca.crt", Mode: 0o644, Kind: Ghost},
		{Path: "/etc/kubernetes/kubelet.yaml", Mode: 0o600, Kind: Ghost},
		{Path: "/etc/tectonic-worker", Mode: 0o755, Kind: Dir},
		{Path: "/etc/tectonic-worker/kubelet.d", Mode: 0o755, Kind: Dir},
		{Path: "/var/lib/tectonic-worker", Mode: 0o700, Kind: Dir},
		{Path: libexecDir, Mode: 0o755, Kind: Dir},
		{Path: "/usr/lib/tmpfiles.d/tectonic-worker.conf", Mode: 0o644, Body: []byte(runtimeDir)},
		{Path: docDir, Mode: 0o755, Kind: Dir},
		{Path: licenseDir, Mode: 0o755, Kind: Dir},
	}
	for _, name := range units.Names() {
		body, err := units.Files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		out = append(out, File{Path: path.Join(units.Dir, name), Mode: 0o644, Body: body})
	}
	for name, page := range map[string][]byte{
		"man8/tectonic-worker.8":           commandPage,
		"man5/tectonic-worker.sysconfig.5": SettingsPage(),
	} {
		body, err := compress(page, modified)
		if err != nil {
			return nil, fmt.Errorf("cannot package %s: %w", name, err)
		}
		out = append(out, File{Path: "/usr/share/man/" + name + ".gz", Mode: 0o644, Kind: Doc, Body: body})
	}

	// The shells' directories are owned here too, for hosts without zsh or fish.
	for _, dir := range []string{"/usr/share/bash-completion", "/usr/share/bash-completion/completions", "/usr/share/fish",
		"/usr/share/fish/vendor_completions.d", "/usr/share/zsh", "/usr/share/zsh/site-functions"} {
		out = append(out, File{Path: dir, Mode: 0o755, Kind: Dir})
	}
	docs, err := filepath.Glob(filepath.Join(o.Source, "docs", "*.md"))
	if err != nil {
		return nil, fmt.Errorf("cannot list the documentation: %w", err)
	}
	docs = append(docs, filepath.Join(o.Source, "README.md"), filepath.Join(o.Source, "CHANGELOG.md"))
	type source struct {
		from, what string
		file       File
	}
	sources := []source{
		{o.Binary, "the binary", File{Path: "/usr/bin/tectonic-worker", Mode: 0o755}},
		{cmp.Or(o.Drain, filepath.Join(filepath.Dir(o.Binary), Name+"-drain")), "the drain program", File{Path: libexecDir + "/drain", Mode: 0o755}},
		{filepath.Join(o.Completions, Name+".bash"), "the completion for bash", File{Path: "/usr/share/bash-completion/completions/" + Name, Mode: 0o644}},
		{filepath.Join(o.Completions, Name+".zsh"), "the completion for zsh", File{Path: "/usr/share/zsh/site-functions/_" + Name, Mode: 0o644}},
		{filepath.Join(o.Completions, Name+".fish"), "the completion for fish", File{Path: "/usr/share/fish/vendor_completions.d/" + Name + ".fish", Mode: 0o644}},
		{filepath.Join(o.Source, "LICENSE"), "the licence", File{Path: licenseDir + "/LICENSE", Mode: 0o644, Kind: License}},
	}
	for _, doc := range docs {
		sources = append(sources, source{doc, "the documentation", File{Path: path.Join(docDir, filepath.Base(doc)), Mode: 0o644, Kind: Doc}})
	}
	for _, s := range sources {
		if s.file.Body, err = read(s.from, s.what); err != nil {
			return nil, err
		}
		out = append(out, s.file)
	}
	slices.SortFunc(out, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	return out, nil
}

// compress makes a gzip file that depends on nothing but its input.
func compress(data []byte, modified time.Time) ([]byte, error) {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	w.ModTime = modified
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
