package kubelet

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// The table's releases agree with what the sources of each release have, and
// no release is told something that it does not know.
func TestTableAgreesWithUpstream(t *testing.T) {
	for _, s := range settings {
		flag, ok := knownFlags()[s.flag]
		if !ok {
			t.Errorf("--%s is not a flag of any kubelet", s.flag)
			continue
		}
		if s.why == "" {
			t.Errorf("--%s: no reason given", s.flag)
		}
		if s.field == "" {
			if s.fieldSince != 0 {
				t.Errorf("--%s: fieldSince without a field", s.flag)
			}
		} else if f, ok := knownFields()[s.field]; !ok {
			t.Errorf("%s is not a field of any KubeletConfiguration", s.field)
		} else if f.first != s.fieldSince {
			t.Errorf("%s is a field since 1.%d, the table says 1.%d", s.field, f.first, s.fieldSince)
		} else if f.flag != "" && f.flag != s.flag {
			t.Errorf("%s is --%s upstream, the table says --%s", s.field, f.flag, s.flag)
		}
		for minor := Oldest; minor <= Newest; minor++ {
			told := s.since <= minor && (s.until == 0 || minor <= s.until)
			asField := s.fieldSince != 0 && minor >= s.fieldSince
			if told && !asField && !flag.in(minor) {
				t.Errorf("kubelet 1.%d would get --%s, which it does not have (1.%d to 1.%d)", minor, s.flag, flag.first, flag.last)
			}
		}
	}
}

// What is really rendered, for every release and many settings, has no flag
// and no field that the release lacks.
func TestRenderedIsKnown(t *testing.T) {
	for minor := Oldest; minor <= Newest; minor++ {
		for i, in := range inputs(t, minor) {
			in.ExtraArgs = nil
			out, err := Render(in)
			if err != nil {
				t.Fatalf("1.%d, input %d: %v", minor, i, err)
			}
			seen := map[string]bool{}
			for _, f := range out.Flags {
				name, _, _ := strings.Cut(strings.TrimPrefix(f, "--"), "=")
				if !knownFlags()[name].in(minor) {
					t.Errorf("kubelet 1.%d gets --%s", minor, name)
				}
				if seen[name] {
					t.Errorf("kubelet 1.%d gets --%s twice", minor, name)
				}
				seen[name] = true
			}
			if (out.Config != nil) != (minor >= 10) {
				t.Errorf("kubelet 1.%d: configuration of %d bytes", minor, len(out.Config))
			}
			for _, path := range fieldsOf(t, out.Config) {
				f, ok := knownFields()[path]
				if !ok || f.first > minor {
					t.Errorf("kubelet 1.%d gets the field %s", minor, path)
				}
			}
		}
	}
}

func fieldsOf(t *testing.T, config []byte) (paths []string) {
	t.Helper()
	var tree map[string]any
	if err := yaml.UnmarshalStrict(config, &tree); err != nil {
		t.Fatal(err)
	}
	delete(tree, "apiVersion")
	delete(tree, "kind")
	var walk func(prefix string, tree map[string]any)
	walk = func(prefix string, tree map[string]any) {
		for key, v := range tree {
			paths = append(paths, prefix+key)
			if sub, ok := v.(map[string]any); ok && knownFields()[prefix+key].kind == "object" {
				walk(prefix+key+".", sub)
			}
		}
	}
	walk("", tree)
	return paths
}

// Every release is secure as rendered, without a drop-in, whichever way it is
// told.
func TestSecureByDefault(t *testing.T) {
	type want struct {
		flag, field, value string
		since              int
	}
	for minor := Oldest; minor <= Newest; minor++ {
		in := typical(t, fmt.Sprintf("1.%d.0", minor))
		in.Bootstrap = true
		out, err := Render(in)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range []want{
			{"anonymous-auth", "authentication.anonymous.enabled", "false", 0},
			{"authentication-token-webhook", "authentication.webhook.enabled", "true", 0},
			{"client-ca-file", "authentication.x509.clientCAFile", CAPath, 0},
			{"authorization-mode", "authorization.mode", "Webhook", 0},
			{"read-only-port", "readOnlyPort", "0", 0},
			{"rotate-certificates", "rotateCertificates", "true", 0},
			{"tls-min-version", "tlsMinVersion", "VersionTLS12", 10},
			{"streaming-connection-idle-timeout", "streamingConnectionIdleTimeout", "4h0m0s", 0},
			{"make-iptables-util-chains", "makeIPTablesUtilChains", "true", 0},
			{"pod-max-pids", "podPidsLimit", "4096", 14},
			{"seccomp-default", "seccompDefault", "true", 25},
		} {
			got := toldOf(t, out, w.flag, w.field)
			if minor >= w.since && got != w.value {
				t.Errorf("kubelet 1.%d: %s is %q, want %q", minor, w.field, got, w.value)
			}
			if minor < w.since && got != "" {
				t.Errorf("kubelet 1.%d: %s is %q, and this kubelet cannot have it", minor, w.field, got)
			}
		}
		for _, never := range []string{"hostname-override", "containerized", "protect-kernel-defaults", "rotate-server-certificates", "rkt-path"} {
			if got := toldOf(t, out, never, "serverTLSBootstrap"); got != "" {
				t.Errorf("kubelet 1.%d: --%s is %q", minor, never, got)
			}
		}
	}
}

// The user's page has a line for each row of the table, with its field and
// the release of that.
func TestDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/kubelet.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for line := range strings.Lines(string(page)) {
		if row, ok := strings.CutPrefix(line, "| `--"); ok {
			flag, rest, _ := strings.Cut(row, "` | ")
			rows[flag] = rest
		}
	}
	for _, s := range settings {
		row, ok := rows[s.flag]
		delete(rows, s.flag)
		releases := "all"
		switch {
		case s.until != 0:
			releases = fmt.Sprintf("up to 1.%d", s.until)
		case s.since != 0:
			releases = fmt.Sprintf("1.%d on", s.since)
		}
		field := "|  |"
		if s.field != "" {
			field = fmt.Sprintf("| `%s`, 1.%d |", s.field, s.fieldSince)
		}
		row = strings.ReplaceAll(row, "| |", "|  |")
		if !ok || !strings.HasPrefix(row, releases) || !strings.Contains(row, field) {
			t.Errorf("docs/kubelet.md: --%s (%s, %s): %q", s.flag, releases, field, row)
		}
	}
	for flag := range rows {
		t.Errorf("docs/kubelet.md has --%s, and the table has not", flag)
	}
}

// toldOf is what an output says about a setting, as a flag or as a field.
func toldOf(t *testing.T, out Output, flag, field string) string {
	t.Helper()
	got := ""
	for _, f := range out.Flags {
		if v, ok := strings.CutPrefix(f, "--"+flag+"="); ok {
			got = v
		}
	}
	var node any
	if err := yaml.Unmarshal(out.Config, &node); err != nil {
		t.Fatal(err)
	}
	for _, key := range strings.Split(field, ".") {
		m, ok := node.(map[string]any)
		if !ok {
			return got
		}
		node = m[key]
	}
	if node == nil {
		return got
	}
	if got != "" {
		t.Errorf("--%s and %s are both set", flag, field)
	}
	return fmt.Sprint(node)
}
