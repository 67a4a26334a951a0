package e2e

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
	"github.com/tectonic-worker/tectonic-worker/test/world"
)

func (h *host) putAssets(dir string) {
	h.t.Helper()
	if err := h.PutAssets(dir, plane.Assets()); err != nil {
		h.t.Fatal(err)
	}
}

// join runs join, which has to end with a Ready node.
func (h *host) join(args ...string) lab.Result {
	h.t.Helper()
	r := h.run(append([]string{"tectonic-worker", "join", "--timeout", "100s"}, args...)...)
	if r.Code != 0 {
		h.t.Fatalf("on %s: %s", h.Name, r)
	}
	return r
}

// ready fails the test unless the API server has the node as Ready, with this
// kubelet.
func (h *host) ready(version string) {
	h.t.Helper()
	got := kubectl(h.t, "get", "node", h.Name, "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status} {.status.nodeInfo.kubeletVersion}")
	if got != "True "+version {
		h.t.Errorf("the API server says of %s: %q, want Ready with %s", h.Name, got, version)
	}
}

// kubeletArgs is the command line of the running kubelet, from the kernel.
func (h *host) kubeletArgs() string {
	h.t.Helper()
	return strings.ReplaceAll(h.must("sh", "-c", `for p in /proc/[0-9]*; do
		case "$(tr '\0' ' ' <$p/cmdline)" in */kubelet\ --*|kubelet\ --*|*/hyperkube\ kubelet*) case "$(cat $p/comm)" in kubelet|hyperkube) tr '\0' '\n' <$p/cmdline; exit;; esac;; esac
	done; echo no kubelet runs >&2; exit 1`), "\n", " ")
}

// A package, a directory of assets, one command: Ready, and everything that
// the seed's README asks for, seen from the other side.
func TestJoin(t *testing.T) {
	t.Parallel()
	h := worker(t, lab.WorkerOptions{})
	h.putAssets("/root/assets")
	before := h.snapshot()
	h.dryRun(before)

	r := h.join("--assets", "/root/assets", "--node-label", "disk=ssd", "--node-label", "rack=7", "--node-taint", "dedicated=web:PreferNoSchedule")
	t.Logf("%s", r)
	if !strings.Contains(r.Stdout, "Node "+h.Name+" is Ready, kubelet "+lab.ControlPlaneVersion) {
		t.Errorf("join does not end with the node's name and version:\n%s", r.Stdout)
	}
	h.ready(lab.ControlPlaneVersion)
	if got := kubectl(t, "get", "node", h.Name, "-o", "jsonpath={.metadata.labels.disk} {.metadata.labels.rack} {.spec.taints[?(@.key=='dedicated')].effect}"); got != "ssd 7 PreferNoSchedule" {
		t.Errorf("labels and taint on the Node: %q", got)
	}

	t.Run("firewall", func(t *testing.T) {
		h := &host{h.Host, t}
		for _, args := range [][]string{{"--list-ports"}, {"--permanent", "--list-ports"}} {
			got := h.must(append([]string{"firewall-cmd", "--zone=public"}, args...)...)
			if !strings.Contains(got, "10250/tcp") || !strings.Contains(got, "4789/udp") {
				t.Errorf("firewall-cmd %v: %s", args, got)
			}
		}
		rules := h.must("nft", "list", "ruleset")
		for _, rule := range []string{"tcp dport 10250", "udp dport 4789"} {
			if !strings.Contains(rules, rule) {
				t.Errorf("nftables has no %q", rule)
			}
		}
		h.must("firewall-cmd", "--reload")
		if got := h.must("firewall-cmd", "--list-ports"); !strings.Contains(got, "10250/tcp") {
			t.Errorf("after a reload the ports are %q", got)
		}
	})
	t.Run("files", func(t *testing.T) {
		h := &host{h.Host, t}
		for path, want := range map[string]string{
			"/etc/kubernetes/kubeconfig":            "600 root root",
			"/etc/kubernetes/kubelet.yaml":          "600 root root",
			"/etc/kubernetes/ca.crt":                "644 root root",
			"/var/lib/tectonic-worker/ledger.jsonl": "600 root root",
			"/var/lib/tectonic-worker":              "700 root root",
		} {
			if got := strings.TrimSpace(h.must("stat", "-c", "%a %U %G", path)); got != want {
				t.Errorf("%s is %s, want %s", path, got, want)
			}
		}
		if got := h.read("/etc/kubernetes/ca.crt"); got != string(plane.CA.Cert) {
			t.Errorf("ca.crt is not the cluster's CA:\n%s", got)
		}
		settings := h.read("/etc/sysconfig/tectonic-worker")
		if !regexp.MustCompile(`(?m)^KUBERNETES_DNS_SERVICE_IP="?` + regexp.QuoteMeta(lab.DNSServiceIP)).MatchString(settings) {
			t.Errorf("the DNS address is not in the settings:\n%s", settings)
		}
	})
	t.Run("kubelet", func(t *testing.T) {
		h := &host{h.Host, t}
		args := h.kubeletArgs()
		for _, want := range []string{"--kubeconfig=/etc/kubernetes/kubeconfig", "--config=/etc/kubernetes/kubelet.yaml", "disk=ssd"} {
			if !strings.Contains(args, want) {
				t.Errorf("the kubelet runs without %s: %s", want, args)
			}
		}
		if strings.Contains(args, "--hostname-override") {
			t.Errorf("--hostname-override is passed though NODE_NAME is not set: %s", args)
		}
		// Secure by default, as the running kubelet answers: nobody without a
		// credential, and no read-only port.
		if got := h.must("curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "https://127.0.0.1:10250/pods"); got != "401" {
			t.Errorf("the kubelet's API answers %s to nobody in particular", got)
		}
		if r := h.run("curl", "-s", "http://127.0.0.1:10255/pods"); r.Code == 0 {
			t.Error("the read-only port is open")
		}
		// No Go process of ours stays beside the kubelet; the agent's is the only one.
		pid := strings.TrimSpace(h.must("systemctl", "show", "-p", "MainPID", "--value", "tectonic-worker"))
		if r := h.run("pgrep", "-x", "tectonic-worker"); strings.TrimSpace(r.Stdout) != pid {
			t.Errorf("tectonic-worker processes %q, of which the agent is %s", r.Stdout, pid)
		}
	})
	t.Run("again", func(t *testing.T) { (&host{h.Host, t}).joinAgain() })
	t.Run("status", func(t *testing.T) { (&host{h.Host, t}).statusHealthy() })
	t.Run("rpm", func(t *testing.T) {
		h := &host{h.Host, t}
		if out := h.run("rpm", "-V", "tectonic-worker").Output(); regexp.MustCompile(`(?m)^(\S+)\s+/`).MatchString(out) {
			t.Errorf("rpm -V after join complains:\n%s", out)
		}
	})
	t.Run("restart", func(t *testing.T) {
		h := &host{h.Host, t}
		h.must("systemctl", "restart", "kubelet")
		h.waitHealthy()
		h.must("systemctl", "stop", "kubelet")
		if out := h.must("podman", "ps", "-a", "--format", "{{.Names}}"); strings.Contains(out, "kubelet") {
			t.Errorf("a stopped kubelet leaves its container: %s", out)
		}
	})
}

// dryRun proves that --dry-run tells everything and touches nothing.
func (h *host) dryRun(before world.Snapshot) {
	h.t.Helper()
	r := h.run("tectonic-worker", "join", "--assets", "/root/assets", "--dry-run")
	if r.Code != 0 {
		h.t.Fatalf("%s", r)
	}
	for _, want := range []string{"+KUBERNETES_DNS_SERVICE_IP=", "open 10250/tcp in zone public (permanent)", "enable kubelet.service", "create /etc/kubernetes/kubeconfig", "Nothing was changed"} {
		if !strings.Contains(r.Stdout, want) {
			h.t.Errorf("the dry run does not say %q:\n%s", want, r.Stdout)
		}
	}
	if strings.Contains(r.Stdout, "client-key-data") {
		h.t.Error("the dry run shows the credential")
	}
	h.unchanged(before)
}

// joinAgain proves that a second join changes nothing and says so.
func (h *host) joinAgain() {
	h.t.Helper()
	pid := h.must("systemctl", "show", "-p", "MainPID", "kubelet")
	before := h.snapshot()
	r := h.join("--assets", "/root/assets")
	if !strings.Contains(r.Stdout, "nothing had to be changed") {
		h.t.Errorf("the second join does not say that nothing had to be changed:\n%s", r.Stdout)
	}
	h.unchanged(before)
	if got := h.must("systemctl", "show", "-p", "MainPID", "kubelet"); got != pid {
		h.t.Errorf("the second join restarted the kubelet: %s, then %s", pid, got)
	}
	var doc struct {
		Changed, Ready bool
		Node           string
		Steps          []struct{ Name, Status string }
	}
	r = h.join("--assets", "/root/assets", "-o", "json")
	if err := json.Unmarshal([]byte(r.Stdout), &doc); err != nil {
		h.t.Fatalf("join -o json is no JSON document: %v\n%s", err, r.Stdout)
	}
	if doc.Changed || !doc.Ready || doc.Node != h.Name || len(doc.Steps) < 8 {
		h.t.Errorf("join -o json: %+v", doc)
	}
}

func (h *host) statusHealthy() {
	h.t.Helper()
	r := h.run("tectonic-worker", "status")
	if r.Code != 0 {
		h.t.Errorf("status of a healthy worker: %s", r)
	}
	for _, want := range []string{"healthy", h.Name + ": Ready", "SHARED", "zone public", "10250/tcp"} {
		if !strings.Contains(r.Stdout, want) {
			h.t.Errorf("status does not say %q:\n%s", want, r.Stdout)
		}
	}
	var doc struct {
		Health     string
		Node       struct{ Ready bool }
		Credential struct{ Shared bool }
		Firewall   struct {
			Ports []struct{ Runtime, Permanent, Ours bool }
		}
	}
	r = h.run("tectonic-worker", "status", "-o", "json")
	if err := json.Unmarshal([]byte(r.Stdout), &doc); err != nil {
		h.t.Fatalf("status -o json: %v\n%s", err, r.Stdout)
	}
	if doc.Health != "healthy" || !doc.Node.Ready || !doc.Credential.Shared || len(doc.Firewall.Ports) != 2 || !doc.Firewall.Ports[0].Ours || !doc.Firewall.Ports[0].Permanent {
		h.t.Errorf("status -o json: %s", r.Stdout)
	}
}

func (h *host) waitHealthy() {
	h.t.Helper()
	h.must("sh", "-c", `for i in $(seq 300); do curl -sf http://127.0.0.1:10248/healthz >/dev/null && exit 0; sleep 0.1; done; exit 1`)
}

// snapshot is everything that join could change, as the host itself tells it.
func (h *host) snapshot() world.Snapshot {
	h.t.Helper()
	s, err := world.TakeSnapshot(h.t.Context(), h.Host)
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

// unchanged compares the host with a snapshot; lines that begin with one of
// except are passed over, and so is /run/tectonic-worker, which holds the lock
// until the next boot.
func (h *host) unchanged(before world.Snapshot, except ...string) {
	h.t.Helper()
	for _, d := range before.Diff(h.snapshot(), append(except, "/run/tectonic-worker")...) {
		h.t.Errorf("changed: %s", d)
	}
}

// An older kubelet, under rkt, from an archive, in HCL without the DNS key.
func TestJoinRkt(t *testing.T) {
	t.Parallel()
	const version = "v1.34.4"
	h := worker(t, lab.WorkerOptions{Rkt: true, KubeletVersion: version, Files: []lab.File{{
		// What an administrator without a way to the Internet does.
		Path: "/etc/rkt/trustedkeys/prefix.d/quay.io/bff313cdaa560b16a8987b8f72abf5f6799d33bc", Content: []byte("the lab's stand-in for Quay's key\n"),
	}}})
	a := plane.Assets()
	a.HCL, a.DNSServiceIP, a.Prefix = true, "", "lab_2017-10-01"
	archive, err := a.TarGz()
	if err != nil {
		t.Fatal(err)
	}
	h.write("/root/assets.tar.gz", string(archive))
	r := h.join("--assets", "/root/assets.tar.gz", "--image", lab.KubeletImage(version), "--node-name", "rkt-node", "--node-ip", h.Address)
	h.Name = "rkt-node"
	h.ready(version)
	if !strings.Contains(r.Stdout, "tectonic_service_cidr") {
		t.Errorf("join does not say where the DNS address is from:\n%s", r.Stdout)
	}
	if args := h.kubeletArgs(); !strings.Contains(args, "--hostname-override=rkt-node") || !strings.Contains(args, "--node-ip="+h.Address) {
		t.Errorf("the kubelet's arguments: %s", args)
	}
	// rkt's fly stage1 becomes the kubelet: the unit's main process is it.
	pid := strings.TrimSpace(strings.TrimPrefix(h.must("systemctl", "show", "-p", "MainPID", "kubelet"), "MainPID="))
	if comm := strings.TrimSpace(h.must("cat", "/proc/"+pid+"/comm")); comm != "kubelet" {
		t.Errorf("the unit's main process is %s", comm)
	}
	if got := h.must("curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "https://127.0.0.1:10250/pods"); got != "401" {
		t.Errorf("the kubelet's API answers %s to nobody in particular", got)
	}
	h.must("systemctl", "restart", "kubelet")
	h.waitHealthy()
	h.must("systemctl", "stop", "kubelet")
	if _, err := os.Stat(h.Path("/run/tectonic-worker/kubelet.uuid")); err == nil {
		t.Error("a stopped kubelet leaves its uuid file")
	}
}

// A bootstrap token becomes a certificate of the node's own.
func TestJoinBootstrapToken(t *testing.T) {
	t.Parallel()
	h := worker(t, lab.WorkerOptions{})
	ctx := t.Context()
	kubeconfig, err := plane.BootstrapKubeconfig(ctx, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	c := lab.Command{Args: []string{"tectonic-worker", "join", "--kubeconfig", "-", "--dns-service-ip", lab.DNSServiceIP, "--timeout", "100s"}, Stdin: strings.NewReader(string(kubeconfig))}
	r, err := h.Command(ctx, c)
	if err != nil || r.Code != 0 {
		t.Fatalf("%v %s", err, r)
	}
	h.ready(lab.ControlPlaneVersion)
	cert := h.must("openssl", "x509", "-noout", "-subject", "-in", "/var/lib/kubelet/pki/kubelet-client-current.pem")
	if !strings.Contains(cert, "system:node:"+h.Name) {
		t.Errorf("the kubelet's certificate is for %s", cert)
	}
	if args := h.kubeletArgs(); !strings.Contains(args, "--bootstrap-kubeconfig=/etc/kubernetes/kubeconfig") {
		t.Errorf("the kubelet's arguments: %s", args)
	}
	if st := h.run("tectonic-worker", "status"); st.Code != 0 || strings.Contains(st.Stdout, "SHARED") || !strings.Contains(st.Stdout, "bootstrap token") {
		t.Errorf("status: %s", st)
	}
}

// The seed's way: edit the settings, copy the kubeconfig, start the kubelet.
func TestByHand(t *testing.T) {
	t.Parallel()
	h := worker(t, lab.WorkerOptions{})
	// What the original package's administrators have in their file.
	h.write("/etc/sysconfig/tectonic-worker", "KUBERNETES_DNS_SERVICE_IP="+lab.DNSServiceIP+"\nCLUSTER_DOMAIN=cluster.local\n")
	kubeconfig, err := plane.SharedKubeconfig()
	if err != nil {
		t.Fatal(err)
	}

	t.Run("without a kubeconfig nothing starts and nothing fails", func(t *testing.T) {
		h := &host{h.Host, t}
		h.must("systemctl", "start", "kubelet")
		if got := h.run("systemctl", "is-failed", "kubelet").Stdout; strings.TrimSpace(got) == "failed" {
			t.Error("kubelet.service failed")
		}
	})
	t.Run("kubelet.path starts it when a valid one arrives", func(t *testing.T) {
		h := &host{h.Host, t}
		h.must("systemctl", "start", "kubelet.path")
		h.write("/etc/kubernetes/kubeconfig", "")
		h.write("/etc/kubernetes/kubeconfig", string(kubeconfig[:len(kubeconfig)/2]))
		h.must("sleep", "2")
		if got := strings.TrimSpace(h.run("systemctl", "is-active", "kubelet").Stdout); got != "inactive" {
			t.Errorf("half a kubeconfig made the kubelet %s", got)
		}
		h.write("/etc/kubernetes/kubeconfig", string(kubeconfig))
		h.must("sh", "-c", `for i in $(seq 100); do systemctl -q is-active kubelet && exit 0; sleep 0.2; done; exit 1`)
		h.waitHealthy()
		kubectl(t, "wait", "--for=create", "node/"+h.Name, "--timeout=30s")
		kubectl(t, "wait", "--for=condition=Ready", "node/"+h.Name, "--timeout=60s")
		// The image was chosen by the API server's version, and written down.
		if got := h.read("/etc/kubernetes/kubelet.env"); !strings.Contains(got, "\nKUBELET_IMAGE="+lab.KubeletImage(lab.ControlPlaneVersion)) {
			t.Errorf("kubelet.env does not name the image:\n%s", got)
		}
	})
	t.Run("a wrong setting fails at once and says so", func(t *testing.T) {
		h := &host{h.Host, t}
		h.must("systemctl", "stop", "kubelet")
		h.write("/etc/sysconfig/tectonic-worker", "KUBERNETES_DNS_SERVICE_IP=a.b\n")
		r := h.run("systemctl", "start", "kubelet")
		if r.Code == 0 {
			t.Error("systemctl start kubelet is content with a.b")
		}
		if log := h.Journal(t.Context(), "kubelet", 20); !strings.Contains(log, "/etc/sysconfig/tectonic-worker:1: KUBERNETES_DNS_SERVICE_IP=a.b") {
			t.Errorf("the journal does not say what is wrong:\n%s", log)
		}
		if got := strings.TrimSpace(h.run("systemctl", "show", "-p", "ExecMainStatus", "--value", "kubelet").Stdout); got != "78" {
			t.Errorf("exit status %s, want 78", got)
		}
		if got := strings.TrimSpace(h.run("systemctl", "is-active", "kubelet").Stdout); got != "failed" {
			t.Errorf("the unit is %s: it must not be tried again and again", got)
		}
	})
}
