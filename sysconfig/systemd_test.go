package sysconfig

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// need skips the test, or fails it in CI, where a tool is missing.
func need(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is missing", tool)
			}
			t.Skipf("%s is missing", tool)
		}
	}
}

// systemdRoot is a root filesystem with a systemd that boots, made once and then only read.
func systemdRoot(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can boot a systemd")
	}
	need(t, "systemd-nspawn", "mmdebstrap")
	cache := os.Getenv("TECTONIC_LAB_CACHE")
	if cache == "" {
		cache = "/var/cache/tectonic-worker-lab"
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(filepath.Join(cache, "bookworm-systemd-rpm.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(cache, "bookworm-systemd-rpm")
	if _, err := os.Stat(root); err == nil {
		return root
	}
	building := root + ".building"
	if err := os.RemoveAll(building); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "mmdebstrap", "--quiet", "--variant=minbase", "--include=systemd,systemd-sysv,rpm",
		"bookworm", building).CombinedOutput()
	if err != nil {
		t.Fatalf("cannot make a root filesystem: %v\n%s", err, out)
	}
	if err := os.Rename(building, root); err != nil {
		t.Fatal(err)
	}
	return root
}

// environments boots systemd with one unit for each file and returns what each unit got from its file.
// nil stands for a unit that systemd would not start.
func environments(t *testing.T, files []string) []map[string]string {
	t.Helper()
	base, dir := systemdRoot(t), t.TempDir()
	root := filepath.Join(dir, "root")
	for _, d := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	overlay := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", base, dir, dir)
	if err := syscall.Mount("overlay", root, "overlay", 0, overlay); err != nil {
		t.Fatalf("cannot mount an overlay: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(root, syscall.MNT_DETACH); err != nil {
			t.Errorf("cannot unmount %s: %v", root, err)
		}
	})
	write := func(name, content string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "out"), 0o755); err != nil {
		t.Fatal(err)
	}
	var all []string
	for i, f := range files {
		write(fmt.Sprintf("env/%d", i), f)
		write(fmt.Sprintf("units/case-%d.service", i), fmt.Sprintf("[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\n"+
			"EnvironmentFile=/lab/env/%d\nExecStart=/usr/bin/env -0\nStandardOutput=truncate:/lab/out/%d\n", i, i))
		all = append(all, fmt.Sprintf("case-%d.service", i))
	}
	write("units/done.service", "[Unit]\nDefaultDependencies=no\nAfter="+strings.Join(all, " ")+"\nWants="+strings.Join(all, " ")+
		"\n[Service]\nType=oneshot\nExecStart=/bin/touch /lab/out/done\nExecStartPost=/bin/systemctl --no-block --force exit 0\n")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	args := []string{"--directory=" + root, fmt.Sprintf("--machine=sysconfig-%d", os.Getpid()), "--boot", "--register=no", "--keep-unit", "--quiet",
		"--private-network", "--console=pipe", "--bind=" + dir + ":/lab", "--bind-ro=" + dir + "/units:/run/systemd/system"}
	cmd := exec.CommandContext(ctx, "systemd-nspawn", append(args, "--", "--unit=done.service")...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	out, err := cmd.CombinedOutput()
	if _, statErr := os.Stat(filepath.Join(dir, "out/done")); statErr != nil {
		t.Fatalf("systemd did not run the units: %v\n%s", err, out)
	}
	result := make([]map[string]string, len(files))
	for i := range files {
		data, err := os.ReadFile(filepath.Join(dir, "out", fmt.Sprint(i)))
		if err != nil || len(data) == 0 {
			continue
		}
		result[i] = make(map[string]string)
		for _, e := range strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00") {
			k, v, _ := strings.Cut(e, "=")
			// What systemd sets for every unit.
			if !slices.Contains([]string{"PATH", "LANG", "INVOCATION_ID", "SYSTEMD_EXEC_PID", "JOURNAL_STREAM", "container"}, k) {
				result[i][k] = v
			}
		}
	}
	return result
}

// effective is what a unit gets of assignments.
func effective(as []Assignment) map[string]string {
	out := make(map[string]string)
	for _, a := range as {
		out[a.Key] = a.Value
	}
	return out
}

// awkward are files for which it is easy to be wrong. Where want is nil, systemd takes nothing from
// the file. problems counts what Parse complains about.
var awkward = []struct {
	name, file string
	want       map[string]string
	problems   int
}{
	{"plain", "A=b\n", map[string]string{"A": "b"}, 0},
	{"no line break at the end", "A=b", map[string]string{"A": "b"}, 0},
	{"empty file", "", map[string]string{}, 0},
	{"empty value", "A=\nB=''\nC=\"\"", map[string]string{"A": "", "B": "", "C": ""}, 0},
	{"CRLF", "A=b\r\nB=\"c d\"\r\n# x\r\nC=e\r\n", map[string]string{"A": "b", "B": "c d", "C": "e"}, 0},
	{"CR alone", "A=b\rB=c\r", map[string]string{"A": "b", "B": "c"}, 0},
	{"white space around", " \tA =  b c \t\n", map[string]string{"A": "b c"}, 0},
	{"blank lines and comments", "\n\n# A=1\n;B=2\n  # C=3\nD=4\n", map[string]string{"D": "4"}, 0},
	{"hash in a value", "A=b # c\nB=b#c\nC='x' # y\n", map[string]string{"A": "b # c", "B": "b#c", "C": "x# y"}, 0},
	{"later wins", "A=1\nB=2\nA=3\n", map[string]string{"A": "3", "B": "2"}, 0},
	{"later empty wins", "A=1\nA=\n", map[string]string{"A": ""}, 0},
	{"double quotes", `A="b c"` + "\n", map[string]string{"A": "b c"}, 0},
	{"single quotes", `A='b "c" $d'` + "\n", map[string]string{"A": `b "c" $d`}, 0},
	{"quotes keep white space", `A="  b  "` + "\n" + `B='  c  '  ` + "\n", map[string]string{"A": "  b  ", "B": "  c  "}, 0},
	{"quotes side by side", `A='b'"c"d` + "\nB='x' 'y'\nC=\"x\"  y\n", map[string]string{"A": "bcd", "B": "xy", "C": "xy"}, 0},
	{"quote in the middle", `A=b"c d"` + "\nB=it's\n", map[string]string{"A": `b"c d"`, "B": "it's"}, 0},
	{"escapes in double quotes", `A="\"\\\$` + "\\`" + `"` + "\n", map[string]string{"A": "\"\\$`"}, 0},
	{"backslash kept in double quotes", `A="\n\t\x"` + "\n", map[string]string{"A": `\n\t\x`}, 1},
	{"backslash in single quotes", `A='\n\\'` + "\n", map[string]string{"A": `\n\\`}, 1},
	{"escapes without quotes", `A=\b\\c\ \"` + "\n", map[string]string{"A": `b\c "`}, 0},
	{"escaped blank at the end", "A=b\\ \n", map[string]string{"A": "b "}, 0},
	{"escaped quote at the start", `A=\"b\"` + "\n", map[string]string{"A": `"b"`}, 0},
	{"continuation", "A=b \\\n  c\nB=x\\\ny\n", map[string]string{"A": "b   c", "B": "xy"}, 0},
	{"continuation in double quotes", "A=\"b\\\nc\"\n", map[string]string{"A": "bc"}, 0},
	{"continuation with CRLF", "A=b\\\r\nB=c\r\n", map[string]string{"A": "b", "B": "c"}, 0},
	{"continuation at the end of the file", "A=b\\", map[string]string{"A": "b"}, 0},
	{"continuation then the end", "A=b \\\n", map[string]string{"A": "b "}, 0},
	{"line break in quotes", "A=\"b\nc\"\nB='d\ne'\n", map[string]string{"A": "b\nc", "B": "d\ne"}, 2},
	{"comment with a backslash inside", "# a \\ b\nA=1\n", map[string]string{"A": "1"}, 0},
	{"comment ends in a backslash", "# a \\\nA=1\nB=2\n", map[string]string{"B": "2"}, 1},
	{"comment carried over a comment", "# a \\\n# b\nB=2\n", map[string]string{"B": "2"}, 0},
	{"comment carried over a blank line", "# a \\\n\nB=2\n", map[string]string{"B": "2"}, 0},
	{"comment ends in a backslash, CRLF", "# a \\\r\nA=1\r\n", map[string]string{"A": "1"}, 0},
	{"never run", "A=$(touch /lab/out/pwned)\nB=`id`\nC=${A}\nD=$A\n", map[string]string{"A": "$(touch /lab/out/pwned)", "B": "`id`", "C": "${A}", "D": "$A"}, 0},
	{"equals signs", "A=b=c==\n=d\nB==e\n", map[string]string{"A": "b=c==", "B": "=e"}, 1},
	{"no equals sign", "A\nB=c\nexport\n", map[string]string{"B": "c"}, 2},
	{"export", "export A=b\nB=c\n", map[string]string{"B": "c"}, 1},
	{"bad names", "A-B=1\n2C=1\nA.B=1\nA B=1\nÄ=1\nD_2=ok\n", map[string]string{"D_2": "ok"}, 5},
	{"byte order mark", "\ufeffA=b\nB=c\n", map[string]string{"B": "c"}, 1},
	{"UTF-8", "A=Zürich\nB=\"日本\"\n", map[string]string{"A": "Zürich", "B": "日本"}, 0},
	{"tabs", "A=b\tc\nB=\"\td\"\n", map[string]string{"A": "b\tc", "B": "\td"}, 0},
	{"unterminated double quote", "A=\"b\nB=c\n", map[string]string{"A": "b\nB=c\n"}, 1},
	{"unterminated single quote", "A=1\nB='c", map[string]string{"A": "1", "B": "c"}, 1},
	{"not UTF-8 in a value", "A=b\nB=\xff\nC=d\n", nil, 1},
	{"not UTF-8 in a name", "A=b\n\xc3=c\n", nil, 1},
	{"not UTF-8 in a comment", "# \xff\nA=b\n", map[string]string{"A": "b"}, 0},
	{"NUL", "A=b\x00\nB=c\n", nil, 1},
	{"form feed and vertical tab around", "A=\fb\v\n", map[string]string{"A": "\fb\v"}, 1},
	{"the shipped file", string(Shipped), map[string]string{"KUBERNETES_DNS_SERVICE_IP": "", "CLUSTER_DOMAIN": "cluster.local"}, 0},
	{"the shipped kubelet.env", string(ShippedKubeletEnv), map[string]string{}, 0},
	{"edited", string(Update(Shipped, map[string]string{"NODE_LABELS": "a=b", "RKT_OPTS": "x \"y\" $z \\ `", "NODE_TAINTS": ""})),
		map[string]string{"KUBERNETES_DNS_SERVICE_IP": "", "CLUSTER_DOMAIN": "cluster.local", "NODE_LABELS": "a=b", "RKT_OPTS": "x \"y\" $z \\ `"}, 0},
}

func TestParseAwkward(t *testing.T) {
	for _, c := range awkward {
		t.Run(c.name, func(t *testing.T) {
			as, problems := Parse("f", []byte(c.file))
			if len(problems) != c.problems {
				t.Errorf("%d problems, want %d:\n%v", len(problems), c.problems, problems)
			}
			if c.want == nil {
				return
			}
			if diff := cmp.Diff(c.want, effective(as)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestSystemdReadsTheSame boots a real systemd and compares what it passes to a unit with the table,
// and so with Parse.
func TestSystemdReadsTheSame(t *testing.T) {
	var files []string
	for _, c := range awkward {
		files = append(files, c.file)
	}
	got := environments(t, files)
	for i, c := range awkward {
		if diff := cmp.Diff(c.want, got[i]); diff != "" {
			t.Errorf("%s: systemd differs (-want +got):\n%s", c.name, diff)
		}
	}
}

// TestSystemdReadsRandomFilesTheSame compares Parse with a real systemd on files made of the characters
// that mean something to either.
func TestSystemdReadsRandomFilesTheSame(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	const characters = "AB=='\"\\\\#; \t\n\n\r$`x-"
	var files []string
	for range 400 {
		file := make([]byte, random.IntN(40))
		for i := range file {
			file[i] = characters[random.IntN(len(characters))]
		}
		files = append(files, string(file))
	}
	for i, got := range environments(t, files) {
		as, _ := Parse("f", []byte(files[i]))
		if diff := cmp.Diff(effective(as), got); diff != "" {
			t.Errorf("%q (-Parse +systemd):\n%s", files[i], diff)
		}
	}
}
