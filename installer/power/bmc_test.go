package power

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

const (
	user     = "ADMIN"
	password = "s3cret-of-the-bmc"
)

// startBMC gives a real BMC on the loopback interface.
func startBMC(t *testing.T, chassis lab.Chassis, users ...lab.BMCUser) *lab.BMC {
	t.Helper()
	if _, err := exec.LookPath("ipmi_sim"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v; install openipmi", err)
		}
		t.Skipf("%v; install openipmi", err)
	}
	if users == nil {
		users = []lab.BMCUser{{Name: user, Password: password}}
	}
	b, err := lab.StartBMC(t.Context(), lab.BMCOptions{Address: netip.MustParseAddrPort("127.0.0.1:0"), Chassis: chassis, Users: users})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// quick is a BMC's options with times that fit a loopback interface on a busy machine.
func quick(address string) IPMI {
	return IPMI{Address: address, Credentials: Credentials{user, password},
		Answer: 2 * time.Second, Settle: 300 * time.Millisecond, Poll: 20 * time.Millisecond, Command: 20 * time.Second}
}

// impatient is for a BMC that does not answer.
func impatient(address string) IPMI {
	o := quick(address)
	o.Answer, o.Command = 150*time.Millisecond, 10*time.Second
	return o
}

func open(t *testing.T, o IPMI) Machine {
	t.Helper()
	m, err := OpenIPMI(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
