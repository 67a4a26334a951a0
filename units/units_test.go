package units

import (
	"bufio"
	"bytes"
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// directive is one line of a unit.
type directive struct{ section, name, value string }

func read(t *testing.T, name string) []directive {
	t.Helper()
	data, err := Files.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var out []directive
	section := ""
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		line := lines.Text()
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			section = strings.Trim(line, "[]")
		default:
			k, v, ok := strings.Cut(line, "=")
			if !ok {
				t.Errorf("%s: %q is no directive", name, line)
			}
			out = append(out, directive{section, k, v})
		}
	}
	return out
}

func values(ds []directive, section, name string) []string {
	var out []string
	for _, d := range ds {
		if d.section == section && d.name == name {
			out = append(out, d.value)
		}
	}
	return out
}

func TestNamesAreTheFiles(t *testing.T) {
	entries, err := fs.ReadDir(Files, ".")
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, e := range entries {
		files = append(files, e.Name())
	}
	names := append(Names(), InstallerNames()...)
	slices.Sort(names)
	if diff := cmp.Diff(names, files); diff != "" {
		t.Errorf("Names() and the embedded files differ (-names +files):\n%s", diff)
	}
}

// since is the release of systemd that introduced a directive, from its manual pages' history sections
// and its NEWS. 219 stands for "219 or before".
var since = map[string]int{
	"Unit.Description": 219, "Unit.Documentation": 219, "Unit.Wants": 219, "Unit.After": 219,
	"Unit.ConditionPathExists": 219, "Install.WantedBy": 219,
	"Path.PathChanged": 219, "Path.Unit": 219,
	"Service.Type": 219, "Service.NotifyAccess": 219, "Service.EnvironmentFile": 219,
	"Service.ExecStart": 219, "Service.ExecStopPost": 219, "Service.Restart": 219, "Service.RestartSec": 219,
	"Service.RestartPreventExitStatus": 219, "Service.TimeoutStartSec": 219, "Service.KillMode": 219,
	"Service.Delegate": 219, "Service.CPUAccounting": 219, "Service.MemoryAccounting": 219,
	"Service.WatchdogSec": 219, "Service.TimeoutStopSec": 219, "Service.OOMScoreAdjust": 219, "Service.DevicePolicy": 219,
	"Service.ReadWriteDirectories": 219, "Service.PrivateNetwork": 219, "Service.SystemCallFilter": 219, "Service.SystemCallErrorNumber": 219,
	"Service.MemoryMax": 231, "Service.KeyringMode": 235, "Service.PrivateMounts": 239,
	"Service.User": 219, "Service.Group": 219, "Service.LimitNOFILE": 219, "Service.LimitCORE": 219, "Service.UMask": 219,
	"Service.NoNewPrivileges": 219, "Service.CapabilityBoundingSet": 219, "Service.PrivateTmp": 219,
	"Service.PrivateDevices": 219, "Service.ProtectHome": 219, "Service.ProtectSystem": 219,
	"Service.RestrictAddressFamilies": 219, "Service.SystemCallArchitectures": 219,
	"Service.TasksMax": 227, "Service.RestrictRealtime": 231, "Service.MemoryDenyWriteExecute": 231,
	"Service.ProtectKernelTunables": 232, "Service.ProtectKernelModules": 232, "Service.ProtectControlGroups": 232,
	"Service.RestrictNamespaces": 233, "Service.LockPersonality": 235, "Service.ProtectHostname": 242,
	"Service.RestrictSUIDSGID": 242, "Service.ProtectKernelLogs": 244, "Service.ProtectClock": 245,
	"Service.ProtectProc": 247,
}

// missable are the newer directives without which a unit still does its work: they take something away
// from the process, or lift a limit that 219 does not have.
var missable = []string{
	"Service.MemoryMax", "Service.KeyringMode", "Service.PrivateMounts",
	"Service.TasksMax", "Service.RestrictRealtime", "Service.MemoryDenyWriteExecute",
	"Service.ProtectKernelTunables", "Service.ProtectKernelModules", "Service.ProtectControlGroups",
	"Service.RestrictNamespaces", "Service.LockPersonality", "Service.ProtectHostname",
	"Service.RestrictSUIDSGID", "Service.ProtectKernelLogs", "Service.ProtectClock", "Service.ProtectProc",
}

// valuesOf219 are the values that 219 takes, where a later release added some.
var valuesOf219 = map[string][]string{
	"Service.Type":          {"simple", "forking", "oneshot", "dbus", "notify", "idle"},
	"Service.NotifyAccess":  {"none", "main", "all"},
	"Service.KillMode":      {"control-group", "process", "mixed", "none"},
	"Service.Delegate":      {"yes", "no"}, // a list of controllers since 236
	"Service.ProtectSystem": {"yes", "no", "full"},
	"Service.ProtectHome":   {"yes", "no", "read-only"},
}

func TestDirectivesSuit219(t *testing.T) {
	const oldest, newest = 219, 252
	for _, name := range append(Names(), InstallerNames()...) {
		for _, d := range read(t, name) {
			key := d.section + "." + d.name
			introduced, known := since[key]
			switch {
			case !known:
				t.Errorf("%s: %s is not in the table of releases", name, key)
			case introduced > newest:
				t.Errorf("%s: %s came with systemd %d only", name, key, introduced)
			case introduced > oldest && !slices.Contains(missable, key):
				t.Errorf("%s: %s came with systemd %d, and the unit does not work without it", name, key, introduced)
			}
			if allowed := valuesOf219[key]; allowed != nil && !slices.Contains(allowed, d.value) {
				// An unknown value of a known directive is ignored, so an earlier line stays in force.
				all := values(read(t, name), d.section, d.name)
				if i := slices.Index(all, d.value); i == 0 || !slices.Contains(allowed, all[i-1]) {
					t.Errorf("%s: %s=%s has no value before it that systemd 219 takes", name, key, d.value)
				}
			}
		}
	}
}

const forbidden = "~@clock @cpu-emulation @debug @module @mount @obsolete @raw-io @reboot @swap @resources @privileged"

func TestWhatTheUnitsPromise(t *testing.T) {
	for _, c := range []struct {
		unit, section, name string
		want                []string
	}{
		{Kubelet, "Service", "Type", []string{"notify"}},
		{Kubelet, "Service", "EnvironmentFile", []string{"-/etc/sysconfig/tectonic-worker", "-/etc/kubernetes/kubelet.env"}},
		{Kubelet, "Service", "ExecStart", []string{"/usr/bin/tectonic-worker kubelet run"}},
		{Kubelet, "Service", "ExecStopPost", []string{"-/usr/bin/tectonic-worker kubelet cleanup"}},
		{Kubelet, "Service", "Restart", []string{"always"}},
		{Kubelet, "Service", "RestartPreventExitStatus", []string{"78"}},
		{Kubelet, "Service", "KillMode", []string{"process"}},
		{Kubelet, "Unit", "ConditionPathExists", []string{"/etc/kubernetes/kubeconfig"}},
		{KubeletPath, "Path", "PathChanged", []string{"/etc/kubernetes/kubeconfig"}},
		{KubeletPath, "Path", "Unit", []string{Kubeconfig}},
		{Kubeconfig, "Service", "Type", []string{"oneshot"}},
		{Kubeconfig, "Service", "ExecStart", []string{"/usr/bin/tectonic-worker kubelet admit"}},
		{Agent, "Service", "Type", []string{"notify"}},
		{Agent, "Service", "ExecStart", []string{"/usr/bin/tectonic-worker agent"}},
		{Agent, "Service", "Restart", []string{"always"}},
		{Agent, "Service", "RestartPreventExitStatus", []string{"78"}},
		// Of a list of what is allowed, systemd 219 would leave nothing.
		{Agent, "Service", "SystemCallFilter", []string{forbidden}},
		{SELinux, "Service", "SystemCallFilter", []string{forbidden}},
		// It would make selinuxfs read-only.
		{SELinux, "Service", "ProtectKernelTunables", nil},
		{SELinux, "Service", "ExecStart", []string{"/usr/bin/tectonic-worker selinux-mode %i"}},
		{Installer, "Service", "Type", []string{"notify"}},
		{Installer, "Service", "User", []string{"matchbox"}},
		{Installer, "Service", "Group", []string{"matchbox"}},
		{Installer, "Service", "ExecStart", []string{"/usr/bin/tectonic-installer serve"}},
		{Installer, "Service", "RestartPreventExitStatus", []string{"2 78"}},
		{Installer, "Service", "CapabilityBoundingSet", []string{""}},
		{Installer, "Service", "SystemCallFilter", []string{forbidden}},
		// A matchbox that is there may run beside it, with other ports or for another address.
		{Installer, "Unit", "Conflicts", nil},
		{Netboot, "Unit", "ConditionPathExists", []string{"/etc/tectonic-installer/cluster.yaml"}},
		{WaitForDNS, "Service", "Type", []string{"oneshot"}},
		{WaitForDNS, "Service", "ExecStart", []string{"/usr/bin/tectonic-worker wait-for-dns"}},
	} {
		if diff := cmp.Diff(c.want, values(read(t, c.unit), c.section, c.name)); diff != "" {
			t.Errorf("%s: %s= (-want +got):\n%s", c.unit, c.name, diff)
		}
	}
	// The kubelet's mounts must reach the host: any of these gives the unit mounts of its own.
	for _, d := range read(t, Kubelet) {
		if strings.HasPrefix(d.name, "Protect") || strings.HasPrefix(d.name, "Private") ||
			slices.Contains([]string{"MountFlags", "NoNewPrivileges", "ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "CapabilityBoundingSet"}, d.name) {
			t.Errorf("%s: %s= confines the kubelet", Kubelet, d.name)
		}
	}
	// Every wait has an end.
	for _, name := range []string{Kubelet, Kubeconfig, WaitForDNS, Agent, SELinux, Installer, Netboot} {
		if len(values(read(t, name), "Service", "TimeoutStartSec")) != 1 {
			t.Errorf("%s: no TimeoutStartSec=", name)
		}
	}
}

// verifyRoot is a root directory with the host's units, ours and a stand-in for the binary.
func verifyRoot(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("systemd-analyze is missing")
		}
		t.Skip("systemd-analyze is missing")
	}
	root := t.TempDir()
	dir := filepath.Join(root, Dir)
	for _, d := range []string{filepath.Dir(dir), filepath.Join(root, "usr/bin"), filepath.Join(root, "etc")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	host := Dir
	if _, err := os.Stat(host); err != nil {
		host = "/lib/systemd/system"
	}
	if out, err := exec.Command("cp", "-a", host, filepath.Dir(dir)).CombinedOutput(); err != nil {
		t.Fatalf("cannot copy the host's units: %v\n%s", err, out)
	}
	for _, program := range []string{"tectonic-worker", "tectonic-installer"} {
		if err := os.WriteFile(filepath.Join(root, "usr/bin", program), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\nmatchbox:x:990:990::/var/lib/matchbox:/sbin/nologin\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range append(Names(), InstallerNames()...) {
		data, err := Files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func verify(t *testing.T, root, name string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "systemd-analyze", "--root="+root, "--man=no", "--recursive-errors=no",
		"verify", filepath.Join(root, Dir, name)).CombinedOutput()
	return string(out), err
}

func TestSystemdAnalyzeVerify(t *testing.T) {
	root := verifyRoot(t)
	for _, name := range append(Names(), InstallerNames()...) {
		if out, err := verify(t, root, name); err != nil || out != "" {
			t.Errorf("systemd-analyze verify %s: %v\n%s", name, err, out)
		}
	}
	// A verification that could not fail would prove nothing.
	file := filepath.Join(root, Dir, WaitForDNS)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, bytes.Replace(data, []byte("UMask=0077"), []byte("UMask=rw"), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := verify(t, root, WaitForDNS); err == nil && out == "" {
		t.Error("systemd-analyze verify found nothing wrong with UMask=rw")
	}
}

// TestExposure holds the sandboxes to what they were measured at with systemd 252, in tenths.
func TestExposure(t *testing.T) {
	root := verifyRoot(t)
	for name, most := range map[string]string{Kubeconfig: "55", WaitForDNS: "37", Agent: "25", SELinux: "15", Installer: "15", Netboot: "40"} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		out, err := exec.CommandContext(ctx, "systemd-analyze", "--root="+root, "security", "--offline=yes", "--no-pager",
			"--threshold="+most, filepath.Join(root, Dir, name)).CombinedOutput()
		cancel()
		if err != nil {
			t.Errorf("systemd-analyze security --threshold=%s %s: %v\n%s", most, name, err, out)
		}
	}
}
