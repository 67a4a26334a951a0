package faults

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const repository = "../.."

// Every fault has its row, and every row a test that exists or the reason why there is none.
func TestMatrix(t *testing.T) {
	seen := map[int]bool{}
	last := 0
	for _, r := range Rows {
		if seen[r.Number] || r.Number < last {
			t.Errorf("row %d is there twice, or out of order", r.Number)
		}
		seen[r.Number], last = true, r.Number
		if r.Fault == "" || r.Bears == "" {
			t.Errorf("row %d does not say what breaks and what happens then", r.Number)
		}
		if len(r.Tests) == 0 && r.Open == "" {
			t.Errorf("row %d has neither a test nor a reason", r.Number)
		}
		for _, name := range r.Tests {
			dir, function, ok := strings.Cut(name, ".Test")
			if !ok || !testFunctions(t, dir)["Test"+function] {
				t.Errorf("row %d: there is no test %s", r.Number, name)
			}
		}
	}
	for n := 1; n <= 62; n++ {
		if !seen[n] {
			t.Errorf("row %d is missing", n)
		}
	}
	if testFunctions(t, "agent")["TestThatIsNotThere"] {
		t.Error("the look for test functions finds what is not there")
	}
}

var functionsOf = map[string]map[string]bool{}

// testFunctions lists the test functions of a package by reading its sources.
func testFunctions(t *testing.T, dir string) map[string]bool {
	t.Helper()
	if found, ok := functionsOf[dir]; ok {
		return found
	}
	found := map[string]bool{}
	files, err := filepath.Glob(filepath.Join(repository, dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatalf("cannot read the tests of %s: %v", dir, err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") {
				found[fn.Name.Name] = true
			}
		}
	}
	functionsOf[dir] = found
	return found
}

func TestDocument(t *testing.T) {
	file := filepath.Join(repository, "docs/faults.md")
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if want := Document(); !bytes.Equal(have, want) {
		t.Errorf("docs/faults.md is not what the rows say; run \"go run ./test/faults/cmd/matrix > docs/faults.md\":\n%s", cmp.Diff(string(have), string(want)))
	}
}
