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

const libexecDir = "/usr/libexec/" + Name

func docDir(name string) string     { return "/usr/share/doc/" + name }
func licenseDir(name string) string { return "/usr/share/licenses/" + name }

var (
	version  = regexp.MustCompile(`^[0-9]+\.[A-Za-z0-9._+]*(~[A-Za-z0-9._+]+)?$`)
	describe = regexp.MustCompile(`^(.*)-([0-9]+)-(g[0-9a-f]+)$`)
)

//go:embed man/tectonic-worker.8
var commandPage []byte

// runtimeDir is made at each boot. It is not the unit's RuntimeDirectory=, which systemd removes when the agent stops, and
// with it the lock and rkt's note of the kubelet's pod.
const runtimeDir = "# See tmpfiles.d(5).\nd /run/tectonic-worker 0700 root root -\n"

// files lists what is in the worker's package.
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
	}
	drain := cmp.Or(o.Drain, filepath.Join(filepath.Dir(o.Binary), Name+"-drain"))
	all, err := shared(o, Name, modified, units.Names(), map[string][]byte{
		"man8/tectonic-worker.8":           commandPage,
		"man5/tectonic-worker.sysconfig.5": SettingsPage(),
	}, []source{{drain, "the drain program", File{Path: libexecDir + "/drain", Mode: 0o755}}}, func(doc string) bool { return !slices.Contains(installerDocs, doc) })
	return append(out, all...), err
}

// source is a file of the package that is read from the disk.
type source struct {
	from, what string
	file       File
}

// shared lists what each of our packages has: its program, units, manual pages, completions, licence, documentation.
func shared(o Options, name string, modified time.Time, unitNames []string, pages map[string][]byte, sources []source, documents func(string) bool) ([]File, error) {
	out := []File{
		{Path: docDir(name), Mode: 0o755, Kind: Dir},
		{Path: licenseDir(name), Mode: 0o755, Kind: Dir},
	}
	for _, unit := range unitNames {
		body, err := units.Files.ReadFile(unit)
		if err != nil {
			return nil, err
		}
		out = append(out, File{Path: path.Join(units.Dir, unit), Mode: 0o644, Body: body})
	}
	for page, text := range pages {
		body, err := compress(text, modified)
		if err != nil {
			return nil, fmt.Errorf("cannot package %s: %w", page, err)
		}
		out = append(out, File{Path: "/usr/share/man/" + page + ".gz", Mode: 0o644, Kind: Doc, Body: body})
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
	docs = slices.DeleteFunc(docs, func(doc string) bool { return !documents(filepath.Base(doc)) })
	docs = append(docs, filepath.Join(o.Source, "README.md"), filepath.Join(o.Source, "CHANGELOG.md"))
	sources = append(sources,
		source{o.Binary, "the binary", File{Path: "/usr/bin/" + name, Mode: 0o755}},
		source{filepath.Join(o.Completions, name+".bash"), "the completion for bash", File{Path: "/usr/share/bash-completion/completions/" + name, Mode: 0o644}},
		source{filepath.Join(o.Completions, name+".zsh"), "the completion for zsh", File{Path: "/usr/share/zsh/site-functions/_" + name, Mode: 0o644}},
		source{filepath.Join(o.Completions, name+".fish"), "the completion for fish", File{Path: "/usr/share/fish/vendor_completions.d/" + name + ".fish", Mode: 0o644}},
		source{filepath.Join(o.Source, "LICENSE"), "the licence", File{Path: licenseDir(name) + "/LICENSE", Mode: 0o644, Kind: License}})
	for _, doc := range docs {
		sources = append(sources, source{doc, "the documentation", File{Path: path.Join(docDir(name), filepath.Base(doc)), Mode: 0o644, Kind: Doc}})
	}
	for _, s := range sources {
		if s.file.Body, err = read(s.from, s.what); err != nil {
			return nil, err
		}
		out = append(out, s.file)
	}
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
