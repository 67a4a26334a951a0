package firewall

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tectonic-worker/tectonic-worker/firewall/firewalldtest"
)

var (
	kubelet = Port{"10250", "tcp"}
	vxlan   = Port{"4789", "udp"}
)

// connect gives a client of a bus and a context that ends well before the test does.
func connect(t *testing.T, bus *firewalldtest.Bus) (context.Context, *Client) {
	t.Helper()
	ctx, done := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(done)
	c, err := Dial(ctx, bus.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return ctx, c
}

// listed gives the entries of a layer as firewall-cmd sees them, in order.
func listed(f *firewalldtest.Firewalld, layer Layer, zone string) []string {
	args := []string{"--zone=" + zone, "--list-ports"}
	if layer == Permanent {
		args = append(args, "--permanent")
	}
	ports := strings.Fields(f.Cmd(args...))
	slices.Sort(ports)
	return ports
}

func want(t *testing.T, f *firewalldtest.Firewalld, layer Layer, zone string, ports ...string) {
	t.Helper()
	slices.Sort(ports)
	if diff := cmp.Diff(ports, listed(f, layer, zone), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s ports of zone %s (-want +got):\n%s", layer, zone, diff)
	}
}

func open(t *testing.T, ctx context.Context, c *Client, layer Layer, zone string, p Port) Change {
	t.Helper()
	done, err := c.Open(ctx, layer, zone, p)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func shut(t *testing.T, ctx context.Context, c *Client, layer Layer, zone string, p Port) Change {
	t.Helper()
	done, err := c.Shut(ctx, layer, zone, p)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// A port opened in one layer appears in that layer alone, at runtime also in the kernel's filter, and Shut takes back
// exactly that.
func TestOpenAndShut(t *testing.T) {
	t.Parallel()
	f := firewalldtest.Start(t, nil)
	ctx, c := connect(t, f.Bus)
	before := f.Ruleset()
	for _, p := range []struct {
		port Port
		rule string
	}{
		{kubelet, "tcp dport 10250 accept"},
		{vxlan, "udp dport 4789 accept"},
		{Port{"30000-32767", "tcp"}, "tcp dport 30000-32767 accept"},
		{Port{"38412", "sctp"}, "sctp dport 38412 accept"},
	} {
		for _, layer := range Layers() {
			got := open(t, ctx, c, layer, "public", p.port)
			if diff := cmp.Diff(Change{Zone: "public", Ports: []Port{p.port}}, got); diff != "" {
				t.Errorf("Open %s %s (-want +got):\n%s", layer, p.port, diff)
			}
			want(t, f, layer, "public", p.port.String())
			if opened := strings.Contains(f.Ruleset(), p.rule); opened != (layer == Runtime) {
				t.Errorf("%s: rule %q in the kernel: %t", layer, p.rule, opened)
			}
			for _, other := range Layers() {
				is, err := c.Query(ctx, other, "public", p.port)
				if err != nil || is != (other == layer) {
					t.Errorf("after opening %s %s: Query(%s) = %t, %v", layer, p.port, other, is, err)
				}
			}
			got = shut(t, ctx, c, layer, "public", p.port)
			if diff := cmp.Diff(Change{Zone: "public", Ports: []Port{p.port}}, got); diff != "" {
				t.Errorf("Shut %s %s (-want +got):\n%s", layer, p.port, diff)
			}
			want(t, f, layer, "public")
		}
	}
	if diff := cmp.Diff(before, f.Ruleset()); diff != "" {
		t.Errorf("the packet filter is not as it was (-before +after):\n%s", diff)
	}
}

// The second time nothing changes, and firewalld has no cause to warn about it in its log.
func TestTwice(t *testing.T) {
	t.Parallel()
	f := firewalldtest.Start(t, nil)
	ctx, c := connect(t, f.Bus)
	for _, layer := range Layers() {
		open(t, ctx, c, layer, "", vxlan)
		if got := open(t, ctx, c, layer, "", vxlan); got.Changed() || got.Zone != "public" {
			t.Errorf("second Open %s: %+v", layer, got)
		}
		shut(t, ctx, c, layer, "", vxlan)
		if got := shut(t, ctx, c, layer, "", vxlan); got.Changed() {
			t.Errorf("second Shut %s: %+v", layer, got)
		}
	}
	if log := f.Log(); strings.Contains(log, "ALREADY_ENABLED") || strings.Contains(log, "NOT_ENABLED") {
		t.Errorf("firewalld warned:\n%s", log)
	}
	f.Cmd("--add-port=4789/udp")
	f.Cmd("--add-port=4789/udp")
	if log := f.Log(); !strings.Contains(log, "ALREADY_ENABLED") {
		t.Errorf("this firewalld does not log what the test looks for:\n%s", log)
	}
}

// Add changes what Open would, and leaves what somebody else opened to them.
func TestAdd(t *testing.T) {
	t.Parallel()
	f := firewalldtest.Start(t, nil)
	ctx, c := connect(t, f.Bus)
	f.Cmd("--add-port=4789/udp")
	for _, tt := range []struct {
		port Port
		want []Port
	}{
		{kubelet, []Port{kubelet}},
		{vxlan, nil},
		{Port{"30000-30002", "tcp"}, []Port{{"30000-30002", "tcp"}}},
	} {
		got, err := c.Add(ctx, Runtime, "public", tt.port)
		if diff := cmp.Diff(Change{Zone: "public", Ports: tt.want}, got); err != nil || diff != "" {
			t.Errorf("Add %s: %v (-want +got):\n%s", tt.port, err, diff)
		}
		if open, err := c.Query(ctx, Runtime, "public", tt.port); err != nil || !open {
			t.Errorf("after Add %s: Query = %t, %v", tt.port, open, err)
		}
	}
}

// What an administrator opened is not ours, whether as the same port or inside a range.
func TestAlreadyOpen(t *testing.T) {
	t.Parallel()
	for _, entry := range []string{"10250/tcp", "10000-20000/tcp"} {
		t.Run(strings.ReplaceAll(entry, "/", " "), func(t *testing.T) {
			t.Parallel()
			f := firewalldtest.Start(t, nil)
			ctx, c := connect(t, f.Bus)
			f.Cmd("--add-port=" + entry)
			f.Cmd("--permanent", "--add-port="+entry)
			before := f.Ruleset()
			for _, layer := range Layers() {
				if got := open(t, ctx, c, layer, "public", kubelet); got.Changed() {
					t.Errorf("Open %s claims %v", layer, got.Ports)
				}
				want(t, f, layer, "public", entry)
			}
			if diff := cmp.Diff(before, f.Ruleset()); diff != "" {
				t.Errorf("the packet filter changed:\n%s", diff)
			}
		})
	}
}

// An administrator who opens a wider range after us swallows our entry. firewalld would cut a hole into that range if
// we took ours out of it.
func TestShutLeavesRangeWhole(t *testing.T) {
	t.Parallel()
	f := firewalldtest.Start(t, nil)
	ctx, c := connect(t, f.Bus)
	for _, layer := range Layers() {
		open(t, ctx, c, layer, "public", kubelet)
	}
	f.Cmd("--add-port=10000-20000/tcp")
	f.Cmd("--permanent", "--add-port=10000-20000/tcp")
	for _, layer := range Layers() {
		want(t, f, layer, "public", "10000-20000/tcp") // else this firewalld does not do what the test is about
		got := shut(t, ctx, c, layer, "public", kubelet)
		if diff := cmp.Diff(Change{Zone: "public", Inside: Port{"10000-20000", "tcp"}}, got); diff != "" {
			t.Errorf("Shut %s (-want +got):\n%s", layer, diff)
		}
		want(t, f, layer, "public", "10000-20000/tcp")
	}
}

// A range that meets an administrator's ranges is opened beside them, and taking it back leaves them as they were.
func TestRangeBesideRanges(t *testing.T) {
	t.Parallel()
	f := firewalldtest.Start(t, nil)
	ctx, c := connect(t, f.Bus)
	nodePorts := Port{"30000-32767", "tcp"}
	theirs := []string{"30000-30010/tcp", "31000/tcp", "31500/udp", "32000-33000/tcp"}
	for _, p := range theirs {
		f.Cmd("--add-port=" + p)
		f.Cmd("--permanent", "--add-port="+p)
	}
	before := f.Ruleset()
	for _, layer := range Layers() {
		got := open(t, ctx, c, layer, "public", nodePorts)
		ours := []Port{{"30011-30999", "tcp"}, {"31001-31999", "tcp"}}
		if diff := cmp.Diff(Change{Zone: "public", Ports: ours}, got); diff != "" {
			t.Fatalf("Open %s (-want +got):\n%s", layer, diff)
		}
		if is, err := c.Query(ctx, layer, "public", nodePorts); !is || err != nil {
			t.Errorf("Query %s = %t, %v", layer, is, err)
		}
		if again := open(t, ctx, c, layer, "public", nodePorts); again.Changed() {
			t.Errorf("second Open %s: %+v", layer, again)
		}
		for _, p := range ours {
			shut(t, ctx, c, layer, "public", p)
		}
		want(t, f, layer, "public", theirs...)
	}
	if got, now := sorted(before), sorted(f.Ruleset()); !cmp.Equal(got, now) {
		t.Errorf("the packet filter is not as it was (-before +after):\n%s", cmp.Diff(got, now))
	}
}

// sorted gives the lines of a rule set in order: rules for single ports change places when they are added again.
func sorted(ruleset string) []string {
	lines := strings.Split(ruleset, "\n")
	slices.Sort(lines)
	return lines
}

// A range of ours from which somebody removed a port is in two parts; Shut removes both.
func TestShutRangeInParts(t *testing.T) {
	t.Parallel()
	f := firewalldtest.Start(t, nil)
	ctx, c := connect(t, f.Bus)
	nodePorts := Port{"30000-32767", "tcp"}
	open(t, ctx, c, Runtime, "public", nodePorts)
	f.Cmd("--remove-port=31000/tcp")
	if is, err := c.Query(ctx, Runtime, "public", nodePorts); is || err != nil {
		t.Errorf("Query of a range with a hole = %t, %v", is, err)
	}
	got := shut(t, ctx, c, Runtime, "public", nodePorts)
	if len(got.Ports) != 2 {
		t.Errorf("Shut = %+v, want two parts", got)
	}
	want(t, f, Runtime, "public")
}

// What is permanent is there after a reload and after a restart; what is runtime only is not. The client goes on working
// on the connection it had.
func TestReloadAndRestart(t *testing.T) {
	t.Parallel()
	f := firewalldtest.Start(t, nil)
	ctx, c := connect(t, f.Bus)
	open(t, ctx, c, Permanent, "public", kubelet)
	open(t, ctx, c, Runtime, "public", vxlan)
	f.Cmd("--reload")
	want(t, f, Runtime, "public", "10250/tcp")
	open(t, ctx, c, Runtime, "public", vxlan)
	f.Restart()
	want(t, f, Runtime, "public", "10250/tcp")
	if !strings.Contains(f.Ruleset(), "tcp dport 10250 accept") {
		t.Error("the permanent port is not in the kernel after a restart")
	}
	if got := open(t, ctx, c, Runtime, "public", kubelet); got.Changed() {
		t.Errorf("Open after the restart: %+v", got)
	}
}

// Of two who open the same port at the same moment, one is told that it is theirs.
func TestRace(t *testing.T) {
	t.Parallel()
	f := firewalldtest.Start(t, nil)
	ctx, _ := connect(t, f.Bus)
	for _, layer := range Layers() {
		var added, failed []error
		var mu sync.Mutex
		var all sync.WaitGroup
		for range 8 {
			_, c := connect(t, f.Bus)
			all.Go(func() {
				got, err := c.Open(ctx, layer, "public", kubelet)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					failed = append(failed, err)
				}
				if got.Changed() {
					added = append(added, nil)
				}
			})
		}
		all.Wait()
		if len(added) != 1 || len(failed) != 0 {
			t.Errorf("%s: %d of 8 opened the port, errors %v", layer, len(added), errors.Join(failed...))
		}
	}
}
