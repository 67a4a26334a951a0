package power

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.yaml.in/yaml/v3"
)

func TestCredentialsFile(t *testing.T) {
	t.Parallel()
	const secret = "s3cret"
	for _, tt := range []struct {
		name, text string
		mode       os.FileMode
		want       string // of the error
	}{
		{"good", "username: ADMIN\npassword: s3cret\n", 0o600, ""},
		{"read only", "username: ADMIN\npassword: 's3cret'\n", 0o400, ""},
		{"group may read", "username: ADMIN\npassword: s3cret\n", 0o640, "mode 0640); run \"chmod 600"},
		{"others may read", "username: ADMIN\npassword: s3cret\n", 0o604, "others can read it"},
		{"no password", "username: ADMIN\n", 0o600, "password is missing"},
		{"empty password", "username: ADMIN\npassword: ''\n", 0o600, "the password is empty"},
		{"no value", "username: ADMIN\npassword:\n", 0o600, "password is not text"},
		{"key twice", "username: ADMIN\npassword: s3cret\npassword: s3cret\n", 0o600, "line 3: password is there twice"},
		{"unknown key", "username: ADMIN\ns3cret: s3cret\n", 0o600, "line 2: there is an unknown key"},
		{"a list", "- s3cret\n", 0o600, "does not hold keys"},
		{"empty", "", 0o600, "not YAML"},
		{"broken", "username: [s3cret\n", 0o600, "not YAML"},
		{"two documents", "username: a\npassword: s3cret\n---\nusername: a\n", 0o600, "more than one document"},
		{"too long", "username: ADMIN\npassword: s3crets3crets3crets3cret\n", 0o600, "at most 20"},
		{"huge", "username: ADMIN\npassword: s3cret\n#" + strings.Repeat("s3cret", 20000), 0o600, "more than 65536 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "bmc.yaml")
			if err := os.WriteFile(path, []byte(tt.text), tt.mode); err != nil {
				t.Fatal(err)
			}
			c, err := LoadCredentials(path, "")
			if tt.want == "" {
				if err != nil || c.Username != "ADMIN" || string(c.Password) != secret {
					t.Errorf("%v, %v", c, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("%v; want %q", err, tt.want)
			} else if strings.Contains(err.Error(), secret) {
				t.Errorf("the error shows the secret: %v", err)
			}
		})
	}
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{fifo: "not a regular file", dir: "not a regular file", filepath.Join(dir, "none"): "no such file"} {
		if _, err := LoadCredentials(path, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", path, err, want)
		}
	}
	if _, err := LoadCredentials("a", "B"); err == nil {
		t.Error("both a file and the environment are taken")
	}
	if _, err := LoadCredentials("", ""); err == nil {
		t.Error("neither is taken")
	}
}

func TestCredentialsEnvironment(t *testing.T) {
	t.Setenv("RACK1_USERNAME", "ADMIN")
	if _, err := LoadCredentials("", "RACK1"); err == nil || !strings.Contains(err.Error(), "RACK1_PASSWORD is not set") {
		t.Error(err)
	}
	t.Setenv("RACK1_PASSWORD", "s3cret")
	if c, err := LoadCredentials("", "RACK1"); err != nil || c.Username != "ADMIN" || string(c.Password) != "s3cret" {
		t.Errorf("%v, %v", c, err)
	}
	if _, err := LoadCredentials("", "RACK2"); err == nil || !strings.Contains(err.Error(), "neither RACK2_USERNAME nor RACK2_PASSWORD") {
		t.Error(err)
	}
}

// However a password is printed, it is not there.
func TestSecretIsHidden(t *testing.T) {
	t.Parallel()
	o := IPMI{Address: "bmc", Credentials: Credentials{"ADMIN", "s3cret"}}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T %v"} {
		fmt.Fprintf(&out, verb+"\n", o)
		fmt.Fprintf(&out, verb+"\n", &o)
		fmt.Fprintf(&out, verb+"\n", o.Credentials.Password)
	}
	if err := json.NewEncoder(&out).Encode(o); err != nil {
		t.Fatal(err)
	}
	if err := yaml.NewEncoder(&out).Encode(o); err != nil {
		t.Fatal(err)
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "bmc", o, "password", o.Credentials.Password)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "bmc", o, "password", o.Credentials.Password)
	for _, leak := range []string{"s3cret", "733363726574", "733363726574"} {
		if strings.Contains(strings.ToLower(out.String()), leak) {
			t.Errorf("%q is in:\n%s", leak, out.String())
		}
	}
	if !strings.Contains(out.String(), hidden) || !strings.Contains(out.String(), "ADMIN") {
		t.Errorf("nothing was printed:\n%s", out.String())
	}
}

func FuzzParseCredentials(f *testing.F) {
	f.Add([]byte("username: ADMIN\npassword: s3cret\n"))
	f.Add([]byte("username: [s3cret\ns3cret: s3cret\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("{username: a, password: b}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, err := parseCredentials(text); err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: the error shows it: %v", text, err)
		}
	})
}
