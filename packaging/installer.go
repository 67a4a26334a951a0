package packaging

import (
	"embed"
	"path"
	"path/filepath"
	"slices"
	"time"

	"github.com/tectonic-worker/tectonic-worker/units"
)

//go:embed man/tectonic-installer.8
var installerPage []byte

//go:embed firewalld/*.xml etc/tectonic-installer
var installerData embed.FS

// matchboxUser owns matchbox's data, as its own documentation has it; scriptlets/installer/pre.sh makes it.
const matchboxUser = "matchbox"

// sysusers is for systems that make their users at boot, from an image (sysusers.d(5)).
const sysusers = "u matchbox - \"Network boot and provisioning\" /var/lib/matchbox /sbin/nologin\n"

// programsDir is where "tectonic-installer serve" and "apply" find tectonic-machine.
const programsDir = "/usr/share/tectonic-installer/tectonic-machine"

// sharedDoc is in both packages.
const sharedDoc = "packaging.md"

// installerDocs are the installer's documentation; all the rest is the worker's.
var installerDocs = []string{"check.md", "cluster-file.md", "images.md", "installer.md", "live-system.md", "machine-states.md", "matchbox.md", "netboot.md", "power.md"}

// installer makes p the package of the installer, but for its files.
func (p *Package) installer(o Options) error {
	p.Summary = "Boots machines over the network and installs them once"
	p.Description = "Installs the Tectonic Installer: it speaks matchbox's protocol, boots bare\n" +
		"machines over PXE, installs them to disk once and only once, and shows how far\n" +
		"each of them is. The files of a matchbox under /var/lib/matchbox are used as\n" +
		"they are. Nothing is enabled or started on install."
	p.relate(o, Pre, Post, Preun, Postun)
	p.Requires = append(p.Requires, Relation{Name: "shadow-utils", When: Pre})
	// Only "netboot run" needs them, and a site may have its own.
	switch o.Dist {
	case "el7": // knows no weak dependencies
	case "el8":
		p.Recommends = []Relation{{Name: "dnsmasq"}, {Name: "ipxe-bootimgs"}}
	default:
		p.Recommends = []Relation{{Name: "dnsmasq"}, {Name: "ipxe-bootimgs-x86"}}
	}
	return p.readScriptlets("scriptlets/installer")
}

// installerFiles lists what is in the installer's package. /etc/matchbox and /var/lib/matchbox may be a matchbox's
// already: no more than the directories are ours there.
func installerFiles(o Options, modified time.Time) ([]File, error) {
	out := []File{
		{Path: "/etc/matchbox", Mode: 0o755, Kind: Dir},
		{Path: "/etc/tectonic-installer", Mode: 0o750, Kind: Dir},
		{Path: "/var/lib/matchbox", Mode: 0o755, Kind: Dir, Owner: matchboxUser},
		{Path: "/var/lib/matchbox/assets", Mode: 0o755, Kind: Dir, Owner: matchboxUser},
		{Path: "/var/lib/tectonic-installer", Mode: 0o755, Kind: Dir},
		{Path: "/var/lib/tectonic-installer/tftpboot", Mode: 0o755, Kind: Dir},
		{Path: path.Dir(programsDir), Mode: 0o755, Kind: Dir},
		{Path: programsDir, Mode: 0o755, Kind: Dir},
		{Path: "/usr/lib/sysusers.d/tectonic-installer.conf", Mode: 0o644, Body: []byte(sysusers)},
		// firewalld's own, for hosts without it.
		{Path: "/usr/lib/firewalld", Mode: 0o755, Kind: Dir},
		{Path: "/usr/lib/firewalld/services", Mode: 0o755, Kind: Dir},
	}
	for from, file := range map[string]File{
		"etc/tectonic-installer":                   {Path: "/etc/sysconfig/tectonic-installer", Mode: 0o644, Kind: Config},
		"firewalld/tectonic-installer.xml":         {Path: "/usr/lib/firewalld/services/tectonic-installer.xml", Mode: 0o644},
		"firewalld/tectonic-installer-netboot.xml": {Path: "/usr/lib/firewalld/services/tectonic-installer-netboot.xml", Mode: 0o644},
	} {
		body, err := installerData.ReadFile(from)
		if err != nil {
			return nil, err
		}
		file.Body = body
		out = append(out, file)
	}
	// Both, whatever the provisioner's own architecture is.
	var programs []source
	for goarch, arch := range map[string]string{"amd64": "x86_64", "arm64": "aarch64"} {
		dir := path.Join(programsDir, arch)
		out = append(out, File{Path: dir, Mode: 0o755, Kind: Dir})
		programs = append(programs, source{filepath.Join(o.Programs, "linux-"+goarch, "tectonic-machine"), "the machines' program",
			File{Path: path.Join(dir, "tectonic-machine"), Mode: 0o755}})
	}
	all, err := shared(o, Installer, modified, units.InstallerNames(), map[string][]byte{"man8/tectonic-installer.8": installerPage}, programs,
		func(doc string) bool { return doc == sharedDoc || slices.Contains(installerDocs, doc) })
	return append(out, all...), err
}
