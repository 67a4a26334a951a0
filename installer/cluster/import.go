package cluster

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Imported is a cluster file made of a terraform.tfvars.
type Imported struct {
	YAML []byte
	// Files are the contents that stood in the variables themselves, by path relative to the cluster file. Keys are
	// among them: write each with mode 0600.
	Files map[string][]byte
	// Notes say which variables have no counterpart, and what was decided.
	Notes []string
	// Findings are what Parse says of YAML: what is left to fill in.
	Findings Findings
}

// Import turns the variables of Tectonic's metal platform (its platforms/metal/variables.tf), JSON or HCL, into a
// cluster file. The error is Findings when they cannot be read or contradict each other.
func Import(name string, tfvars []byte) (Imported, error) {
	values, err := readTFVars(name, tfvars)
	if err != nil {
		return Imported{}, err
	}
	i := &importer{name: name, values: values, used: map[string]bool{}, files: map[string][]byte{}}
	text := i.text()
	if wrong := i.findings.severity(Error); len(wrong) > 0 {
		return Imported{}, wrong
	}
	i.leftOver()
	_, findings := parse("cluster.yaml", text)
	out := append(findings.severity(Error), findings.severity(Warning)...)
	return Imported{YAML: text, Files: i.files, Notes: i.notes, Findings: out}, nil
}

type importer struct {
	name     string
	values   map[string]tfvar
	used     map[string]bool
	files    map[string][]byte
	notes    []string
	findings Findings
	out      strings.Builder
}

func (i *importer) get(key string) tfvar {
	i.used[key] = true
	return i.values[key]
}

func (i *importer) wrong(key, format string, args ...any) {
	i.findings = append(i.findings, Finding{i.name, i.values[key].line, key, fmt.Sprintf(format, args...), Error})
}

// word returns a variable that must be one word.
func (i *importer) word(key string) string {
	v := i.get(key)
	if v.list != nil || v.odd != "" {
		i.wrong(key, "this is not a single value; correct it there")
		return ""
	}
	return strings.TrimSpace(v.word)
}

func (i *importer) list(key string) []string {
	v := i.get(key)
	if v.odd != "" {
		i.wrong(key, "this is %s, not a list of words; correct it there", v.odd)
	}
	return v.words()
}

func (i *importer) note(format string, args ...any) {
	i.notes = append(i.notes, fmt.Sprintf(format, args...))
}

func (i *importer) line(format string, args ...any) { fmt.Fprintf(&i.out, format+"\n", args...) }

func (i *importer) text() []byte {
	i.line("# Made from %s. Every key is described in docs/cluster-file.md; \"tectonic-installer check\" says what is missing.", printable(i.name))
	i.line("apiVersion: %s\nkind: %s\n", APIVersion, Kind)
	i.line("name: %s\n", quoted(i.word("tectonic_cluster_name")))
	i.line("dns:\n  controller: %s\n  ingress: %s\n", quoted(i.word("tectonic_metal_controller_domain")), quoted(i.word("tectonic_metal_ingress_domain")))
	i.line("podCIDRs: %s", flow([]string{orElse(i.word("tectonic_cluster_cidr"), defaultPods)}))
	i.line("serviceCIDRs: %s\n", flow([]string{orElse(i.word("tectonic_service_cidr"), defaultServices)}))
	i.sshKeys()
	i.matchbox()
	i.line("# Tectonic left DHCP, TFTP and DNS to the site; \"none\" goes on so.\nnetwork:\n  dhcp: none\n")
	i.os()
	i.proxy()
	if servers := i.list("tectonic_ntp_servers"); len(servers) > 0 {
		i.line("ntp: %s\n", flow(servers))
	}
	i.customCA()
	i.machines()
	return []byte(i.out.String())
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func (i *importer) sshKeys() {
	key := i.word("tectonic_ssh_authorized_key")
	switch {
	case strings.Contains(key, "PRIVATE KEY"):
		i.wrong("tectonic_ssh_authorized_key", "this is a private key, which must never leave its owner; put the public one there, and make a new pair")
	case key == "":
		i.line("sshKeys: []\n")
	default:
		i.line("sshKeys:\n  - %s\n", quoted(key))
	}
}

func (i *importer) matchbox() {
	url := i.word("tectonic_metal_matchbox_http_url")
	if url != "" && !strings.Contains(url, "://") {
		url = "http://" + url
	}
	i.line("# The matchbox that is there already. It knows no state of a machine, so install groups are added to it only while a\n# machine is armed; \"tectonic-installer serve\" beside it has the machines' API. When that has taken matchbox's place,\n# write external: false.")
	i.line("matchbox:\n  http: %s\n  rpc: %s\n  external: true\n  tls:", quoted(i.clean("tectonic_metal_matchbox_http_url", url)), quoted(i.word("tectonic_metal_matchbox_rpc_endpoint")))
	for _, f := range []struct{ variable, key, path, block string }{
		{"tectonic_metal_matchbox_ca", "ca", "tls/ca.crt", "CERTIFICATE"},
		{"tectonic_metal_matchbox_client_cert", "certificate", "tls/client.crt", "CERTIFICATE"},
		{"tectonic_metal_matchbox_client_key", "key", "tls/client.key", "PRIVATE KEY"},
	} {
		i.line("    %s: %s", f.key, f.path)
		if text := i.word(f.variable); text != "" {
			i.pem(f.variable, f.path, f.block, text)
		} else {
			i.note("%s is not set: put the file at %s", f.variable, f.path)
		}
	}
	i.line("")
}

// pem keeps a PEM text as a file.
func (i *importer) pem(variable, path, kind, text string) {
	block, _ := pem.Decode([]byte(text))
	if block == nil || !strings.HasSuffix(block.Type, kind) {
		i.wrong(variable, "this is not PEM with a %s; correct it there", strings.ToLower(kind))
		return
	}
	i.files[path] = append(bytes.TrimSpace([]byte(text)), '\n')
}

// clean keeps a URL's credentials out of the cluster file.
func (i *importer) clean(key, url string) string {
	plain := withoutUser(url)
	if plain != url {
		i.note("%s holds credentials, which have no place in a cluster file: they were left out", key)
	}
	return plain
}

func (i *importer) os() {
	channel := i.word("tectonic_container_linux_channel")
	version := i.word("tectonic_container_linux_version")
	if channel == "" {
		channel = "stable"
	}
	if version == "" {
		version = "latest"
	}
	i.note("Container Linux %s is not published any more; its successor Flatcar is installed: fill in os.version", printable(version))
	i.line("# Container Linux's successor.\nos:\n  name: flatcar\n  channel: %s\n  version: \"\"    # fill in, such as 4230.2.0\n", quoted(channel))
}

func (i *importer) proxy() {
	http := i.clean("tectonic_http_proxy_address", i.word("tectonic_http_proxy_address"))
	https := i.clean("tectonic_https_proxy_address", i.word("tectonic_https_proxy_address"))
	no := i.list("tectonic_no_proxy")
	if http == "" && https == "" && len(no) == 0 {
		return
	}
	i.line("proxy:")
	if http != "" {
		i.line("  http: %s", quoted(http))
	}
	if https != "" {
		i.line("  https: %s", quoted(https))
	}
	if len(no) > 0 {
		i.line("  noProxy: %s", flow(no))
	}
	i.line("")
}

func (i *importer) customCA() {
	for n, text := range i.list2("tectonic_custom_ca_pem_list") {
		if n == 0 {
			i.line("files:")
		}
		path := fmt.Sprintf("tls/custom-ca-%d.pem", n)
		i.pem("tectonic_custom_ca_pem_list", path, "CERTIFICATE", text)
		i.line("  - {path: /etc/ssl/certs/custom_ca_%d.pem, source: %s, mode: \"0444\"}", n, path)
	}
	if len(i.values["tectonic_custom_ca_pem_list"].list) > 0 {
		i.line("")
	}
}

// list2 is a list whose words have spaces in them.
func (i *importer) list2(key string) []string {
	v := i.get(key)
	if v.odd != "" || v.list == nil && v.word != "" {
		i.wrong(key, "this is not a list of words; correct it there")
	}
	return v.list
}

func (i *importer) machines() {
	var machines []Machine
	for _, role := range []string{Controller, Worker} {
		names := i.list("tectonic_metal_" + role + "_names")
		domains := i.list("tectonic_metal_" + role + "_domains")
		macs := i.list("tectonic_metal_" + role + "_macs")
		if len(names) != len(domains) || len(names) != len(macs) {
			i.wrong("tectonic_metal_"+role+"_names", "%d names, %d domains and %d macs: the lists of one role have an entry for each machine; correct them", len(names), len(domains), len(macs))
			continue
		}
		for n := range names {
			name, rest, _ := strings.Cut(names[n], ".")
			if rest != "" {
				i.note("the machine %s is named %s: a name is one DNS label", printable(names[n]), printable(name))
			}
			machines = append(machines, Machine{Name: name, MACs: []MAC{importMAC(macs[n])}, DNSName: domains[n], Role: role})
		}
	}
	if len(machines) == 0 {
		i.line("machines: []")
		return
	}
	i.line("# Name each one's BMC to have it switched on from here: power: {driver: ipmi, address: …, credentials: {file: bmc.yaml}}")
	i.line("machines:")
	for n, m := range machines {
		if n > 0 {
			i.line("")
		}
		i.line("%s", strings.Join(machineText(m, 2), "\n"))
	}
}

// importMAC is in the one form when it can be; Parse tells of the others.
func importMAC(s string) MAC {
	if mac, err := ParseMAC(strings.TrimSpace(s)); err == nil {
		return mac
	}
	return MAC(s)
}

// without counterpart, and why.
var without = map[string]string{
	"tectonic_admin_password":      "it was not copied; it stands in the variables in plain text",
	"tectonic_admin_password_hash": "it was not copied",
	"tectonic_ca_key":              "it was not copied; it is the key to the whole cluster",
}

// leftOver notes every other variable that has a value. The value may be secret and is not shown.
func (i *importer) leftOver() {
	for _, key := range slices.Sorted(maps.Keys(i.values)) {
		if i.used[key] || !i.values[key].set() {
			continue
		}
		why, ok := without[key]
		if !ok {
			why = "it has no counterpart here"
		}
		i.note("%s (line %d): %s", printable(key), i.values[key].line, why)
	}
}
