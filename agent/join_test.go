package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tectonic-worker/tectonic-worker/agent/host"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
	"github.com/tectonic-worker/tectonic-worker/agent/systemd"
	"github.com/tectonic-worker/tectonic-worker/firewall"
	"github.com/tectonic-worker/tectonic-worker/sysconfig"
)

func TestExitCode(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{io.EOF, 1},
		{context.Canceled, 1},
		{&host.BusyError{Holder: "join"}, 75},
		{sysconfig.Problems{{Key: "X"}}, 78},
		{badConfig(io.EOF), 78},
		{&firewall.Error{Code: firewall.CodeInvalidZone}, 78},
		{&firewall.Error{Code: firewall.CodeNoBus}, 69},
		{&firewall.Error{Code: firewall.CodePanic}, 1},
		{fmt.Errorf("%w: refused", systemd.ErrNoBus), 69},
		{&node.APIError{Layer: node.LayerDNS}, 69},
		{&node.APIError{Layer: node.LayerTCP}, 69},
		{&node.APIError{Layer: node.LayerTLS}, 69},
		{&node.APIError{Layer: node.LayerAuthentication}, 78},
		{&node.APIError{Layer: node.LayerAuthorization}, 78},
		{&CheckFailure{}, 1},
		{&StageError{Stage: StageImage, Err: io.EOF}, 1},
	} {
		if got := ExitCode(c.err); got != c.want {
			t.Errorf("%T: %d, want %d", c.err, got, c.want)
		}
		if c.err != nil {
			if got := ExitCode(fmt.Errorf("wrapped: %w", errors.Join(io.ErrUnexpectedEOF, c.err))); got != c.want {
				t.Errorf("%T, wrapped: %d, want %d", c.err, got, c.want)
			}
		}
	}
}

// The names in the document of "join -o json" are what scripts depend on.
func TestJoinResultJSON(t *testing.T) {
	full := JoinResult{
		APIVersion: APIVersion, Command: "join", Node: "w1", Server: "https://api", ServerVersion: "v1.34.4", KubeletVersion: "v1.34.4",
		Image: "example.com/k:v1", Runtime: "podman", Credential: "token", Shared: true, Changed: true, Ready: true, Seconds: 1.5,
		Checks:     []CheckResult{{Name: "swap", Severity: SeverityWarn, Evidence: "on", Remedy: "off"}},
		Steps:      []StepResult{{Name: "settings", Title: "not shown", Status: StatusChanged, Evidence: "e", Warnings: []string{"w"}, Seconds: 0.5, Resources: []Outcome{{Key: Key{KindFile, "/f"}, Changed: true, Evidence: "e", Diff: "d"}}}},
		RolledBack: []Undone{{Key: Key{KindFile, "/f"}, Evidence: "removed", Error: "x"}},
	}
	for name, c := range map[string]struct {
		res  JoinResult
		want string
	}{
		"full":  {full, `{"apiVersion":"tectonic-worker/v1","command":"join","dryRun":false,"node":"w1","server":"https://api","serverVersion":"v1.34.4","kubeletVersion":"v1.34.4","image":"example.com/k:v1","runtime":"podman","credential":"token","credentialShared":true,"changed":true,"ready":true,"seconds":1.5,"checks":[{"name":"swap","severity":"warning","evidence":"on","remedy":"off"}],"steps":[{"name":"settings","status":"changed","evidence":"e","warnings":["w"],"seconds":0.5,"resources":[{"resource":{"kind":"file","name":"/f"},"changed":true,"evidence":"e","diff":"d"}]}],"rolledBack":[{"resource":{"kind":"file","name":"/f"},"evidence":"removed","error":"x"}]}`},
		"least": {JoinResult{APIVersion: APIVersion, Command: "join", Steps: []StepResult{}}, `{"apiVersion":"tectonic-worker/v1","command":"join","dryRun":false,"node":"","credentialShared":false,"changed":false,"ready":false,"seconds":0,"steps":[]}`},
	} {
		got := must[[]byte](t)(json.Marshal(c.res))
		if diff := cmp.Diff(c.want, string(got)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
}

// The image, the proxy's variables and what a kubelet reads are handed on; the
// names alone reach a command line.
func TestProxyEnv(t *testing.T) {
	got := proxyEnv(sysconfig.Settings{HTTPSProxy: "http://u:p@proxy", NoProxy: "10.0.0.0/8"})
	have := map[string]bool{}
	for _, e := range got {
		have[e] = true
	}
	want := []string{"HTTPS_PROXY=http://u:p@proxy", "NO_PROXY=10.0.0.0/8", "https_proxy=http://u:p@proxy", "no_proxy=10.0.0.0/8"}
	if diff := cmp.Diff(want, sortedKeys(have)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// A step says what changed, marks a restart, and stops at the first failure.
func TestStep(t *testing.T) {
	r := testRoot(t)
	write(t, r, "/etc/same", "same", 0o644)
	st := step{name: "s", title: "T", restarts: true, resources: []Resource{
		&file{root: r, path: "/etc/same", content: []byte("same"), mode: 0o644},
		&file{root: r, path: "/etc/new", content: []byte("new"), mode: 0o644},
	}}
	u := &undoList{}
	res, err := st.preview(t.Context(), u)
	if err != nil || res.Status != StatusWould || r.Exists("/etc/new") || !u.restart {
		t.Errorf("preview: %+v, %v", res, err)
	}
	u = &undoList{}
	res, err = st.apply(t.Context(), openLedger(t, r), u)
	if err != nil || res.Status != StatusChanged || !u.restart || len(u.entries) != 1 || res.Evidence != "/etc/same 0644, /etc/new 0644" {
		t.Errorf("apply: %+v, %v", res, err)
	}
	u = &undoList{}
	res, err = st.apply(t.Context(), openLedger(t, r), u)
	if err != nil || res.Status != StatusUnchanged || u.restart || len(u.entries) != 0 {
		t.Errorf("again: %+v, %v", res, err)
	}
	st.resources = append([]Resource{killed{&directory{r, "/x"}, false}}, st.resources...)
	if res, err = st.apply(t.Context(), openLedger(t, r), u); !errors.Is(err, errKilled) || res.Status != StatusFailed || len(res.Resources) != 0 {
		t.Errorf("failing: %+v, %v", res, err)
	}
	st.skip = "not wanted"
	if res, err = st.apply(t.Context(), openLedger(t, r), u); err != nil || res.Status != StatusSkipped || res.Evidence != "not wanted" {
		t.Errorf("skipped: %+v, %v", res, err)
	}
}

// The second join says who is in the way, and changes nothing (fault 33).
func TestJoinBusy(t *testing.T) {
	needRoot(t)
	d := newDoubles(t)
	must[[]string](t)(d.root.MkdirAll(RunDir, 0o700))
	lock := must[*host.Lock](t)(d.root.Acquire(t.Context(), lockPath, "join"))
	defer lock.Unlock()
	before := snapshot(t, d.root)
	_, err := Join(t.Context(), d.system(), JoinOptions{Timeout: 100 * time.Millisecond}, &quiet{})
	var busy *host.BusyError
	if !errors.As(err, &busy) || !strings.HasPrefix(busy.Holder, "join, process ") || ExitCode(err) != 75 {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff(before, snapshot(t, d.root)); diff != "" {
		t.Error(diff)
	}
}

// What is wrong with the inputs leaves the host as it was, in a dry run and
// without one.
func TestJoinBadInputs(t *testing.T) {
	needRoot(t)
	for name, in := range map[string]Inputs{
		"no kubeconfig": {},
		"garbage":       {Kubeconfig: []byte("<html>"), KubeconfigFrom: "standard input"},
		"bad setting":   {Settings: map[string]string{"KUBERNETES_DNS_SERVICE_IP": "a.b"}},
		"no assets":     {Assets: "/does/not/exist"},
	} {
		for _, dry := range []bool{true, false} {
			d := newDoubles(t)
			res, err := Join(t.Context(), d.system(), JoinOptions{Inputs: in, DryRun: dry, Timeout: time.Minute}, &quiet{})
			if err == nil || ExitCode(err) != 78 || res == nil || res.Changed || res.RolledBack != nil {
				t.Errorf("%s: %+v, %v", name, res, err)
			}
			left := snapshot(t, d.root)
			for _, p := range []string{"", "/run", RunDir, lockPath} {
				delete(left, p)
			}
			if len(left) != 0 {
				t.Errorf("%s: left %q", name, sortedKeys(left))
			}
		}
	}
}
