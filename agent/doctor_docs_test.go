package agent

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func document(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile("../docs/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// docs/doctor.md has the table of checks, word for word and in its order.
func TestDoctorDocs(t *testing.T) {
	var want []string
	for _, c := range Checks() {
		join := ""
		if c.Join {
			join = "yes"
		}
		want = append(want, fmt.Sprintf("| `%s` | %s | %s |", c.Name, join, c.About))
	}
	_, table, _ := strings.Cut(document(t, "doctor.md"), "## The checks")
	table, _, _ = strings.Cut(table, "## JSON")
	got := regexp.MustCompile("(?m)^\\| `.*$").FindAllString(table, -1)
	if !slices.Equal(got, want) {
		t.Errorf("docs/doctor.md has\n%s\nand the table of checks is\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Names are kebab-case, each there once, and those that scripts know stay.
func TestCheckNames(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range Checks() {
		if !regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`).MatchString(c.Name) || seen[c.Name] {
			t.Errorf("bad name, or twice: %q", c.Name)
		}
		seen[c.Name] = true
	}
	for _, n := range []string{"root", "systemd", "runtime", "cri-socket", "cgroup", "ports", "swap", "sysctl", "hostname", "disk", "clock"} {
		if i := slices.IndexFunc(Checks(), func(c CheckInfo) bool { return c.Name == n }); i < 0 || !Checks()[i].Join {
			t.Errorf("join does not check %s any more", n)
		}
	}
	if UnknownChecks("root", "clock") != nil || UnknownChecks("root", "no-such") == nil {
		t.Error("UnknownChecks")
	}
}

// docs/status.md has every field of the document, and no other.
func TestStatusDocs(t *testing.T) {
	var want []string
	var walk func(prefix string, typ reflect.Type)
	walk = func(prefix string, typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			if f.Anonymous {
				walk(prefix, f.Type)
				continue
			}
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" {
				t.Errorf("%s%s has no name in JSON", prefix, f.Name)
			}
			ft := f.Type
			name = prefix + name
			if ft.Kind() == reflect.Pointer {
				ft = ft.Elem()
			}
			if ft.Kind() == reflect.Slice {
				ft, name = ft.Elem(), name+"[]"
			}
			if ft.Kind() == reflect.Struct && ft != reflect.TypeFor[time.Time]() {
				walk(name+".", ft)
				continue
			}
			want = append(want, name)
		}
	}
	walk("", reflect.TypeFor[WorkerStatus]())
	_, table, _ := strings.Cut(document(t, "status.md"), "## JSON")
	var got []string
	for _, row := range regexp.MustCompile("(?m)^\\| `[^|]*").FindAllString(table, -1) {
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row, -1) {
			got = append(got, m[1])
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	for _, n := range want {
		if !slices.Contains(got, n) {
			t.Errorf("docs/status.md does not have %s", n)
		}
	}
	for _, n := range got {
		if !slices.Contains(want, n) {
			t.Errorf("docs/status.md has %s, and the document does not", n)
		}
	}
}
