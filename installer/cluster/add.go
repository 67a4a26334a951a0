package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// AddMachine appends m to the machines of a cluster file and leaves all that stands in it as it is, comments and order
// too. The error is Findings when m itself is not valid there. Rules of the whole (at least three machines, an odd
// number of controllers) do not keep a machine from being added, since machines are added one by one; Parse tells them.
func AddMachine(text []byte, m Machine) ([]byte, error) {
	before, had := parse("cluster.yaml", text)
	d := &decoder{}
	root := d.tree(text)
	if root == nil {
		return nil, had.severity(Error)
	}
	out, err := insertMachine(text, root, m)
	if err != nil {
		return nil, err
	}
	after, has := parse("cluster.yaml", out)
	if fresh := newFindings(had, has); len(fresh) > 0 {
		return nil, fresh
	}
	if len(after.Machines) != len(before.Machines)+1 || !sameMachines(before.Machines, after.Machines[:len(before.Machines)]) {
		return nil, errors.New("cannot add to machines: its last entry ends in a way that text cannot follow; add the machine by hand")
	}
	return out, nil
}

// newFindings are the errors in fields that had none, but for those of the whole list.
func newFindings(had, has Findings) Findings {
	var out Findings
	for _, f := range has.severity(Error) {
		if f.Field != "machines" && !slices.ContainsFunc(had, func(old Finding) bool { return old.Field == f.Field }) {
			out = append(out, f)
		}
	}
	return out
}

func sameMachines(a, b []Machine) bool {
	return slices.EqualFunc(a, b, func(x, y Machine) bool {
		x.Line, y.Line = 0, 0
		return reflect.DeepEqual(x, y)
	})
}

func insertMachine(text []byte, root *yaml.Node, m Machine) ([]byte, error) {
	newline := "\n"
	if bytes.Contains(text, []byte("\r\n")) {
		newline = "\r\n"
	}
	lines := strings.Split(strings.TrimSuffix(string(text), newline), newline)
	var key, list, next *yaml.Node
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value == "machines" && key == nil {
			key, list = root.Content[i], root.Content[i+1]
		} else if key != nil && next == nil {
			next = root.Content[i]
		}
	}
	var place int // how many lines stand before the entry
	indent := 2
	switch {
	case root.Style&yaml.FlowStyle != 0:
		return nil, errors.New("cannot add to machines: the file is written in braces; write each key on a line of its own")
	case key == nil:
		place = len(lines)
		for place > 0 && (lines[place-1] == "" || strings.HasPrefix(lines[place-1], "...")) {
			place--
		}
		lines = slices.Insert(lines, place, "machines:")
		place++
	case list.Kind == yaml.SequenceNode && len(list.Content) > 0 && list.Style&yaml.FlowStyle == 0:
		indent = list.Column - 1
		place = end(lines, next)
	case list.Kind == yaml.SequenceNode && len(list.Content) == 0, list.Kind == yaml.ScalarNode && list.ShortTag() == "!!null":
		place = key.Line
		if list.Line != key.Line && list.Value != "" {
			return nil, fmt.Errorf("cannot add to machines: write \"machines: []\" in line %d, on one line", key.Line)
		}
		head, comment, _ := strings.Cut(lines[place-1], "#")
		if comment != "" {
			comment = "  #" + comment
		}
		head, _, _ = strings.Cut(head, ":")
		lines[place-1] = head + ":" + comment
	default:
		return nil, fmt.Errorf("cannot add to machines: line %d is not a list whose entries begin with \"- \"; write it so", key.Line)
	}
	entry := machineText(m, indent)
	if place > 0 && place < len(lines) && lines[place] != "" {
		entry = append(entry, "")
	}
	if key != nil && list.Kind == yaml.SequenceNode && spaced(lines, list) {
		entry = slices.Insert(entry, 0, "")
	}
	lines = slices.Insert(lines, place, entry...)
	return []byte(strings.Join(lines, newline) + newline), nil
}

// end is how many lines stand before what follows the machines: not counting comments, which belong to what follows.
func end(lines []string, next *yaml.Node) int {
	place := len(lines)
	if next != nil {
		place = next.Line - 1
	}
	for place > 0 {
		line := strings.TrimSpace(lines[place-1])
		if line != "" && line != "..." && (!strings.HasPrefix(line, "#") || next == nil && lines[place-1][0] != '#') {
			break
		}
		place--
	}
	return place
}

// spaced says that the entries of the list have an empty line between them.
func spaced(lines []string, list *yaml.Node) bool {
	for _, entry := range list.Content[min(1, len(list.Content)):] {
		if entry.Line < 2 || entry.Line > len(lines) || strings.TrimSpace(lines[entry.Line-2]) != "" {
			return false
		}
	}
	return len(list.Content) > 1
}

// machineText is m as a list's entry, what is empty left out.
func machineText(m Machine, indent int) []string {
	lines := strings.Split(strings.TrimSuffix(encode(tree(reflect.ValueOf(m))), "\n"), "\n")
	for i := range lines {
		lead := "  "
		if i == 0 {
			lead = "- "
		}
		lines[i] = strings.Repeat(" ", indent) + lead + lines[i]
	}
	return lines
}

// encode writes text of nodes that were made here, which cannot fail.
func encode(node *yaml.Node) string {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(node); err != nil {
		panic(err)
	}
	return b.String()
}

// tree is v as YAML, empty fields left out, in the schema's order; lists of words and small things on one line.
func tree(v reflect.Value) *yaml.Node {
	if s, ok := v.Interface().(fmt.Stringer); ok {
		return scalar(s.String())
	}
	switch v.Kind() {
	case reflect.Pointer:
		return tree(v.Elem())
	case reflect.Struct:
		node := &yaml.Node{Kind: yaml.MappingNode}
		for i := range v.NumField() {
			if name := v.Type().Field(i).Tag.Get("yaml"); name != "-" && name != "" && !v.Field(i).IsZero() {
				node.Content = append(node.Content, scalar(name), tree(v.Field(i)))
			}
		}
		if v.Type() != reflect.TypeFor[Machine]() && v.Type() != reflect.TypeFor[Power]() {
			node.Style = yaml.FlowStyle
		}
		return node
	case reflect.Slice:
		node := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for i := range v.Len() {
			node.Content = append(node.Content, tree(v.Index(i)))
		}
		return node
	case reflect.Map:
		node := &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
		labels := v.Interface().(map[string]string)
		for _, key := range slices.Sorted(maps.Keys(labels)) {
			node.Content = append(node.Content, scalar(key), scalar(labels[key]))
		}
		return node
	case reflect.Bool, reflect.Int, reflect.Int64:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: fmt.Sprint(v.Interface())}
	}
	return scalar(v.String())
}

// flow is a list of words on one line.
func flow(words []string) string {
	return strings.TrimSuffix(encode(tree(reflect.ValueOf(words))), "\n")
}

// quoted is one word as YAML takes it after a key.
func quoted(s string) string {
	return strings.TrimSuffix(encode(scalar(s)), "\n")
}

// scalar is a text, quoted where YAML would read it as something else.
func scalar(s string) *yaml.Node {
	node := &yaml.Node{}
	node.SetString(s)
	if strings.ContainsAny(s, "\r\n") {
		node.Style = yaml.DoubleQuotedStyle
	}
	return node
}
