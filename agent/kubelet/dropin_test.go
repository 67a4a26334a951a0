package kubelet

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

func withDropIns(t testing.TB, release string, texts ...string) Input {
	in := typical(t, release)
	for i, text := range texts {
		in.DropIns = append(in.DropIns, DropIn{fmt.Sprintf("%s/%d0.yaml", DropInDir, i+1), []byte(text)})
	}
	return in
}

// Maps merge, anything else replaces, null removes, the later file wins.
func TestMerge(t *testing.T) {
	out, err := Render(withDropIns(t, "1.34.4",
		"evictionHard: {memory.available: 1Gi, nodefs.available: 10%}\nclusterDNS: [10.3.0.11, 10.3.0.12]\nmaxPods: 50\nfailSwapOn: no\n",
		"evictionHard: {memory.available: 2Gi}\nmaxPods: 60\nseccompDefault: null\nauthentication: {x509: {clientCAFile: /etc/kubernetes/other.crt}}\n",
		"", "# nothing but a comment\n"))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := yaml.Unmarshal(out.Config, &got); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{
		"evictionHard": map[string]any{"memory.available": "2Gi", "nodefs.available": "10%"},
		"clusterDNS":   []any{"10.3.0.11", "10.3.0.12"},
		"maxPods":      60.0,
		"failSwapOn":   false,
		"authentication": map[string]any{"anonymous": map[string]any{"enabled": false}, "webhook": map[string]any{"enabled": true},
			"x509": map[string]any{"clientCAFile": "/etc/kubernetes/other.crt"}},
		"seccompDefault": nil,
		"readOnlyPort":   0.0,
	} {
		if diff := cmp.Diff(want, got[key]); diff != "" {
			t.Errorf("%s (-want +got)\n%s", key, diff)
		}
	}
}

// What is wrong is said in full: file, line, key, reason; all files at once.
func TestDropInErrors(t *testing.T) {
	for _, c := range []struct{ name, release, text, want string }{
		{"younger than the kubelet", "1.30.1", "maxPods: 10\ncrashLoopBackOff:\n  maxContainerRestartPeriod: 1m\n",
			"10.yaml:2: crashLoopBackOff is known to kubelets from 1.32 on, and this one is v1.30.1: remove it, or use a newer image"},
		{"no such field", "1.34.4", "maxPod: 10\n", "10.yaml:1: maxPod is not a field of KubeletConfiguration"},
		{"wrong case", "1.34.4", "a: &x 1\nmaxpods: 10\n", "10.yaml:2: maxpods is not a field of KubeletConfiguration: did you mean maxPods?"},
		{"a flag's name", "1.34.4", "read-only-port: 1\n", "did you mean readOnlyPort?"},
		{"wrong place", "1.34.4", "anonymous:\n  enabled: false\n", "did you mean authentication.anonymous?"},
		{"below", "1.34.4", "authentication:\n  anonymous:\n    enabld: false\n", "10.yaml:3: authentication.anonymous.enabld is not a field"},
		{"kind: bool", "1.34.4", "failSwapOn: \"false\"\n", `10.yaml:1: failSwapOn is "false", want true or false`},
		{"kind: number", "1.34.4", "maxPods: \"10\"\n", `maxPods is "10", want a number, not in quotes`},
		{"kind: duration", "1.34.4", "syncFrequency: 60\n", `syncFrequency is 60, want a duration such as "90s" or "4h0m0s"`},
		{"kind: list", "1.34.4", "clusterDNS: 10.3.0.10\n", `clusterDNS is "10.3.0.10", want a list`},
		{"kind: map", "1.34.4", "authentication: yes\n", `authentication is true, want keys and values below it`},
		{"kind: string", "1.34.4", "cpuManagerPolicy: 1\n", `cpuManagerPolicy is 1, want a string`},
		{"not YAML", "1.34.4", "a: [\n", "10.yaml: cannot be read as YAML: line 1"},
		{"twice", "1.34.4", "maxPods: 1\nmaxPods: 2\n", `key "maxPods" already set in map`},
		{"a list", "1.34.4", "- maxPods\n", "10.yaml: is not a piece of a KubeletConfiguration"},
		{"two documents", "1.34.4", "maxPods: 1\n---\nmaxPods: 2\n", "holds more than one YAML document"},
		{"another kind", "1.34.4", "kind: KubeProxyConfiguration\n", "kind is KubeProxyConfiguration, want KubeletConfiguration, or leave it out"},
		{"another version", "1.34.4", "apiVersion: kubelet.config.k8s.io/v1alpha1\n", "want kubelet.config.k8s.io/v1beta1"},
		{"flags only: no such flag", "1.9.11", "maxPods: 1\nseccompDefault: true\n",
			"10.yaml:2: seccompDefault cannot be set on kubelet v1.9.11, which reads no configuration file and has no such flag: remove it, or use an image of 1.10 or later"},
		{"flags only: null", "1.9.11", "authentication:\n  anonymous: null\n", "10.yaml:2: authentication.anonymous is null, and kubelet v1.9.11 takes flags alone"},
		{"flags only: object", "1.9.11", "memorySwap: {swapBehavior: NoSwap}\n", "memorySwap cannot be set on kubelet v1.9.11"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := Render(withDropIns(t, c.release, c.text))
			if err == nil {
				t.Fatalf("rendered:\n%s%s", strings.Join(out.Flags, "\n"), out.Config)
			}
			if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), DropInDir) {
				t.Errorf("%v\nwant %s", err, c.want)
			}
		})
	}
	_, err := Render(withDropIns(t, "1.34.4", "maxPod: 1\nfailSwapOn: 2\n", "nope: 1\n"))
	for _, want := range []string{"10.yaml:1: maxPod", "10.yaml:2: failSwapOn", "20.yaml:1: nope"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nwant also %s", err, want)
		}
	}
}

// A kubelet newer than the table may have fields that nobody here knows.
func TestDropInForTheFuture(t *testing.T) {
	out, err := Render(withDropIns(t, "1.40.0", "brandNew: 7\n"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out.Config), "brandNew: 7\n") || len(out.Notes) == 0 || !strings.Contains(out.Notes[0], "newer than 1.36") {
		t.Errorf("%v\n%s", out.Notes, out.Config)
	}
}

// A drop-in may open what is shut, and that is said.
func TestWeaknessesAreNoted(t *testing.T) {
	out, err := Render(withDropIns(t, "1.34.4", "readOnlyPort: 10255\nauthentication: {anonymous: {enabled: true}}\nauthorization: {mode: AlwaysAllow}\nserverTLSBootstrap: true\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"read-only port 10255", "CIS 4.2.1", "CIS 4.2.2", "kubectl logs"} {
		if !strings.Contains(strings.Join(out.Notes, "\n"), want) {
			t.Errorf("no note about %s in %q", want, out.Notes)
		}
	}
}

// Settings that no kubelet of a version could run with are refused with the
// reason, all at once.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name, release string
		change        func(*Input)
		want          string
	}{
		{"too old", "1.7.16", func(*Input) {}, "kubelet v1.7.16 is older than 1.8"},
		{"another major", "2.0.0", func(*Input) {}, "only Kubernetes 1."},
		{"no DNS", "1.34.4", func(in *Input) { in.DNS = nil }, "KUBERNETES_DNS_SERVICE_IP"},
		{"docker from 1.24 on", "1.24.0", func(in *Input) { in.Endpoint = "" }, "kubelet v1.24.0 cannot use docker"},
		{"cgroup v2 before 1.19", "1.18.20", func(in *Input) { in.CgroupVersion = 2 }, "systemd.unified_cgroup_hierarchy=0"},
		{"cgroup driver", "1.34.4", func(in *Input) { in.CgroupDriver = "none" }, `"none" is neither systemd nor cgroupfs`},
		{"two addresses before 1.21", "1.20.15", func(in *Input) { in.NodeIPs = addrs("192.0.2.1", "2001:db8::1") }, "needs 1.21 or later"},
		{"two of one family", "1.34.4", func(in *Input) { in.NodeIPs = addrs("192.0.2.1", "192.0.2.2") }, "one IPv4 and one IPv6"},
		{"three", "1.34.4", func(in *Input) { in.NodeIPs = addrs("192.0.2.1", "192.0.2.2", "2001:db8::1") }, "want one address"},
		{"label", "1.16.0", func(in *Input) { in.Labels = map[string]string{"foo.k8s.io/x": "1"} }, "NODE_LABELS: a kubelet from 1.16 on may not set the label foo.k8s.io/x"},
		{"taint", "1.34.4", func(in *Input) { in.Taints = []string{"a=b:Never"} }, `NODE_TAINTS: the taint "a=b:Never"`},
		{"taint without effect", "1.34.4", func(in *Input) { in.Taints = []string{"a=b"} }, "has no effect"},
		{"a flag that is gone", "1.35.4", func(in *Input) { in.ExtraArgs = []string{"--pod_infra_container_image=x"} },
			"KUBELET_EXTRA_ARGS: --pod-infra-container-image is gone since 1.35 and kubelet v1.35.4 would exit at it: remove it"},
		{"klog's flags", "1.26.0", func(in *Input) { in.ExtraArgs = []string{"--logtostderr"} }, "--logtostderr is gone since 1.26"},
		{"a flag to come", "1.29.6", func(in *Input) { in.ExtraArgs = []string{"--fail-cgroupv1=false"} }, "--fail-cgroupv1 is known to kubelets from 1.31 on"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := typical(t, c.release)
			c.change(&in)
			if _, err := Render(in); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v\nwant %s", err, c.want)
			}
		})
	}
	in := typical(t, "1.34.4")
	in.DNS, in.Taints, in.ExtraArgs = nil, []string{"x"}, []string{"--container-runtime=remote"}
	if _, err := Render(in); err == nil || len(strings.Split(err.Error(), "\n")) != 3 {
		t.Errorf("want three problems at once, have: %v", err)
	}
}

func addrs(all ...string) (out []netip.Addr) {
	for _, a := range all {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// Render does not change its input, and gives the same bytes each time.
func TestRenderIsPure(t *testing.T) {
	in := everything(t, "1.36.3")
	first, err := Render(in)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		again, err := Render(in)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(first, again); diff != "" {
			t.Fatal(diff)
		}
	}
	if diff := cmp.Diff(everything(t, "1.36.3"), in, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

// No text makes a drop-in panic or break the configuration.
func FuzzDropIn(f *testing.F) {
	for _, s := range []string{"maxPods: 10\n", "a: [", "authentication: {anonymous: {enabled: true}}", "- 1", "~", "featureGates: {A: true}\n", "evictionHard: {a<b: c}", "? {a: b}\n: c\n", "<<: {maxPods: 1}", "!!binary a: b", "x: .inf"} {
		f.Add(s, 36)
		f.Add(s, 9)
	}
	f.Fuzz(func(t *testing.T, s string, minor int) {
		if minor < Oldest || minor > Newest+2 {
			return
		}
		out, err := Render(withDropIns(t, fmt.Sprintf("1.%d.0", minor), s))
		if err != nil || out.Config == nil {
			return
		}
		var tree map[string]any
		if err := yaml.UnmarshalStrict(out.Config, &tree); err != nil || tree["kind"] != "KubeletConfiguration" {
			t.Errorf("%v in\n%s", err, out.Config)
		}
	})
}
