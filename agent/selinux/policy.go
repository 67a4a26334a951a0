package selinux

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Module is the name of our own policy module.
const Module = "tectonic-worker"

// PolicyLoaded tells whether the host below root has a policy that lets the worker run enforcing when it is launched
// by a runtime ("rkt" or "podman"), and what that was seen by: our own module for either, container-selinux for podman
// (it has no rule for rkt). It only reads files; the policy store is what the kernel loaded at boot or at the last semodule.
func PolicyLoaded(root, runtimeName string) (loaded bool, evidence string) {
	config, _ := os.ReadFile(filepath.Join(root, ConfigPath)) // without it, the policy's name has a default
	policy := policyType(config)
	if at := module(root, policy, Module); at != "" {
		return true, "the policy module " + Module + " is installed (" + at + ")"
	}
	if runtimeName != "podman" {
		return false, "no policy module " + Module + " is installed in the policy " + policy
	}
	contexts := filepath.Join("/etc/selinux", policy, "contexts/files/file_contexts")
	at := module(root, policy, "container")
	if at == "" || !labelsPodman(filepath.Join(root, contexts)) {
		return false, "neither the policy module " + Module + " nor container-selinux is installed in the policy " + policy
	}
	return true, "container-selinux is installed (" + at + ")"
}

// module finds an enabled module in the policy store, whatever its priority. The store is under /var/lib/selinux, and
// under /etc/selinux in RHEL 7.
func module(root, policy, name string) string {
	for _, store := range []string{"/var/lib/selinux", "/etc/selinux"} {
		modules := filepath.Join(store, policy, "active/modules")
		if _, err := os.Lstat(filepath.Join(root, modules, "disabled", name)); err == nil {
			continue
		}
		found, err := filepath.Glob(filepath.Join(root, modules, "[0-9]*", name))
		if err != nil || len(found) == 0 {
			continue
		}
		priority := filepath.Base(filepath.Dir(slices.Max(found)))
		return filepath.Join(modules, priority, name)
	}
	return ""
}

// labelsPodman tells container-selinux from the module of the same name in the reference policy, which gives podman
// another type and has no place for a privileged kubelet.
func labelsPodman(contexts string) bool {
	f, err := os.Open(contexts)
	if err != nil {
		return false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if l := lines.Text(); strings.Contains(l, "podman") && strings.Contains(l, ":container_runtime_exec_t:") {
			return true
		}
	}
	return false
}
