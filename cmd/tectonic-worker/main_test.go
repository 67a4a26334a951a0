package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/tectonic-worker/tectonic-worker/agent"
	"github.com/tectonic-worker/tectonic-worker/agent/host"
	"github.com/tectonic-worker/tectonic-worker/cmd/cli"
	"github.com/tectonic-worker/tectonic-worker/cmd/cli/clitest"
	"github.com/tectonic-worker/tectonic-worker/sysconfig"
)

// call runs the program with standard streams that are files.
func call(t *testing.T, stdin string, args ...string) (code int, out, errs string) {
	t.Helper()
	return clitest.Call(t, func(std cli.Stdio) int { return run(t.Context(), args, std) }, stdin)
}

func TestUsageErrors(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"bogus"}, `unknown command or argument "bogus"; see "tectonic-worker --help"`},
		{[]string{"--bogus"}, `unknown flag: --bogus; see "tectonic-worker --help"`},
		{[]string{"join", "extra"}, `unknown command or argument "extra"; see "tectonic-worker join --help"`},
		{[]string{"join", "--bogus"}, `unknown flag: --bogus; see "tectonic-worker join --help"`},
		{[]string{"join", "-o", "yaml"}, `see "tectonic-worker join --help"`},
		{[]string{"join", "--timeout", "0"}, `see "tectonic-worker join --help"`},
		{[]string{"join", "--timeout", "-1s"}, "--timeout -1s: it must be more than nothing"},
		{[]string{"join", "--timeout", "soon"}, `see "tectonic-worker join --help"`},
		{[]string{"version", "-o", "yaml"}, `unknown output "yaml": it is text or json; see "tectonic-worker version --help"`},
		{[]string{"kubelet", "bogus"}, `see "tectonic-worker kubelet --help"`},
		{[]string{"kubelet", "run", "extra"}, `see "tectonic-worker kubelet run --help"`},
	} {
		code, out, errs := call(t, "", c.args...)
		if code != 2 || out != "" || !strings.Contains(errs, c.want) || strings.Count(errs, "\n") != 1 {
			t.Errorf("%q: exit code %d, out %q, err %q; want 2 and %q", c.args, code, out, errs, c.want)
		}
	}
}

func TestEveryCommandExplainsItself(t *testing.T) {
	root := newRoot(cli.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	for _, c := range clitest.EveryCommand(root) {
		name := c.CommandPath()
		if c.Short == "" || strings.HasSuffix(c.Short, ".") || len(c.Short) > 70 {
			t.Errorf("%s: the short help is %q", name, c.Short)
		}
		if first := c.Short[:1]; first != strings.ToUpper(first) {
			t.Errorf("%s: the short help begins small", name)
		}
		if len(clitest.EveryCommand(c)) > 1 && c.Long == "" {
			t.Errorf("%s has no long help", name)
		}
		for _, l := range strings.Split(c.Long+"\n"+c.Example, "\n") {
			if len(l) > 100 {
				t.Errorf("%s: a line of help is %d wide: %s", name, len(l), l)
			}
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" || strings.HasSuffix(f.Usage, ".") {
				t.Errorf("%s --%s: the help is %q", name, f.Name, f.Usage)
			}
		})
	}
	for _, args := range [][]string{{"--help"}, {"join", "--help"}, {"help", "join"}, {}} {
		if code, out, errs := call(t, "", args...); code != 0 || out == "" || errs != "" {
			t.Errorf("%q: exit code %d, err %q", args, code, errs)
		}
	}
}

// The flag that the settings' documentation names is join's, for that key.
func TestSettingFlagsAreTheKeys(t *testing.T) {
	got := map[string]string{}
	for _, s := range slices.Concat(settingFlags, listFlags) {
		got[s.flag] = s.key
	}
	for _, k := range sysconfig.Keys() {
		if k.Flag != "" && got[k.Flag] != k.Name {
			t.Errorf("--%s of join sets %q; sysconfig says %s", k.Flag, got[k.Flag], k.Name)
		}
	}
}

func TestVersion(t *testing.T) {
	code, out, _ := call(t, "", "version", "-o", "json")
	var doc map[string]string
	if err := json.Unmarshal([]byte(out), &doc); err != nil || code != 0 {
		t.Fatalf("exit code %d, %v", code, err)
	}
	for _, k := range []string{"version", "goVersion", "platform"} {
		if doc[k] == "" {
			t.Errorf("%s is missing: %s", k, out)
		}
	}
	if code, out, _ := call(t, "", "version"); code != 0 || !strings.HasPrefix(out, "tectonic-worker "+doc["version"]+" (go") {
		t.Errorf("exit code %d, %q", code, out)
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if code, out, errs := call(t, "", "completion", shell); code != 0 || !strings.Contains(out, "tectonic-worker") {
			t.Errorf("%s: exit code %d, %d bytes, err %q", shell, code, len(out), errs)
		}
	}
	if _, out, _ := call(t, "", "__complete", "join", "--runtime", ""); !strings.HasPrefix(out, "auto\nrkt\npodman\n") {
		t.Errorf("--runtime completes to %q", out)
	}
}

// A failure in JSON is one document with its code, and nothing else is said.
func TestJoinFailureJSON(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("join needs root")
	}
	code, out, errs := call(t, "<html>", "join", "--dry-run", "-o", "json", "--kubeconfig", "-")
	var doc struct {
		APIVersion string
		Error      struct {
			Message string
			Code    int
		}
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if code != 78 || doc.Error.Code != 78 || doc.APIVersion != agent.APIVersion || errs != "" || !strings.Contains(doc.Error.Message, "standard input") {
		t.Errorf("exit code %d, %+v, err %q", code, doc, errs)
	}
}

func TestReadKubeconfig(t *testing.T) {
	if data, from, err := readKubeconfig(t.Context(), cli.Stdio{}, ""); data != nil || from != "" || err != nil {
		t.Errorf("none: %q, %q, %v", data, from, err)
	}
	t.Chdir(t.TempDir())
	if err := os.WriteFile("k", []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, from, err := readKubeconfig(t.Context(), cli.Stdio{}, "k"); string(data) != "text" || from != "k" || err != nil {
		t.Errorf("a file: %q, %q, %v", data, from, err)
	}
	if _, _, err := readKubeconfig(t.Context(), cli.Stdio{}, "none"); agent.ExitCode(err) != 78 {
		t.Errorf("no file: %v", err)
	}
	in, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer w.Close()
	// Ctrl-C ends the waiting for somebody who types.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := readKubeconfig(ctx, cli.Stdio{In: in}, "-"); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

var golden = `✓ Write the settings: /etc/x 0644 (500 ms)
· Set SELinux: Disabled (unchanged, 0 ms)
    ! the mode at the next boot stays
+ Open the firewall (would change, 1.5 s)
    open 10250/tcp
    open 4789/udp
✗ Wait for the kubelet (failed, 10.0 s)
· Restart: not wanted (skipped, 0 ms)
`

// Without a terminal: one line a step, no colours, no spinner.
func TestReportWithoutATerminal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := newReport(f)
	for _, s := range []agent.StepResult{
		{Title: "Write the settings", Status: agent.StatusChanged, Evidence: "/etc/x 0644", Seconds: 0.5, Resources: []agent.Outcome{{Diff: "not shown"}}},
		{Title: "Set SELinux", Status: agent.StatusUnchanged, Evidence: "Disabled", Warnings: []string{"the mode at the next boot stays"}},
		{Title: "Open the firewall", Status: agent.StatusWould, Seconds: 1.5, Resources: []agent.Outcome{{Diff: "open 10250/tcp\n"}, {}, {Diff: "open 4789/udp\n"}}},
		{Title: "Wait for the kubelet", Status: agent.StatusFailed, Seconds: 10},
		{Title: "Restart", Status: agent.StatusSkipped, Evidence: "not wanted"},
	} {
		r.Begin(s.Name, s.Title)
		r.Progress("pulling")
		r.End(s)
	}
	r.close()
	got, err := host.Root("/").ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(golden, string(got)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
