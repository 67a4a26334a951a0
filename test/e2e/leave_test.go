package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
	"github.com/tectonic-worker/tectonic-worker/test/world"
)

// notOurs is what differs after join and leave, by the beginning of its line,
// and why leave does not put it back. docs/leave.md has the same list.
var notOurs = map[string]string{
	"/run/tectonic-worker":                "the lock, until the next boot",
	"/etc/firewalld/zones/public.xml f":   "firewalld writes a zone's file at its first permanent change and keeps it; what it says is compared",
	"/etc/firewalld/zones/public.xml.old": "firewalld's copy of the same",
	"/etc/cni/net.d/cni.lock":             "podman's",
	"/var/log/pods d":                     "the pods' logs are the administrator's",
	"/var/log/containers d":               "the same",
	":KUBE-FIREWALL -":                    "the kubelet's own chains, until the next boot",
	":KUBE-IPTABLES-HINT -":               "the same",
	":KUBE-KUBELET-CANARY -":              "the same",
	":INPUT ACCEPT":                       "iptables shows the built-in chains of a table once it has any other",
	":FORWARD ACCEPT":                     "the same",
	":OUTPUT ACCEPT":                      "the same",
	":PREROUTING ACCEPT":                  "the same",
	":POSTROUTING ACCEPT":                 "the same",
}

// everything is all of the host that join, the kubelet or leave could change,
// as the host itself tells it.
func (h *host) everything() map[string]string {
	h.t.Helper()
	return map[string]string{
		"files": h.must("sh", "-c", `find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /var/log/journal -o -path /run/log \) -prune -o \
			\( -path '/etc/*' -o -path '/var/lib/*' \) -type f -printf '%p %y %m %U %G ' -exec sha256sum {} \; -o -type d -printf '%p %y %m %U %G\n' -o -printf '%p %y %m %U %G %s %l\n' | sed 's/  .*//' | sort`),
		"firewall":           h.must("firewall-cmd", "--list-all-zones"),
		"firewall permanent": h.must("firewall-cmd", "--permanent", "--list-all-zones"),
		"firewall rules":     h.must("sh", "-c", `nft list table inet firewalld | sed 's/ # handle .*//' | sort`),
		"chains":             h.must("sh", "-c", `(iptables-save; ip6tables-save) 2>/dev/null | grep '^:' | sed 's/ \[.*//' | sort -u`),
		"selinux":            h.must("sh", "-c", `cat /sys/fs/selinux/enforce /etc/selinux/config 2>&1 | sed 's/^cat: //'`),
		"units":              h.must("sh", "-c", `systemctl list-unit-files --no-legend --no-pager | awk '{print $1, $2}'; systemctl --failed --no-legend --no-pager --plain | awk '{print $1, "failed"}'`),
		"active":             h.must("sh", "-c", `for u in tectonic-worker kubelet kubelet-kubeconfig wait-for-dns; do echo $u $(systemctl is-active $u.service); done; echo path $(systemctl is-active kubelet.path)`),
		"mounts":             h.must("sh", "-c", `findmnt -rn -o TARGET,FSTYPE,OPTIONS | grep -v '^/run/user\|^/var/lib/containers/storage/overlay ' | sort`),
		"sysctls":            h.must("sh", "-c", `sysctl -a 2>/dev/null | grep -v '^kernel\.random\|^fs\.\(dentry\|inode\|file-nr\|aio-nr\|quota\)\|ns_last_pid\|pty\.nr\|nf_conntrack_count\|^net\.ipv[46]\.\(conf\|neigh\)\|sched_domain\|cpufreq\|^vm\.stat\|^kernel\.sched' | sort`),
		"containers":         h.must("podman", "ps", "-a", "--format", "{{.Names}}"),
	}
}

// asBefore compares the host with what everything told before.
func (h *host) asBefore(before map[string]string) {
	h.t.Helper()
	var except []string
	for line := range notOurs {
		except = append(except, line)
	}
	after := h.everything()
	for what, was := range before {
		if d := lineDiff(was, after[what], except); d != "" {
			h.t.Errorf("%s differ from before join:\n%s", what, d)
		}
	}
}

// lineDiff lists the lines that only one side has.
func lineDiff(before, after string, except []string) string {
	return strings.Join(world.LineDiff(before, after, except...), "\n")
}

// leave runs leave, which has to come to its end.
func (h *host) leave(args ...string) lab.Result {
	h.t.Helper()
	r := h.run(append([]string{"tectonic-worker", "leave"}, args...)...)
	if r.Code != 0 {
		h.t.Fatalf("on %s: %s", h.Name, r)
	}
	return r
}

// nodeExists asks the API server.
func (h *host) nodeExists() bool {
	h.t.Helper()
	return kubectl(h.t, "get", "node", h.Name, "--ignore-not-found", "-o", "name") != ""
}

// After join and leave the host is as before join, whatever happened between.
func TestLeave(t *testing.T) {
	t.Parallel()
	h := worker(t, lab.WorkerOptions{})
	h.putAssets("/root/assets")
	proxy := must[*lab.Proxy](t)(plane.ControlPlane.Proxy(t.Context()))
	defer proxy.Close()
	shared := must[[]byte](t)(plane.SharedKubeconfig())
	h.write("/root/proxied", string(plane.WithServer(shared, proxy.Server)))
	if r := h.run("tectonic-worker", "leave"); r.Code != 0 || !strings.Contains(r.Stdout, "nothing to leave") {
		t.Errorf("on a host that never joined: %s", r)
	}
	before := h.everything()

	on := func(name string, f func(h *host)) {
		t.Run(name, func(t *testing.T) { f(&host{h.Host, t}) })
	}
	on("a node that was Ready", func(h *host) {
		h.join("--assets", "/root/assets")
		joined := h.everything()
		dry := h.leave("--dry-run")
		for _, want := range []string{"cordon and drain node " + h.Name, "stop and disable kubelet.service", "remove /var/lib/kubelet/pods", "delete node", "shut [10250/tcp]", "Nothing was changed"} {
			if !strings.Contains(dry.Stdout, want) {
				h.t.Errorf("the dry run does not say %q:\n%s", want, dry.Stdout)
			}
		}
		if d := lineDiff(joined["files"], h.everything()["files"], []string{"/run/", "/var/lib/kubelet"}); d != "" {
			h.t.Errorf("the dry run changed files:\n%s", d)
		}
		r := h.leave()
		h.t.Logf("%s", r)
		if h.nodeExists() {
			h.t.Error("the Node is still there")
		}
		h.asBefore(before)
		again := h.leave()
		if !strings.Contains(again.Stdout, "nothing to leave") {
			h.t.Errorf("the second time: %s", again)
		}
		h.asBefore(before)
		if st := h.run("tectonic-worker", "status"); st.Code != 3 {
			h.t.Errorf("status of a host that left: %s", st)
		}
	})
	on("the administrator's edits stay", func(h *host) {
		h.join("--assets", "/root/assets")
		h.must("sh", "-c", `echo '# mine' >>/etc/sysconfig/tectonic-worker; echo '{"auths":{}}' >/var/lib/kubelet/config.json; firewall-cmd -q --add-port=8443/tcp`)
		h.leave()
		for _, c := range []string{"grep -q '^# mine' /etc/sysconfig/tectonic-worker.tectonic-saved", "! grep -q '^# mine' /etc/sysconfig/tectonic-worker", "test -f /var/lib/kubelet/config.json", "firewall-cmd -q --query-port=8443/tcp"} {
			h.must("sh", "-c", c)
		}
		h.must("sh", "-c", "rm -r /etc/sysconfig/tectonic-worker.tectonic-saved /var/lib/kubelet; firewall-cmd -q --remove-port=8443/tcp")
		h.asBefore(before)
	})
	on("half-joined", func(h *host) {
		r := h.run("tectonic-worker", "join", "--assets", "/root/assets", "--no-rollback", "--image", "quay.io/poseidon/kubelet:v1.36.0", "--timeout", "60s")
		if r.Code == 0 {
			h.t.Fatalf("join with an image that is not there: %s", r)
		}
		h.leave()
		h.asBefore(before)
	})
	on("the API server is down", func(h *host) {
		h.join("--kubeconfig", "/root/proxied", "--dns-service-ip", lab.DNSServiceIP)
		joined := h.everything()
		if err := proxy.Set(lab.Refuse); err != nil {
			h.t.Fatal(err)
		}
		r := h.run("tectonic-worker", "leave", "--timeout", "60s", "-o", "json")
		var doc struct {
			Left  bool
			Error struct {
				Message string
				Code    int
			}
		}
		if err := json.Unmarshal([]byte(r.Stdout), &doc); err != nil {
			h.t.Fatalf("%v: %s", err, r)
		}
		if r.Code != 69 || doc.Error.Code != 69 || doc.Left || !strings.Contains(doc.Error.Message, "--local") || !strings.Contains(doc.Error.Message, "--force") {
			h.t.Errorf("%s", r)
		}
		if d := lineDiff(joined["units"]+joined["firewall"], h.everything()["units"]+h.everything()["firewall"], nil); d != "" {
			h.t.Errorf("leave changed the host before it asked the API server:\n%s", d)
		}
		h.leave("--local")
		h.asBefore(before)
		if err := proxy.Set(lab.Forward); err != nil {
			h.t.Fatal(err)
		}
		if !h.nodeExists() {
			h.t.Error("--local deleted the Node")
		}
	})
	on("the Node is gone", func(h *host) {
		h.join("--assets", "/root/assets")
		// A kubelet that runs may register it anew.
		h.must("systemctl", "stop", "kubelet.path", "kubelet.service")
		kubectl(h.t, "delete", "node", h.Name)
		if r := h.leave(); !strings.Contains(r.Stdout, "does not exist (any more)") {
			h.t.Errorf("%s", r)
		}
		h.asBefore(before)
		if h.nodeExists() {
			h.t.Error("the Node is back")
		}
	})
	on("mounts are left", func(h *host) { h.leaveWithMounts(before) })
	on("killed in the middle", func(h *host) {
		for _, at := range []string{"Ask the cluster", "Drain the node", "Stop the kubelet", "Delete the Node", "Remove what the kubelet wrote"} {
			h.join("--assets", "/root/assets")
			h.leaveKilled(at)
			h.leave("--force")
			h.asBefore(before)
		}
	})
	on("the package is erased, with the API server down", func(h *host) {
		h.join("--kubeconfig", "/root/proxied", "--dns-service-ip", lab.DNSServiceIP)
		if err := proxy.Set(lab.Hang); err != nil {
			h.t.Fatal(err)
		}
		h.must("rpm", "-e", "tectonic-worker")
		for _, c := range []string{
			"! firewall-cmd --list-ports | grep -q 10250", "! firewall-cmd --permanent --list-ports | grep -q 10250",
			"! test -e /etc/kubernetes/kubeconfig", "! test -e /var/lib/kubelet", "! test -e /var/lib/tectonic-worker", "! test -e /usr/libexec/tectonic-worker",
			"! pgrep -x kubelet", "! find /etc/systemd/system -name 'kubelet*' | grep .", "test -z \"$(podman ps -aq)\"",
		} {
			if r := h.run("sh", "-c", c); r.Code != 0 {
				h.t.Errorf("after rpm -e: %s: %s", c, r.Output())
			}
		}
	})
}

// leaveWithMounts leaves bind mounts of the host's own root below the kubelet's
// directory, one of them in use: the disaster of other tools, which deleted the
// host's /etc through one.
func (h *host) leaveWithMounts(before map[string]string) {
	h.t.Helper()
	h.join("--assets", "/root/assets")
	const volumes = "/var/lib/kubelet/pods/0/volumes"
	h.must("sh", "-ec", `mkdir -p `+volumes+`/root `+volumes+`/recursive '`+volumes+`/a b' /root/canary
		echo alive >/root/canary/file
		mount --bind / `+volumes+`/root
		mount --rbind / `+volumes+`/recursive
		mount -t tmpfs tmpfs '`+volumes+`/a b'
		ln -s / `+volumes+`/link
		systemd-run -q --unit=squatter --working-directory=`+volumes+`/root/usr sleep 1000
		systemd-run -q --unit=secretive --working-directory='`+volumes+`/a b' sleep 1000`)
	etc := h.must("sh", "-c", "find /etc/pam.d /etc/ssl /root /usr/bin | wc -l")
	r := h.run("tectonic-worker", "leave", "--local")
	h.t.Logf("%s", r)
	if r.Code != 1 || !strings.Contains(r.Stderr, volumes+"/root") || !strings.Contains(r.Stderr, "sleep, process ") {
		h.t.Errorf("%s", r)
	}
	h.must("sh", "-c", "test -d /var/lib/kubelet/pods && test -f /root/canary/file && test -d "+volumes+"/root/etc")
	if got := h.must("sh", "-c", "find /etc/pam.d /etc/ssl /root /usr/bin | wc -l"); got != etc {
		h.t.Fatalf("files are gone: %s, then %s", etc, got)
	}
	h.must("systemctl", "stop", "squatter")
	h.leave("--local")
	if got := h.read("/root/canary/file"); got != "alive\n" {
		h.t.Errorf("the canary is %q", got)
	}
	h.must("sh", "-c", "systemctl stop secretive; rm -r /root/canary")
	h.asBefore(before)
	kubectl(h.t, "delete", "node", h.Name, "--ignore-not-found")
}

// leaveKilled runs leave and kills it, hard, when it has shown the line of a
// step.
func (h *host) leaveKilled(at string) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 2*time.Minute)
	defer cancel()
	out, in := io.Pipe()
	p, err := h.Start(ctx, lab.Command{Args: []string{"tectonic-worker", "leave"}, Stdout: in})
	if err != nil {
		h.t.Fatal(err)
	}
	seen := false
	lines := bufio.NewScanner(out)
	for !seen && lines.Scan() {
		seen = strings.Contains(lines.Text(), at)
	}
	if err := p.Kill(); err != nil {
		h.t.Error(err)
	}
	go io.Copy(io.Discard, out)
	r, err := p.Wait()
	if err != nil {
		h.t.Fatal(err)
	}
	if !seen || r.Code == 0 {
		h.t.Errorf("leave was not killed at %q: %s", at, r)
	}
}

// Pods are evicted, and a disruption budget is heard.
func TestLeaveEvicts(t *testing.T) {
	t.Parallel()
	h := worker(t, lab.WorkerOptions{})
	h.putAssets("/root/assets")
	h.join("--assets", "/root/assets")
	ns := h.Name + "-leave"
	pod := func(name, owner string) string {
		return `---
apiVersion: v1
kind: Pod
metadata:
  name: ` + name + `
  namespace: ` + ns + `
  labels: {app: ` + name + `}` + owner + `
spec:
  nodeName: ` + h.Name + `
  terminationGracePeriodSeconds: 1
  containers: [{name: web, image: registry.invalid/nothing:1}]
`
	}
	// The lab runs no controller for ReplicaSets: it is the owner that counts.
	const owner = `
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web, uid: 11111111-2222-3333-4444-555555555555, controller: true}]`
	if err := plane.Apply(t.Context(), `apiVersion: v1
kind: Namespace
metadata: {name: `+ns+`}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web, namespace: `+ns+`}
spec:
  maxUnavailable: 0
  unhealthyPodEvictionPolicy: IfHealthyBudget
  selector: {matchLabels: {app: web}}
`); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "-n", ns, "wait", "--for=create", "serviceaccount/default", "--timeout=30s")
	if err := plane.Apply(t.Context(), pod("web", owner)+pod("web-2", owner)+pod("lonely", "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := plane.ControlPlane.Kubectl(ctx, "delete", "namespace", ns, "--wait=false"); err != nil {
			t.Error(err)
		}
	})
	r := h.run("tectonic-worker", "leave", "--timeout", "30s")
	t.Logf("%s", r)
	if r.Code != 1 || !strings.Contains(r.Stderr, "lonely") || !strings.Contains(r.Stderr, "--force") {
		t.Errorf("a pod that nothing makes again does not hold leave: %s", r)
	}
	kubectl(t, "-n", ns, "delete", "pod", "lonely")
	// A budget does not count a pod that never ran, and the lab has no image to
	// run: the pods are said to run, and the kubelet kept from saying otherwise.
	h.must("pkill", "-STOP", "-x", "kubelet")
	for _, name := range []string{"web", "web-2"} {
		kubectl(t, "-n", ns, "patch", "pod", name, "--subresource=status", "-p", `{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}`)
	}
	kubectl(t, "-n", ns, "delete", "pod", "web-2", "--force", "--grace-period=0")
	r = h.run("tectonic-worker", "leave", "--timeout", "30s")
	t.Logf("%s", r)
	if r.Code != 1 || !strings.Contains(r.Stderr, "is cordoned and still a worker") || !strings.Contains(r.Stderr, `"web"`) {
		t.Errorf("a disruption budget does not hold leave: %s", r)
	}
	if got := kubectl(t, "-n", ns, "get", "pods", "-o", "name"); got != "pod/web" {
		t.Errorf("the pods that are left are %q", got)
	}
	if got := kubectl(t, "get", "node", h.Name, "-o", "jsonpath={.spec.unschedulable}"); got != "true" {
		t.Errorf("the node is not cordoned: %q", got)
	}
	h.ready(lab.ControlPlaneVersion)
	h.must("pkill", "-CONT", "-x", "kubelet")
	kubectl(t, "-n", ns, "delete", "pdb", "web")
	r = h.leave("--timeout", "120s")
	t.Logf("%s", r)
	if got := kubectl(t, "-n", ns, "get", "pods", "-o", "name"); got != "" {
		t.Errorf("pods are still there: %s", got)
	}
	if h.nodeExists() {
		t.Error("the Node is still there")
	}
}

// A node's own credential may not delete its Node: that is said, with what to
// do, and the host leaves all the same.
func TestLeaveByOwnCredential(t *testing.T) {
	t.Parallel()
	h := worker(t, lab.WorkerOptions{})
	kubeconfig := must[[]byte](t)(plane.BootstrapKubeconfig(t.Context(), time.Hour))
	h.write("/root/bootstrap", string(kubeconfig))
	before := h.everything()
	h.join("--kubeconfig", "/root/bootstrap", "--dns-service-ip", lab.DNSServiceIP)
	r := h.leave("--force")
	t.Logf("%s", r)
	if !strings.Contains(r.Output(), "kubectl delete node "+h.Name) {
		t.Errorf("leave does not say who may delete the Node: %s", r)
	}
	if d := lineDiff(before["units"]+before["active"], h.everything()["units"]+h.everything()["active"], nil); d != "" {
		t.Error(d)
	}
}
