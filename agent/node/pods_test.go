package node

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// A node lists and deletes its own pods by its own credential, and no others.
func TestRealPods(t *testing.T) {
	p := startControlPlane(t)
	for _, name := range []string{"p1", "p2"} {
		p.apply(t, p.admin, "/api/v1/nodes", object("Node", "v1", name, nil))
	}
	// There is no controller that makes the account every pod has.
	p.apply(t, p.admin, "/api/v1/namespaces/kube-system/serviceaccounts", object("ServiceAccount", "v1", "default", nil))
	const pods = "/api/v1/namespaces/kube-system/pods"
	pod := func(name, node, daemonSet string, spec map[string]any) {
		t.Helper()
		full := map[string]any{"nodeName": node, "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
			"containers": []any{map[string]any{"name": "c", "image": "none", "ports": []any{
				map[string]any{"containerPort": 80, "hostPort": 8080}, map[string]any{"containerPort": 81}}}}}
		for k, v := range spec {
			full[k] = v
		}
		o := object("Pod", "v1", name, map[string]any{"spec": full})
		meta := o["metadata"].(map[string]any)
		meta["labels"] = map[string]string{"k8s-app": name}
		if daemonSet != "" {
			meta["ownerReferences"] = []any{map[string]any{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": daemonSet, "uid": "1b7a12b4-0000-0000-0000-000000000000", "controller": true}}
		}
		p.apply(t, p.admin, pods, o)
	}
	pod("kube-proxy", "p1", "kube-proxy", map[string]any{"hostNetwork": true, "containers": []any{map[string]any{"name": "c", "image": "none", "ports": []any{map[string]any{"containerPort": 10249, "hostPort": 10249}}}}})
	pod("ingress", "p1", "ingress", nil)
	pod("plain", "p1", "", nil)
	pod("neighbour", "p2", "kube-proxy", nil)

	worker := p.cert(t, "system:node:p1", "system:nodes")
	got, err := worker.PodsOfNode(t.Context(), "p1")
	if err != nil {
		t.Fatal(err)
	}
	want := []Pod{
		{Namespace: "kube-system", Name: "ingress", DaemonSet: "ingress", Labels: map[string]string{"k8s-app": "ingress"}, HostPorts: []int32{8080}},
		{Namespace: "kube-system", Name: "kube-proxy", DaemonSet: "kube-proxy", Labels: map[string]string{"k8s-app": "kube-proxy"}},
		{Namespace: "kube-system", Name: "plain", Labels: map[string]string{"k8s-app": "plain"}, HostPorts: []int32{8080}},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Pod{}, "UID")); diff != "" {
		t.Fatalf("pods of the node (-want +got):\n%s", diff)
	}
	proxy := got[1]
	if proxy.UID == "" {
		t.Fatal("a pod has no UID")
	}
	_, err = worker.PodsOfNode(t.Context(), "p2")
	expect(t, err, LayerAuthorization, Forbidden, "cannot list the pods of node p2")
	others, err := p.admin.PodsOfNode(t.Context(), "p2")
	if err != nil || len(others) != 1 {
		t.Fatalf("%+v, %v", others, err)
	}
	expect(t, worker.DeletePod(t.Context(), others[0]), LayerAuthorization, Forbidden, "cannot delete pod kube-system/neighbour")

	successor := proxy
	successor.UID = "00000000-0000-0000-0000-000000000000"
	if err := worker.DeletePod(t.Context(), successor); err != nil {
		t.Errorf("a pod that is another by now: %v", err)
	}
	left := func() (names []string) {
		t.Helper()
		all, err := p.admin.PodsOfNode(context.Background(), "p1")
		if err != nil {
			t.Fatal(err)
		}
		for _, pod := range all {
			names = append(names, pod.Name)
		}
		return names
	}
	if diff := cmp.Diff([]string{"ingress", "kube-proxy", "plain"}, left()); diff != "" {
		t.Errorf("a pod with another UID was deleted:\n%s", diff)
	}
	for range 2 { // the second time it is gone
		if err := worker.DeletePod(t.Context(), proxy); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff([]string{"ingress", "plain"}, left()); diff != "" {
		t.Errorf("after the deletion (-want +got):\n%s", diff)
	}
}

// More pods than fit one answer.
func TestRealPodsPaged(t *testing.T) {
	p := startControlPlane(t)
	p.apply(t, p.admin, "/api/v1/nodes", object("Node", "v1", "p3", nil))
	p.apply(t, p.admin, "/api/v1/namespaces", object("Namespace", "v1", "many", nil))
	p.apply(t, p.admin, "/api/v1/namespaces/many/serviceaccounts", object("ServiceAccount", "v1", "default", nil))
	want := podPage + 7
	for i := range want {
		p.apply(t, p.admin, "/api/v1/namespaces/many/pods", object("Pod", "v1", "p"+string(rune('a'+i/26))+string(rune('a'+i%26)), map[string]any{"spec": map[string]any{
			"nodeName": "p3", "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0, "containers": []any{map[string]any{"name": "c", "image": "none"}}}}))
	}
	got, err := p.cert(t, "system:node:p3", "system:nodes").PodsOfNode(t.Context(), "p3")
	if err != nil || len(got) != want {
		t.Errorf("%d pods, %v; want %d", len(got), err, want)
	}
}
