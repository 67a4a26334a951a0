package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

const currentPEM = "/var/lib/kubelet/pki/kubelet-client-current.pem"

// bootstrapped joins a host with a bootstrap token.
func bootstrapped(t *testing.T) *host {
	t.Helper()
	h := worker(t, lab.WorkerOptions{})
	h.write("/root/bootstrap", string(must[[]byte](t)(plane.BootstrapKubeconfig(t.Context(), time.Hour))))
	h.join("--kubeconfig", "/root/bootstrap", "--dns-service-ip", lab.DNSServiceIP)
	h.ready(lab.ControlPlaneVersion)
	return h
}

func (h *host) serial() string {
	h.t.Helper()
	return strings.TrimPrefix(strings.TrimSpace(h.must("openssl", "x509", "-noout", "-serial", "-in", currentPEM)), "serial=")
}

// memory is the end of the certificate that the running kubelet shows to the
// API server, by its own metric.
func (h *host) memory() time.Time {
	h.t.Helper()
	metrics := kubectl(h.t, "get", "--raw", "/api/v1/nodes/"+h.Name+"/proxy/metrics")
	m := regexp.MustCompile(`(?m)^kubelet_certificate_manager_client_ttl_seconds (\S+)$`).FindStringSubmatch(metrics)
	if m == nil {
		h.t.Fatal("the kubelet has no metric of its client certificate")
	}
	ttl, err := strconv.ParseFloat(m[1], 64)
	if err != nil || math.IsInf(ttl, 0) {
		h.t.Fatalf("the kubelet's client certificate ends in %s s: %v", m[1], err)
	}
	return time.Now().Add(time.Duration(ttl) * time.Second)
}

func (h *host) fileEnd() time.Time {
	h.t.Helper()
	text := strings.TrimPrefix(strings.TrimSpace(h.must("openssl", "x509", "-noout", "-enddate", "-in", currentPEM)), "notAfter=")
	return must[time.Time](h.t)(time.Parse("Jan _2 15:04:05 2006 MST", text))
}

// uses fails the test unless the running kubelet shows the certificate that is
// in the file.
func (h *host) uses(end time.Time) {
	h.t.Helper()
	if got := h.memory(); got.Sub(end).Abs() > 5*time.Second {
		h.t.Errorf("the running kubelet's certificate ends at %s, the file's at %s", got.UTC(), end.UTC())
	}
}

// layout fails the test unless the files are as a kubelet keeps them.
func (h *host) layout() {
	h.t.Helper()
	if got := h.must("sh", "-c", "stat -c '%a %U %F' $(readlink -f "+currentPEM+"); stat -c %F "+currentPEM); got != "600 root regular file\nsymbolic link\n" {
		h.t.Errorf("the certificate's files: %s", got)
	}
	if got := h.must("readlink", "-f", currentPEM); !regexp.MustCompile(`^/var/lib/kubelet/pki/kubelet-client-\d{4}(-\d\d){5}\.pem\n$`).MatchString(got) {
		h.t.Errorf("%s leads to %s", currentPEM, got)
	}
	if got := h.run("sh", "-c", "ls /var/lib/tectonic-worker/renew.key; ls -A /var/lib/kubelet/pki | grep tmp").Stdout; got != "" {
		h.t.Errorf("left behind: %s", got)
	}
}

// sign puts a certificate of our own making in place of the kubelet's.
func (h *host) sign(notAfter time.Time) {
	h.t.Helper()
	pair := must[lab.Pair](h.t)(plane.CA.Issue(lab.Subject{
		Name: "system:node:" + h.Name, Organizations: []string{"system:nodes"}, NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: notAfter,
	}))
	h.write("/var/lib/kubelet/pki/kubelet-client-2020-01-01-00-00-00.pem", string(pair.Cert)+string(pair.Key))
	h.must("ln", "-sfn", "/var/lib/kubelet/pki/kubelet-client-2020-01-01-00-00-00.pem", currentPEM)
}

type renewed struct {
	Node, Request, Serial, OldSerial, Credential, File string
	Changed, Restarted, Ready, DryRun                  bool
	Error                                              *struct {
		Message, Stage string
		Code           int
	}
}

func (h *host) renew(args ...string) (renewed, lab.Result) {
	h.t.Helper()
	r := h.run(append([]string{"tectonic-worker", "renew", "-o", "json"}, args...)...)
	var doc renewed
	if err := json.Unmarshal([]byte(r.Stdout), &doc); err != nil {
		h.t.Fatalf("renew -o json: %v\n%s", err, r)
	}
	if strings.Contains(r.Output(), "PRIVATE KEY") {
		h.t.Errorf("the output shows a secret: %s", r)
	}
	return doc, r
}

// pending makes that nobody's request is approved, until the test ends.
func pending(t *testing.T) {
	t.Helper()
	bindings := []string{"node-autoapprove-bootstrap", "node-autoapprove-rotation"}
	kept := map[string]string{}
	for _, b := range bindings {
		kept[b] = kubectl(t, "get", "clusterrolebinding", b, "-o", "jsonpath={.roleRef.name} {.subjects[0].name}")
		kubectl(t, "delete", "clusterrolebinding", b)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		for b, v := range kept {
			role, group, _ := strings.Cut(v, " ")
			if _, err := plane.ControlPlane.Kubectl(ctx, "create", "clusterrolebinding", b, "--clusterrole="+role, "--group="+group); err != nil {
				t.Error(err)
			}
		}
	})
	// The approver's informer has to see it.
	kubectl(t, "auth", "can-i", "get", "nodes")
}

// A kubelet that has a certificate gets a new one while it runs, and uses it.
func TestRenew(t *testing.T) {
	h := bootstrapped(t)

	t.Run("the kubelet reads the file at its start only", func(t *testing.T) {
		h := &host{h.Host, t}
		was := h.must("readlink", "-f", currentPEM)
		end := h.fileEnd()
		h.uses(end)
		h.sign(time.Now().Add(90 * time.Minute))
		h.must("sleep", "12") // it renews its Lease every ten
		h.uses(end)           // which is why renew restarts it
		h.must("ln", "-sfn", strings.TrimSpace(was), currentPEM)
	})
	t.Run("dry run", func(t *testing.T) {
		h := &host{h.Host, t}
		before := h.snapshot()
		doc, r := h.renew("--dry-run")
		if r.Code != 0 || !doc.DryRun || doc.Changed || doc.Request != "" || !strings.Contains(doc.Credential, "of node "+h.Name) {
			t.Errorf("%s", r)
		}
		h.unchanged(before)
	})
	t.Run("with its own certificate", func(t *testing.T) {
		h := &host{h.Host, t}
		old, pid := h.serial(), h.must("systemctl", "show", "-p", "MainPID", "kubelet")
		r := h.run("tectonic-worker", "renew")
		t.Logf("%s", r)
		if r.Code != 0 || !strings.Contains(r.Stdout, "Node "+h.Name+" is Ready with its new certificate") {
			t.Fatalf("%s", r)
		}
		if got := h.serial(); got == old {
			t.Error("the certificate is the old one")
		}
		if got := h.must("systemctl", "show", "-p", "MainPID", "kubelet"); got == pid {
			t.Error("the kubelet was not restarted")
		}
		h.layout()
		h.uses(h.fileEnd())
		h.ready(lab.ControlPlaneVersion)
	})
	t.Run("the API server sees the new certificate", func(t *testing.T) {
		h := &host{h.Host, t}
		doc, r := h.renew()
		if r.Code != 0 || !doc.Ready || !doc.Restarted || doc.OldSerial == doc.Serial || strings.TrimLeft(doc.Serial, "0") != strings.TrimLeft(h.serial(), "0") {
			t.Fatalf("%s", r)
		}
		// A further request is made with it; the API server writes down by
		// which certificate it knew the requester (KEP-4193).
		next, r := h.renew()
		if r.Code != 0 {
			t.Fatalf("%s", r)
		}
		extra := kubectl(t, "get", "csr", next.Request, "-o", `jsonpath={.spec.username} {.spec.extra.authentication\.kubernetes\.io/credential-id}`)
		sum := h.must("sh", "-c", "openssl x509 -outform DER -in "+doc.File+" | sha256sum | cut -d' ' -f1")
		if !strings.Contains(extra, "system:node:"+h.Name) || !strings.Contains(extra, "X509SHA256="+strings.TrimSpace(sum)) {
			t.Errorf("the API server saw %s, want the certificate %s", extra, sum)
		}
	})
	t.Run("twice at once", func(t *testing.T) {
		h := &host{h.Host, t}
		h.must("systemd-run", "--unit=holder", "--property=Type=notify", "--property=NotifyAccess=all", "sh", "-c",
			"exec 9>/run/tectonic-worker/lock; flock 9; echo 'join, process 1' >&9; systemd-notify --ready; sleep 60")
		doc, r := h.renew()
		if r.Code != 75 || doc.Error == nil || doc.Error.Code != 75 || !strings.Contains(doc.Error.Message, "join, process 1") {
			t.Errorf("%s", r)
		}
		h.must("systemctl", "stop", "holder")
		// Two real ones: the second waits for its turn or says that it is busy.
		var all [2]lab.Result
		var wait sync.WaitGroup
		for i := range all {
			wait.Go(func() { all[i] = h.run("tectonic-worker", "renew") })
		}
		wait.Wait()
		done := 0
		for _, r := range all {
			if r.Code == 0 {
				done++
			} else if r.Code != 75 {
				t.Errorf("%s", r)
			}
		}
		if done == 0 {
			t.Errorf("neither renewed: %s\n%s", all[0], all[1])
		}
		h.layout()
		h.uses(h.fileEnd())
	})
	t.Run("the kubelet's kubeconfig is damaged", func(t *testing.T) {
		h := &host{h.Host, t}
		h.write("/var/lib/kubelet/kubeconfig", "garbage")
		doc, r := h.renew()
		if r.Code != 0 || !doc.Ready {
			t.Fatalf("%s", r)
		}
		if got := h.read("/var/lib/kubelet/kubeconfig"); !strings.Contains(got, currentPEM) {
			t.Errorf("it is not repaired: %s", got)
		}
		h.uses(h.fileEnd())
	})
	t.Run("expired, with the host's bootstrap token", func(t *testing.T) {
		h := &host{h.Host, t}
		h.must("systemctl", "stop", "kubelet")
		h.sign(time.Now().Add(-time.Hour))
		// A kubelet that an administrator stopped stays so.
		doc, r := h.renew()
		if r.Code != 0 || !doc.Changed || doc.Restarted || !strings.Contains(doc.Credential, "bootstrap token") {
			t.Fatalf("%s", r)
		}
		h.layout()
		serial := h.serial()
		h.must("systemctl", "start", "kubelet")
		h.waitHealthy()
		kubectl(t, "wait", "--for=condition=Ready", "node/"+h.Name, "--timeout=60s")
		h.uses(h.fileEnd())
		if got := h.serial(); got != serial {
			t.Errorf("the kubelet took another certificate, %s, than the one of renew, %s", got, serial)
		}
	})
}

// What stands in the way of a new certificate is named, and the old one stays.
func TestRenewFails(t *testing.T) {
	h := bootstrapped(t)
	// The token that the host joined with is gone, as after a day.
	for name := range strings.FieldsSeq(kubectl(t, "get", "secrets", "-n", "kube-system", "--field-selector=type=bootstrap.kubernetes.io/token", "-o", "name")) {
		kubectl(t, "delete", "-n", "kube-system", name)
	}

	t.Run("never approved, and approved later", func(t *testing.T) {
		h := &host{h.Host, t}
		pending(t)
		old := h.serial()
		doc, r := h.renew("--timeout", "12s")
		if r.Code != 1 || doc.Error == nil || doc.Error.Stage != "csr" || doc.Request == "" || doc.Changed || h.serial() != old {
			t.Fatalf("%s", r)
		}
		for _, want := range []string{doc.Request, "kubectl certificate approve " + doc.Request, "again"} {
			if !strings.Contains(doc.Error.Message, want) {
				t.Errorf("the message does not say %q: %s", want, doc.Error.Message)
			}
		}
		kubectl(t, "certificate", "approve", doc.Request)
		again, r := h.renew("--timeout", "60s")
		if r.Code != 0 || again.Request != doc.Request || !again.Ready {
			t.Fatalf("%s", r)
		}
		h.layout()
	})
	t.Run("denied", func(t *testing.T) {
		h := &host{h.Host, t}
		pending(t)
		old := h.serial()
		doc, r := h.renew("--timeout", "6s")
		if r.Code != 1 {
			t.Fatalf("%s", r)
		}
		kubectl(t, "certificate", "deny", doc.Request)
		// The next run makes a new request, and this one is denied under way.
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		denied := make(chan error, 1)
		go func() {
			script := fmt.Sprintf(`{range .items[?(@.spec.username=="system:node:%s")]}{.metadata.name} {.status.conditions[0].type}{"\n"}{end}`, h.Name)
			for ctx.Err() == nil {
				out, _ := plane.ControlPlane.Kubectl(ctx, "get", "csr", "-o", "jsonpath="+script)
				for _, l := range strings.Split(out, "\n") {
					if name, state, ok := strings.Cut(l, " "); ok && state == "" {
						_, err := plane.ControlPlane.Kubectl(ctx, "certificate", "deny", name)
						denied <- err
						return
					}
				}
			}
			denied <- ctx.Err()
		}()
		second, r := h.renew("--timeout", "60s")
		if err := <-denied; err != nil {
			t.Fatal(err)
		}
		if r.Code != 1 || second.Error == nil || second.Error.Stage != "csr" || second.Request == doc.Request || !strings.Contains(second.Error.Message, "denied") || h.serial() != old {
			t.Errorf("%s", r)
		}
		if r := h.run("ls", "/var/lib/tectonic-worker/renew.key"); r.Code == 0 {
			t.Error("the key of a denied request is kept")
		}
	})
	t.Run("expired and nothing to ask with", func(t *testing.T) {
		h := &host{h.Host, t}
		h.must("systemctl", "stop", "kubelet")
		h.sign(time.Now().Add(-time.Hour))
		doc, r := h.renew() // the host's token looks valid, and the API server says no
		if r.Code != 78 || doc.Error == nil || !strings.Contains(doc.Error.Message, "401") {
			t.Errorf("%s", r)
		}
		if r := h.run("tectonic-worker", "renew", "--kubeconfig", "/root/nothing.conf"); r.Code != 78 || !strings.Contains(r.Stderr, "/root/nothing.conf") {
			t.Errorf("%s", r)
		}
	})
	t.Run("API server down", func(t *testing.T) {
		h := &host{h.Host, t}
		proxy := must[*lab.Proxy](t)(plane.ControlPlane.Proxy(t.Context()))
		defer proxy.Close()
		if err := proxy.Set(lab.Refuse); err != nil {
			t.Fatal(err)
		}
		good := h.read("/etc/kubernetes/kubeconfig")
		h.write("/etc/kubernetes/kubeconfig", string(plane.WithServer([]byte(good), proxy.Server)))
		defer h.write("/etc/kubernetes/kubeconfig", good)
		doc, r := h.renew("--timeout", "30s")
		if r.Code != 69 || doc.Error == nil || !strings.Contains(doc.Error.Message, "refused") {
			t.Errorf("%s", r)
		}
	})
	t.Run("expired, with a bootstrap token that is given", func(t *testing.T) {
		h := &host{h.Host, t}
		h.write("/root/new", string(must[[]byte](t)(plane.BootstrapKubeconfig(t.Context(), time.Hour))))
		h.must("systemctl", "start", "kubelet")
		doc, r := h.renew("--kubeconfig", "/root/new")
		if r.Code != 0 || !doc.Ready || !strings.Contains(doc.Credential, "bootstrap token") {
			t.Fatalf("%s", r)
		}
		h.layout()
		h.uses(h.fileEnd())
		h.ready(lab.ControlPlaneVersion)
	})
	t.Run("of another cluster", func(t *testing.T) {
		h := &host{h.Host, t}
		h.write("/root/other", string(must[[]byte](t)(plane.WrongCAKubeconfig())))
		if doc, r := h.renew("--kubeconfig", "/root/other"); r.Code != 78 || !strings.Contains(doc.Error.Message, "join --kubeconfig") {
			t.Errorf("%s", r)
		}
	})
	t.Run("shared certificate", func(t *testing.T) {
		h := &host{h.Host, t}
		good := h.read("/etc/kubernetes/kubeconfig")
		h.write("/etc/kubernetes/kubeconfig", string(must[[]byte](t)(plane.SharedKubeconfig())))
		defer h.write("/etc/kubernetes/kubeconfig", good)
		doc, r := h.renew()
		if r.Code != 78 || !strings.Contains(doc.Error.Message, "no certificate of its own") || !strings.Contains(doc.Error.Message, "join --kubeconfig") {
			t.Errorf("%s", r)
		}
	})
}

// pid is the kubelet's, which changes with each start.
func (h *host) pid() string {
	h.t.Helper()
	return strings.TrimSpace(h.must("systemctl", "show", "-p", "MainPID", "--value", "kubelet"))
}

// until waits until a shell command succeeds on the host.
func (h *host) until(what, script string) {
	h.t.Helper()
	if r := h.run("sh", "-c", `for i in $(seq 300); do `+script+` && exit 0; sleep 0.1; done; exit 1`); r.Code != 0 {
		h.t.Fatalf("not in time: %s\n%s", what, h.Journal(h.t.Context(), "tectonic-worker", 20))
	}
}

// A kubeconfig that is replaced while the agent runs: a bad one disturbs no
// kubelet, not even one that is started again; a good one is taken once.
func TestKubeconfigReplaced(t *testing.T) {
	t.Parallel()
	h := worker(t, lab.WorkerOptions{})
	h.putAssets("/root/assets")
	h.join("--assets", "/root/assets")
	h.until("the agent runs", "systemctl -q is-active tectonic-worker")
	const path, log = "/etc/kubernetes/kubeconfig", "journalctl -q -u tectonic-worker -u kubelet --no-pager"
	good := h.read(path)
	data := must[[]byte](t)

	t.Run("refused", func(t *testing.T) {
		h := &host{h.Host, t}
		pid := h.pid()
		h.write(path, string(data(plane.UnauthorizedKubeconfig())))
		h.until("the refusal is said", log+" | grep -q 'is refused.*401'")
		h.write(path, "garbage: [")
		h.until("the second refusal is said", log+" | grep -q 'is refused.*YAML'")
		if got := h.pid(); got != pid {
			t.Errorf("the kubelet was restarted: %s, then %s", pid, got)
		}
		h.ready(lab.ControlPlaneVersion)
	})
	t.Run("the kubelet is started again meanwhile", func(t *testing.T) {
		h := &host{h.Host, t}
		h.must("systemctl", "restart", "kubelet")
		h.waitHealthy()
		if args := h.kubeletArgs(); !strings.Contains(args, "--kubeconfig=/run/tectonic-worker/kubeconfig") {
			t.Errorf("the kubelet's arguments: %s", args)
		}
		h.until("a warning", log+" | grep -q 'LAST GOOD kubeconfig'")
		kubectl(t, "wait", "--for=condition=Ready", "node/"+h.Name, "--timeout=60s")
		if got := h.read(path); got != "garbage: [" {
			t.Errorf("the administrator's file was changed: %s", got)
		}
	})
	t.Run("adopted", func(t *testing.T) {
		h := &host{h.Host, t}
		pid := h.pid()
		h.write(path, string(data(plane.SharedKubeconfig())))
		h.until("a restart with the new one", "test $(systemctl show -p MainPID --value kubelet) -ne "+pid+" && test $(systemctl show -p MainPID --value kubelet) -ne 0")
		h.waitHealthy()
		if args := h.kubeletArgs(); !strings.Contains(args, "--kubeconfig="+path) {
			t.Errorf("the kubelet's arguments: %s", args)
		}
		pid = h.pid()
		h.must("touch", path)
		h.must("sleep", "4")
		if got := h.pid(); got != pid {
			t.Error("the kubelet was restarted twice")
		}
		if h.read(path) == good || h.read(path) != h.read("/var/lib/tectonic-worker/kubeconfig") {
			t.Error("what is kept aside is not the new one")
		}
		h.ready(lab.ControlPlaneVersion)
	})
}
