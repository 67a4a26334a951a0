package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tectonic-worker/tectonic-worker/agent/host"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
	"github.com/tectonic-worker/tectonic-worker/agent/selinux"
	"github.com/tectonic-worker/tectonic-worker/agent/systemd"
	"github.com/tectonic-worker/tectonic-worker/firewall"
)

// asWriter makes the test binary append to the ledger below a root.
const asWriter = "TEST_AGENT_WRITE_LEDGER_BELOW"

func TestMain(m *testing.M) {
	if root := os.Getenv(asWriter); root != "" {
		if err := writeRecords(host.Root(root), fmt.Sprint(os.Getpid())); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func testRoot(t testing.TB) host.Root { return host.Root(t.TempDir()) }

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func write(t testing.TB, r host.Root, path, content string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(r.Path(path)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.Path(path), []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(r.Path(path), mode); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, r host.Root, path string) string {
	t.Helper()
	data, err := os.ReadFile(r.Path(path))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func must[T any](t testing.TB) func(T, error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// message is what err says, or nothing.
func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func smallDisk(t *testing.T, r host.Root, dir, size string) {
	t.Helper()
	needRoot(t)
	if err := os.MkdirAll(r.Path(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", r.Path(dir), "tmpfs", 0, "mode=0700,size="+size); err != nil {
		t.Skipf("cannot mount a tmpfs here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(r.Path(dir), 0); err != nil {
			t.Errorf("cannot unmount %s: %v", dir, err)
		}
	})
}

// snapshot is every file and directory below r with its mode and content.
func snapshot(t testing.TB, r host.Root) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(r.Path("/"), func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(p, string(r))
		all[name] = fi.Mode().String()
		if fi.Mode().IsRegular() {
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			all[name] += " " + string(data)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// unitsDouble stands for systemd: it keeps each unit's state, refuses units
// that were not put in, and notes what was asked of it.
type unitsDouble struct {
	mu      sync.Mutex
	states  map[string]*systemd.State
	errs    map[string]error // by "start kubelet.service"
	calls   []string
	changes chan struct{}
	onStart func(st *systemd.State) // what becomes of a unit that starts; nil: it is active
}

func newUnits(names ...string) *unitsDouble {
	d := &unitsDouble{states: map[string]*systemd.State{}, errs: map[string]error{}, changes: make(chan struct{}, 1)}
	for _, n := range names {
		d.states[n] = &systemd.State{Name: n, Load: "loaded", Active: "inactive", File: "disabled", Condition: true}
	}
	return d
}

func (d *unitsDouble) set(name string, change func(*systemd.State)) {
	d.mu.Lock()
	change(d.states[name])
	d.mu.Unlock()
	select {
	case d.changes <- struct{}{}:
	default:
	}
}

func (d *unitsDouble) Unit(_ context.Context, name string) (systemd.State, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.errs["unit "+name]; err != nil {
		return systemd.State{}, err
	}
	if st, ok := d.states[name]; ok {
		return *st, nil
	}
	return systemd.State{Name: name, Load: "not-found", Active: "inactive", Condition: true}, nil
}

func (d *unitsDouble) do(verb, name string, change func(*systemd.State)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, verb+" "+name)
	if err := d.errs[verb+" "+name]; err != nil {
		return err
	}
	st, ok := d.states[name]
	if !ok {
		return fmt.Errorf("Unit %s not found", name) //nolint: systemd's own words
	}
	change(st)
	return nil
}

func (d *unitsDouble) up(st *systemd.State) {
	st.Active = "active"
	if d.onStart != nil {
		d.onStart(st)
	}
}

func (d *unitsDouble) Reload(context.Context) error { return nil }
func (d *unitsDouble) Enable(_ context.Context, n string) error {
	return d.do("enable", n, func(st *systemd.State) { st.File = "enabled" })
}
func (d *unitsDouble) Disable(_ context.Context, n string) error {
	return d.do("disable", n, func(st *systemd.State) { st.File = "disabled" })
}
func (d *unitsDouble) Start(_ context.Context, n string) error       { return d.do("start", n, d.up) }
func (d *unitsDouble) StartNoWait(_ context.Context, n string) error { return d.do("queue", n, d.up) }
func (d *unitsDouble) Restart(_ context.Context, n string) error     { return d.do("restart", n, d.up) }
func (d *unitsDouble) Stop(_ context.Context, n string) error {
	return d.do("stop", n, func(st *systemd.State) { st.Active = "inactive" })
}
func (d *unitsDouble) Changes(context.Context, ...string) (<-chan struct{}, error) {
	return d.changes, nil
}
func (d *unitsDouble) Close() {}

// firewallDouble stands for firewalld with single ports alone; zones that were
// not put in are refused as firewalld does.
type firewallDouble struct {
	mu     sync.Mutex // held by what looks at open and changes it
	state  firewall.State
	zones  map[string]string // by interface
	open   map[string]bool   // by "layer/zone/port"
	errs   map[string]error  // by "open layer/zone/port"
	calls  []string
	before func(call string) // something that happens just before a call
}

func newFirewall() *firewallDouble {
	return &firewallDouble{
		state: firewall.State{Presence: firewall.Running, Version: "1.3.0", DefaultZone: "public"},
		zones: map[string]string{}, open: map[string]bool{}, errs: map[string]error{},
	}
}

func portKey(l firewall.Layer, zone string, p firewall.Port) string {
	return fmt.Sprintf("%s/%s/%s", l, zone, p)
}

func (d *firewallDouble) call(verb, key string) error {
	if d.before != nil {
		d.before(verb + " " + key)
	}
	d.calls = append(d.calls, verb+" "+key)
	return d.errs[verb+" "+key]
}

func (d *firewallDouble) State(context.Context) (firewall.State, error) { return d.state, nil }
func (d *firewallDouble) ZoneOfInterface(_ context.Context, i string) (string, error) {
	if z, ok := d.zones[i]; ok {
		return z, nil
	}
	return d.state.DefaultZone, nil
}
func (d *firewallDouble) Query(_ context.Context, l firewall.Layer, zone string, p firewall.Port) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open[portKey(l, zone, p)], d.errs["query "+portKey(l, zone, p)]
}
func (d *firewallDouble) Add(_ context.Context, l firewall.Layer, zone string, p firewall.Port) (firewall.Change, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := portKey(l, zone, p)
	if err := d.call("open", k); err != nil {
		return firewall.Change{}, err
	}
	if d.open[k] {
		return firewall.Change{Zone: zone}, nil
	}
	d.open[k] = true
	return firewall.Change{Zone: zone, Ports: []firewall.Port{p}}, nil
}
func (d *firewallDouble) Shut(_ context.Context, l firewall.Layer, zone string, p firewall.Port) (firewall.Change, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := portKey(l, zone, p)
	if err := d.call("shut", k); err != nil {
		return firewall.Change{}, err
	}
	if !d.open[k] {
		return firewall.Change{Zone: zone}, nil
	}
	delete(d.open, k)
	return firewall.Change{Zone: zone, Ports: []firewall.Port{p}}, nil
}
func (d *firewallDouble) Close() error { return nil }

// clusterDouble stands for the API server.
type clusterDouble struct {
	server   node.Server
	reachErr error
	dns      netip.Addr
	dnsHow   string
	dnsErr   error
	node     *node.NodeState
	nodeErr  error
	csrs     []node.CSR
	watch    func(ctx context.Context, name string, see func(node.NodeState) bool) error
	pods     []node.Pod
	podsErr  error
	delete   func(node.Pod) error
	deleted  []string // the UIDs of Nodes
	delErr   error

	// Of the agent: what it was told, and what it hears.
	mu         sync.Mutex
	events     []node.Event
	conditions []node.Condition
	sayErr     error
	states     chan node.NodeState
	breaks     chan error
}

func (d *clusterDouble) FollowNode(ctx context.Context, name string, see func(node.NodeState), lost func(error)) error {
	for {
		select {
		case s := <-d.states:
			see(s)
		case err := <-d.breaks:
			lost(err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (d *clusterDouble) PostEvent(_ context.Context, e node.Event) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e.Node == "" || e.Name == "" || e.Count < 1 || e.First.IsZero() {
		return fmt.Errorf("an Event without a Node, a name, a count or a time: %+v", e)
	}
	if d.sayErr == nil {
		d.events = append(d.events, e)
	}
	return d.sayErr
}

func (d *clusterDouble) SetCondition(_ context.Context, name string, c node.Condition) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if name == "" || c.Since.IsZero() {
		return fmt.Errorf("a condition without a Node or a time: %+v", c)
	}
	if d.sayErr == nil {
		d.conditions = append(d.conditions, c)
	}
	return d.sayErr
}

func (d *clusterDouble) Reach(context.Context) (node.Server, error) { return d.server, d.reachErr }
func (d *clusterDouble) DNSServiceIP(context.Context) (netip.Addr, string, error) {
	return d.dns, d.dnsHow, d.dnsErr
}
func (d *clusterDouble) Node(context.Context, string) (*node.NodeState, error) {
	return d.node, d.nodeErr
}
func (d *clusterDouble) WatchNode(ctx context.Context, name string, see func(node.NodeState) bool) error {
	return d.watch(ctx, name, see)
}
func (d *clusterDouble) ServerTime(context.Context) (time.Time, error) {
	return d.server.Date, d.reachErr
}
func (d *clusterDouble) DeleteNodeUID(_ context.Context, _, uid string) error {
	d.deleted = append(d.deleted, uid)
	return d.delErr
}
func (d *clusterDouble) CSRs(context.Context, string) ([]node.CSR, error) { return d.csrs, nil }
func (d *clusterDouble) PodsOfNode(context.Context, string) ([]node.Pod, error) {
	return d.pods, d.podsErr
}
func (d *clusterDouble) DeletePod(_ context.Context, p node.Pod) error { return d.delete(p) }

// selinuxDouble is a kernel's mode.
type selinuxDouble struct {
	mode selinux.Mode
	err  error
}

func (d *selinuxDouble) seam() SELinux {
	return SELinux{
		Runtime:    func() (selinux.Mode, error) { return d.mode, d.err },
		SetRuntime: func(m selinux.Mode) error { d.mode = m; return nil },
	}
}

// doubles is a host made of a folder and the doubles above.
type doubles struct {
	root    host.Root
	units   *unitsDouble
	fw      *firewallDouble
	cluster *clusterDouble
	own     *clusterDouble // nil: the kubelet has no credential of its own
	ownErr  error
	se      *selinuxDouble
	log     strings.Builder
	now     time.Time
}

func newDoubles(t testing.TB) *doubles {
	return &doubles{
		root: testRoot(t), units: newUnits("kubelet.service", "kubelet.path", "tectonic-worker.service"), fw: newFirewall(),
		cluster: &clusterDouble{}, se: &selinuxDouble{mode: selinux.Disabled}, now: time.Now(),
	}
}

func (d *doubles) system() *System {
	return &System{
		Root:     d.root,
		Firewall: func(context.Context) (Firewall, error) { return d.fw, nil },
		Units:    func(context.Context) (Units, error) { return d.units, nil },
		SELinux:  d.se.seam(),
		Cluster:  func(*node.Kubeconfig, node.Proxy) (Cluster, error) { return d.cluster, nil },
		OwnCluster: func(node.Proxy) (Cluster, error) {
			switch {
			case d.ownErr != nil:
				return nil, d.ownErr
			case d.own == nil:
				return nil, fs.ErrNotExist
			}
			return d.own, nil
		},
		Fetch: func(context.Context, string, node.Proxy) ([]byte, error) {
			return nil, errors.New("nothing can be fetched here")
		},
		Now: func() time.Time { return d.now },
		Log: slog.New(slog.NewTextHandler(&d.log, nil)),
	}
}

// quiet reports nothing; it keeps the steps' names.
type quiet struct{ steps []string }

func (*quiet) Begin(string, string) {}
func (*quiet) Progress(string)      {}
func (q *quiet) End(s StepResult)   { q.steps = append(q.steps, s.Name) }

func keys(entries []Entry) []string {
	var out []string
	for _, e := range entries {
		out = append(out, e.Key.String())
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
