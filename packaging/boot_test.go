package packaging

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tectonic-worker/tectonic-worker/installer/credentials"
)

// TestOnABootedHost installs, upgrades and erases the package on a host with a running systemd, and
// uses the units on the way. A stand-in takes the program's place; it is the units and the scriptlets
// that are tested.
func TestOnABootedHost(t *testing.T) {
	h, dir := newHost(t), t.TempDir()
	need(t, "systemd-nspawn", "go")
	o := repository(t)
	o.Drain = filepath.Join(filepath.Dir(o.Binary), "tectonic-worker-drain")
	o.Binary = filepath.Join(dir, "tectonic-worker")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", o.Binary, "./testdata/standin")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the stand-in: %v\n%s", err, out)
	}
	for version, sub := range map[string]string{"v1.2.3": "old", "v1.3.0": "new"} {
		o.Version = version
		p, err := Build(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
		encodeTo(t, filepath.Join(dir, sub), p)
	}
	said, rest := h.boot(dir, "testdata/drive.sh")
	want := `after install: inactive inactive disabled disabled
without a kubeconfig: inactive failed=inactive
enabled: kubelet.path kubelet.service 
kubelet-kubeconfig.service inactive
after an empty kubeconfig: inactive active Result=success
kubelet.service active
the upgrade left the kubelet alone: active
1.3.0
a restart restarts: active helpers before=1 after=2
kubelet.service failed
after exit 78: ExecMainStatus=78 NRestarts=0 
kubelet.service active
wait-for-dns: Result=success ExecMainStatus=0 
after erase: inactive inactive links= LoadState=not-found
kubeconfig: good
called: kubelet cleanup
called: kubelet run
called: leave --local --timeout 50s
`
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(said, "\n")); diff != "" {
		t.Errorf("(-want +got):\n%s\n%s", diff, rest)
	}
}

// boot boots the host with dir at /lab, and runs a script there at the end of the boot. It gives what the script
// printed, and what else was said.
func (h *host) boot(dir, script string) (said, rest string) {
	t := h.t
	t.Helper()
	need(t, "systemd-nspawn")
	write(t, filepath.Join(dir, "drive.sh"), content(t, script))
	write(t, filepath.Join(dir, "units/drive.service"), "[Unit]\nAfter=multi-user.target\nSuccessAction=exit-force\nFailureAction=exit-force\n"+
		"[Service]\nType=oneshot\nExecStart=/bin/sh /lab/drive.sh\nStandardOutput=truncate:/lab/said\nStandardError=truncate:/lab/errors\nTimeoutStartSec=90\n")
	// The whole of a boot, with the drive after it.
	write(t, filepath.Join(dir, "units/drive.target"), "[Unit]\nRequires=multi-user.target drive.service\n")

	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "systemd-nspawn", "--directory="+h.root, fmt.Sprintf("--machine=package-%d", os.Getpid()), "--boot", "--register=no", "--keep-unit",
		"--quiet", "--private-network", "--capability=all", "--console=pipe", "--bind="+dir+":/lab",
		"--bind-ro="+dir+"/units/drive.service:/etc/systemd/system/drive.service",
		"--bind-ro="+dir+"/units/drive.target:/etc/systemd/system/drive.target", "--", "--unit=drive.target")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	console, err := cmd.CombinedOutput()
	text, readErr := os.ReadFile(filepath.Join(dir, "said"))
	if readErr != nil {
		t.Fatalf("the host did not come up: %v\n%s", err, console)
	}
	errors, _ := os.ReadFile(filepath.Join(dir, "errors"))
	return string(text), fmt.Sprintf("errors:\n%s\nconsole:\n%s", errors, console)
}

// TestInstallerOnABootedHost is the same for the installer, with the real programs, beside a matchbox.service that is
// there already.
func TestInstallerOnABootedHost(t *testing.T) {
	h, dir := newHost(t), t.TempDir()
	need(t, "systemd-nspawn", "go")
	o := installerRepository(t)
	for out, program := range map[string]string{o.Binary: "tectonic-installer", filepath.Join(o.Programs, "linux-amd64/tectonic-machine"): "tectonic-machine"} {
		if err := os.Remove(out); err != nil {
			t.Fatal(err)
		}
		build := exec.CommandContext(t.Context(), "go", "build", "-o", out, "../cmd/"+program)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("cannot build %s: %v\n%s", program, err, out)
		}
	}
	// The manual page knows every command that the program has.
	for _, line := range strings.Split(run(t, o.Binary, "__complete", ""), "\n") {
		name, _, ok := strings.Cut(line, "\t")
		if ok && name != "help" && !strings.Contains(string(installerPage), name) {
			t.Errorf("the manual page does not have the command %s", name)
		}
	}
	o.Quick = true
	for version, sub := range map[string]string{"v1.2.3": "old", "v1.3.0": "new"} {
		o.Version = version
		p, err := Build(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
		encodeTo(t, filepath.Join(dir, sub), p)
	}
	if _, err := credentials.Create(filepath.Join(dir, "certs"), credentials.Options{Cluster: "lab", Names: []string{"matchbox.example.com", "127.0.0.1"}, Validity: 90 * 24 * time.Hour}); err != nil {
		t.Fatal(err)
	}
	h.withNetboot(filepath.Join(dir, "cluster"))
	if _, err := credentials.Create(filepath.Join(dir, "cluster/tls"), credentials.Options{Cluster: "lab", Names: []string{"matchbox.example.com"}, Validity: 90 * 24 * time.Hour}); err != nil {
		t.Fatal(err)
	}
	said, rest := h.boot(dir, "testdata/drive-installer.sh")
	want := `after install: inactive inactive disabled disabled
matchbox.service active enabled
without credentials: ExecMainStatus=78 NRestarts=0 
with them: active as matchbox, /var/lib/matchbox/machines 700 matchbox
GET /: HTTP/1.1 200 OK
GET /ipxe of an unknown machine: HTTP/1.1 200 OK
GET /assets/tectonic-machine/x86_64/tectonic-machine: HTTP/1.1 200 OK
listens on 8080 8081 8443
cannot write beside its data: Read-only file system
without a cluster file: ConditionResult=no inactive
with one: active, dnsmasq as nobody, serves DHCP TFTP DNS, boot files undionly.kpxe
after the upgrade: active, another process, discovered 1
after erase: inactive LoadState=not-found, matchbox.service active, user matchbox, data kept
`
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(said, "\n")); diff != "" {
		t.Errorf("(-want +got):\n%s\n%s", diff, rest)
	}
}

// withNetboot puts this machine's dnsmasq and its boot files onto the host, and a cluster file into dir.
func (h *host) withNetboot(dir string) {
	t := h.t
	t.Helper()
	need(t, "dnsmasq", "ip", "ldd")
	const firmware = "/usr/lib/ipxe/undionly.kpxe"
	if _, err := os.Stat(firmware); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	files := []string{firmware}
	for _, program := range []string{"dnsmasq", "ip"} {
		file, err := exec.LookPath(program)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
		for _, word := range strings.Fields(run(t, "ldd", file)) {
			if strings.HasPrefix(word, "/") {
				files = append(files, word)
			}
		}
	}
	for _, file := range files {
		// /lib is a link to usr/lib here and there.
		dir, err := filepath.EvalSymlinks(filepath.Dir(file))
		if err != nil {
			t.Fatal(err)
		}
		to := h.path(filepath.Join(dir, filepath.Base(file)))
		if _, err := os.Stat(to); err == nil {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		run(t, "cp", "--dereference", "--preserve=mode", file, to)
	}
	var machines strings.Builder
	for i := 1; i <= 3; i++ {
		role := "worker"
		if i == 1 {
			role = "controller"
		}
		fmt.Fprintf(&machines, "  - {name: node%[1]d, macs: [\"52:54:00:a1:9c:0%[1]d\"], dnsName: node%[1]d.example.com, address: 10.77.0.2%[1]d, role: %[2]s, power: {driver: manual}}\n", i, role)
	}
	write(t, filepath.Join(dir, "cluster.yaml"), `apiVersion: installer.tectonic/v1alpha1
kind: Cluster
name: lab
dns: {controller: k8s.example.com, ingress: tectonic.example.com}
podCIDRs: [10.2.0.0/16]
serviceCIDRs: [10.3.0.0/16]
sshKeys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f operator]
matchbox:
  http: http://matchbox.example.com:8080
  rpc: matchbox.example.com:8081
  machines: matchbox.example.com:8443
  tls: {ca: tls/ca.crt, certificate: tls/client.crt, key: tls/client.key}
network:
  dhcp: full
  interface: metal0
  subnet: 10.77.0.0/24
  range: {start: 10.77.0.100, end: 10.77.0.150}
  gateway: 10.77.0.1
  dns: true
os: {name: flatcar, channel: stable, version: 3510.2.0}
machines:
`+machines.String())
}
