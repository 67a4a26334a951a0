//go:build ignore

// extract reads the kubelet's sources of every supported release, as the Go
// module proxy serves them, and writes two lists of facts:
//
//	flags.txt   flag, first and last minor release that has it ("-": still there)
//	fields.txt  field of KubeletConfiguration v1beta1, first release, kind of
//	            value, and the flag that sets the same thing ("-": none)
//
// Run it with "go generate ./agent/kubelet" after adding a release below.
package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// The last patch release that the proxy serves, by minor release. Flags and
// fields come and go with minor releases only.
var patches = map[int]int{
	8: 15, 9: 11, 10: 13, 11: 10, 12: 10, 13: 12, 14: 10, 15: 12, 16: 15, 17: 17, 18: 19, 19: 16, 20: 15, 21: 14, 22: 17,
	23: 17, 24: 17, 25: 16, 26: 15, 27: 16, 28: 15, 29: 6, 30: 14, 31: 14, 32: 13, 33: 6, 34: 4, 35: 4, 36: 3,
}

// klogFlags come from the logging library, not from the kubelet's own options.
// All but v and vmodule went with 1.26 (kubernetes/kubernetes#112120).
var klogFlags = []string{"alsologtostderr", "log-backtrace-at", "log-dir", "logtostderr", "stderrthreshold"}

// movedFlags left the kubelet's own options for a library's and live on there.
var movedFlags = []string{"logging-format", "experimental-logging-sanitization"}

func main() {
	log.SetFlags(0)
	var minors []int
	for m := range patches {
		minors = append(minors, m)
	}
	sort.Ints(minors)
	first, last := minors[0], minors[len(minors)-1]
	flags := map[string][2]int{}
	fields := map[string]int{}
	kinds := map[string]string{}
	twins := map[string]string{}
	for _, m := range minors {
		dir := source("k8s.io/kubernetes", fmt.Sprintf("v1.%d.%d", m, patches[m]))
		var types, internal *schema
		if m >= 10 {
			types = readSchema(typesFile(dir, m))
			internal = types
			for _, f := range types.walk("KubeletConfiguration", "", "") {
				if _, ok := fields[f.path]; !ok {
					fields[f.path] = m
				}
				kinds[f.path] = f.kind
			}
		}
		for _, file := range append(glob(dir, "cmd/kubelet/app/options/*.go"), glob(dir, "pkg/kubelet/config/flags.go")...) {
			if strings.HasSuffix(file, "_test.go") || strings.Contains(file, "windows") {
				continue
			}
			for _, f := range readFlags(file) {
				seen, ok := flags[f.name]
				if !ok {
					seen[0] = m
				}
				seen[1] = m
				flags[f.name] = seen
				if internal != nil && f.target != "" {
					if path := internal.jsonPath(f.target); path != "" {
						twins[path] = f.name
					}
				}
			}
		}
	}
	for _, name := range movedFlags {
		delete(flags, name)
	}
	for _, name := range klogFlags {
		flags[name] = [2]int{first, 25}
	}
	write("flags.txt", "# flag first last", keys(flags), func(name string) string {
		to := "-"
		if f := flags[name]; f[1] != last {
			to = "1." + strconv.Itoa(f[1])
		}
		return fmt.Sprintf("%s 1.%d %s", name, flags[name][0], to)
	})
	write("fields.txt", "# field first kind flag", keys(fields), func(path string) string {
		twin := twins[path]
		if twin == "" {
			twin = "-"
		}
		return fmt.Sprintf("%s 1.%d %s %s", path, fields[path], kinds[path], twin)
	})
}

func source(module, version string) string {
	out, err := exec.Command("go", "mod", "download", "-json", module+"@"+version).Output()
	var got struct{ Dir, Error string }
	if jerr := json.Unmarshal(out, &got); jerr != nil || got.Dir == "" {
		log.Fatalf("cannot download %s@%s: %v %s", module, version, err, got.Error)
	}
	return got.Dir
}

// typesFile finds the versioned configuration types, which moved twice: in the
// main tree up to 1.11, in a staging directory up to 1.14 (the proxy's copy of
// the main module still holds it), in the module k8s.io/kubelet since.
func typesFile(dir string, minor int) string {
	for _, at := range []string{"pkg/kubelet/apis/kubeletconfig/v1beta1/types.go", "staging/src/k8s.io/kubelet/config/v1beta1/types.go"} {
		if files := glob(dir, at); len(files) == 1 {
			return files[0]
		}
	}
	patch := map[int]int{16: 4, 29: 15, 36: 1}[minor]
	if patch == 0 {
		patch = patches[minor]
	}
	return filepath.Join(source("k8s.io/kubelet", fmt.Sprintf("v0.%d.%d", minor, patch)), "config/v1beta1/types.go")
}

type schema struct{ structs map[string]*ast.StructType }

func readSchema(file string) *schema {
	s := &schema{structs: map[string]*ast.StructType{}}
	tree, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		log.Fatal(err)
	}
	ast.Inspect(tree, func(n ast.Node) bool {
		if t, ok := n.(*ast.TypeSpec); ok {
			if st, ok := t.Type.(*ast.StructType); ok {
				s.structs[t.Name.Name] = st
			}
		}
		return true
	})
	return s
}

type field struct{ path, goPath, kind string }

func (s *schema) walk(name, path, goPath string) (all []field) {
	for _, f := range s.structs[name].Fields.List {
		if f.Tag == nil || len(f.Names) == 0 {
			continue
		}
		tag := strings.Split(reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("json"), ",")[0]
		if tag == "" {
			continue
		}
		kind, inner := kindOf(f.Type)
		one := field{path + tag, goPath + f.Names[0].Name, kind}
		if _, ok := s.structs[inner]; ok && kind == "string" {
			one.kind = "object"
		}
		all = append(all, one)
		if strings.HasPrefix(inner, "Kubelet") && one.kind == "object" {
			all = append(all, s.walk(inner, one.path+".", one.goPath+".")...)
		}
	}
	return all
}

func (s *schema) jsonPath(goPath string) string {
	goPath = strings.TrimSuffix(goPath, ".Duration")
	for _, f := range s.walk("KubeletConfiguration", "", "") {
		if f.goPath == goPath {
			return f.path
		}
	}
	return ""
}

func kindOf(e ast.Expr) (kind, name string) {
	switch t := e.(type) {
	case *ast.StarExpr:
		return kindOf(t.X)
	case *ast.ArrayType:
		return "list", ""
	case *ast.MapType:
		return "map", ""
	case *ast.SelectorExpr:
		if t.Sel.Name == "Duration" {
			return "duration", ""
		}
		return "object", ""
	case *ast.Ident:
		switch {
		case t.Name == "bool":
			return "bool", ""
		case strings.HasPrefix(t.Name, "int"), strings.HasPrefix(t.Name, "float"):
			return "number", ""
		}
		return "string", t.Name
	}
	return "any", ""
}

type flagDef struct{ name, target string }

// readFlags finds every fs.…Var(target, "name", …) of a file; target is the
// Go path below the configuration where the flag writes there ("&c.A.B").
func readFlags(file string) (all []flagDef) {
	tree, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		log.Fatal(err)
	}
	ast.Inspect(tree, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) < 3 {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || !strings.HasSuffix(strings.TrimSuffix(sel.Sel.Name, "P"), "Var") {
			return true
		}
		lit, ok := call.Args[1].(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return true
		}
		name, _ := strconv.Unquote(lit.Value)
		all = append(all, flagDef{name, target(call.Args[0])})
		return true
	})
	return all
}

func target(e ast.Expr) (path string) {
	ast.Inspect(e, func(n ast.Node) bool {
		u, ok := n.(*ast.UnaryExpr)
		if !ok || u.Op != token.AND {
			return true
		}
		var parts []string
		x := u.X
		for {
			sel, ok := x.(*ast.SelectorExpr)
			if !ok {
				break
			}
			parts = append(parts, sel.Sel.Name)
			x = sel.X
		}
		if id, ok := x.(*ast.Ident); ok && id.Name == "c" && len(parts) > 0 {
			slices.Reverse(parts)
			path = strings.Join(parts, ".")
			return false
		}
		return true
	})
	return path
}

func glob(dir, pattern string) []string {
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		log.Fatal(err)
	}
	return files
}

func keys[V any](m map[string]V) (all []string) {
	for k := range m {
		all = append(all, k)
	}
	sort.Strings(all)
	return all
}

func write(file, head string, names []string, line func(string) string) {
	text := head + "\n# from the sources of Kubernetes by extract.go; do not edit\n"
	for _, n := range names {
		text += line(n) + "\n"
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		log.Fatal(err)
	}
}
