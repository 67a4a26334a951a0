package lab

import (
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// An independent client, ipmitool, finds in ipmi_sim what it finds in a machine's BMC.
func TestBMC(t *testing.T) {
	for _, tool := range []string{"ipmi_sim", "ipmitool"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	sw := &Switch{}
	b, err := StartBMC(t.Context(), BMCOptions{Address: netip.MustParseAddrPort("127.0.0.1:0"), Chassis: sw,
		Users: []BMCUser{{Name: "ADMIN", Password: "correct-horse"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(b.dir); err == nil {
			t.Errorf("%s is still there", b.dir)
		}
	})
	tool := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "ipmitool", append([]string{"-I", "lanplus", "-C", "3", "-N", "1", "-R", "2",
			"-H", b.Host(), "-p", b.Port(), "-U", "ADMIN", "-E"}, args...)...)
		cmd.Env = append(os.Environ(), "IPMITOOL_PASSWORD=correct-horse")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, tt := range []struct{ command, want string }{
		{"chassis power status", "Chassis Power is off"},
		{"chassis bootdev pxe", "Set Boot Device to pxe"},
		{"chassis bootparam get 5", "Boot Device Selector : Force PXE"},
		{"chassis power on", "Up/On"},
		{"chassis power status", "Chassis Power is on"},
		{"chassis power reset", "Reset"},
		{"chassis power soft", "Soft"},
		{"chassis power status", "Chassis Power is off"},
	} {
		if out, err := tool(strings.Fields(tt.command)...); err != nil || !strings.Contains(out, tt.want) {
			t.Fatalf("%s: %v, want %q in:\n%s", tt.command, err, tt.want, out)
		}
	}
	if diff := cmp.Diff([]string{"boot pxe", "power true", "reset", "shutdown", "power false"}, sw.Calls()); diff != "" {
		t.Errorf("what the machine was told (-want +got):\n%s", diff)
	}

	if err := b.Hang(); err != nil {
		t.Fatal(err)
	}
	if out, err := tool("chassis", "power", "status"); err == nil {
		t.Errorf("a BMC that hangs answers: %s", out)
	}
	if err := b.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := b.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, err := tool("chassis", "power", "status"); err != nil || !strings.Contains(out, "is off") {
		t.Errorf("after a restart: %v\n%s", err, out)
	}
	if n := len(sw.Calls()); n != 5 {
		t.Errorf("a restart of the BMC switched the machine: %q", sw.Calls()[5:])
	}
}
