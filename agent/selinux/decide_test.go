package selinux

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDecide(t *testing.T) {
	const keep = Unset
	for _, row := range []struct {
		setting         string
		runtime, config Mode
		policy          bool
		wantRuntime     Mode
		wantConfig      Mode
		why             string
	}{
		{"auto", Enforcing, Enforcing, true, keep, keep, "a policy for the worker under podman is installed"},
		{"auto", Permissive, Permissive, true, keep, keep, "left as it is"},
		{"auto", Enforcing, Enforcing, false, Permissive, Permissive, "no policy lets the worker run enforcing under podman"},
		{"auto", Permissive, Enforcing, false, Permissive, Permissive, "no policy"},
		{"auto", Permissive, Permissive, false, Permissive, Permissive, "no policy"},
		{"auto", Enforcing, Unset, false, Permissive, Permissive, "no policy"},
		{"auto", Enforcing, Disabled, false, Permissive, keep, "the next boot stays disabled"},
		{"auto", Disabled, Disabled, false, keep, keep, "SELinux is disabled: left"},
		{"auto", Disabled, Enforcing, false, keep, keep, "SELinux is disabled: left"},
		{"auto", Disabled, Unset, true, keep, keep, "SELinux is disabled: left"},
		{"permissive", Enforcing, Enforcing, true, Permissive, Permissive, "SELINUX_MODE=permissive"},
		{"permissive", Disabled, Enforcing, false, keep, keep, "disabled"},
		{"permissive", Enforcing, Disabled, false, Permissive, keep, "the next boot stays disabled"},
		{"enforcing", Permissive, Permissive, true, Enforcing, Enforcing, "SELINUX_MODE=enforcing"},
		{"enforcing", Enforcing, Enforcing, false, Enforcing, Enforcing, "though no policy for the worker under podman is installed"},
		{"enforcing", Permissive, Disabled, true, Enforcing, keep, "the next boot stays disabled"},
		{"enforcing", Disabled, Disabled, true, keep, keep, "enable it at boot and relabel"},
		{"leave", Enforcing, Enforcing, false, keep, keep, "SELINUX_MODE=leave"},
		{"leave", Permissive, Disabled, true, keep, keep, "SELINUX_MODE=leave"},
	} {
		name := fmt.Sprintf("%s, %s now, %q at boot, policy %t", row.setting, row.runtime, row.config, row.policy)
		got := Decide(row.setting, row.runtime, row.config, "podman", row.policy)
		if got.Runtime != row.wantRuntime || got.Config != row.wantConfig || !strings.Contains(got.Why, row.why) {
			t.Errorf("%s: %+v, want %q, %q, %q", name, got, row.wantRuntime, row.wantConfig, row.why)
		}
	}
}

// Over every combination: nothing is disabled, nothing disabled is enabled, only "enforcing" makes anything stricter,
// every decision has a reason, and the decision is at rest: to decide again on what was decided changes nothing.
func TestDecideInvariants(t *testing.T) {
	modes := []Mode{Enforcing, Permissive, Disabled, Unset}
	for _, setting := range []string{"auto", "permissive", "enforcing", "leave", "nonsense", ""} {
		for _, runtime := range modes[:3] {
			for _, config := range modes {
				for _, policy := range []bool{true, false} {
					w := Decide(setting, runtime, config, "rkt", policy)
					at := fmt.Sprintf("%s %s %s %t: %+v", setting, runtime, config, policy, w)
					if w.Runtime == Disabled || w.Config == Disabled || w.Why == "" {
						t.Error(at)
					}
					if runtime == Disabled && (w.Runtime != Unset || w.Config != Unset) || config == Disabled && w.Config != Unset {
						t.Error("disabled was touched:", at)
					}
					if setting != "enforcing" && (w.Runtime == Enforcing || w.Config == Enforcing) {
						t.Error("stricter:", at)
					}
					next, boot := runtime, config
					if w.Runtime != Unset {
						next = w.Runtime
					}
					if w.Config != Unset {
						boot = w.Config
					}
					if again := Decide(setting, next, boot, "rkt", policy); again.Runtime != w.Runtime || again.Config != w.Config {
						t.Errorf("%s, then %+v", at, again)
					}
				}
			}
		}
	}
}

// Hosts as the distributions leave them.
func TestPolicyLoaded(t *testing.T) {
	const (
		store8     = "/var/lib/selinux/targeted/active/modules/"
		store7     = "/etc/selinux/targeted/active/modules/"
		contexts   = "/etc/selinux/targeted/contexts/files/file_contexts"
		redHat     = "/usr/bin/podman\t--\tsystem_u:object_r:container_runtime_exec_t:s0\n"
		refpolicy  = "/usr/bin/podman\t--\tsystem_u:object_r:container_engine_exec_t:s0\n"
		mlsConfig  = "SELINUX=enforcing\nSELINUXTYPE=mls\n"
		evilConfig = "SELINUXTYPE=../../../tmp\n"
	)
	for _, row := range []struct {
		name     string
		files    map[string]string // ends with a slash: a directory
		runtime  string
		loaded   bool
		evidence string
	}{
		{"no SELinux", nil, "podman", false, "neither"},
		{"container-selinux, el9", map[string]string{store8 + "200/container/": "", contexts: redHat}, "podman", true, "container-selinux is installed (" + store8 + "200/container)"},
		{"container-selinux, el7", map[string]string{store7 + "200/container/": "", contexts: redHat}, "podman", true, store7 + "200/container"},
		{"container-selinux, but rkt", map[string]string{store8 + "200/container/": "", contexts: redHat}, "rkt", false, "no policy module tectonic-worker"},
		{"container-selinux disabled", map[string]string{store8 + "200/container/": "", store8 + "disabled/container": "", contexts: redHat}, "podman", false, "neither"},
		{"the reference policy's container module", map[string]string{store8 + "100/container/": "", contexts: refpolicy}, "podman", false, "neither"},
		{"contexts only", map[string]string{contexts: redHat}, "podman", false, "neither"},
		{"our module, rkt", map[string]string{store8 + "200/tectonic-worker/": ""}, "rkt", true, "the policy module tectonic-worker is installed"},
		{"our module, by hand", map[string]string{store8 + "400/tectonic-worker/": ""}, "podman", true, "400/tectonic-worker"},
		{"our module disabled", map[string]string{store8 + "200/tectonic-worker/": "", store8 + "disabled/tectonic-worker": ""}, "rkt", false, "no policy module"},
		{"our module in another policy", map[string]string{store8 + "200/tectonic-worker/": "", ConfigPath: mlsConfig}, "rkt", false, "in the policy mls"},
		{"our module in that policy", map[string]string{"/var/lib/selinux/mls/active/modules/200/tectonic-worker/": "", ConfigPath: mlsConfig}, "rkt", true, "/mls/"},
		{"a name that leads elsewhere", map[string]string{store8 + "200/tectonic-worker/": "", ConfigPath: evilConfig}, "rkt", true, "targeted"},
	} {
		t.Run(row.name, func(t *testing.T) {
			root := t.TempDir()
			for name, content := range row.files {
				path := filepath.Join(root, name)
				var err error
				if strings.HasSuffix(name, "/") {
					err = os.MkdirAll(path, 0o755)
				} else if err = os.MkdirAll(filepath.Dir(path), 0o755); err == nil {
					err = os.WriteFile(path, []byte(content), 0o644)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			loaded, evidence := PolicyLoaded(root, row.runtime)
			if loaded != row.loaded || !strings.Contains(evidence, row.evidence) || strings.Contains(evidence, root) {
				t.Errorf("PolicyLoaded = %t, %q; want %t, %q", loaded, evidence, row.loaded, row.evidence)
			}
		})
	}
}
