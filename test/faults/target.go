package faults

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

const (
	assetsDir  = "/root/assets"
	ledgerPath = "/var/lib/tectonic-worker/ledger.jsonl"
	standIn    = "/usr/local/sbin/podman"
)

// managed are the files that join writes.
var managed = []string{
	"/etc/sysconfig/tectonic-worker", "/etc/kubernetes/kubelet.env", "/etc/kubernetes/kubeconfig",
	"/etc/kubernetes/ca.crt", "/etc/kubernetes/kubelet.yaml",
}

// JoinArgs is the join that faults are injected into. It does not wait for the kubelet, which is another program.
var JoinArgs = []string{"tectonic-worker", "join", "--assets", assetsDir, "--no-wait", "--timeout", "60s"}

// Target is a host with the package installed that goes through one fault after the other.
type Target struct {
	Host    *lab.Host
	Proxy   *lab.Proxy // between the host and the API server
	Secrets []string   // must never be shown

	old, new map[string]fileState // of the managed files: before join, and after one without a fault
	dirs     []string             // that join makes, deepest first
}

// fileState tells one state of a file from another; "" is a file that is not there.
type fileState string

// Prepare makes a host a target: a stand-in for podman that starts at once, so that a run takes no longer than what is
// looked at, and one join without a fault, to know how it has to end.
func Prepare(ctx context.Context, h *lab.Host, plane *lab.ControlPlane) (*Target, error) {
	kubeconfig, err := plane.SharedKubeconfig()
	if err != nil {
		return nil, err
	}
	t := &Target{Host: h, Secrets: secretsOf(kubeconfig)}
	if t.Proxy, err = plane.Proxy(ctx); err != nil {
		return nil, err
	}
	assets := lab.Assets{Kubeconfig: plane.WithServer(kubeconfig, t.Proxy.Server), DNSServiceIP: lab.DNSServiceIP}
	if len(t.Secrets) == 0 {
		return nil, errors.New("cannot look for secrets: the kubeconfig has none")
	}
	if err := errors.Join(
		h.PutAssets(assetsDir, assets),
		h.WriteFile("/usr/lib/faults/reset", []byte(resetScript), 0o755),
		h.WriteFile("/usr/lib/faults/small", []byte(smallScript), 0o755),
		h.WriteFile(standIn, []byte(podmanStandIn), 0o755)); err != nil {
		return nil, err
	}
	if _, err := h.Must(ctx, "tar", "-C", "/", "-cf", "/root/before.tar", "etc/kubernetes", "etc/sysconfig"); err != nil {
		return nil, err
	}
	if t.old, err = t.look(); err != nil {
		return nil, err
	}
	r, err := h.Must(ctx, JoinArgs...)
	if err != nil {
		return nil, fmt.Errorf("cannot join without a fault: %w", err)
	}
	if shown := t.Shown(r.Output()); shown != "" {
		return nil, errors.New(shown)
	}
	if t.new, err = t.look(); err != nil {
		return nil, err
	}
	if _, err := h.Must(ctx, "tar", "-C", "/", "-cf", "/root/after.tar", "etc/kubernetes", "etc/sysconfig"); err != nil {
		return nil, err
	}
	if err := t.madeDirs(); err != nil {
		return nil, err
	}
	return t, t.Reset(ctx)
}

// podmanStandIn answers as podman 4.3 where it is asked, and stays where kubelet.service runs it.
const podmanStandIn = `#!/bin/sh
case "$1" in
--version) echo "podman version 4.3.1" ;;
esac
case " $* " in
*" run "*) [ -z "$INVOCATION_ID" ] || exec sleep infinity ;;
esac
exit 0
`

// resetScript puts the host back to how it was before any join, without the product's help.
const resetScript = `#!/bin/sh
# The agent first: it would repair what is taken away here.
systemctl stop tectonic-worker.service 2>/dev/null
systemctl stop kubelet.path kubelet.service kubelet-kubeconfig.service 2>/dev/null
systemctl disable --quiet tectonic-worker.service kubelet.path kubelet.service 2>/dev/null
systemctl reset-failed tectonic-worker.service kubelet.service kubelet.path kubelet-kubeconfig.service 2>/dev/null
f=org.fedoraproject.FirewallD1
config=$(busctl call $f /org/fedoraproject/FirewallD1/config $f.config getZoneByName s public | sed 's/^o "\(.*\)"$/\1/')
for p in "10250 tcp" "4789 udp"; do
	busctl call -q $f /org/fedoraproject/FirewallD1 $f.zone removePort sss public $p 2>/dev/null
	busctl call -q $f "$config" $f.config.zone removePort ss $p 2>/dev/null
done
rm -rf /etc/kubernetes /etc/sysconfig /var/lib/tectonic-worker /run/tectonic-worker
tar -C / -xf /root/before.tar
[ $# -eq 0 ] || rmdir "$@" 2>/dev/null
exit 0
`

// Close ends what the target has beside the host.
func (t *Target) Close() error { return t.Proxy.Close() }

// madeDirs learns from the ledger of a good join which directories it makes.
func (t *Target) madeDirs() error {
	records, err := t.ledger()
	if err != nil {
		return err
	}
	for _, r := range records {
		var before struct{ Missing []string }
		if r.Kind == "directory" && json.Unmarshal(r.Before, &before) == nil {
			for _, dir := range before.Missing {
				t.dirs = append([]string{dir}, t.dirs...)
			}
		}
	}
	return nil
}

// Reset makes the host one that never joined.
func (t *Target) Reset(ctx context.Context) error {
	_, err := t.Host.Must(ctx, append([]string{"/usr/lib/faults/reset"}, t.dirs...)...)
	return err
}

// JoinForReal takes the stand-in away from a host that was reset, and joins until the Node is Ready.
func (t *Target) JoinForReal(ctx context.Context) (lab.Result, error) {
	if err := os.Remove(t.Host.Path(standIn)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return lab.Result{}, err
	}
	r, err := t.Host.Must(ctx, "tectonic-worker", "join", "--assets", assetsDir, "--timeout", "120s")
	if err != nil {
		return r, err
	}
	return t.Host.Must(ctx, "tectonic-worker", "status")
}

// look reads the managed files, each as one word.
func (t *Target) look() (map[string]fileState, error) {
	states := map[string]fileState{}
	for _, path := range managed {
		data, err := t.Host.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			states[path] = ""
			continue
		}
		if err != nil {
			return nil, err
		}
		info, err := os.Lstat(t.Host.Path(path))
		if err != nil {
			return nil, err
		}
		states[path] = fileState(fmt.Sprintf("%d bytes, %s, %x", len(data), info.Mode(), sha256.Sum256(data)))
	}
	return states, nil
}

// record is a line of the ledger.
type record struct {
	Op, Kind, Name string
	Before         json.RawMessage
}

// ledger reads the ledger. A last line without an end is what a kill may leave; any other that is no JSON is an error.
func (t *Target) ledger() ([]record, error) {
	data, err := t.Host.ReadFile(ledgerPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var records []record
	lines := strings.Split(string(data), "\n")
	for i, line := range lines[:len(lines)-1] {
		var r record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			return nil, fmt.Errorf("line %d of the ledger is torn: %w", i+1, err)
		}
		records = append(records, r)
	}
	return records, nil
}

// Open tells which of the worker's ports are open, now and permanently, as firewalld says.
func (t *Target) Open(ctx context.Context) (string, error) {
	r, err := t.Host.Must(ctx, "/bin/sh", "-c", `f=org.fedoraproject.FirewallD1
config=$(busctl call $f /org/fedoraproject/FirewallD1/config $f.config getZoneByName s public | sed 's/^o "\(.*\)"$/\1/')
busctl call $f /org/fedoraproject/FirewallD1 $f.zone getPorts s public
busctl call $f "$config" $f.config.zone getPorts`)
	return r.Stdout, err
}

// timeout bounds one run of a command under a fault, beyond its own --timeout.
const timeout = 90 * time.Second
