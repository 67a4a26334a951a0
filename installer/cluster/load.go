package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// mostText is the largest cluster file that is read; a machine takes some 300 bytes.
const mostText = 16 << 20

// Load reads the file at path. When its content is wrong the error is Findings, with everything that is wrong.
func Load(path string) (*Cluster, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("cannot read the cluster file: there is no %s; \"tectonic-installer init > %s\" writes one to begin with, -f names another", path, path)
	case err != nil:
		return nil, fmt.Errorf("cannot read the cluster file: %w", err)
	case info.Size() > mostText:
		return nil, fmt.Errorf("cannot read the cluster file: %s has %d bytes, more than a cluster needs; -f names another", path, info.Size())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the cluster file: %w", err)
	}
	return Parse(path, text)
}

// Parse is Load for text at hand; path is where it came from, for findings and for the paths in it.
func Parse(path string, text []byte) (*Cluster, error) {
	c, findings := parse(path, text)
	if wrong := findings.severity(Error); len(wrong) > 0 {
		return nil, wrong
	}
	c.warnings = findings.severity(Warning)
	return c, nil
}

func parse(path string, text []byte) (*Cluster, Findings) {
	c := &Cluster{Path: path}
	d := &decoder{file: path, lines: map[string]int{}, meant: map[string]bool{}}
	if len(text) > mostText {
		d.add(0, "", "it is larger than a cluster needs")
		return c, d.findings
	}
	root := d.tree(text)
	if root == nil {
		return c, d.findings
	}
	if !d.decode(root, c) {
		return c, d.findings
	}
	c.lines = d.lines
	c.defaults()
	v := &validator{c: c, broken: d.meant}
	for _, f := range d.findings {
		v.broken[f.Field] = true
	}
	v.findings, v.more = d.findings, d.more
	v.cluster()
	if v.more > 0 {
		v.findings = append(v.findings, Finding{path, 0, "", fmt.Sprintf("there are %d more findings; mend the others first", v.more), Error})
	}
	return c, v.findings
}

// decode says whether there is a cluster to look at.
func (d *decoder) decode(root *yaml.Node, c *Cluster) (ok bool) {
	defer func() {
		switch r := recover(); {
		case r == errTooLarge:
			d.findings = nil
			d.add(root.Line, "", "its aliases make it larger than a cluster needs; write them out")
		case r != nil:
			panic(r)
		}
	}()
	d.value(root, "", reflect.ValueOf(c).Elem())
	return true
}

// Warnings is what an operator should know of a file that can be used.
func (c *Cluster) Warnings() Findings { return c.warnings }

// Line is where field stands in the file, or what would hold it: for findings that others make. Fields are written as
// in machines[2].macs[0].
func (c *Cluster) Line(field string) int {
	for field != "" {
		if line, ok := c.lines[field]; ok {
			return line
		}
		field = field[:max(0, strings.LastIndexAny(field, ".["))]
	}
	return c.lines[""]
}

// Resolve returns path as it is opened: relative to the cluster file's directory, ~ being the home directory.
func (c *Cluster) Resolve(path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(c.Path), path)
}

// Machine returns the machine of that name.
func (c *Cluster) Machine(name string) (Machine, bool) {
	for _, m := range c.Machines {
		if m.Name == name {
			return m, true
		}
	}
	return Machine{}, false
}

// InRole returns the machines of a role, in the order of the file.
func (c *Cluster) InRole(role string) []Machine {
	var out []Machine
	for _, m := range c.Machines {
		if m.Role == role {
			out = append(out, m)
		}
	}
	return out
}

// DiskOf returns the hints for m's disk: its own, else the cluster's.
func (c *Cluster) DiskOf(m Machine) Disk {
	if m.Disk != nil {
		return *m.Disk
	}
	return c.Install.Disk
}

// FilesOf returns the files for m's disk. Its own replace the cluster's of the same path.
func (c *Cluster) FilesOf(m Machine) []File {
	own := map[string]bool{}
	for _, f := range m.Files {
		own[f.Path] = true
	}
	var out []File
	for _, f := range c.Files {
		if !own[f.Path] {
			out = append(out, f)
		}
	}
	return append(out, m.Files...)
}
