package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Every row makes one mistake in the valid file. It must give one finding, in this field and on this text's line; what
// the finding says is in the golden file, for people to judge.
var mistakes = []struct {
	name     string
	old, new string
	field    string
	severity Severity
	line     string // the text that the finding's line must hold
}{
	{"another version", "installer.tectonic/v1alpha1", "installer.tectonic/v2", "apiVersion", Error, "apiVersion"},
	{"another kind", "kind: Cluster", "kind: Machine", "kind", Error, "kind"},
	{"name in upper case", "name: tectonic\n", "name: Tectonic\n", "name", Error, "name: Tectonic"},
	{"no name", "name: tectonic\n", "", "name", Error, "apiVersion"},
	{"a key misspelt", "dnsName: node1.example.com", "dnsname: node1.example.com", "machines[0].dnsname", Error, "dnsname"},
	{"a key with underscores", "  gateway: 172.18.0.1\n", "  gateway: 172.18.0.1\n  lease_time: 1h\n", "network.lease_time", Error, "lease_time"},
	{"a key of nowhere", "ntp: [", "colour: blue\nntp: [", "colour", Error, "colour"},
	{"a key twice", "ntp: [", "proxy: {}\nntp: [", "proxy", Error, "proxy: {}"},
	{"a word for a list", "ntp: [ntp.example.com, 172.18.0.1]", "ntp: ntp.example.com", "ntp", Error, "ntp:"},
	{"a list for a word", "interface: metal0", "interface: [metal0]", "network.interface", Error, "interface"},
	{"a word for keys", "proxy:\n  http: http://proxy.example.com:3128\n  https: http://proxy.example.com:3128\n  noProxy: [.example.com]", "proxy: none", "proxy", Error, "proxy: none"},
	{"yes for true", "dns: true", "dns: yes", "network.dns", Error, "dns: yes"},
	{"merged keys", "  - name: node2\n", "  - <<: {exit: auto}\n    name: node2\n", "machines[1]", Error, "<<"},

	{"controller is an address", "controller: k8s.example.com", "controller: 172.18.0.21", "dns.controller", Error, "controller:"},
	{"ingress is missing", "  ingress: tectonic.example.com\n", "", "dns.ingress", Error, "dns:"},
	{"one name for both", "ingress: tectonic.example.com", "ingress: K8S.example.com.", "dns.ingress", Error, "ingress:"},
	{"a name with a space", "ingress: tectonic.example.com", "ingress: tectonic example.com", "dns.ingress", Error, "ingress:"},
	{"a long label", "ingress: tectonic.example.com", "ingress: " + strings.Repeat("a", 64) + ".example.com", "dns.ingress", Error, "ingress:"},

	{"pods overlap services", `podCIDRs: [10.2.0.0/16, "fd00:2::/48"]`, `podCIDRs: [10.0.0.0/14, "fd00:2::/48"]`, "serviceCIDRs[0]", Error, "serviceCIDRs"},
	{"IPv6 pods overlap services", `serviceCIDRs: [10.3.0.0/16, "fd00:3::/112"]`, `serviceCIDRs: [10.3.0.0/16, "fd00:2::/112"]`, "serviceCIDRs[1]", Error, "serviceCIDRs"},
	{"host bits", "podCIDRs: [10.2.0.0/16,", "podCIDRs: [10.2.0.1/16,", "podCIDRs[0]", Error, "podCIDRs"},
	{"two of one family", `podCIDRs: [10.2.0.0/16, "fd00:2::/48"]`, `podCIDRs: [10.2.0.0/16, 10.4.0.0/16, "fd00:2::/48"]`, "podCIDRs[1]", Error, "podCIDRs"},
	{"families in another order", `podCIDRs: [10.2.0.0/16, "fd00:2::/48"]`, `podCIDRs: ["fd00:2::/48", 10.2.0.0/16]`, "serviceCIDRs", Error, "serviceCIDRs"},
	{"no services", `serviceCIDRs: [10.3.0.0/16, "fd00:3::/112"]` + "\n", "", "serviceCIDRs", Error, ""},
	{"pods for two machines", "podCIDRs: [10.2.0.0/16,", "podCIDRs: [10.2.0.0/23,", "podCIDRs[0]", Error, "podCIDRs"},
	{"pods for hardly more machines", "podCIDRs: [10.2.0.0/16, \"fd00:2::/48\"", "podCIDRs: [10.2.0.0/16, \"fd00:2::/62\"", "podCIDRs[1]", Warning, "podCIDRs"},
	{"pods for no machine", "podCIDRs: [10.2.0.0/16,", "podCIDRs: [10.2.0.0/25,", "podCIDRs[0]", Error, "podCIDRs"},
	{"few services", "serviceCIDRs: [10.3.0.0/16,", "serviceCIDRs: [10.3.0.0/28,", "serviceCIDRs[0]", Error, "serviceCIDRs"},
	{"many services", "serviceCIDRs: [10.3.0.0/16,", "serviceCIDRs: [10.32.0.0/11,", "serviceCIDRs[0]", Warning, "serviceCIDRs"},
	{"loopback pods", "podCIDRs: [10.2.0.0/16,", "podCIDRs: [127.2.0.0/16,", "podCIDRs[0]", Error, "podCIDRs"},
	{"every address", "podCIDRs: [10.2.0.0/16,", "podCIDRs: [0.0.0.0/0,", "podCIDRs[0]", Error, "podCIDRs"},
	{"docker's bridge", "podCIDRs: [10.2.0.0/16,", "podCIDRs: [172.16.0.0/15,", "podCIDRs[0]", Warning, "podCIDRs"},

	{"no key", "sshKeys:\n  - " + sshKey + "\n", "", "sshKeys", Error, "apiVersion"},
	{"half a key", "- " + sshKey, "- " + sshKey[:40], "sshKeys[0]", Error, "- ssh-ed25519"},
	{"a key twice", "- " + sshKey, "- " + sshKey + "\n  - " + sshKey + "2", "sshKeys[1]", Warning, "example.com2"},
	{"a private key", "- " + sshKey, "- |\n    -----BEGIN OPENSSH PRIVATE KEY-----\n    c2VjcmV0\n    -----END OPENSSH PRIVATE KEY-----", "sshKeys[0]", Error, "- |"},
	{"two keys in one", "- " + sshKey, "- \"" + sshKey + "\\n" + sshKey + "\"", "sshKeys[0]", Error, "- \"ssh"},

	{"no provisioner", "  http: http://matchbox.example.com:8080\n", "  rpc: matchbox.example.com:8081\n", "matchbox.http", Error, "matchbox:"},
	{"https", "http: http://matchbox.example.com:8080", "http: https://matchbox.example.com:8080", "matchbox.http", Error, "https://matchbox"},
	{"no scheme", "http: http://matchbox.example.com:8080", "http: matchbox.example.com:8080", "matchbox.http", Error, "http:"},
	{"a provisioner with a password", "http: http://matchbox.example.com:8080", "http: http://u:topsecret@matchbox.example.com:8080", "matchbox.http", Error, "http:"},
	{"a query", "http: http://matchbox.example.com:8080", "http: http://matchbox.example.com:8080?a=b", "matchbox.http", Error, "http:"},
	{"an iPXE variable", "http: http://matchbox.example.com:8080", "http: http://matchbox.example.com:8080/${x}", "matchbox.http", Error, "http:"},
	{"localhost", "http: http://matchbox.example.com:8080", "http: http://localhost:8080", "matchbox.http", Error, "http:"},
	{"rpc is a URL", "  http: http://matchbox.example.com:8080\n", "  http: http://matchbox.example.com:8080\n  rpc: https://matchbox.example.com:8081\n", "matchbox.rpc", Error, "rpc:"},
	{"rpc without a port", "  http: http://matchbox.example.com:8080\n", "  http: http://matchbox.example.com:8080\n  rpc: matchbox.example.com\n", "matchbox.rpc", Error, "rpc:"},
	{"one port for two", "  http: http://matchbox.example.com:8080\n", "  http: http://matchbox.example.com:8080\n  machines: matchbox.example.com:8081\n", "matchbox.machines", Error, "machines:"},
	{"a key in the file", "  http: http://matchbox.example.com:8080\n", "  http: http://matchbox.example.com:8080\n  tls:\n    key: |\n      -----BEGIN PRIVATE KEY-----\n      c2VjcmV0\n", "matchbox.tls.key", Error, "key: |"},
	{"cert for certificate", "  http: http://matchbox.example.com:8080\n", "  http: http://matchbox.example.com:8080\n  tls: {cert: a.crt}\n", "matchbox.tls.cert", Error, "cert:"},

	{"unknown DHCP", "dhcp: full", "dhcp: fully", "network.dhcp", Error, "dhcp:"},
	{"no interface", "  interface: metal0\n", "", "network.interface", Error, "network:"},
	{"no subnet", "  subnet: 172.18.0.0/24\n", "", "network.subnet", Error, "network:"},
	{"IPv6 subnet", "subnet: 172.18.0.0/24", "subnet: fd00:9::/64", "network.subnet", Error, "subnet:"},
	{"subnet overlaps pods", "subnet: 172.18.0.0/24", "subnet: 10.2.0.0/24", "", Error, ""},
	{"range outside", "end: 172.18.0.199", "end: 172.18.1.199", "network.range.end", Error, "range:"},
	{"range backwards", "{start: 172.18.0.100, end: 172.18.0.199}", "{start: 172.18.0.199, end: 172.18.0.100}", "network.range", Error, "range:"},
	{"half a range", "{start: 172.18.0.100, end: 172.18.0.199}", "{start: 172.18.0.100}", "network.range", Error, "range:"},
	{"the broadcast address", "end: 172.18.0.199", "end: 172.18.0.255", "network.range.end", Error, "range:"},
	{"gateway in the range", "gateway: 172.18.0.1\n", "gateway: 172.18.0.150\n", "network.gateway", Error, "gateway:"},
	{"gateway elsewhere", "gateway: 172.18.0.1\n", "gateway: 172.19.0.1\n", "network.gateway", Error, "gateway:"},
	{"no gateway", "  gateway: 172.18.0.1\n", "", "network.gateway", Warning, "network:"},
	{"provisioner in the range", "http: http://matchbox.example.com:8080", "http: http://172.18.0.111:8080", "network.range", Error, "range:"},
	{"a range for proxy DHCP", "dhcp: full", "dhcp: proxy", "", Error, ""},
	{"a short lease", "dhcp: full", "dhcp: full\n  leaseTime: 60", "network.leaseTime", Error, "leaseTime:"},
	{"a lease of words", "dhcp: full", "dhcp: full\n  leaseTime: an hour", "network.leaseTime", Error, "leaseTime:"},

	{"unknown OS", "name: flatcar", "name: flatcars", "os.name", Error, "name: flatcars"},
	{"unknown channel", "name: flatcar", "name: flatcar\n  channel: testing", "os.channel", Error, "channel:"},
	{"a channel of RHEL", "name: flatcar", "name: rhel\n  channel: stable\n  packages: [http://matchbox.example.com/tectonic-worker.rpm]", "os.channel", Error, "channel:"},
	{"RHEL without the worker", "name: flatcar", "name: rhel", "os.packages", Warning, "os:"},
	{"packages for Flatcar", "name: flatcar", "name: flatcar\n  packages: [http://matchbox.example.com/a.rpm]", "os.packages", Error, "packages:"},
	{"a directory of packages", "name: flatcar", "name: rhel\n  packages: [http://matchbox.example.com/tectonic-worker]", "os.packages[0]", Error, "packages:"},
	{"the latest version", "version: 4230.2.0", "version: latest", "os.version", Error, "version:"},
	{"a version that is a path", "version: 4230.2.0", "version: ../../etc", "os.version", Error, "version:"},
	{"amd64", "version: 4230.2.0", "version: 4230.2.0\n  arch: amd64", "os.arch", Error, "arch:"},
	{"two arguments in one", "kernelArgs: [console=ttyS0]", "kernelArgs: [console=ttyS0 quiet]", "os.kernelArgs[0]", Error, "kernelArgs:"},
	{"the installer's own argument", "kernelArgs: [console=ttyS0]", "kernelArgs: [ignition.config.url=http://evil.example.com]", "os.kernelArgs[0]", Error, "kernelArgs:"},
	{"an iPXE command", "kernelArgs: [console=ttyS0]", "kernelArgs: ['a=${net0/mac}']", "os.kernelArgs[0]", Error, "kernelArgs:"},

	{"little memory", "memory: 8GB", "memory: 4GiB", "install.minimum.memory", Warning, "minimum:"},
	{"one core", "cores: 2", "cores: 1", "install.minimum.cores", Warning, "minimum:"},
	{"no size", "memory: 8GB", "memory: plenty", "install.minimum.memory", Error, "minimum:"},
	{"negative cores", "cores: 2", "cores: -2", "install.minimum.cores", Error, "minimum:"},
	{"a device", "disk: {rotational: false, minSize: 100GB}", "disk: {device: /dev/sda}", "install.disk.device", Error, "device"},
	{"a device as a serial", "serial: S3Z8NB0K", "serial: /dev/disk/by-id/x", "machines[1].disk.serial", Error, "serial"},
	{"sizes crossed", "minSize: 100GB}", "minSize: 100GB, maxSize: 50GB}", "install.disk.minSize", Error, "maxSize"},
	{"a disk below the minimum", "disk: {serial: S3Z8NB0K}", "disk: {maxSize: 20GB}", "machines[1].disk.maxSize", Error, "maxSize"},

	{"a proxy with a password", "  http: http://proxy.example.com:3128", "  http: http://u:topsecret@proxy.example.com:3128", "proxy.http", Error, "topsecret"},
	{"no https proxy", "  https: http://proxy.example.com:3128\n", "", "proxy", Warning, "proxy:"},
	{"a comma", "noProxy: [.example.com]", "noProxy: ['.example.com,10.0.0.0/8']", "proxy.noProxy[0]", Error, "noProxy"},
	{"a bad NTP server", "ntp: [ntp.example.com,", "ntp: ['ntp example.com',", "ntp[0]", Error, "ntp:"},

	{"a relative file", "path: /etc/tectonic/pull-secret.json, source: pull-secret.json}\nmachines", "path: etc/pull-secret.json, source: pull-secret.json}\nmachines", "files[0].path", Error, "- {path"},
	{"a file in /proc", "path: /etc/tectonic/pull-secret.json, source: pull-secret.json}\nmachines", "path: /proc/x, source: pull-secret.json}\nmachines", "files[0].path", Error, "- {path"},
	{"the installer's own file", "path: /etc/tectonic/pull-secret.json, source: pull-secret.json}\nmachines", "path: /etc/hostname, source: pull-secret.json}\nmachines", "files[0].path", Error, "- {path"},
	{"no source", "path: /etc/tectonic/pull-secret.json, source: pull-secret.json}\nmachines", "path: /etc/tectonic/pull-secret.json}\nmachines", "files[0].source", Error, "- {path"},
	{"a mode with setuid", `mode: "0440"`, `mode: "4755"`, "machines[2].files[0].mode", Error, "4755"},
	{"one path twice", "source: pull-secret.json}\nmachines", "source: pull-secret.json}\n  - {path: /etc/tectonic/pull-secret.json, source: b}\nmachines", "files[1].path", Error, "source: b}"},

	{"a machine without a name", "  - name: node2\n    macs", "  - macs", "machines[1].name", Error, "- macs"},
	{"one name twice", "- name: node2", "- name: node1", "machines[1].name", Error, "- name: node1"},
	{"a name with a dot", "- name: node2", "- name: node2.example.com", "machines[1].name", Error, "- name: node2"},
	{"no MAC", "    macs: [5254.00b2.2f86]\n", "", "machines[1].macs", Error, "- name: node2"},
	{"33 MACs", "[5254.00b2.2f86]", "[" + manyMACs + "]", "machines[1].macs", Error, "macs:"},
	{"no MAC address", "[5254.00b2.2f86]", "[52:54:00:b2:2f]", "machines[1].macs[0]", Error, "52:54:00:b2:2f]"},
	{"one MAC twice, in two forms", "[5254.00b2.2f86]", "[5254.00A1.9CAF]", "machines[1].macs[0]", Error, "5254.00A1"},
	{"a multicast MAC", "[5254.00b2.2f86]", "['01:00:5e:00:00:01']", "machines[1].macs[0]", Error, "01:00:5e"},
	{"the null MAC", "[5254.00b2.2f86]", "['00-00-00-00-00-00']", "machines[1].macs[0]", Error, "00-00"},
	{"one DNS name twice", "dnsName: node2.example.com", "dnsName: Node1.example.com.", "machines[1].dnsName", Error, "Node1"},
	{"the cluster's DNS name", "dnsName: node2.example.com", "dnsName: tectonic.example.com", "machines[1].dnsName", Warning, "dnsName: tectonic"},
	{"master", "role: controller", "role: master", "machines[0].role", Error, "role: master"},
	{"one address twice", "address: 172.18.0.22", "address: 172.18.0.21", "machines[1].address", Error, "address: 172.18.0.21"},
	{"an address elsewhere", "address: 172.18.0.22", "address: 172.18.1.22", "machines[1].address", Error, "172.18.1.22"},
	{"an address in the range", "address: 172.18.0.22", "address: 172.18.0.122", "machines[1].address", Error, "172.18.0.122"},
	{"a pod's address", "address: 172.18.0.22", "address: 10.2.0.22", "machines[1].address", Error, "10.2.0.22"},
	{"the gateway's address", "address: 172.18.0.22", "address: 172.18.0.1", "machines[1].address", Error, "172.18.0.1"},
	{"the provisioner's address", "http: http://matchbox.example.com:8080", "http: http://172.18.0.22:8080", "machines[1].address", Error, "172.18.0.22"},
	{"no address to answer", "    address: 172.18.0.22\n", "", "machines[1].address", Error, "- name: node2"},
	{"no IP address", "address: 172.18.0.22", "address: 172.18.0.256", "machines[1].address", Error, "172.18.0.256"},
	{"unknown firmware", "exit: sanboot", "firmware: efi", "machines[1].firmware", Error, "firmware:"},
	{"two architectures of Flatcar", "exit: sanboot", "arch: aarch64", "machines[1].arch", Error, "arch:"},
	{"unknown exit", "exit: sanboot", "exit: sanbot", "machines[1].exit", Error, "exit:"},
	{"a bad label", "rack: a1", "rack: a 1", `machines[0].labels["rack"]`, Error, "labels:"},
	{"a bad label's name", "rack: a1", "-rack: a1", `machines[0].labels["-rack"]`, Error, "labels:"},
	{"an even number of controllers", "    address: 172.18.0.22\n    role: worker", "    address: 172.18.0.22\n    role: controller", "machines", Error, "machines:"},
	{"no controller", "role: controller", "role: worker", "machines", Error, "machines:"},

	{"an unknown driver", "{driver: ipmi,", "{driver: redfish,", "machines[0].power.driver", Error, "power:"},
	{"a password", "credentials: {env: BMC}", "credentials: {username: admin, password: topsecret}", "", Error, ""},
	{"a password beside", "credentials: {env: BMC}", "credentials: {env: BMC}, password: topsecret", "machines[1].power.password", Error, "topsecret"},
	{"no credentials", ", credentials: {env: BMC}", "", "machines[1].power.credentials", Error, "power:"},
	{"two kinds of credentials", "{env: BMC}", "{env: BMC, file: a.yaml}", "machines[1].power.credentials", Error, "power:"},
	{"a bad prefix", "{env: BMC}", "{env: b-m-c}", "machines[1].power.credentials.env", Error, "power:"},
	{"one BMC twice", "address: \"10.0.0.22:6230\"", "address: \"Node1-BMC.example.com:623\"", "machines[1].power.address", Error, "power:"},
	{"a machine is no BMC", "address: \"10.0.0.22:6230\"", "address: 172.18.0.22", "machines[1].power.address", Error, "power:"},
	{"manual with an address", "{driver: ipmi,", "{driver: manual,", "machines[0].power", Warning, "power:"},
}

var manyMACs = func() string {
	var all []string
	for i := range 33 {
		all = append(all, fmt.Sprintf("'52:54:00:00:01:%02x'", i))
	}
	return strings.Join(all, ", ")
}()

func TestMistakes(t *testing.T) {
	var report strings.Builder
	for _, m := range mistakes {
		text := edit(t, valid, m.old, m.new)
		_, findings := parse("cluster.yaml", []byte(text))
		all := append(findings.severity(Error), findings.severity(Warning)...)
		fmt.Fprintf(&report, "# %s\n", m.name)
		for _, f := range all {
			fmt.Fprintln(&report, f.Error())
		}
		report.WriteByte('\n')
		if strings.Contains(report.String(), "topsecret") || strings.Contains(report.String(), "c2VjcmV0") {
			t.Fatalf("%s: the findings show a secret:\n%s", m.name, report.String())
		}
		if m.field == "" { // several findings: the golden file has them
			continue
		}
		if len(all) != 1 {
			t.Errorf("%s: %d findings, want one:\n%v", m.name, len(all), all)
			continue
		}
		f := all[0]
		lines := strings.Split(text, "\n")
		if f.Field != m.field || f.Severity != m.severity || f.Line < 1 || f.Line > len(lines) || !strings.Contains(lines[f.Line-1], m.line) {
			t.Errorf("%s: want one %s in %s on the line with %q, got:\n%v", m.name, m.severity, m.field, m.line, f)
		}
		if f.Severity == Error && !strings.ContainsAny(f.Message, ";") {
			t.Errorf("%s: the finding does not say what to do: %v", m.name, f)
		}
	}
	golden(t, "mistakes.golden", report.String())
}

// All mistakes of all sections are told at once, in the order of the file.
func TestAllAtOnce(t *testing.T) {
	text := valid
	for _, e := range [][2]string{
		{"name: tectonic\n", "name: Tectonic\n"}, {"podCIDRs: [10.2.0.0/16,", "podCIDRs: [10.3.0.0/17,"}, {"dhcp: full", "dhcp: fill"},
		{"version: 4230.2.0", "version: latest"}, {"ntp: [", "typo: 1\nntp: ["}, {"role: controller", "role: worker"}, {"[525400C36177]", "[52:54:00:A1:9C:AE]"},
	} {
		text = edit(t, text, e[0], e[1])
	}
	c, err := Parse("/srv/cluster.yaml", []byte(text))
	if c != nil {
		t.Error("a wrong file gave a cluster")
	}
	findings, ok := err.(Findings)
	if !ok {
		t.Fatalf("the error is %T", err)
	}
	var fields []string
	for i, f := range findings {
		fields = append(fields, f.Field)
		if i > 0 && findings[i-1].Line > f.Line {
			t.Errorf("line %d is told before line %d", findings[i-1].Line, f.Line)
		}
		if !strings.HasPrefix(f.Error(), fmt.Sprintf("/srv/cluster.yaml:%d: %s: ", f.Line, f.Field)) {
			t.Errorf("not file:line: field: %s", f.Error())
		}
	}
	want := []string{"name", "serviceCIDRs[0]", "network.dhcp", "os.version", "typo", "machines", "machines[2].macs[0]"}
	if diff := cmp.Diff(want, fields); diff != "" {
		t.Errorf("fields (-want +got):\n%s\n%v", diff, err)
	}
	if n := strings.Count(err.Error(), "\n"); n != len(want)-1 {
		t.Errorf("%d line breaks in the error of %d findings", n, len(want))
	}
}

func TestNotACluster(t *testing.T) {
	var lines strings.Builder
	lines.WriteString("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&lines, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	var bomb strings.Builder
	bomb.WriteString("sshKeys: &a0 [x, x, x, x, x, x, x, x, x, x]\nmachines:\n")
	for range 60_000 {
		bomb.WriteString("- macs: *a0\n")
	}
	for _, row := range []struct{ name, text, want string }{
		{"empty", "", "it is empty"},
		{"a comment", "# nothing\n", "it is empty"},
		{"null", "null\n", "this is a single value"},
		{"a list", "- a\n", "this is a list"},
		{"two documents", valid + "---\nname: b\n", "a second document begins here"},
		{"a tab", "name: a\n\tdns: b\n", "c.yaml:2: this is not YAML"},
		{"an open quote", "name: \"a\ndns: b\n", "this is not YAML"},
		{"an unknown anchor", "name: *nothing\n", "this is not YAML"},
		{"an anchor in itself", "machines: &m\n  - *m\n", "machines[0]: this is a list"},
		{"aliases of aliases", lines.String(), "no such key"},
		{"a flood of aliases", bomb.String(), "larger than a cluster needs"},
		{"a control character", "name: \"a\\e[31mb\"\n", `a\x1b[31mb" is not a DNS label`},
		{"a flood of findings", "machines:\n" + strings.Repeat("- {colour: blue}\n", 20_000), "more findings; mend the others first"},
		{"deep", strings.Repeat("[", 20_000), "this is not YAML"},
	} {
		began := time.Now()
		_, err := Parse("c.yaml", []byte(row.text))
		if d := time.Since(began); d > time.Minute {
			t.Errorf("%s: took %v", row.name, d)
		}
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: want %q, got %.400v", row.name, row.want, err)
		}
	}
}

// What is wrong is shown only when it cannot be a secret.
func TestSecretsAreNotShown(t *testing.T) {
	const secret = "hunter2secret"
	for _, e := range [][2]string{
		{"credentials: {env: BMC}", "credentials: {password: " + secret + "}"},
		{"{env: BMC}", "{env: " + secret + "-}"},
		{"  http: http://proxy.example.com:3128", "  http: http://u:" + secret + "@proxy.example.com:3128"},
		{"  http: http://proxy.example.com:3128", "  http: \"http://u:" + secret + "@proxy.example.com:31 28\""},
		{"  http: http://proxy.example.com:3128", "  http: u:" + secret + "@proxy.example.com:3128"},
		{"http: http://matchbox.example.com:8080", "http: http://u:" + secret + "%zz@matchbox.example.com:8080"},
		{"http: http://matchbox.example.com:8080", "http: http://matchbox.example.com:8080\n  rpc: https://u:" + secret + "@h:1"},
		{"http: http://matchbox.example.com:8080", "http: http://matchbox.example.com:8080\n  rpc: u:" + secret + "@h:1"},
		{"- " + sshKey, "- '-----BEGIN OPENSSH PRIVATE KEY----- " + secret + "'"},
		{"- " + sshKey, "- " + secret},
		{"http: http://matchbox.example.com:8080", "http: http://matchbox.example.com:8080\n  tls: {key: '-----BEGIN PRIVATE KEY----- " + secret + "'}"},
		{"source: /other.json", "content: " + secret},
		{"source: /other.json", "source: \"/a\\n" + secret + "\""},
		{"version: 4230.2.0", "version: 4230.2.0\n  packages: [\"http://u:" + secret + "@h/a\"]"},
	} {
		_, err := Parse("cluster.yaml", []byte(edit(t, valid, e[0], e[1])))
		if err == nil {
			t.Errorf("%q was taken", e[1])
		} else if strings.Contains(err.Error(), secret) {
			t.Errorf("%q: the secret is in the error:\n%v", e[1], err)
		}
	}
}
