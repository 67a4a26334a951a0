package cluster

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// keysOf lists the schema's keys as they are documented: machines[].power.driver.
func keysOf(t reflect.Type, path string, each func(string)) {
	for i := range t.NumField() {
		f := t.Field(i)
		name := f.Tag.Get("yaml")
		if name == "" || name == "-" {
			continue
		}
		at, inner := path+name, f.Type
		if inner.Kind() == reflect.Slice && inner.Elem().Kind() == reflect.Struct && inner.Elem().PkgPath() == t.PkgPath() {
			at, inner = at+"[]", inner.Elem()
		} else if inner.Kind() == reflect.Pointer && inner.Elem().Kind() == reflect.Struct {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct && inner.PkgPath() == t.PkgPath() {
			keysOf(inner, at+".", each)
			continue
		}
		each(at)
	}
}

// The guide has a row for each key of the schema, and none for another.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/cluster-file.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	row := regexp.MustCompile("(?m)^\\| (`[^|]*`) \\|")
	_, tables, _ := strings.Cut(string(text), "## Keys")
	tables, _, _ = strings.Cut(tables, "## What becomes of it")
	for _, m := range row.FindAllStringSubmatch(tables, -1) {
		first := ""
		for _, key := range strings.Split(m[1], ", ") {
			key = strings.Trim(key, "`")
			if strings.HasPrefix(key, ".") {
				key = first[:strings.LastIndex(first, ".")] + key
			} else {
				first = key
			}
			documented[key] = true
		}
	}
	n := 0
	keysOf(reflect.TypeFor[Cluster](), "", func(key string) {
		n++
		if !documented[key] {
			t.Errorf("docs/cluster-file.md has no row for %s", key)
		}
		delete(documented, key)
	})
	for key := range documented {
		t.Errorf("docs/cluster-file.md has a row for %s, which is no key", key)
	}
	if n < 60 {
		t.Errorf("only %d keys were looked for", n)
	}
}

// The example in the guide is what is really said.
func TestDocumentedFindings(t *testing.T) {
	text, err := os.ReadFile("../../docs/cluster-file.md")
	if err != nil {
		t.Fatal(err)
	}
	said, err := os.ReadFile("testdata/mistakes.golden")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(line, "cluster.yaml:") {
			n++
			if !strings.Contains(string(said), line+"\n") {
				t.Errorf("docs/cluster-file.md quotes what is not said: %s", line)
			}
		}
	}
	if n == 0 {
		t.Error("docs/cluster-file.md quotes nothing")
	}
}
