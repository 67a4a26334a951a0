package assets

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
)

// ignitionVersion is the newest specification that all of these read: Flatcar since 3227, Fedora CoreOS since 34,
// matchbox 0.10 and 0.11.
const ignitionVersion = "3.3.0"

// The part of Ignition's configuration that is used here (Ignition, "Configuration Specification v3.3.0").
type ignition struct {
	Ignition struct {
		Version string `json:"version"`
	} `json:"ignition"`
	Passwd  passwd  `json:"passwd"`
	Storage storage `json:"storage"`
	Systemd systemd `json:"systemd"`
}

type passwd struct {
	Users []user `json:"users"`
}

type user struct {
	Name string   `json:"name"`
	Keys []string `json:"sshAuthorizedKeys"`
}

type storage struct {
	Files []file `json:"files"`
}

type file struct {
	Path      string   `json:"path"`
	Mode      int      `json:"mode"`
	Overwrite bool     `json:"overwrite"`
	Contents  contents `json:"contents"`
}

type contents struct {
	Source       string        `json:"source"`
	Verification *verification `json:"verification,omitempty"`
}

type verification struct {
	Hash string `json:"hash"`
}

type systemd struct {
	Units []unit `json:"units"`
}

type unit struct {
	Name     string `json:"name"`
	Enabled  bool   `json:"enabled"`
	Contents string `json:"contents"`
}

// newIgnition has what every system of the cluster has: the operators' keys, the time, the certificate authority. The
// live system needs the time too, or certificates are not yet valid to a machine whose clock stands at zero.
func newIgnition(c *cluster.Cluster, ca []byte) *ignition {
	i := &ignition{}
	i.Ignition.Version = ignitionVersion
	i.Passwd.Users = []user{{Name: "core", Keys: c.SSHKeys}}
	i.file("/etc/tectonic-machine/ca.crt", 0o644, ca)
	i.Systemd.Units = []unit{}
	if len(c.NTP) > 0 {
		path, text := ntp(c)
		i.file(path, 0o644, []byte(text))
	}
	return i
}

// file adds a file with its content in it.
func (i *ignition) file(path string, mode int, content []byte) {
	i.Storage.Files = append(i.Storage.Files, file{
		Path: path, Mode: mode, Overwrite: true,
		Contents: contents{Source: "data:;base64," + base64.StdEncoding.EncodeToString(content)}, // RFC 2397
	})
}

func (i *ignition) unit(name, text string) {
	i.Systemd.Units = append(i.Systemd.Units, unit{Name: name, Enabled: true, Contents: text})
}

func (i *ignition) text() []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(i); err != nil {
		panic(err) // strings and numbers
	}
	return b.Bytes()
}

// programPath is where the live system lets a program be put: Flatcar's /usr is read-only.
func programPath(c *cluster.Cluster) string {
	if c.OS.Name == cluster.FedoraCoreOS {
		return "/usr/local/bin/tectonic-machine"
	}
	return "/opt/bin/tectonic-machine"
}

// programURL is where the provisioner serves tectonic-machine. Its digest travels with the URL, so plain HTTP does.
func programURL(c *cluster.Cluster, arch string) string {
	return c.Matchbox.HTTP + "/assets/tectonic-machine/" + arch + "/tectonic-machine"
}

// installIgnition is for the live system that installs. It is served over plain HTTP to anyone who asks.
func installIgnition(c *cluster.Cluster, arch string, ca []byte, sha512 string) []byte {
	i := newIgnition(c, ca)
	i.Storage.Files = append(i.Storage.Files, file{
		Path: programPath(c), Mode: 0o755, Overwrite: true,
		Contents: contents{Source: programURL(c, arch), Verification: &verification{Hash: "sha512-" + sha512}},
	})
	i.unit("tectonic-machine.service", strings.ReplaceAll(machineUnit, "@PROGRAM@", programPath(c)))
	return i.text()
}

// installedIgnition is for the system on the disk. It travels over TLS with the machine's token.
func installedIgnition(c *cluster.Cluster, m cluster.Machine, ca []byte) []byte {
	i := newIgnition(c, ca)
	i.file("/etc/hostname", 0o644, []byte(m.DNSName+"\n"))
	for _, f := range proxyFiles(c) {
		i.file(f.path, 0o644, []byte(f.text))
	}
	i.file(readyScriptPath, 0o755, []byte(readyText(c)))
	i.unit("tectonic-ready.service", readyUnit)
	return i.text()
}
