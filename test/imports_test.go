package test

import (
	"bytes"
	"encoding/json"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/tectonic-worker/tectonic-worker"

// rule is a row of the table of who may import whom. Patterns are import paths below the module, "/..." included or
// not; the longest pattern that fits a package is its rule.
type rule struct {
	pkg  string
	ours []string // packages of ours that it may import
	not  []string // other packages that it must not import itself
}

var rules = []rule{
	{pkg: "agent", ours: []string{"agent/...", "firewall", "sysconfig", "units"}, not: []string{"os/exec", dbus, systemd, clientGo}},
	{pkg: "agent/assets"},
	{pkg: "agent/container", not: impure},
	{pkg: "agent/drain", not: []string{"os", "os/exec"}},
	{pkg: "agent/cri", not: []string{"os/exec", dbus, clientGo}},
	{pkg: "agent/host", not: []string{dbus, clientGo}},
	{pkg: "agent/kubelet", not: impure},
	{pkg: "agent/node", not: []string{"os/exec"}},
	{pkg: "agent/selinux", ours: []string{"agent/host"}, not: []string{"os/exec"}},
	{pkg: "agent/systemd", not: []string{"os/exec"}},
	{pkg: "cmd/cli"},
	{pkg: "cmd/cli/clitest", ours: []string{"cmd/cli"}},
	{pkg: "cmd/tectonic-worker", ours: []string{"agent/...", "cmd/cli", "firewall", "sysconfig", "units"}},
	{pkg: "cmd/tectonic-worker-drain", ours: []string{"agent/drain"}},
	{pkg: "cmd/tectonic-installer", ours: []string{"cmd/cli", "installer/..."}},
	{pkg: "cmd/tectonic-machine", ours: []string{"installer/live"}},
	{pkg: "firewall", not: []string{"os/exec"}},
	{pkg: "firewall/firewalldtest"},
	{pkg: "installer", ours: []string{"installer/..."}, not: []string{"os/exec"}},
	{pkg: "installer/assets", ours: []string{"installer/cluster", "installer/machine", "installer/matchbox"}, not: impure},
	{pkg: "installer/check", ours: []string{"installer/cluster", "installer/credentials", "installer/machine/...", "installer/matchbox", "installer/power"}, not: []string{"os/exec"}},
	{pkg: "installer/cluster", not: []string{"os/exec", "net/http"}},
	{pkg: "installer/credentials", not: []string{"os/exec", "net/http"}},
	{pkg: "installer/images", not: []string{"os/exec"}},
	// It runs in a live system's memory, next to the disk that it writes.
	{pkg: "installer/live", ours: []string{"installer/machine"}},
	{pkg: "installer/machine", not: []string{"os/exec", "net/http"}},
	{pkg: "installer/machine/api", ours: []string{"installer/machine"}, not: []string{"os/exec"}},
	{pkg: "installer/matchbox", ours: []string{"installer/matchbox/..."}, not: []string{"os/exec"}},
	{pkg: "installer/matchbox/...", ours: []string{"installer/matchbox/..."}, not: []string{"os/exec"}},
	{pkg: "installer/netboot", ours: []string{"installer/cluster"}},
	{pkg: "installer/power", not: []string{"os/exec"}},
	{pkg: "installer/watch", ours: []string{"installer/machine"}, not: []string{"os/exec", "net/http"}},
	// The package is built from what it ships.
	{pkg: "packaging/...", ours: []string{"packaging/...", "cmd/tectonic-worker/...", "sysconfig", "units"}},
	{pkg: "sysconfig"},
	{pkg: "units"},
	{pkg: "test"},
	{pkg: "test/...", ours: []string{"...", "test/..."}},
	{pkg: "test/lab"},
	{pkg: "test/lab/...", ours: []string{"test/lab/..."}},
	{pkg: "test/rkt-double"},
}

const (
	dbus     = "github.com/godbus/dbus/..."
	systemd  = "github.com/coreos/go-systemd/..."
	clientGo = "k8s.io/client-go/..."
)

// impure is what a package that is pure has no use for.
var impure = []string{"os", "os/exec", "io/ioutil", "net/http", "syscall", dbus, systemd, clientGo}

// soleImporters are dependencies that one package is the door to. Tests are free to use them.
var soleImporters = map[string][]string{
	clientGo:                                {"agent/node", "agent/drain"},
	dbus:                                    {"firewall/...", "agent/systemd"},
	systemd:                                 {"agent/systemd", "installer/matchbox/server"},
	"github.com/opencontainers/selinux/...": {"agent/selinux"},
	"github.com/spf13/viper/...":            {"sysconfig"},
	"k8s.io/kubectl/...":                    {"agent/drain"},
	"k8s.io/client-go/kubernetes/...":       {"agent/drain"},
	"github.com/hashicorp/hcl/...":          {"agent/assets", "installer/cluster"},
	"github.com/google/rpmpack/...":         {"packaging/...", "test/lab"},
	"github.com/spf13/cobra/...":            {"cmd/...", "packaging/..."},
	"github.com/bougou/go-ipmi/...":         {"installer/power"},
	"google.golang.org/grpc/...":            {"installer", "installer/matchbox/..."},
	"github.com/ProtonMail/go-crypto/...":   {"installer/images", "installer/matchbox/server", "packaging/...", "test/lab"},
}

// neverLinked must not be in a binary, however far down.
var neverLinked = map[string][]string{
	// The typed clientset alone is more memory than the daemon may take.
	"cmd/tectonic-worker":    {"k8s.io/client-go/kubernetes/...", "k8s.io/kubectl/...", module + "/agent/drain", "google.golang.org/grpc/...", module + "/installer/...", module + "/test/..."},
	"cmd/tectonic-installer": {module + "/agent/...", module + "/firewall/...", module + "/test/..."},
	// A machine downloads it before every installation.
	"cmd/tectonic-machine": {module + "/agent/...", "google.golang.org/grpc/...", "github.com/spf13/cobra/...", "github.com/prometheus/..."},
}

var badNames = []string{"util", "utils", "common", "helper", "helpers", "manager", "managers", "pkg"}

// listed is what "go list" says of a package.
type listed struct {
	ImportPath, Name, Dir string
	GoFiles, CgoFiles     []string
	Imports, Deps         []string
}

func (p listed) ours() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

func packages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json", module+"/...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var all []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("go list found %d packages only", len(all))
	}
	return all
}

// match tells whether an import path fits a pattern: "a", or "a/..." for a and all below it.
func match(pattern, path string) bool {
	if base, all := strings.CutSuffix(pattern, "..."); all {
		base = strings.TrimSuffix(base, "/")
		return base == "" || path == base || strings.HasPrefix(path, base+"/")
	}
	return path == pattern
}

func matchAny(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return match(p, path) })
}

func ruleFor(pkg string) (rule, bool) {
	var best rule
	found := false
	for _, r := range rules {
		if match(r.pkg, pkg) && (!found || len(r.pkg) > len(best.pkg)) {
			best, found = r, true
		}
	}
	return best, found
}

func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		r, ok := ruleFor(p.ours())
		if !ok {
			t.Errorf("%s: no rule says what it may import: add it to the table in this file", p.ImportPath)
			continue
		}
		for _, path := range p.Imports {
			if sub, ours := strings.CutPrefix(path, module+"/"); ours {
				if !matchAny(r.ours, sub) {
					t.Errorf("%s must not import %s (rule for %q)", p.ours(), sub, r.pkg)
				}
				continue
			}
			if matchAny(r.not, path) {
				t.Errorf("%s must not import %s (rule for %q)", p.ours(), path, r.pkg)
			}
			for _, pattern := range sortedKeys(soleImporters) {
				if match(pattern, path) && !matchAny(soleImporters[pattern], p.ours()) {
					t.Errorf("%s must not import %s: that is for %s", p.ours(), path, strings.Join(soleImporters[pattern], " and "))
				}
			}
		}
		for _, dep := range p.Deps {
			if matchAny(neverLinked[p.ours()], dep) {
				t.Errorf("%s links %s", p.ours(), dep)
			}
		}
	}
}

func TestPackageComments(t *testing.T) {
	for _, p := range packages(t) {
		var with []string
		for _, name := range slices.Concat(p.GoFiles, p.CgoFiles) {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Error(err)
				continue
			}
			if f.Doc != nil {
				with = append(with, name)
			}
		}
		if len(p.GoFiles) > 0 && len(with) != 1 {
			t.Errorf("%s: one file has the package comment, not %d %v", p.ImportPath, len(with), with)
		}
	}
}

func TestPackageNames(t *testing.T) {
	for _, p := range packages(t) {
		for _, name := range append(strings.Split(p.ours(), "/"), p.Name) {
			if slices.Contains(badNames, name) {
				t.Errorf("%s: %q says nothing about what is inside", p.ImportPath, name)
			}
		}
	}
}

// The rules find what they are for.
func TestMatch(t *testing.T) {
	tests := []struct {
		pattern, path string
		want          bool
	}{
		{"agent", "agent", true}, {"agent", "agent/host", false}, {"agent/...", "agent/host", true}, {"agent/...", "agent", true},
		{"agent/...", "agents", false}, {"...", "units", true}, {dbus, "github.com/godbus/dbus/v5", true}, {"os", "os/exec", false},
	}
	for _, tt := range tests {
		if got := match(tt.pattern, tt.path); got != tt.want {
			t.Errorf("match(%q, %q) = %t", tt.pattern, tt.path, got)
		}
	}
	if r, _ := ruleFor("agent/node"); r.pkg != "agent/node" {
		t.Errorf("agent/node has the rule of %q", r.pkg)
	}
	if _, ok := ruleFor("agent/unknown"); ok {
		t.Error("a package below agent that nobody wrote a rule for has one")
	}
}

func sortedKeys(m map[string][]string) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
