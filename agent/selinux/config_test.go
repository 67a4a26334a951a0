package selinux

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// shipped is like the file of RHEL 9: comments that mention the key, the key, the policy.
const shipped = `
# This file controls the state of SELinux on the system.
# SELINUX= can take one of these three values:
#     enforcing - SELinux security policy is enforced.
#     permissive - SELinux prints warnings instead of enforcing.
#     disabled - No SELinux policy is loaded.
SELINUX=enforcing
# SELINUXTYPE= can take one of these three values:
#     targeted - Targeted processes are protected,
SELINUXTYPE=targeted


`

// configs are files as people leave them: what libselinux makes of each, and the file after EditConfig(Permissive).
var configs = []struct {
	name, data string
	mode       Mode
	refused    string // part of the error, where a human meant something that libselinux does not see
	permissive string
}{
	{"shipped", shipped, Enforcing, "", strings.Replace(shipped, "SELINUX=enforcing", "SELINUX=permissive", 1)},
	{"empty", "", Unset, "", "SELINUX=permissive\n"},
	{"comments only", "# SELINUX=enforcing\n", Unset, "", "# SELINUX=enforcing\nSELINUX=permissive\n"},
	{"no newline at the end", "SELINUXTYPE=mls", Unset, "", "SELINUXTYPE=mls\nSELINUX=permissive\n"},
	{"the word ends the file", "SELINUX=enforcing", Enforcing, "", "SELINUX=permissive"},
	{"trailing spaces", "SELINUX=enforcing  \t\n", Enforcing, "", "SELINUX=permissive  \t\n"},
	{"CRLF", "SELINUX=enforcing\r\nSELINUXTYPE=targeted\r\n", Enforcing, "", "SELINUX=permissive\r\nSELINUXTYPE=targeted\r\n"},
	{"letter case", "SELINUX=EnForcing\n", Enforcing, "", "SELINUX=permissive\n"},
	{"space after the sign", "SELINUX= \tenforcing\n", Enforcing, "", "SELINUX= \tpermissive\n"},
	{"comment behind", "SELINUX=enforcing # do not touch\n", Enforcing, "", "SELINUX=permissive # do not touch\n"},
	{"comment close behind", "SELINUX=enforcing#x\n", Enforcing, "", "SELINUX=permissive#x\n"},
	{"a longer word", "SELINUX=enforcingly\n", Enforcing, "", "SELINUX=permissively\n"},
	{"the first of two", "SELINUX=enforcing\nSELINUX=disabled\n", Enforcing, "", "SELINUX=permissive\nSELINUX=disabled\n"},
	{"the first of two that is a mode", "SELINUX=\nSELINUX=1\nSELINUX=enforcing\n", Enforcing, "", "SELINUX=\nSELINUX=1\nSELINUX=permissive\n"},
	{"quotes before the effective line", "SELINUX=\"permissive\"\nSELINUX=enforcing\n", Enforcing, "", "SELINUX=\"permissive\"\nSELINUX=permissive\n"},
	{"disabled", "SELINUX=disabled\n", Disabled, "", "SELINUX=permissive\n"},
	{"permissive stays, byte for byte", "SELINUX=Permissive \r\n\r\n", Permissive, "", "SELINUX=Permissive \r\n\r\n"},
	{"not UTF-8", "# caf\xe9\nSELINUX=enforcing\n", Enforcing, "", "# caf\xe9\nSELINUX=permissive\n"},
	{"double quotes", "SELINUX=\"enforcing\"\n", Unset, `config:1: "SELINUX=\"enforcing\"" names no mode`, ""},
	{"single quotes", "# x\nSELINUX='enforcing'\n", Unset, "config:2: ", ""},
	{"indented", "  SELINUX=enforcing\n", Unset, "at the start of the line", ""},
	{"space before the sign", "SELINUX =enforcing\n", Unset, "config:1: ", ""},
	{"exported", "export SELINUX=enforcing\n", Unset, "config:1: ", ""},
	{"lower case key", "selinux=enforcing\n", Unset, "config:1: ", ""},
	{"byte order mark", "\ufeffSELINUX=enforcing\n", Unset, "config:1: ", ""},
	{"misspelt", "SELINUX=enforced\n", Unset, "write SELINUX=enforcing or SELINUX=permissive", ""},
	{"no value", "SELINUX=\n", Unset, "config:1: ", ""},
}

func TestConfig(t *testing.T) {
	for _, row := range configs {
		t.Run(row.name, func(t *testing.T) {
			mode, err := ParseConfig([]byte(row.data))
			if mode != row.mode {
				t.Errorf("ParseConfig = %q, want %q", mode, row.mode)
			}
			edited, editErr := EditConfig([]byte(row.data), Permissive)
			if row.refused != "" {
				for _, err := range []error{err, editErr} {
					if err == nil || !strings.Contains(err.Error(), row.refused) {
						t.Errorf("error %v, want %q", err, row.refused)
					}
				}
				return
			}
			if err != nil || editErr != nil {
				t.Fatal(err, editErr)
			}
			if diff := cmp.Diff(row.permissive, string(edited)); diff != "" {
				t.Errorf("EditConfig (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEditConfigRefuses(t *testing.T) {
	for name, call := range map[string]func() ([]byte, error){
		"SELINUX=disabled is never written": func() ([]byte, error) { return EditConfig([]byte(shipped), Disabled) },
		"is not a text file":                func() ([]byte, error) { return EditConfig([]byte("SELINUX=enforcing\x00\n"), Permissive) },
		"config:2: the line is longer": func() ([]byte, error) {
			return EditConfig([]byte("\n#"+strings.Repeat("x", 5000)+"\nSELINUX=enforcing\n"), Permissive)
		},
	} {
		if data, err := call(); err == nil || data != nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%q, %v, want %q", data, err, name)
		}
	}
	if _, err := EditConfig(nil, Unset); err == nil {
		t.Error("Unset was written")
	}
}

// The file is read below the root, and a missing one is no error.
func TestConfigFile(t *testing.T) {
	root := t.TempDir()
	if mode, err := Config(root); mode != Unset || err != nil {
		t.Errorf("missing: %q, %v", mode, err)
	}
	path := filepath.Join(root, ConfigPath)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".real", []byte(shipped), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("config.real", path); err != nil {
		t.Fatal(err)
	}
	if mode, err := Config(root); mode != Enforcing || err != nil {
		t.Errorf("through a link: %q, %v", mode, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Config(root); err == nil || !strings.Contains(err.Error(), "cannot read the SELinux configuration") {
		t.Errorf("a directory: %v", err)
	}
}

// askLibselinux prints what the library makes of /etc/selinux/config: the mode as setenforce counts, or "none".
const askLibselinux = `
import ctypes, sys
lib = ctypes.CDLL("libselinux.so.1")
mode = ctypes.c_int(-9)
print("none" if lib.selinux_getenforcemode(ctypes.byref(mode)) else {1: "enforcing", 0: "permissive", -1: "disabled"}[mode.value])
`

// The real libselinux reads every file of the table, and every edit of one, as we do: it is what decides at boot.
func TestLibselinux(t *testing.T) {
	needRoot(t)
	needTool(t, "python3", "mount", "sh")
	if err := exec.Command("python3", "-c", `import ctypes; ctypes.CDLL("libselinux.so.1").selinux_getenforcemode`).Run(); err != nil {
		missing(t, "needs libselinux.so.1")
	}
	if _, err := os.Stat("/etc/selinux"); err != nil {
		missing(t, "needs a directory /etc/selinux to mount over")
	}
	ask := func(t *testing.T, data []byte) string {
		t.Helper()
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "config"), data, 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sh", "-c", `mount -t tmpfs tmpfs /etc/selinux && cp "$1" /etc/selinux/config && python3 -c "$2"`, "sh", filepath.Join(dir, "config"), askLibselinux)
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // the mount is seen by nobody else
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	for _, row := range configs {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			expected := string(row.mode)
			if row.mode == Unset {
				expected = "none"
			}
			if got := ask(t, []byte(row.data)); got != expected {
				t.Errorf("libselinux reads %q, we read %q", got, expected)
			}
			if row.refused != "" {
				return
			}
			for _, m := range []Mode{Enforcing, Permissive} {
				edited, err := EditConfig([]byte(row.data), m)
				if err != nil {
					t.Fatal(err)
				}
				if got := ask(t, edited); got != string(m) {
					t.Errorf("after EditConfig(%s) libselinux reads %q", m, got)
				}
			}
		})
	}
}

// FuzzEditConfig: whatever the file holds, an edit is read back as what was asked for, changes one word or adds one
// line, and can be taken back.
func FuzzEditConfig(f *testing.F) {
	for _, row := range configs {
		f.Add([]byte(row.data), true)
	}
	f.Fuzz(func(t *testing.T, data []byte, enforcing bool) {
		want, other := Permissive, Enforcing
		if enforcing {
			want, other = Enforcing, Permissive
		}
		before := bytes.Clone(data)
		mode, err := ParseConfig(data)
		edited, editErr := EditConfig(data, want)
		if (err == nil) != (editErr == nil) {
			t.Fatalf("ParseConfig: %v, EditConfig: %v", err, editErr)
		}
		if !bytes.Equal(before, data) {
			t.Fatal("the input was changed")
		}
		if err != nil {
			return
		}
		got, err := ParseConfig(edited)
		if err != nil || got != want {
			t.Fatalf("%q became %q, which is %q (%v)", data, edited, got, err)
		}
		switch mode {
		case want:
			if !bytes.Equal(edited, data) {
				t.Fatalf("%q was %s already and became %q", data, want, edited)
			}
		case Unset:
			if !bytes.HasPrefix(edited, data) || bytes.Count(edited, []byte("\n")) > bytes.Count(data, []byte("\n"))+2 {
				t.Fatalf("%q became %q", data, edited)
			}
		default:
			if len(edited)-len(want) != len(data)-len(mode) {
				t.Fatalf("%q became %q", data, edited)
			}
			back, err := EditConfig(edited, other)
			if err != nil || mode == other && !bytes.EqualFold(back, data) {
				t.Fatalf("%q became %q and then %q (%v)", data, edited, back, err)
			}
		}
	})
}

func needTool(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			missing(t, "needs the program "+name)
		}
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "needs root, for a mount namespace")
	}
}

func missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}
