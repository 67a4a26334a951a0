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
	write(t, filepath.Join(dir, "drive.sh"), content(t, "testdata/drive.sh"))
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
	said, readErr := os.ReadFile(filepath.Join(dir, "said"))
	if readErr != nil {
		t.Fatalf("the host did not come up: %v\n%s", err, console)
	}
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
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(string(said), "\n")); diff != "" {
		errors, _ := os.ReadFile(filepath.Join(dir, "errors"))
		t.Errorf("(-want +got):\n%s\nerrors:\n%s\nconsole:\n%s", diff, errors, console)
	}
}
