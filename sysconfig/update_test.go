package sysconfig

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestUpdate(t *testing.T) {
	for _, c := range []struct {
		name, before string
		set          map[string]string
		after        string
	}{
		{"replaced in place", "# x\nA=1\nB=2\n", map[string]string{"A": "3"}, "# x\nA=3\nB=2\n"},
		{"the last one", "A=1\nA=2\n", map[string]string{"A": "3"}, "A=1\nA=3\n"},
		{"the same value", "A = '1' \n", map[string]string{"A": "1"}, "A = '1' \n"},
		{"the example", "# About A.\n#A=x\n\nB=2\n", map[string]string{"A": "3"}, "# About A.\nA=3\n\nB=2\n"},
		{"an example with a blank", "# A=x\n", map[string]string{"A": "3"}, "A=3\n"},
		{"no example in prose", "# if A=x\n", map[string]string{"A": "3"}, "# if A=x\nA=3\n"},
		{"an assignment before an example", "A=1\n#A=x\n", map[string]string{"A": "3"}, "A=3\n#A=x\n"},
		{"appended", "B=2", map[string]string{"A": "3"}, "B=2\nA=3\n"},
		{"appended to nothing", "", map[string]string{"A": "3"}, "A=3\n"},
		{"several, in the order of the shipped file", "", map[string]string{"NODE_IP": "::2", "NODE_NAME": "n", "CLUSTER_DOMAIN": "d"}, "CLUSTER_DOMAIN=d\nNODE_NAME=n\nNODE_IP=::2\n"},
		{"several lines", "A=\"1\\\n2\"\nB=2\n", map[string]string{"A": "3"}, "A=3\nB=2\n"},
		{"CRLF", "A=1\r\nB=2\r\n", map[string]string{"A": "3", "C": "4"}, "A=3\r\nB=2\r\nC=4\r\n"},
		{"after a continued comment", "# x \\\n", map[string]string{"A": "3"}, "# x \\\n\nA=3\n"},
		{"after a comment's last backslash", "# x \\", map[string]string{"A": "3"}, "# x \\\n\nA=3\n"},
		{"after a value's last backslash", "B=2\\", map[string]string{"A": "3"}, "B=2\\\n\nA=3\n"},
		{"quoted", "", map[string]string{"A": `b "c" $d \ ` + "`"}, "A=\"b \\\"c\\\" \\$d \\\\ \\`\"\n"},
		{"emptied", "A=1\n", map[string]string{"A": ""}, "A=\n"},
		{"empty stays absent", "#A=1\n", map[string]string{"A": ""}, "#A=1\n"},
		{"not inside a quoted value", "B='\n#A=1\n'\n", map[string]string{"A": "3"}, "B='\n#A=1\n'\nA=3\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Update([]byte(c.before), c.set)
			if diff := cmp.Diff(c.after, string(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if again := Update(got, c.set); !bytes.Equal(again, got) {
				t.Errorf("a second Update changes it to %q", again)
			}
		})
	}
}

func TestUpdateRefusesWhatSystemdDrops(t *testing.T) {
	for _, set := range []map[string]string{{"A": "b\nc"}, {"A": "\x00"}, {"A": "\xff"}, {"A B": "c"}, {"": "c"}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%q was written", set)
				}
			}()
			Update(nil, set)
		}()
	}
}

// Every key of the list is in its shipped file, with its default, and nothing else is.
func TestShippedFilesAndKeysAgree(t *testing.T) {
	example := regexp.MustCompile(`(?m)^(#?)([A-Z0-9_]+)=(.*)$`)
	for path, data := range map[string][]byte{Path: Shipped, KubeletEnvPath: ShippedKubeletEnv} {
		var want, got []string
		for _, k := range keys {
			if k.File == path {
				want = append(want, k.Name)
			}
		}
		for _, m := range example.FindAllSubmatch(data, -1) {
			got = append(got, string(m[2]))
			shown, k := strings.Trim(string(m[3]), `"`), find(string(m[2]))
			if k != nil && shown != "" && k.Default != "" && shown != k.Default {
				t.Errorf("%s: shows %s=%s, but the default is %s", path, m[2], shown, k.Default)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-keys +shipped):\n%s", path, diff)
		}
		if as, problems := Parse(path, data); len(problems) > 0 {
			t.Errorf("%s: %v", path, problems)
		} else if path == Path && !cmp.Equal(effective(as), map[string]string{"KUBERNETES_DNS_SERVICE_IP": "", "CLUSTER_DOMAIN": "cluster.local"}) {
			t.Errorf("%s sets %v", path, as)
		}
	}
	for _, k := range keys {
		if k.Help == "" || k.Syntax == "" || strings.Contains(k.Help, "\n") || k.check == nil {
			t.Errorf("%s is not described", k.Name)
		}
	}
}

// The guide's tables are the list of keys.
func TestGuideAndKeysAgree(t *testing.T) {
	guide, err := os.ReadFile(filepath.Join("..", "docs", "settings.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{Path, KubeletEnvPath} {
		if table := Table(file); !bytes.Contains(guide, []byte(table)) {
			t.Errorf("docs/settings.md does not hold the table of %s, which is:\n%s", file, table)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, c := range awkward {
		f.Add([]byte(c.file))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		as, problems := Parse("f", data)
		for _, a := range as {
			if !validName(a.Key) || !utf8.ValidString(a.Value) || strings.ContainsRune(a.Value, 0) {
				t.Errorf("systemd would not take %q=%q", a.Key, a.Value)
			}
			if a.Line < 1 || a.Line > 1+bytes.Count(data, []byte("\n")) {
				t.Errorf("%q is on line %d", a.Key, a.Line)
			}
		}
		for _, p := range problems {
			if p.Why == "" || p.Remedy == "" || p.Line < 1 || strings.ContainsAny(p.String(), "\n\r\x00\x1b") {
				t.Errorf("bad problem: %+v", p)
			}
		}
		// The stretches lie in order and do not overlap.
		end := 0
		for _, it := range scan(data).items {
			if it.start < end || it.end < it.start || it.end > len(data) {
				t.Errorf("stretch %d-%d after %d of %d", it.start, it.end, end, len(data))
			}
			end = it.end
		}
	})
}

func FuzzUpdate(f *testing.F) {
	for _, c := range awkward {
		f.Add([]byte(c.file), "A", "b c")
	}
	f.Add(Shipped, "NODE_NAME", "x'\"\\$`")
	f.Fuzz(func(t *testing.T, data []byte, key, value string) {
		before, problems := Parse("f", data)
		if len(problems) > 0 || !validName(key) || hasControl(value) || !utf8.ValidString(value) {
			t.Skip()
		}
		edited := Update(data, map[string]string{key: value})
		after, problems := Parse("f", edited)
		if len(problems) > 0 {
			t.Fatalf("%q became %q: %v", data, edited, problems)
		}
		want := maps.Clone(effective(before))
		if _, had := want[key]; had || value != "" {
			want[key] = value
		}
		if diff := cmp.Diff(want, effective(after)); diff != "" {
			t.Errorf("%q became %q (-want +got):\n%s", data, edited, diff)
		}
		if again := Update(edited, map[string]string{key: value}); !bytes.Equal(again, edited) {
			t.Errorf("a second Update made %q of %q", again, edited)
		}
	})
}
