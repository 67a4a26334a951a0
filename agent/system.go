package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/host"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
	"github.com/tectonic-worker/tectonic-worker/agent/selinux"
	"github.com/tectonic-worker/tectonic-worker/agent/systemd"
	"github.com/tectonic-worker/tectonic-worker/firewall"
)

// System is the host and the cluster as the agent reaches them. The command
// line's wire.go makes the real one; connections are made when first needed.
type System struct {
	Root     host.Root
	Firewall func(ctx context.Context) (Firewall, error)
	Units    func(ctx context.Context) (Units, error)
	SELinux  SELinux
	Cluster  func(k *node.Kubeconfig, proxy node.Proxy) (Cluster, error)
	// OwnCluster is a Cluster by the credential that the kubelet got for
	// itself; the error is fs.ErrNotExist before it has one.
	OwnCluster func(proxy node.Proxy) (Cluster, error)
	// Fetch gets the body at an https URL: Quay's signing key, for rkt.
	Fetch func(ctx context.Context, url string, proxy node.Proxy) ([]byte, error)
	Now   func() time.Time
	Log   *slog.Logger

	// What the agent waits for. WatchFirewall never ends before ctx does; a
	// channel of the others is closed when its connection broke.
	WatchFirewall func(ctx context.Context) <-chan firewall.Event
	WatchFiles    func(ctx context.Context, paths []string) (<-chan string, error)
	WatchUnits    func(ctx context.Context, names ...string) (<-chan struct{}, error)
}

// Firewall is what the agent needs of firewalld.
type Firewall interface {
	State(ctx context.Context) (firewall.State, error)
	ZoneOfInterface(ctx context.Context, iface string) (string, error)
	Query(ctx context.Context, layer firewall.Layer, zone string, p firewall.Port) (bool, error)
	Add(ctx context.Context, layer firewall.Layer, zone string, p firewall.Port) (firewall.Change, error)
	Shut(ctx context.Context, layer firewall.Layer, zone string, p firewall.Port) (firewall.Change, error)
	Close() error
}

// Units is what the agent needs of systemd.
type Units interface {
	Unit(ctx context.Context, name string) (systemd.State, error)
	Reload(ctx context.Context) error
	Enable(ctx context.Context, name string) error
	Disable(ctx context.Context, name string) error
	Start(ctx context.Context, name string) error
	StartNoWait(ctx context.Context, name string) error
	Restart(ctx context.Context, name string) error
	Stop(ctx context.Context, name string) error
	Changes(ctx context.Context, names ...string) (<-chan struct{}, error)
	Close()
}

// SELinux is the running kernel's mode; the boot mode is a file.
type SELinux struct {
	Runtime    func() (selinux.Mode, error)
	SetRuntime func(selinux.Mode) error
}

// Cluster is what the agent asks the API server.
type Cluster interface {
	Reach(ctx context.Context) (node.Server, error)
	ServerTime(ctx context.Context) (time.Time, error)
	DNSServiceIP(ctx context.Context) (netip.Addr, string, error)
	Node(ctx context.Context, name string) (*node.NodeState, error)
	WatchNode(ctx context.Context, name string, see func(node.NodeState) (enough bool)) error
	CSRs(ctx context.Context, name string) ([]node.CSR, error)
	PodsOfNode(ctx context.Context, node string) ([]node.Pod, error)
	DeletePod(ctx context.Context, p node.Pod) error
	DeleteNodeUID(ctx context.Context, name, uid string) error
	// FollowNode watches until ctx ends, and lost is told of each interruption.
	FollowNode(ctx context.Context, name string, see func(node.NodeState), lost func(error)) error
	PostEvent(ctx context.Context, e node.Event) error
	SetCondition(ctx context.Context, name string, c node.Condition) error
}
