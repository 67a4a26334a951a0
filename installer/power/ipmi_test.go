package power

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

func TestSwitch(t *testing.T) {
	t.Parallel()
	sw := &lab.Switch{}
	m := open(t, quick(startBMC(t, sw).Address.String()))
	ctx := within(t, 30*time.Second)
	status := func(want State) {
		t.Helper()
		if got, err := m.Status(ctx); err != nil || got != want {
			t.Fatalf("power is %s, %v; want %s", got, err, want)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	status(Off)
	must(m.Off(ctx, 0)) // off already: nothing is done
	must(m.On(ctx))
	status(On)
	must(m.On(ctx))
	must(m.Cycle(ctx, 0))
	status(On)
	must(m.Off(ctx, time.Second))
	status(Off)
	for _, b := range []Boot{{Device: PXE}, {PXE, true}, {Device: Default}} {
		back, err := m.SetBoot(ctx, b)
		if err != nil || back.Device != b.Device {
			t.Errorf("asked for %s, read back %s, %v", b, back, err)
		}
	}
	want := []string{"power true", "power false", "power true", "shutdown", "power false", "boot pxe", "boot pxe", "boot none"}
	if diff := cmp.Diff(want, sw.Calls()); diff != "" {
		t.Errorf("what the machine was told (-want +got):\n%s", diff)
	}
}
