package assets

import (
	_ "embed"
	"fmt"
	"strconv"
	"strings"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
)

//go:embed files/kickstart.ks
var kickstartText string

// kickstartDisk is what "tectonic-machine kickstart-pre" writes.
const kickstartDisk = "/tmp/tectonic-machine-disk.ks"

// kickstart is rendered by matchbox once more, as a text/template, for the machine's name. Its commands are those of
// pykickstart's reference for RHEL 7 to 10.
func kickstart(c *cluster.Cluster, arch string, ca []byte, sha512 string) []byte {
	release := major(c.OS.Version)
	environment := "minimal-environment"
	if release == 7 {
		environment = "minimal"
	}
	var keys []string
	for _, key := range c.SSHKeys {
		keys = append(keys, "sshkey --username=core "+kickstartQuote(key))
	}
	// The operator's words cannot hold a template's braces (kickstartQuote), nor what stands here for another.
	return []byte(strings.NewReplacer(
		"@TITLE@", fmt.Sprintf("%s: installs RHEL %s for %s", c.Name, c.OS.Version, arch),
		"@REBOOT@", "reboot --eject",
		"@TIME@", kickstartTime(c, release),
		"@TREE@", kickstartQuote(c.OS.Images+imageDir(c.OS, arch)),
		"@KEYS@", strings.Join(keys, "\n"),
		"@DISK@", kickstartDisk,
		"@ENVIRONMENT@", environment,
		"@CA@", string(ca),
		"@PROGRAM@", shellQuote(programURL(c, arch)),
		"@SHA512@", sha512,
		"@FILES@", kickstartFiles(c, ca),
		"@INSTALL@", kickstartInstall(c, arch, release),
	).Replace(kickstartText))
}

// major is RHEL's release, 9 when the version does not say.
func major(version string) int {
	first, _, _ := strings.Cut(version, ".")
	if n, err := strconv.Atoi(first); err == nil {
		return n
	}
	return 9
}

// kickstartTime: RHEL 9 moved the servers from timezone to timesource.
func kickstartTime(c *cluster.Cluster, release int) string {
	if len(c.NTP) == 0 {
		return "timezone --utc Etc/UTC"
	}
	if release < 9 {
		return "timezone --utc --ntpservers=" + strings.Join(c.NTP, ",") + " Etc/UTC"
	}
	lines := []string{"timezone --utc Etc/UTC"}
	for _, server := range c.NTP {
		lines = append(lines, "timesource --ntp-server="+server)
	}
	return strings.Join(lines, "\n")
}

// kickstartFiles writes what Ignition would. The machine's own files and its token come from the machine's API.
func kickstartFiles(c *cluster.Cluster, ca []byte) string {
	files := append([]textFile{{"/etc/tectonic-machine/ca.crt", string(ca)}}, proxyFiles(c)...)
	files = append(files, textFile{readyScriptPath, readyText(c)}, textFile{"/etc/systemd/system/tectonic-ready.service", readyUnit})
	var b strings.Builder
	for _, f := range files {
		fmt.Fprintf(&b, "cat >%s <<'END'\n%sEND\n", f.path, templateQuote(f.text))
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// kickstartInstall installs os.packages, what they need coming from the tree that the machine is installed from.
func kickstartInstall(c *cluster.Cluster, arch string, release int) string {
	if len(c.OS.Packages) == 0 {
		return ""
	}
	tree := c.OS.Images + imageDir(c.OS, arch)
	repositories := []string{tree + "/BaseOS", tree + "/AppStream"}
	program := "dnf"
	if release == 7 {
		repositories, program = []string{tree}, "yum"
	}
	var b strings.Builder
	b.WriteString("cat >/etc/yum.repos.d/tectonic-install.repo <<'END'\n")
	for i, url := range repositories {
		fmt.Fprintf(&b, "[tectonic-install-%d]\nname=The tree that this machine was installed from\nbaseurl=%s\ngpgcheck=1\ngpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-redhat-release\n", i, templateQuote(url))
	}
	b.WriteString("END\n")
	if p := proxyEnvironment(c); len(p) > 0 {
		for _, v := range p {
			fmt.Fprintf(&b, "export %s=%s\n", v.name, shellQuote(v.value))
		}
	}
	fmt.Fprintf(&b, "%s --assumeyes --disablerepo='*' --enablerepo='tectonic-install-*' install", program)
	for _, url := range c.OS.Packages {
		b.WriteString(" \\\n\t" + shellQuote(url))
	}
	b.WriteString("\nrm -f /etc/yum.repos.d/tectonic-install.repo")
	return b.String()
}

// kickstartQuote quotes for Kickstart, which splits words as a shell does (Python's shlex).
func kickstartQuote(s string) string {
	return `"` + templateQuote(strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s)) + `"`
}

func shellQuote(s string) string {
	return "'" + templateQuote(strings.ReplaceAll(s, "'", `'\''`)) + "'"
}

// templateQuote keeps text/template from seeing an action in s.
func templateQuote(s string) string { return strings.ReplaceAll(s, "{{", `{{"{{"}}`) }
