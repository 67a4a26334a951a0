package agent

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/tectonic-worker/tectonic-worker/agent/node"
	"github.com/tectonic-worker/tectonic-worker/agent/systemd"
	"github.com/tectonic-worker/tectonic-worker/units"
)

func TestLogTail(t *testing.T) {
	for _, c := range []struct {
		name, log string
		n         int
		want      []string
	}{
		{"empty", "\n \n", 3, nil},
		{"last lines", "a\nb\nc\n\n", 2, []string{"b", "c"}},
		{"systemd's own lines", "Starting Kubernetes Kubelet...\nwords\nStopped Kubernetes Kubelet.\n", 3, []string{"words"}},
		{"errors first", "I0101 12:00:00 fine\nE0101 12:00:01 broken\nI0101 fine\nF0101 12:00:02 fatal\nI0101 bye\n", 8,
			[]string{"E0101 12:00:01 broken", "F0101 12:00:02 fatal"}},
		{"the launcher's error", "runtime=podman\ncannot use the kubeconfig\nError: no such image\nbye", 8, []string{"cannot use the kubeconfig", "Error: no such image"}},
		{"not klog's", "Every day\nFine\n", 8, []string{"Every day", "Fine"}},
		{"control characters", "\x1b[31mred\x1b[0m\tand\x07 bell\u009b", 1, []string{"[31mred[0m and bell"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, logTail(c.log, c.n)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// A log may be of any size and hold anything (fault 61).
func FuzzLogTail(f *testing.F) {
	f.Add("E0101 x\n\x1b[2J\r\n"+strings.Repeat("x", 2000), 3)
	f.Add("\xff\xfe\nFatal\n", 0)
	f.Fuzz(func(t *testing.T, log string, n int) {
		if n < 0 || n > 100 {
			return
		}
		got := logTail(log, n)
		if len(got) > n {
			t.Fatalf("%d lines of at most %d", len(got), n)
		}
		for _, l := range got {
			if !utf8.ValidString(l) || utf8.RuneCountInString(l) > 401 || strings.ContainsFunc(l, unicode.IsControl) {
				t.Fatalf("line %q", l)
			}
		}
	})
}

func TestHealthz(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ok":
			_, _ = w.Write([]byte("ok"))
		case "/hang":
			<-r.Context().Done()
		default:
			http.Error(w, strings.Repeat("syncloop is stuck ", 1000), 500)
		}
	}))
	defer srv.Close()
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1") // must not be asked
	for path, want := range map[string]string{"/ok": "", "/bad": "answers 500 Internal Server Error: syncloop is stuck", "/hang": "nothing answers at"} {
		begin := time.Now()
		ok, what := healthz(t.Context(), srv.URL+path)
		if ok != (want == "") || !strings.Contains(what, want) || len(what) > 700 {
			t.Errorf("%s: %v, %q", path, ok, what)
		}
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("%s: took %v", path, took)
		}
	}
}

func newJoiner(t *testing.T, d *doubles) *joiner {
	return &joiner{
		handles: handles{sys: d.system()}, report: &quiet{}, begin: time.Now(), res: &JoinResult{},
		facts: &Facts{Now: d.now, NodeName: "w1", Kubeconfig: parsed(t, "https://192.0.2.1:6443", plainToken)},
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func wantStage(t *testing.T, err error, stage Stage, parts ...string) {
	t.Helper()
	if StageOf(err) != stage {
		t.Fatalf("stage %q of error %v, want %q", StageOf(err), err, stage)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not say %q", err, p)
		}
	}
}

// A unit that gave up ends the wait at once, not at the deadline.
func TestWatchedUnitEnds(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*systemd.State)
		want   string
	}{
		{"bad configuration", func(s *systemd.State) { s.Active, s.ExitCode, s.Result = "failed", 78, "exit-code" }, "the kubelet ended with exit code 78"},
		{"signal", func(s *systemd.State) { s.Active, s.ExitCode, s.Result = "failed", 9, "signal" }, "the kubelet was ended by signal 9"},
		{"kubeconfig gone", func(s *systemd.State) { s.Condition = false }, "/etc/kubernetes/kubeconfig is gone"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDoubles(t)
			d.units.states[units.Kubelet].Active = "active"
			j := newJoiner(t, d)
			err := j.watched(within(t, 30*time.Second), time.Hour, nil, func() (bool, error) {
				d.units.set(units.Kubelet, func(s *systemd.State) { s.Active = "inactive"; c.change(s) })
				return false, nil
			})
			wantStage(t, err, StageKubelet, c.want, "journalctl -u kubelet.service")
		})
	}
}

// Three exits end the wait, although systemd would start it for ever.
func TestWatchedCrashLoop(t *testing.T) {
	d := newDoubles(t)
	d.units.states[units.Kubelet].Active = "active"
	looks := 0
	err := newJoiner(t, d).watched(within(t, 30*time.Second), time.Hour, nil, func() (bool, error) {
		looks++
		d.units.set(units.Kubelet, func(s *systemd.State) {
			s.ExitCode = 1
			if s.Active = "activating"; looks%2 == 0 {
				s.Active = "active"
			}
		})
		return false, nil
	})
	wantStage(t, err, StageKubelet, "the kubelet ended with exit code 1, 3 times")
	if looks != 5 {
		t.Errorf("ended after %d looks, want 5", looks)
	}
}

func TestWatchedEnds(t *testing.T) {
	d := newDoubles(t)
	d.units.states[units.Kubelet].Active = "active"
	j := newJoiner(t, d)
	oops := errors.New("oops")
	for _, want := range []error{nil, oops} {
		if err := j.watched(within(t, time.Minute), time.Hour, nil, func() (bool, error) { return want == nil, want }); err != want {
			t.Errorf("error %v, want %v", err, want)
		}
	}
	if err := j.watched(within(t, 20*time.Millisecond), time.Hour, nil, func() (bool, error) { return false, nil }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want the deadline", err)
	}
	wake := make(chan struct{}, 1)
	wake <- struct{}{}
	looks := 0
	if err := j.watched(within(t, time.Minute), time.Hour, wake, func() (bool, error) { looks++; return looks == 2, nil }); err != nil {
		t.Errorf("woken: %v", err)
	}
}

// untilDone is a watch that shows states and then waits for its end.
func untilDone(states ...node.NodeState) func(context.Context, string, func(node.NodeState) bool) error {
	return func(ctx context.Context, name string, see func(node.NodeState) bool) error {
		for _, s := range states {
			if see(s) {
				return nil
			}
		}
		<-ctx.Done()
		return &node.NotReadyError{Err: ctx.Err()}
	}
}

func TestWaitNode(t *testing.T) {
	registered := node.NodeState{Name: "w1", Registered: true}
	ready := node.NodeState{Name: "w1", Registered: true, Ready: true, KubeletVersion: "v1.34.4"}
	noCNI := node.NodeState{Name: "w1", Registered: true, Reason: "KubeletNotReady",
		Message: "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized"}
	isReady := func(n node.NodeState) bool { return n.Ready }
	rejected := &node.APIError{Layer: node.LayerAuthentication, Op: "watch node w1", What: "the credential is rejected"}
	for _, c := range []struct {
		name  string
		watch func(context.Context, string, func(node.NodeState) bool) error
		stage Stage
		parts []string
		err   error
	}{
		{"ready", untilDone(node.NodeState{Name: "w1"}, registered, ready), "", nil, nil},
		{"never registered", untilDone(node.NodeState{Name: "w1"}), StageReady, []string{"in time", "journalctl -u kubelet.service"}, context.DeadlineExceeded},
		{"no network plugin", untilDone(registered, noCNI), StageCNI, []string{"network plugin", "spec.nodeName=w1"}, context.DeadlineExceeded},
		{"rejected", func(context.Context, string, func(node.NodeState) bool) error { return rejected }, "", []string{"the credential is rejected"}, rejected},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDoubles(t)
			d.units.states[units.Kubelet].Active = "active"
			ended := make(chan struct{})
			d.cluster.watch = func(ctx context.Context, name string, see func(node.NodeState) bool) error {
				defer close(ended)
				return c.watch(ctx, name, see)
			}
			limit := 30 * time.Second
			if errors.Is(c.err, context.DeadlineExceeded) {
				limit = 100 * time.Millisecond
			}
			st, err := newJoiner(t, d).waitNode(within(t, limit), d.cluster, StageReady, isReady)
			if !errors.Is(err, c.err) || StageOf(err) != c.stage || (err == nil) != st.Ready {
				t.Fatalf("%+v, stage %q, error %v", st, StageOf(err), err)
			}
			for _, p := range c.parts {
				if !strings.Contains(err.Error(), p) {
					t.Errorf("error %q does not say %q", err, p)
				}
			}
			select {
			case <-ended: // the watch does not outlive the wait
			case <-time.After(10 * time.Second):
				t.Error("the watch goes on")
			}
		})
	}
}

// Whoever interrupts is told so, and no stage is blamed for it.
func TestWaitNodeInterrupted(t *testing.T) {
	d := newDoubles(t)
	d.units.states[units.Kubelet].Active = "active"
	ctx, cancel := context.WithCancel(t.Context())
	d.cluster.watch = func(ctx context.Context, _ string, see func(node.NodeState) bool) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}
	_, err := newJoiner(t, d).waitNode(ctx, d.cluster, StageReady, func(node.NodeState) bool { return false })
	if !errors.Is(err, context.Canceled) || StageOf(err) != "" {
		t.Errorf("error %v", err)
	}
}

func TestClusterOfABootstrap(t *testing.T) {
	d := newDoubles(t)
	d.units.states[units.Kubelet].Active = "active"
	j := newJoiner(t, d)
	j.facts.Kubeconfig = parsed(t, "https://192.0.2.1:6443", bootstrapToken)
	if !j.facts.Kubeconfig.Bootstrap {
		t.Fatal("this is no bootstrap kubeconfig")
	}

	_, err := j.cluster(within(t, 50*time.Millisecond))
	wantStage(t, err, StageCSR, "did not sign the node's certificate in time", "kubectl certificate approve")

	// The kubelet writes its kubeconfig in place: what can't be read yet may be
	// whole at the next look.
	looks := 0
	sys := d.system()
	sys.OwnCluster = func(node.Proxy) (Cluster, error) {
		switch looks++; looks {
		case 1:
			return nil, fs.ErrNotExist
		case 2:
			return nil, errors.New("cannot use the kubeconfig: it ends in the middle")
		}
		return d.cluster, nil
	}
	j.sys = sys
	if c, err := j.cluster(within(t, 30*time.Second)); err != nil || c != Cluster(d.cluster) {
		t.Errorf("%v, %v", c, err)
	}

	// What stays unreadable is said at the end.
	sys.OwnCluster = func(node.Proxy) (Cluster, error) { return nil, errors.New("certificate and key do not match") }
	_, err = j.cluster(within(t, 50*time.Millisecond))
	wantStage(t, err, StageCSR, "certificate and key do not match")
}

func TestClusterOfAToken(t *testing.T) {
	d := newDoubles(t)
	if c, err := newJoiner(t, d).cluster(t.Context()); err != nil || c != Cluster(d.cluster) {
		t.Errorf("%v, %v", c, err)
	}
}

func TestStageError(t *testing.T) {
	cause := errors.New("cause")
	err := error(&StageError{Stage: StageImage, What: "no image", Remedy: "fetch it", Log: []string{"one", "two"}, Err: cause})
	if err.Error() != "no image; fetch it\n  | one\n  | two" || !errors.Is(err, cause) || StageOf(err) != StageImage {
		t.Errorf("error %q", err)
	}
}
