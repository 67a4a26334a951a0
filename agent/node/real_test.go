package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd/api"
)

func TestRealReach(t *testing.T) {
	p := startControlPlane(t)
	t.Run("shared client certificate", func(t *testing.T) {
		s, err := p.cert(t, "kubelet", "system:masters").Reach(t.Context())
		if err != nil || !strings.HasPrefix(s.Version, "v1.36") || s.LocalIP.String() != "127.0.0.1" || s.Skew.Abs() > 2*time.Second {
			t.Errorf("%+v, %v", s, err)
		}
	})
	t.Run("a node's own certificate", func(t *testing.T) {
		if s, err := p.cert(t, "system:node:w1", "system:nodes").Reach(t.Context()); err != nil || s.Major != "1" || s.Minor != "36" {
			t.Errorf("%+v, %v", s, err)
		}
	})
	t.Run("certificate without rights", func(t *testing.T) {
		_, err := p.cert(t, "somebody").Reach(t.Context())
		expect(t, err, LayerAuthorization, Forbidden, "cannot create nodes at "+p.server+": the client certificate CN=somebody is accepted but has not the right", "system:node")
	})
	t.Run("certificate of another cluster", func(t *testing.T) {
		user := certUser(t, newAuthority(t, "kube-ca-of-another"), leaf{cn: "kubelet", orgs: []string{"system:masters"}})
		_, err := p.client(t, user).Reach(t.Context())
		expect(t, err, LayerAuthentication, Unauthorized, "does not accept the client certificate CN=kubelet,O=system:masters (401)")
	})
	t.Run("expired certificate", func(t *testing.T) {
		_, err := p.client(t, certUser(t, p.ca, leaf{cn: "kubelet", notBefore: time.Now().AddDate(0, 0, -3)})).Reach(t.Context())
		expect(t, err, LayerAuthentication, Unauthorized, "it expired at", "get a new kubeconfig")
	})
	t.Run("unknown token", func(t *testing.T) {
		_, err := p.client(t, api.AuthInfo{Token: secretToken}).Reach(t.Context())
		expect(t, err, LayerAuthentication, Unauthorized, "does not accept the token (401)")
	})
	t.Run("unknown bootstrap token", func(t *testing.T) {
		_, err := p.client(t, api.AuthInfo{Token: bootstrap}).Reach(t.Context())
		expect(t, err, LayerAuthentication, Unauthorized, "bootstrap token system:bootstrap:abcdef (401)")
	})
	t.Run("bootstrap token without rights", func(t *testing.T) {
		_, err := p.client(t, p.bootstrapToken(t, "aaaaaa", false)).untilAuthenticated(t)
		expect(t, err, LayerAuthorization, Forbidden, "cannot create certificatesigningrequests", "clusterrole=system:node-bootstrapper")
	})
	t.Run("bootstrap token", func(t *testing.T) {
		c := p.client(t, p.bootstrapToken(t, "bbbbbb", true))
		s, err := c.untilAuthenticated(t)
		if err != nil || !s.AutoApproved {
			t.Errorf("%+v, %v", s, err)
		}
		_, _, err = c.DNSServiceIP(t.Context())
		expect(t, err, LayerAuthorization, Forbidden, "cannot find the address of the cluster's DNS Service", "--dns-service-ip")
		_, err = c.Node(t.Context(), "w1")
		expect(t, err, LayerAuthorization, Forbidden, "cannot read node w1")
	})
}

func TestRealDNSServiceIP(t *testing.T) {
	p := startControlPlane(t)
	check := func(t *testing.T, c *Client, ip, how string) {
		t.Helper()
		got, said, err := c.DNSServiceIP(t.Context())
		if err != nil || got.String() != ip || !strings.Contains(said, how) {
			t.Errorf("got %v, %q, %v; want %s, %q", got, said, err, ip, how)
		}
	}
	admin, worker := p.admin, p.cert(t, "system:node:w1", "system:nodes")
	t.Run("no DNS Service, range readable", func(t *testing.T) {
		check(t, admin, "10.3.0.10", "the tenth address of the Services' range 10.3.0.0/16")
	})
	t.Run("no DNS Service, range not readable", func(t *testing.T) {
		check(t, worker, "10.3.0.10", "whose first is that of the Service default/kubernetes (10.3.0.1)")
	})
	service := func(name, ip string, labels map[string]string, port int) map[string]any {
		o := object("Service", "v1", name, map[string]any{"spec": map[string]any{"clusterIP": ip, "ports": []any{map[string]any{"port": port, "protocol": "UDP", "name": "dns"}}}})
		o["metadata"].(map[string]any)["labels"] = labels
		return o
	}
	const services = "/api/v1/namespaces/kube-system/services"
	label := map[string]string{"k8s-app": "kube-dns"}
	p.apply(t, p.admin, services, service("kube-dns-upstream", "10.3.0.77", label, 53))
	p.apply(t, p.admin, services, service("metrics", "10.3.0.78", label, 9153))
	t.Run("others with the label", func(t *testing.T) { check(t, worker, "10.3.0.10", "the tenth address") })
	p.apply(t, p.admin, services, service("rke2-coredns", "10.3.0.55", label, 53))
	t.Run("by label", func(t *testing.T) { check(t, worker, "10.3.0.55", "the Service kube-system/rke2-coredns") })
	p.apply(t, p.admin, services, service("kube-dns", "10.3.0.99", nil, 53))
	t.Run("by name", func(t *testing.T) { check(t, worker, "10.3.0.99", "the Service kube-system/kube-dns") })
}

// condition is the Ready condition as a kubelet writes it.
func condition(status, reason, message string) map[string]any {
	return map[string]any{"type": "Ready", "status": status, "reason": reason, "message": message,
		"lastHeartbeatTime": time.Now().UTC().Format(time.RFC3339), "lastTransitionTime": time.Now().UTC().Format(time.RFC3339)}
}

func TestRealNode(t *testing.T) {
	p := startControlPlane(t)
	worker := p.cert(t, "system:node:w1", "system:nodes")
	if _, err := worker.Node(t.Context(), "w1"); !IsReason(err, NotFound) {
		t.Fatalf("got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	const cni = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:cni plugin not initialized\x1b[31m"
	var seen []string
	err := worker.WaitNode(ctx, "w1", func(s NodeState) {
		seen = append(seen, s.Why())
		switch len(seen) { // each step is taken when the one before was seen
		case 1:
			p.apply(t, worker, "/api/v1/nodes", object("Node", "v1", "w1", map[string]any{"spec": map[string]any{"taints": []any{map[string]string{"key": "a", "value": "b", "effect": "NoSchedule"}}}}))
		case 2:
			worker.patchStatus(t, "w1", map[string]any{"conditions": []any{condition("False", "KubeletNotReady", cni)}, "addresses": []any{map[string]string{"type": "InternalIP", "address": "192.0.2.7"}},
				"nodeInfo": map[string]string{"machineID": "m1", "systemUUID": "", "bootID": "", "kernelVersion": "", "osImage": "RHEL", "containerRuntimeVersion": "containerd://1.7", "kubeletVersion": "v1.36.3", "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64"}})
		case 3:
			if !s.CNIMissing() {
				t.Errorf("not seen as a missing network plugin: %+v", s)
			}
			worker.patchStatus(t, "w1", map[string]any{"conditions": []any{condition("True", "KubeletReady", "kubelet is posting ready status")}})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"node w1 is not registered", "node w1 is registered, its kubelet has not reported a condition yet",
		"node w1 is not Ready: KubeletNotReady: container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:cni plugin not initialized [31m", "node w1 is Ready"}
	if strings.Join(seen, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(seen, "\n"), strings.Join(want, "\n"))
	}
	s, err := worker.Node(t.Context(), "w1")
	if err != nil || !s.Ready || s.MachineID != "m1" || s.UID == "" || len(s.InternalIPs) != 1 || strings.Join(s.Taints, " ") != "a=b:NoSchedule node.kubernetes.io/not-ready:NoSchedule" {
		t.Errorf("%+v, %v", s, err)
	}

	p.apply(t, p.admin, "/api/v1/nodes", object("Node", "v1", "w2", nil))
	t.Run("another's node", func(t *testing.T) {
		p.admin.patchStatus(t, "w2", map[string]any{"nodeInfo": map[string]string{"machineID": "m1", "systemUUID": "", "bootID": "", "kernelVersion": "", "osImage": "", "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "", "operatingSystem": "", "architecture": ""}})
		twins, err := p.admin.NodesOfMachine(t.Context(), "w1", "m1", "", "")
		if err != nil || len(twins) != 1 || twins[0].Name != "w2" {
			t.Errorf("%+v, %v", twins, err)
		}
		_, err = worker.NodesOfMachine(t.Context(), "w1", "m1", "", "")
		expect(t, err, LayerAuthorization, Forbidden, "cannot list nodes")
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		err = worker.WaitNode(ctx, "w2", nil)
		expect(t, err, LayerAuthorization, Forbidden, "cannot watch node w2")
		if ctx.Err() != nil {
			t.Error("it went on trying without the right")
		}
	})
	t.Run("a wait that ends too early", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		err := p.admin.WaitNode(ctx, "w2", nil)
		var notReady *NotReadyError
		if !errors.As(err, &notReady) || !errors.Is(err, context.DeadlineExceeded) || !notReady.Last.Registered {
			t.Errorf("got %v", err)
		}
	})
	t.Run("delete", func(t *testing.T) {
		err := p.admin.DeleteNodeUID(t.Context(), "w1", "00000000-0000-0000-0000-000000000000")
		expect(t, err, LayerAPI, Conflict, "cannot delete node w1")
		expect(t, worker.DeleteNode(t.Context(), "w1"), LayerAuthorization, Forbidden, "cannot delete node w1", "system:node:w1")
		if err := p.admin.DeleteNodeUID(t.Context(), "w1", s.UID); err != nil {
			t.Error(err)
		}
		if err := p.admin.DeleteNode(t.Context(), "w1"); err != nil {
			t.Errorf("the second time: %v", err)
		}
		if _, err := worker.Node(t.Context(), "w1"); !IsReason(err, NotFound) {
			t.Errorf("got %v", err)
		}
	})
}

func TestRealCSRs(t *testing.T) {
	p := startControlPlane(t)
	boot := p.client(t, p.bootstrapToken(t, "cccccc", true))
	if _, err := boot.untilAuthenticated(t); err != nil {
		t.Fatal(err)
	}
	ask := func(name, node string) {
		p.apply(t, boot, "/apis/certificates.k8s.io/v1/certificatesigningrequests", object("CertificateSigningRequest", "certificates.k8s.io/v1", name, map[string]any{
			"spec": map[string]any{"request": request(t, node), "signerName": kubeletClient, "usages": []string{"digital signature", "client auth"}},
		}))
	}
	ask("csr-w1", "w1")
	ask("csr-w2", "w2")
	state := func(want CSRState) {
		t.Helper()
		all, err := boot.CSRs(t.Context(), "w1")
		if err != nil || len(all) != 1 || all[0].Name != "csr-w1" || all[0].State != want || all[0].Requester != "system:bootstrap:cccccc" {
			t.Errorf("got %+v, %v; want %s", all, err, want)
		}
	}
	state(CSRPending)
	decide := func(name, verdict string) {
		t.Helper()
		body := fmt.Sprintf(`{"status":{"conditions":[{"type":%q,"status":"True","reason":"Test","message":"by the test"}]}}`, verdict)
		path := "/apis/certificates.k8s.io/v1/certificatesigningrequests/" + name + "/approval"
		if _, _, err := p.admin.raw(t.Context(), "decide", p.admin.rest.Patch("application/merge-patch+json").AbsPath(path).Body([]byte(body))); err != nil {
			t.Fatal(err)
		}
	}
	decide("csr-w1", "Approved")
	state(CSRApproved) // there is no controller to issue it
	decide("csr-w2", "Denied")
	all, err := boot.CSRs(t.Context(), "w2")
	if err != nil || len(all) != 1 || all[0].State != CSRDenied || all[0].Message != "by the test" {
		t.Errorf("got %+v, %v", all, err)
	}
	if all, err := p.cert(t, "system:node:w1", "system:nodes").CSRs(t.Context(), "w1"); err != nil || len(all) != 1 {
		t.Errorf("a node's own certificate: %+v, %v", all, err)
	}
	_, err = p.cert(t, "somebody").CSRs(t.Context(), "w1")
	expect(t, err, LayerAuthorization, Forbidden, "cannot list the certificate signing requests of node w1")
}
