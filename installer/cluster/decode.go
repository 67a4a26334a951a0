package cluster

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// decoder walks the YAML tree along the schema's types. It is not yaml's own decoder because that one stops at lines
// without fields, loses the lines of what it could decode, and reads 010 as eight.
type decoder struct {
	file     string
	lines    map[string]int  // of each field that is there
	meant    map[string]bool // fields that are there under a wrong name
	findings Findings
	more     int // findings beyond mostFindings
	nodes    int
}

// mostNodes bounds what aliases can grow to; how deep they nest is bound by the schema's types. A machine needs about 20.
const mostNodes = 500_000

var errTooLarge = errors.New("too large")

var syntaxLine = regexp.MustCompile(`line (\d+): `)

// tree parses text into one document's root.
func (d *decoder) tree(text []byte) *yaml.Node {
	reader := yaml.NewDecoder(strings.NewReader(string(text)))
	var document, second yaml.Node
	if err := reader.Decode(&document); err != nil {
		d.syntax(err)
		return nil
	}
	if len(document.Content) == 0 {
		d.add(0, "", "it is empty; \"tectonic-installer init\" prints one to begin with")
		return nil
	}
	if err := reader.Decode(&second); err == nil {
		d.add(second.Line, "", "a second document begins here; a cluster file holds one")
	}
	root := document.Content[0]
	if root.Kind != yaml.MappingNode {
		d.add(root.Line, "", "this is %s, not keys and values; \"tectonic-installer init\" prints one to begin with", kindOf(root))
		return nil
	}
	return root
}

func (d *decoder) syntax(err error) {
	message, line := strings.TrimPrefix(err.Error(), "yaml: "), 0
	if m := syntaxLine.FindStringSubmatch(message); m != nil {
		line, _ = strconv.Atoi(m[1])
		message = strings.Replace(message, m[0], "", 1)
	}
	if message == "EOF" {
		message = "it is empty; \"tectonic-installer init\" prints one to begin with"
	} else {
		message = "this is not YAML: " + printable(message) + "; look at the line before it too, at its indent and quotes"
	}
	d.add(line, "", "%s", message)
}

func (d *decoder) add(line int, field, format string, args ...any) {
	if len(d.findings) >= mostFindings {
		d.more++
		return
	}
	d.findings = append(d.findings, Finding{d.file, line, field, fmt.Sprintf(format, args...), Error})
}

// value decodes node into v, whose zero value stands for "not there".
func (d *decoder) value(node *yaml.Node, field string, v reflect.Value) {
	if d.nodes++; d.nodes > mostNodes {
		panic(errTooLarge) // caught in decode
	}
	if _, ok := d.lines[field]; !ok {
		d.lines[field] = node.Line
	}
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	if node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null" {
		return
	}
	switch v.Interface().(type) {
	case netip.Addr, netip.Prefix, MAC, Bytes:
		if d.scalar(node, field) {
			d.text(node, field, v)
		}
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(node, field, v.Elem())
	case reflect.Struct:
		d.mapping(node, field, v)
	case reflect.Map:
		d.labels(node, field, v)
	case reflect.Slice:
		if node.Kind != yaml.SequenceNode {
			d.add(node.Line, field, "this is %s, not a list; begin each entry on its own line with \"- \"", kindOf(node))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(node.Content), len(node.Content)))
		for i, entry := range node.Content {
			d.value(entry, fmt.Sprintf("%s[%d]", field, i), v.Index(i))
		}
	default:
		if d.scalar(node, field) {
			d.text(node, field, v)
		}
	}
}

func (d *decoder) scalar(node *yaml.Node, field string) bool {
	if node.Kind != yaml.ScalarNode {
		d.add(node.Line, field, "this is %s, not a single value; write one", kindOf(node))
	}
	return node.Kind == yaml.ScalarNode
}

// text sets v from a scalar as it is written: a version 9.10 stays 9.10, a mode 0600 stays 0600.
func (d *decoder) text(node *yaml.Node, field string, v reflect.Value) {
	s := node.Value
	var err error
	switch p := v.Addr().Interface().(type) {
	case *string:
		*p = s
	case *bool:
		if s != "true" && s != "false" {
			err = fmt.Errorf("%s is neither true nor false; write one of them", printable(s))
		}
		*p = s == "true"
	case *int:
		if *p, err = strconv.Atoi(s); err != nil || *p < 0 {
			*p, err = 0, fmt.Errorf("%s is not a whole number; write it like 2", printable(s))
		}
	case *Bytes:
		*p, err = ParseBytes(s)
	case *MAC:
		*p, err = ParseMAC(s)
	case *netip.Addr:
		*p, err = netip.ParseAddr(s)
		if err != nil || p.Zone() != "" || p.Is4In6() {
			*p, err = netip.Addr{}, fmt.Errorf("%s is not an IP address; write it like 172.18.0.21", printable(s))
		}
	case *netip.Prefix:
		*p, err = netip.ParsePrefix(s)
		switch {
		case err != nil || p.Addr().Is4In6():
			*p, err = netip.Prefix{}, fmt.Errorf("%s is not a range of addresses; write it like 10.2.0.0/16", printable(s))
		case *p != p.Masked():
			err = fmt.Errorf("%s has bits set beyond its length; write %s", *p, p.Masked())
			*p = p.Masked()
		}
	default:
		panic(fmt.Sprintf("the schema has a type that the decoder does not know: %T", p))
	}
	if err != nil {
		d.add(node.Line, field, "%s", err)
	}
}

// keys yields each key once, duplicates reported.
func (d *decoder) keys(node *yaml.Node, field string, each func(key, value *yaml.Node)) {
	if node.Kind != yaml.MappingNode {
		d.add(node.Line, field, "this is %s, not keys and values; write each as key: value on a line of its own, indented", kindOf(node))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		switch first, twice := seen[key.Value]; {
		case key.Kind != yaml.ScalarNode:
			d.add(key.Line, field, "a key here is %s, not a word", kindOf(key))
		case key.Value == "<<" && key.ShortTag() == "!!merge":
			d.add(key.Line, field, "keys are not merged with <<; write them out, or give the whole value an anchor")
		case twice:
			d.add(key.Line, join(field, key.Value), "it is given twice, first in line %d; remove one of them", first)
		default:
			seen[key.Value] = key.Line
			each(key, value)
		}
	}
}

func (d *decoder) mapping(node *yaml.Node, field string, v reflect.Value) {
	fields := map[string]int{}
	var names []string
	for i := range v.NumField() {
		if name := v.Type().Field(i).Tag.Get("yaml"); name != "" && name != "-" {
			fields[name] = i
			names = append(names, name)
		}
	}
	d.keys(node, field, func(key, value *yaml.Node) {
		at := join(field, key.Value)
		i, ok := fields[key.Value]
		if !ok {
			// The value is never shown: it may be what should not be in this file.
			message, meant := unknownKey(v.Interface(), key.Value, names)
			d.add(key.Line, at, "%s", message)
			if meant != "" {
				d.meant[join(field, meant)] = true
			} else if _, ok := v.Interface().(Credentials); ok {
				d.meant[field] = true
			}
			return
		}
		d.lines[at] = key.Line
		d.value(value, at, v.Field(i))
	})
	if m, ok := v.Addr().Interface().(*Machine); ok {
		m.Line = node.Line
	}
}

func (d *decoder) labels(node *yaml.Node, field string, v reflect.Value) {
	v.Set(reflect.MakeMap(v.Type()))
	d.keys(node, field, func(key, value *yaml.Node) {
		at := labelField(field, key.Value)
		d.lines[at] = key.Line
		text := reflect.New(v.Type().Elem()).Elem()
		d.value(value, at, text)
		v.SetMapIndex(reflect.ValueOf(key.Value), text)
	})
}

// unknownKey says what to write instead of a key that the schema does not have, and which key was meant.
func unknownKey(in any, key string, names []string) (message, meant string) {
	lower := strings.ToLower(key)
	switch in.(type) {
	case Power, Credentials:
		switch lower {
		case "username", "password", "user", "pass", "passwd":
			return "a BMC's credentials never stand in the cluster file; write them into a file of mode 0600 and name it: credentials: {file: bmc.yaml}, or give the prefix of two environment variables: credentials: {env: BMC}; then change this password, it may have been seen", ""
		}
	case Disk, Install:
		switch lower {
		case "device", "path", "dev", "name":
			return "a disk's device name can be another disk's at the next boot; choose it by serial, wwn, model, minSize, maxSize or rotational", ""
		}
	}
	if word := nearest(key, names); word != "" {
		return fmt.Sprintf("no such key; did you mean %s?", word), word
	}
	return "no such key; the keys here are " + strings.Join(names, ", "), ""
}

func kindOf(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "keys and values"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	return "a single value"
}

func join(field, key string) string {
	if field == "" {
		return printable(key)
	}
	return field + "." + printable(key)
}

// labelField names a label, whose key may have dots of its own.
func labelField(field, key string) string { return fmt.Sprintf("%s[%q]", field, key) }
