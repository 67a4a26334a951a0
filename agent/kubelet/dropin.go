package kubelet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"
)

// parseDropIn reads a drop-in as the kubelet would (YAML 1.1 by way of JSON,
// no duplicate keys) and checks it against the fields that this kubelet's
// version has. The kubelet itself would not tell: at a field that it does not
// know it logs "Using lenient decoding as strict decoding failed" from 1.17 on
// (kubernetes/kubernetes#83204), nothing before, and starts without it.
func parseDropIn(d DropIn, v Version) (map[string]any, []error) {
	asJSON, err := yaml.YAMLToJSONStrict(d.Data)
	if err != nil {
		return nil, []error{fmt.Errorf("%s: cannot be read as YAML: %s", d.Name, strings.TrimPrefix(err.Error(), "yaml: "))}
	}
	dec := json.NewDecoder(bytes.NewReader(asJSON))
	dec.UseNumber() // 1000000 stays 1000000
	var read any
	if err := dec.Decode(&read); err != nil {
		return nil, []error{fmt.Errorf("%s: %w", d.Name, err)}
	}
	if read == nil {
		return nil, nil // empty, or comments alone
	}
	tree, ok := read.(map[string]any)
	if !ok {
		return nil, []error{fmt.Errorf("%s: is not a piece of a KubeletConfiguration: want keys and values such as \"maxPods: 200\"", d.Name)}
	}
	if severalDocuments(d.Data) {
		return nil, []error{fmt.Errorf("%s: holds more than one YAML document, of which the kubelet would read one: make it one file for each", d.Name)}
	}
	c := checker{d, v, nil}
	for key, want := range map[string]string{"apiVersion": configAPIVersion, "kind": configKind} {
		if got, ok := tree[key]; ok && got != want {
			c.fail(key, "is %v, want %s, or leave it out", got, want)
		}
		delete(tree, key)
	}
	c.walk("", tree)
	slices.SortFunc(c.errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return tree, c.errs
}

func severalDocuments(data []byte) bool {
	dec := yamlv3.NewDecoder(bytes.NewReader(data))
	n := 0
	for {
		var doc yamlv3.Node
		if dec.Decode(&doc) != nil {
			return n > 1
		}
		n++
	}
}

type checker struct {
	d    DropIn
	v    Version
	errs []error
}

func (c *checker) fail(path, format string, args ...any) {
	where := c.d.Name
	if line := lineOf(c.d.Data, path); line > 0 {
		where += ":" + strconv.Itoa(line)
	}
	c.errs = append(c.errs, fmt.Errorf("%s: %s %s", where, path, fmt.Sprintf(format, args...)))
}

func (c *checker) walk(prefix string, tree map[string]any) {
	for key, value := range tree {
		path := prefix + key
		f, ok := knownFields()[path]
		switch {
		case !ok && c.v.Minor > Newest:
			continue // may well be a new one
		case !ok:
			c.fail(path, "is not a field of KubeletConfiguration%s", meant(path))
			continue
		case f.first > c.v.Minor && c.v.HasConfigFile():
			c.fail(path, "is known to kubelets from 1.%d on, and this one is %s: remove it, or use a newer image", f.first, c.v)
			continue
		case value == nil:
			continue // removes what stood there
		}
		sub, isMap := value.(map[string]any)
		if want := mismatch(f.kind, value); want != "" {
			c.fail(path, "is %s, want %s", brief(value), want)
		} else if isMap && c.expanded(path) {
			c.walk(path+".", sub)
		}
	}
}

// expanded tells whether the fields below an object are known too.
func (c *checker) expanded(path string) bool {
	for known := range knownFields() {
		if strings.HasPrefix(known, path+".") {
			return true
		}
	}
	return false
}

var durationForm = regexp.MustCompile(`^[-+]?(0|(\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h))+$`)

// mismatch names the kind that was wanted, or "" where the value has it.
func mismatch(kind string, value any) string {
	ok, want := true, ""
	switch kind {
	case "bool":
		_, ok = value.(bool)
		want = "true or false"
	case "number":
		_, ok = value.(json.Number)
		want = "a number, not in quotes"
	case "string":
		_, ok = value.(string)
		want = "a string (in quotes, if it looks like something else)"
	case "duration":
		s, isString := value.(string)
		ok, want = isString && durationForm.MatchString(s), `a duration such as "90s" or "4h0m0s"`
	case "list":
		_, ok = value.([]any)
		want = "a list"
	case "map", "object":
		_, ok = value.(map[string]any)
		want = "keys and values below it"
	}
	if ok {
		return ""
	}
	return want
}

func brief(v any) string {
	b, err := json.Marshal(v)
	if err != nil || len(b) > 60 {
		return "something else"
	}
	return string(b)
}

// meant suggests the field that was probably wanted: the same letters in
// another case or place, or a flag's name.
func meant(path string) string {
	last := path[strings.LastIndex(path, ".")+1:]
	var found []string
	for known, f := range knownFields() {
		if strings.EqualFold(known[strings.LastIndex(known, ".")+1:], last) || f.flag != "" && f.flag == strings.ReplaceAll(last, "_", "-") {
			found = append(found, known)
		}
	}
	if len(found) == 0 {
		return ""
	}
	slices.Sort(found)
	return ": did you mean " + strings.Join(found, " or ") + "?"
}

// lineOf finds where a dotted path stands in a YAML text, counted from 1; 0 if
// nowhere.
func lineOf(data []byte, path string) int {
	var doc yamlv3.Node
	if yamlv3.Unmarshal(data, &doc) != nil || len(doc.Content) == 0 {
		return 0
	}
	node, line := doc.Content[0], 0
	for _, key := range strings.Split(path, ".") {
		next := (*yamlv3.Node)(nil)
		for i := 0; node.Kind == yamlv3.MappingNode && i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == key {
				next, line = node.Content[i+1], node.Content[i].Line
			}
		}
		if next == nil {
			return 0
		}
		node = next
	}
	return line
}

// merge lays over on top of base: maps are merged key by key, anything else
// replaces what stood there, and null removes it.
func merge(base, over map[string]any) {
	for key, value := range over {
		if value == nil {
			delete(base, key)
			continue
		}
		below, isMap := base[key].(map[string]any)
		above, alsoMap := value.(map[string]any)
		if isMap && alsoMap {
			merge(below, above)
		} else {
			base[key] = value
		}
	}
}
