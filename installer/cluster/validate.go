package cluster

import (
	"crypto/rsa"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// validator holds the rules that need no network and no other file.
type validator struct {
	c        *Cluster
	findings Findings
	more     int             // findings beyond mostFindings
	broken   map[string]bool // fields that could not be decoded: nothing more is said of them
	ranges   []namedRange    // those that can be used
	subnet   netip.Prefix    // network.subnet, when it can be used
}

// mostFindings are as many as anyone reads.
const mostFindings = 1000

func (v *validator) say(s Severity, field, format string, args ...any) {
	if v.broken[field] && s == Error {
		return
	}
	if len(v.findings) >= mostFindings {
		v.more++
		return
	}
	v.findings = append(v.findings, Finding{v.c.Path, v.c.Line(field), field, fmt.Sprintf(format, args...), s})
}

func (v *validator) wrong(field, format string, args ...any) { v.say(Error, field, format, args...) }

func (v *validator) warn(field, format string, args ...any) { v.say(Warning, field, format, args...) }

// given reports a field that is missing.
func (v *validator) given(field, value, what string) bool {
	if value == "" {
		v.wrong(field, "it is missing; give %s", what)
	}
	return value != ""
}

// word checks a field that has a few words.
func (v *validator) word(field, value string, words ...string) bool {
	if slices.Contains(words, value) {
		return true
	}
	hint := ""
	if w := nearest(value, words); w != "" {
		hint = fmt.Sprintf("; did you mean %s?", w)
	} else {
		hint = "; write " + oneOf(words)
	}
	v.wrong(field, "%s is not %s%s", printable(value), oneOf(words), hint)
	return false
}

// there says that a field stands in the file and is no default, whose cause is reported where that stands.
func (v *validator) there(field string) bool {
	_, ok := v.c.lines[field]
	return ok
}

func at(field string, i int) string { return fmt.Sprintf("%s[%d]", field, i) }

func (v *validator) cluster() {
	c := v.c
	if c.APIVersion != APIVersion {
		v.wrong("apiVersion", "%s is not known to this version of tectonic-installer; write %s", printable(c.APIVersion), APIVersion)
	}
	if c.Kind != Kind {
		v.wrong("kind", "%s is not known; write %s", printable(c.Kind), Kind)
	}
	if v.given("name", c.Name, "the cluster a name, a DNS label such as tectonic") {
		if why := dnsLabel(c.Name); why != "" {
			v.wrong("name", "%s", why)
		}
	}
	v.dns()
	v.keys()
	v.matchbox()
	v.os()
	v.install()
	v.proxy()
	v.files("files", c.Files)
	v.networks()
	v.machines()
}

func (v *validator) dns() {
	d := v.c.DNS
	ok := true
	if ok = v.given("dns.controller", d.Controller, "the DNS name that resolves to the controllers, such as k8s.example.com"); ok {
		v.text("dns.controller", dnsName(d.Controller))
	}
	if v.given("dns.ingress", d.Ingress, "the DNS name that resolves to the workers, such as tectonic.example.com") {
		v.text("dns.ingress", dnsName(d.Ingress))
		if ok && d.Ingress == d.Controller {
			v.wrong("dns.ingress", "%s is dns.controller too, which resolves to controllers, and this must resolve to workers; give it a name of its own", printable(d.Ingress))
		}
	}
	for i, server := range v.c.NTP {
		v.text(at("ntp", i), host(server))
	}
}

// text reports a message that was made already.
func (v *validator) text(field, message string) {
	if message != "" {
		v.wrong(field, "%s", message)
	}
}

func (v *validator) keys() {
	if len(v.c.SSHKeys) == 0 {
		v.wrong("sshKeys", "there is none, and nobody could log in to a machine to see what keeps it; give a public key, a line as in ~/.ssh/id_ed25519.pub")
	}
	seen := map[string]int{}
	for i, line := range v.c.SSHKeys {
		field := at("sshKeys", i)
		if strings.Contains(line, "PRIVATE KEY") {
			v.wrong(field, "this is a private key, which must never leave its owner; give the public one, the file that ends in .pub, and make a new pair")
			continue
		}
		if strings.ContainsAny(line, "\r\n") {
			v.wrong(field, "this is more than one line; give each key an entry of its own")
			continue
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			v.wrong(field, "this is not a public SSH key; give a line as in ~/.ssh/id_ed25519.pub, such as ssh-ed25519 AAAA… name")
			continue
		}
		if key.Type() == "ssh-dss" {
			v.wrong(field, "this is a DSA key, which sshd no longer takes; make a new one with ssh-keygen -t ed25519")
		}
		if crypto, ok := key.(ssh.CryptoPublicKey); ok {
			if public, ok := crypto.CryptoPublicKey().(*rsa.PublicKey); ok && public.N.BitLen() < 2048 {
				v.wrong(field, "this RSA key has %d bits, too few for today's sshd; make a new one with ssh-keygen -t ed25519", public.N.BitLen())
			}
		}
		id := string(key.Marshal())
		if first, ok := seen[id]; ok {
			v.warn(field, "it is %s again; remove one", at("sshKeys", first))
		} else {
			seen[id] = i
		}
	}
}

func (v *validator) matchbox() {
	m := v.c.Matchbox
	if v.given("matchbox.http", m.HTTP, "the provisioner's URL, such as http://matchbox.example.com:8080") {
		why := httpURL(m.HTTP, "http", "https")
		v.text("matchbox.http", why)
		if u, err := url.Parse(m.HTTP); err == nil && why == "" {
			if u.Scheme == "https" {
				v.wrong("matchbox.http", "firmware that boots from the network cannot verify a certificate; write http://, secrets travel over matchbox.machines alone")
			}
			v.reachable("matchbox.http", u.Hostname())
		}
	}
	endpoint := func(field, value, port string) {
		if !v.there(field) {
			return
		}
		why := hostPort(value, port)
		v.text(field, why)
		if why == "" {
			v.reachable(field, value[:strings.LastIndex(value, ":")])
		}
	}
	endpoint("matchbox.rpc", m.RPC, portRPC)
	endpoint("matchbox.machines", m.Machines, portMachines)
	if m.RPC != "" && m.RPC == m.Machines {
		v.wrong("matchbox.machines", "it is matchbox.rpc too; these are two servers, on %s and %s by convention", portRPC, portMachines)
	}
	v.filePath("matchbox.tls.ca", m.TLS.CA)
	v.filePath("matchbox.tls.certificate", m.TLS.Certificate)
	v.filePath("matchbox.tls.key", m.TLS.Key)
	if m.TLS.CA == m.TLS.Certificate {
		v.wrong("matchbox.tls.certificate", "it is matchbox.tls.ca too; give the client's own certificate, such as tls/client.crt")
	}
}

// reachable refuses what means the operator's own computer on every other one.
func (v *validator) reachable(field, name string) {
	name = strings.Trim(name, "[]")
	if name == "localhost" || strings.HasPrefix(name, "127.") || name == "::1" {
		v.wrong(field, "%s is another host for each that asks; give the name or address at which machines reach the provisioner", name)
	}
}

// filePath checks the name of a file on the operator's side, which is not opened.
func (v *validator) filePath(field, name string) {
	switch {
	case strings.Contains(name, "-----BEGIN"):
		v.wrong(field, "this is the content of a file; write it into one, of mode 0600 when it is a key, and name that here")
	case strings.ContainsAny(name, "\x00\r\n"):
		v.wrong(field, "a file's name has no line break; give the name alone")
	}
}

// channels of each operating system that has some.
var channels = map[string][]string{
	Flatcar:      {"stable", "beta", "alpha", "lts"},
	FedoraCoreOS: {"stable", "testing", "next"},
}

// arches are the kernel's names (uname -m).
var arches = []string{"x86_64", "aarch64"}

func (v *validator) os() {
	os := v.c.OS
	if v.given("os.name", os.Name, "flatcar, fedora-coreos or rhel") && v.word("os.name", os.Name, Flatcar, FedoraCoreOS, RHEL) {
		if words := channels[os.Name]; words != nil {
			v.word("os.channel", os.Channel, words...)
		} else if os.Channel != "" {
			v.wrong("os.channel", "%s has no channels; remove it", os.Name)
		}
	}
	if v.given("os.version", os.Version, "one that \"tectonic-installer images list\" shows, or that \"tectonic-installer images sync\" shall fetch") {
		switch {
		case slices.Contains([]string{"latest", "current"}, os.Version):
			v.wrong("os.version", "%s is another version tomorrow, and machines installed on two days would differ; give the version itself", os.Version)
		case len(os.Version) > 64 || !versionForm.MatchString(os.Version) || strings.Contains(os.Version, ".."):
			v.wrong("os.version", "%s is not a version; write it like 4230.2.0", printable(os.Version))
		}
	}
	v.arch("os.arch", os.Arch)
	if v.there("os.images") {
		v.text("os.images", httpURL(os.Images, "http", "https"))
	}
	v.kernelArgs("os.kernelArgs", os.KernelArgs)
	if len(os.Packages) > 0 && os.Name != RHEL && os.Name != "" {
		v.wrong("os.packages", "only rhel takes packages; remove them")
	}
	worker := false
	for i, p := range os.Packages {
		v.text(at("os.packages", i), httpURL(p, "http", "https"))
		if !strings.HasSuffix(p, ".rpm") {
			v.wrong(at("os.packages", i), "%s is not the URL of an .rpm; name the file itself, not its directory", printable(withoutUser(p)))
		}
		worker = worker || strings.HasPrefix(path.Base(p), "tectonic-worker")
	}
	if os.Name == RHEL && !worker {
		v.warn("os.packages", "none of them is tectonic-worker, without which a machine joins no cluster; add its URL, such as %s/assets/tectonic-worker.rpm", v.c.Matchbox.HTTP)
	}
}

func (v *validator) arch(field, value string) {
	if !v.there(field) {
		return
	}
	switch value {
	case "amd64", "x64":
		v.wrong(field, "%s is x86_64 here; write that", value)
	case "arm64":
		v.wrong(field, "arm64 is aarch64 here; write that")
	default:
		v.word(field, value, arches...)
	}
}

// kernelArgs that the installer sets itself: a second value would decide what is installed where.
var reservedArgs = []string{"tectonic.", "ignition.config.url", "ignition.firstboot", "flatcar.config.url", "flatcar.first_boot", "coreos.config.url", "coreos.inst", "coreos.live.rootfs_url", "initrd", "inst."}

func (v *validator) kernelArgs(field string, args []string) {
	for i, arg := range args {
		if !argForm.MatchString(arg) || len(arg) > 256 {
			v.wrong(at(field, i), "%s is not one kernel argument; give each an entry of its own, without spaces or quotes", printable(arg))
			continue
		}
		if strings.ContainsAny(arg, "\"'\\$`;{}") {
			v.wrong(at(field, i), "%s has a character that iPXE or GRUB would interpret; leave it out", printable(arg))
		}
		name, _, _ := strings.Cut(arg, "=")
		for _, r := range reservedArgs {
			if name == r || strings.HasSuffix(r, ".") && strings.HasPrefix(name, r) || r == "coreos.inst" && strings.HasPrefix(name, r+".") {
				v.wrong(at(field, i), "%s is set by the installer; remove it", printable(name))
				break
			}
		}
	}
}

func (v *validator) install() {
	m := v.c.Install.Minimum
	below := func(field string, have, want Bytes) {
		if have < want {
			v.warn(field, "%s is below the %s that Tectonic asks of each machine", have, want)
		}
	}
	below("install.minimum.memory", m.Memory, minimumMemory)
	below("install.minimum.disk", m.Disk, minimumDisk)
	if m.Cores < minimumCores {
		v.warn("install.minimum.cores", "%d is below the %d that Tectonic asks of each machine", m.Cores, minimumCores)
	}
	v.disk("install.disk", v.c.Install.Disk)
}

func (v *validator) disk(field string, d Disk) {
	if d.MaxSize != 0 && d.MinSize > d.MaxSize {
		v.wrong(field+".minSize", "%s is more than maxSize, %s, so no disk has it; correct one of them", d.MinSize, d.MaxSize)
	}
	if d.MaxSize != 0 && d.MaxSize < v.c.Install.Minimum.Disk {
		v.wrong(field+".maxSize", "%s is below install.minimum.disk, %s, so no disk is both; correct one of them", d.MaxSize, v.c.Install.Minimum.Disk)
	}
	for key, value := range map[string]string{"serial": d.Serial, "wwn": d.WWN, "model": d.Model} {
		if strings.HasPrefix(value, "/dev/") {
			v.wrong(field+"."+key, "%s is a device's name, which can be another disk's at the next boot; give the %s itself, as lsblk -o NAME,SERIAL,WWN,MODEL shows it", printable(value), key)
		}
	}
}

func (v *validator) proxy() {
	p := v.c.Proxy
	for field, value := range map[string]string{"proxy.http": p.HTTP, "proxy.https": p.HTTPS} {
		if value != "" {
			v.text(field, httpURL(value, "http", "https"))
		}
	}
	for i, name := range p.NoProxy {
		if name == "" || strings.ContainsAny(name, " \t\r\n,\"'\\%$") {
			v.wrong(at("proxy.noProxy", i), "%s is not one name, address or range; give each an entry of its own", printable(name))
		}
	}
	switch {
	case p.HTTP != "" && p.HTTPS == "":
		v.warn("proxy", "https is missing, and images are pulled over https; give it too if machines have no other way out")
	case p.HTTP == "" && p.HTTPS == "" && len(p.NoProxy) > 0:
		v.warn("proxy.noProxy", "it has no effect without proxy.http or proxy.https")
	}
}

// ownFiles are those that the installer writes itself.
var ownFiles = []string{"/etc/hostname", "/etc/tectonic-machine", "/etc/systemd/system/tectonic-ready.service"}

func (v *validator) files(field string, files []File) {
	seen := map[string]int{}
	for i, f := range files {
		entry := at(field, i)
		if v.given(entry+".path", f.Path, "where on the machine it shall be") {
			switch {
			case !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path || f.Path == "/" || strings.ContainsAny(f.Path, "\x00\r\n"):
				v.wrong(entry+".path", "%s is not the absolute path of a file in its shortest form; write it like /etc/tectonic/license", printable(f.Path))
			case slices.ContainsFunc([]string{"/dev", "/proc", "/sys", "/run", "/tmp"}, func(d string) bool { return under(f.Path, d) }):
				v.wrong(entry+".path", "%s is not kept on the disk; choose a path outside of it", printable(f.Path))
			case slices.ContainsFunc(ownFiles, func(d string) bool { return under(f.Path, d) }):
				v.wrong(entry+".path", "the installer writes %s itself; remove this entry", printable(f.Path))
			}
			if first, ok := seen[f.Path]; ok {
				v.wrong(entry+".path", "%s is %s too; remove one of them", printable(f.Path), at(field, first))
			} else {
				seen[f.Path] = i
			}
		}
		if v.given(entry+".source", f.Source, "the file that holds its content, relative to this one") {
			v.filePath(entry+".source", f.Source)
		}
		if !modeForm.MatchString(f.Mode) {
			v.wrong(entry+".mode", "%s is not a mode; write three octal digits after a zero, such as 0600", printable(f.Mode))
		}
	}
}

// under says that name is dir or in it.
func under(name, dir string) bool { return name == dir || strings.HasPrefix(name, dir+"/") }
