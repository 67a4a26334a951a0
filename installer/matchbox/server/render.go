package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/tectonic-worker/tectonic-worker/installer/matchbox"
)

// What every machine is given first. It asks for the rest relative to its own URL, so the server may be below a path.
const chainScript = "#!ipxe\n" +
	"chain ipxe?uuid=${uuid}&mac=${mac:hexhyp}&domain=${domain}&hostname=${hostname}&serial=${serial}&arch=${buildarch:uristring}\n"

// ipxeScript boots b, with more arguments behind its own.
func ipxeScript(b matchbox.NetBoot, more []string) []byte {
	var s bytes.Buffer
	s.WriteString("#!ipxe\nkernel " + b.Kernel)
	for _, arg := range slices.Concat(b.Args, more) {
		s.WriteString(" " + arg)
	}
	s.WriteByte('\n')
	for _, initrd := range b.Initrd {
		s.WriteString("initrd " + initrd + "\n")
	}
	s.WriteString("boot\n")
	return s.Bytes()
}

// grubConfig boots b with GRUB 2: an entry for UEFI and, if that fails, one for BIOS.
func grubConfig(b matchbox.NetBoot, more []string) []byte {
	var s bytes.Buffer
	s.WriteString("default=0\nfallback=1\ntimeout=1\n")
	for _, firmware := range []struct{ name, suffix string }{{"EFI", "efi"}, {"BIOS", ""}} {
		fmt.Fprintf(&s, "menuentry \"CoreOS (%s)\" {\necho \"Loading kernel\"\nlinux%s \"%s\"", firmware.name, firmware.suffix, b.Kernel)
		for _, arg := range slices.Concat(b.Args, more) {
			s.WriteString(" " + arg)
		}
		fmt.Fprintf(&s, "\necho \"Loading initrd\"\ninitrd%s ", firmware.suffix)
		for _, initrd := range b.Initrd {
			s.WriteString(" \"" + initrd + "\"")
		}
		s.WriteString("\n}\n")
	}
	return s.Bytes()
}

// data is a template's context but for "request": metadata, and the selectors over it, their keys in lower case.
func (g *group) data() map[string]any {
	data := map[string]any{}
	if len(g.metadata) > 0 {
		_ = json.Unmarshal(g.metadata, &data) // newGroup made sure
	}
	for _, p := range g.pairs {
		data[strings.ToLower(p.key)] = p.value
	}
	return data
}

// context is what a template sees of group and request.
func (g *group) context(labels map[string]string, query string) map[string]any {
	data := g.data()
	data["request"] = map[string]any{"query": labels, "raw_query": query}
	return data
}

// metadataLines are the lines of /metadata that sort before, among and after those of the request.
type metadataLines struct {
	before, after string
	among         []string
}

// requestPrefix begins the lines of /metadata that tell of the request.
const requestPrefix = "REQUEST_"

func (g *group) metadataLines() metadataLines {
	data := g.data()
	delete(data, "request")
	lines := flatten(nil, "", data)
	slices.Sort(lines)
	from, _ := slices.BinarySearch(lines, requestPrefix)
	to := from
	for to < len(lines) && strings.HasPrefix(lines[to], requestPrefix) {
		to++
	}
	m := metadataLines{before: strings.Join(lines[:from], ""), after: strings.Join(lines[to:], "")}
	if from < to {
		m.among = lines[from:to]
	}
	return m
}

// metadataBody is the answer of /metadata: KEY=value lines in byte order. matchbox has them in random order, so that its
// signature of them fits only by luck.
func (g *group) metadataBody(labels map[string]string, query string) []byte {
	m := &g.lines
	size := len(m.before) + len(m.after) + len("RAW_QUERY=") + len(requestPrefix) + len(query) + 1
	lines := append(make([]string, 0, len(m.among)+len(labels)+1), m.among...)
	for key, value := range labels {
		lines = append(lines, requestPrefix+"QUERY_"+strings.ToUpper(key)+"="+value+"\n")
		size += len(lines[len(lines)-1])
	}
	slices.Sort(lines)
	lines = append(lines, requestPrefix+"RAW_QUERY="+query+"\n")
	if len(m.among) > 0 {
		slices.Sort(lines)
	}
	out := append(make([]byte, 0, size), m.before...)
	for _, l := range lines {
		out = append(out, l...)
	}
	return append(out, m.after...)
}

// flatten gives strings, numbers and booleans as lines, those of nested objects with their path in the key. Lists and
// nulls have no form there and are left out.
func flatten(lines []string, prefix string, object map[string]any) []string {
	for key, value := range object {
		key = prefix + strings.ToUpper(key)
		switch value := value.(type) {
		case map[string]any:
			lines = flatten(lines, key+"_", value)
		case string, float64, bool:
			lines = append(lines, fmt.Sprintf("%s=%v\n", key, value))
		}
	}
	return lines
}
