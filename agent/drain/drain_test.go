package drain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// server stands for the API server: one node, some pods, and refusals.
type server struct {
	*httptest.Server
	mu       sync.Mutex
	noNode   bool
	cordoned bool
	pods     map[string]corev1.Pod
	budget   int               // evictions that a disruption budget refuses before it lets one pass
	refuse   map[string]int    // by "METHOD path": the status to answer with
	says     map[string]string // and the message
	evicted  []string
	stays    bool // pods that were evicted do not end
}

func newServer(t *testing.T, pods ...corev1.Pod) *server {
	s := &server{pods: map[string]corev1.Pod{}, refuse: map[string]int{}, says: map[string]string{}}
	for _, p := range pods {
		s.pods[p.Name] = p
	}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer := func(status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	fail := func(status int, reason metav1.StatusReason, message string) {
		answer(status, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Code: int32(status), Reason: reason, Message: message})
	}
	call := r.Method + " " + r.URL.Path
	if status, ok := s.refuse[call]; ok {
		reason := map[int]metav1.StatusReason{401: metav1.StatusReasonUnauthorized, 403: metav1.StatusReasonForbidden, 404: metav1.StatusReasonNotFound}[status]
		fail(status, reason, s.says[call])
		return
	}
	pod := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/api/v1/namespaces/ns/pods/"), "/eviction")
	switch {
	case r.URL.Path == "/api/v1":
		answer(200, metav1.APIResourceList{GroupVersion: "v1", APIResources: []metav1.APIResource{{Name: "pods/eviction", Kind: "Eviction", Group: "policy", Version: "v1"}}})
	case r.URL.Path == "/api/v1/nodes/w1" && s.noNode:
		fail(404, metav1.StatusReasonNotFound, `nodes "w1" not found`)
	case r.URL.Path == "/api/v1/nodes/w1":
		s.cordoned = s.cordoned || r.Method == http.MethodPatch
		answer(200, corev1.Node{TypeMeta: metav1.TypeMeta{Kind: "Node", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: "w1"}, Spec: corev1.NodeSpec{Unschedulable: s.cordoned}})
	case r.URL.Path == "/api/v1/pods" && r.URL.Query().Get("fieldSelector") == "spec.nodeName=w1":
		list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}}
		for _, p := range s.pods {
			list.Items = append(list.Items, p)
		}
		answer(200, list)
	case strings.HasSuffix(r.URL.Path, "/eviction"):
		if s.budget != 0 {
			s.budget--
			fail(429, metav1.StatusReasonTooManyRequests, "Cannot evict pod as it would violate the pod's disruption budget.")
			return
		}
		s.evicted = append(s.evicted, pod)
		if !s.stays {
			delete(s.pods, pod)
		}
		answer(201, metav1.Status{Status: "Success"})
	case r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/api/v1/namespaces/ns/pods/"):
		p, ok := s.pods[pod]
		if !ok {
			fail(404, metav1.StatusReasonNotFound, "not found")
			return
		}
		answer(200, p)
	case strings.HasPrefix(r.URL.Path, "/apis/apps/v1/namespaces/ns/daemonsets/"):
		answer(200, map[string]any{"kind": "DaemonSet", "apiVersion": "apps/v1", "metadata": map[string]string{"name": "proxy"}})
	default:
		fail(500, metav1.StatusReasonInternalError, "the test knows no "+call)
	}
}

func podOf(name, ownerKind string) corev1.Pod {
	p := corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: "u"},
		Spec: corev1.PodSpec{NodeName: "w1", Volumes: []corev1.Volume{{VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	if ownerKind != "" {
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: ownerKind, Name: "proxy", Controller: &yes}}
	}
	return p
}

func kubeconfig(t *testing.T, server string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: %q}}]\nusers: [{name: u, user: {token: verysecret}}]\ncontexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n", server)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func drainNode(t *testing.T, s *server, change func(*Options)) (string, error) {
	t.Helper()
	var out bytes.Buffer
	o := Options{Kubeconfig: kubeconfig(t, s.URL), Node: "w1", Timeout: 10 * time.Second, Out: &out}
	if change != nil {
		change(&o)
	}
	err := Run(t.Context(), o)
	if text := out.String() + fmt.Sprint(err); strings.Contains(text, "verysecret") {
		t.Errorf("the token is shown: %s", text)
	}
	return out.String(), err
}

func TestDrain(t *testing.T) {
	mirror := podOf("static", "")
	mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
	s := newServer(t, podOf("web", "ReplicaSet"), podOf("db", "StatefulSet"), podOf("proxy", "DaemonSet"), mirror)
	out, err := drainNode(t, s, nil)
	if err != nil || !s.cordoned || len(s.evicted) != 2 || !strings.HasSuffix(out, "evicted 2 pods\n") {
		t.Errorf("%v, cordoned %v, evicted %v:\n%s", err, s.cordoned, s.evicted, out)
	}
	out, err = drainNode(t, s, nil)
	if err != nil || !strings.Contains(out, "no pods to evict") {
		t.Errorf("the second time: %v\n%s", err, out)
	}
	s.noNode = true
	if out, err = drainNode(t, s, nil); err != nil || !strings.Contains(out, "does not exist") {
		t.Errorf("without a Node: %v\n%s", err, out)
	}
}

// A disruption budget is waited for, and in the end is the reason.
func TestDrainHearsBudgets(t *testing.T) {
	defer func(d time.Duration) { retryDelay = d }(retryDelay)
	retryDelay = 20 * time.Millisecond
	for _, noWait := range []bool{false, true} {
		s := newServer(t, podOf("web", "ReplicaSet"))
		s.budget = 3
		out, err := drainNode(t, s, func(o *Options) { o.NoWait = noWait })
		if err != nil || len(s.evicted) != 1 || !strings.Contains(out, "disruption budget") {
			t.Errorf("no wait %v: %v, evicted %v:\n%s", noWait, err, s.evicted, out)
		}
		s = newServer(t, podOf("web", "ReplicaSet"))
		s.budget = -1
		_, err = drainNode(t, s, func(o *Options) { o.NoWait, o.Timeout = noWait, 300*time.Millisecond })
		if ExitCode(err) != CodePodsStay || !strings.Contains(err.Error(), "web") {
			t.Errorf("no wait %v: exit code %d, %v", noWait, ExitCode(err), err)
		}
	}
}

// Where no kubelet ends them, pods are evicted and not waited for.
func TestDrainNoWait(t *testing.T) {
	s := newServer(t, podOf("web", "ReplicaSet"))
	s.stays = true
	if _, err := drainNode(t, s, func(o *Options) { o.NoWait = true }); err != nil || len(s.evicted) != 1 {
		t.Errorf("%v, evicted %v", err, s.evicted)
	}
	if _, err := drainNode(t, s, func(o *Options) { o.Timeout = 1500 * time.Millisecond }); ExitCode(err) != CodePodsStay {
		t.Errorf("a pod that does not end: %v", err)
	}
}

func TestDrainForce(t *testing.T) {
	s := newServer(t, podOf("lonely", ""), podOf("web", "ReplicaSet"))
	_, err := drainNode(t, s, nil)
	if ExitCode(err) != CodePodsStay || !strings.Contains(err.Error(), "lonely") || !strings.Contains(err.Error(), "--force") || len(s.evicted) != 0 {
		t.Errorf("%v, evicted %v", err, s.evicted)
	}
	if _, err = drainNode(t, s, func(o *Options) { o.Force = true }); err != nil || len(s.evicted) != 2 {
		t.Errorf("with force: %v, evicted %v", err, s.evicted)
	}
}

// A node's own credential may not read DaemonSets: their pods stay all the
// same, and the others go.
func TestDrainByOwnCredential(t *testing.T) {
	s := newServer(t, podOf("proxy", "DaemonSet"), podOf("web", "ReplicaSet"))
	s.refuse["GET /apis/apps/v1/namespaces/ns/daemonsets/proxy"] = 403
	s.says["GET /apis/apps/v1/namespaces/ns/daemonsets/proxy"] = `daemonsets.apps "proxy" is forbidden: User "system:node:w1" cannot get resource "daemonsets" in API group "apps" in the namespace "ns"`
	if _, err := drainNode(t, s, nil); err != nil || len(s.evicted) != 1 || s.evicted[0] != "web" {
		t.Errorf("%v, evicted %v", err, s.evicted)
	}
}

func TestDrainFails(t *testing.T) {
	for _, c := range []struct {
		name, call string
		status     int
		code       int
		says       string
	}{
		{"who are you", "GET /api/v1/nodes/w1", 401, CodeBadConfig, "does not take the credential"},
		{"may not cordon", "PATCH /api/v1/nodes/w1", 403, CodeForbidden, "kubectl drain w1"},
		{"may not list", "GET /api/v1/pods", 403, CodeForbidden, "kubectl drain w1"},
		{"may not evict", "POST /api/v1/namespaces/ns/pods/web/eviction", 403, CodeForbidden, "kubectl drain w1"},
	} {
		s := newServer(t, podOf("web", "ReplicaSet"))
		s.refuse[c.call], s.says[c.call] = c.status, `it is forbidden: no`
		_, err := drainNode(t, s, nil)
		var f *Failure
		if ExitCode(err) != c.code || !errors.As(err, &f) || !strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), "cannot ") {
			t.Errorf("%s: exit code %d, %v", c.name, ExitCode(err), err)
		}
	}
	s := newServer(t)
	s.Close()
	if _, err := drainNode(t, s, nil); ExitCode(err) != CodeUnreachable {
		t.Errorf("nobody listens: exit code %d, %v", ExitCode(err), err)
	}
	if _, err := drainNode(t, s, func(o *Options) { o.Kubeconfig = "/nonexistent" }); ExitCode(err) != CodeBadConfig {
		t.Errorf("no kubeconfig: exit code %d, %v", ExitCode(err), err)
	}
	if ExitCode(nil) != 0 || ExitCode(errors.New("x")) != 1 {
		t.Error("exit codes of other errors")
	}
}
