// Package assets renders what a cluster file means: the profiles, groups, Ignition and Kickstart that matchbox serves,
// and each machine's definition. It is pure: the same input gives the same bytes, and it opens no file and no
// connection. What it gives to matchbox is served to anyone on the machines' network, so nothing secret may go there;
// what is secret goes into a machine's definition, which only that machine gets, over TLS.
package assets

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"regexp"
	"strconv"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
	"github.com/tectonic-worker/tectonic-worker/installer/machine"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox"
)

// Input is what a rendering needs besides the cluster file.
type Input struct {
	// CA is the certificate, in PEM, that the machines' API is checked against.
	CA []byte
	// MachineProgram is the SHA-512 of the program tectonic-machine that the provisioner serves, in hex, by
	// architecture (x86_64, aarch64).
	MachineProgram map[string]string
	// Files reads a file of the operator's, such as os.ReadFile does. The path is resolved against the cluster file.
	Files func(path string) ([]byte, error)
}

// Rendered is all that a cluster file means to the provisioner.
type Rendered struct {
	Ignition map[string][]byte // for matchbox, by name
	Generic  map[string][]byte // Kickstarts, for matchbox, by name; templates (text/template)
	// Profiles and Groups are empty for an external matchbox, which would serve an installer to every network boot:
	// InstallGroup gives them for one machine while it is armed.
	Profiles []matchbox.Profile
	Groups   []matchbox.Group
	Machines []machine.Definition // for the machines' API
}

// Managed is the value of managed_by in the metadata of our groups.
const Managed = "tectonic-installer"

// metadata of a group. dns_name is what a Kickstart asks for.
type metadata struct {
	Cluster   string `json:"cluster"`
	Machine   string `json:"machine"`
	ManagedBy string `json:"managed_by"`
	DNSName   string `json:"dns_name"`
}

var sha512Form = regexp.MustCompile(`^[0-9a-f]{128}$`)

// Render gives everything. When something of the input is missing or cannot be read the error is cluster.Findings.
func Render(c *cluster.Cluster, in Input) (Rendered, error) {
	var wrong cluster.Findings
	say := func(field, format string, args ...any) {
		wrong = append(wrong, cluster.Finding{File: c.Path, Line: c.Line(field), Field: field, Message: fmt.Sprintf(format, args...), Severity: cluster.Error})
	}
	ca := certificates(in.CA)
	if len(ca) == 0 {
		say("matchbox.tls.ca", "%s holds no certificate; \"tectonic-installer certs\" makes one", c.Matchbox.TLS.CA)
	}
	r := Rendered{Ignition: map[string][]byte{}, Generic: map[string][]byte{}}
	profiles := map[string]bool{}
	files := reader(in.Files)
	for i, m := range c.Machines {
		field := fmt.Sprintf("machines[%d]", i)
		program := in.MachineProgram[m.Arch]
		if !sha512Form.MatchString(program) {
			say(field+".arch", "there is no tectonic-machine for %s to run on it; install the package that has it on the provisioner", m.Arch)
			program = ""
		}
		if program != "" && len(ca) > 0 {
			if c.OS.Name == cluster.RHEL {
				r.Generic[KickstartID(c, m.Arch)] = kickstart(c, m.Arch, ca, program)
			} else {
				r.Ignition[IgnitionID(c, m.Arch)] = installIgnition(c, m.Arch, ca, program)
			}
		}
		if !c.Matchbox.External {
			profile := installProfile(c, m)
			if !profiles[profile.ID] {
				profiles[profile.ID] = true
				r.Profiles = append(r.Profiles, profile)
			}
			r.Groups = append(r.Groups, installGroups(c, m, profile.ID)...)
		}
		d, unread := definition(c, m, ca, files)
		for j, err := range unread {
			at := fmt.Sprintf("files[%d].source", j)
			if j >= len(c.Files) {
				at = fmt.Sprintf("%s.files[%d].source", field, j-len(c.Files))
			}
			say(at, "%v; correct the path, or make the file", err)
		}
		r.Machines = append(r.Machines, d)
	}
	if len(wrong) > 0 {
		return Rendered{}, unique(wrong)
	}
	return r, nil
}

// unique drops what is said again for each machine.
func unique(all cluster.Findings) cluster.Findings {
	var out cluster.Findings
	seen := map[cluster.Finding]bool{}
	for _, f := range all {
		if !seen[f] {
			seen[f] = true
			out = append(out, f)
		}
	}
	return out
}

// certificates keeps the certificates of a PEM text, and nothing else: a key in the same file must not be served.
func certificates(text []byte) []byte {
	var out []byte
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return out
		}
		if block.Type == "CERTIFICATE" {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
		}
	}
}

// reader reads each path once, however many machines want it.
func reader(read func(string) ([]byte, error)) func(string) ([]byte, error) {
	type result struct {
		content []byte
		err     error
	}
	known := map[string]result{}
	return func(path string) ([]byte, error) {
		r, ok := known[path]
		if !ok {
			r.content, r.err = read(path)
			known[path] = r
		}
		return r.content, r.err
	}
}

// definition is what the provisioner keeps of a machine. Errors are by the file's place among the cluster's files and
// the machine's own, in this order.
func definition(c *cluster.Cluster, m cluster.Machine, ca []byte, read func(string) ([]byte, error)) (machine.Definition, map[int]error) {
	disk, minimum := c.DiskOf(m), c.Install.Minimum
	d := machine.Definition{
		Name: m.Name, Cluster: c.Name, DNSName: m.DNSName, Role: m.Role, Labels: m.Labels, Exit: m.Exit,
		Minimum: machine.Minimum{Memory: int64(minimum.Memory), Cores: minimum.Cores, Disk: int64(minimum.Disk)},
		Disk: machine.Disk{
			Serial: disk.Serial, WWN: disk.WWN, Model: disk.Model,
			MinSize: int64(disk.MinSize), MaxSize: int64(disk.MaxSize), Rotational: disk.Rotational,
		},
		Image: machine.Image{
			OS: c.OS.Name, Channel: c.OS.Channel, Version: c.OS.Version, Arch: m.Arch, BaseURL: c.OS.Images + imageDir(c.OS, m.Arch),
			KernelArgs: kernelArgs(c, m),
		},
	}
	for _, mac := range m.MACs {
		d.MACs = append(d.MACs, string(mac))
	}
	if c.OS.Name != cluster.RHEL {
		d.Config = json.RawMessage(installedIgnition(c, m, ca))
	}
	unread := map[int]error{}
	own := map[string]bool{}
	for _, f := range m.Files {
		own[f.Path] = true
	}
	for i, f := range append(append([]cluster.File{}, c.Files...), m.Files...) {
		if i < len(c.Files) && own[f.Path] {
			continue // the machine's own is put there instead
		}
		content, err := read(c.Resolve(f.Source))
		if err != nil {
			unread[i] = err
			continue
		}
		mode, _ := strconv.ParseUint(f.Mode, 8, 32) // valid since the cluster file is
		d.Files = append(d.Files, machine.File{Path: f.Path, Mode: uint32(mode), Content: content})
	}
	return d, unread
}
