package assets

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"text/template"

	"github.com/coreos/ignition/v2/config"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
)

// Whatever words a valid cluster file holds: Ignition's parser takes what is rendered, matchbox's templates do too, a
// profile's arguments stay words on one line, and a Kickstart has no section or command more than it should.
func FuzzRender(f *testing.F) {
	f.Add(byte(0), "4230.2.0", "operator@example.com", "http://proxy.example.com:3128", ".example.com", "ntp.example.com", "console=ttyS0", "https://mirror.example.com/i", "http://h/a.rpm", "node1.example.com")
	f.Add(byte(1), "42.20250427.3.0", "{{.x}} %end", "http://p/a%20b", "10.0.0.0/8", "172.18.0.1", "a=b:c,d", "http://h/x", "", "a.b")
	f.Add(byte(2), "9.4", `x\ $(reboot) {{"`, "http://p/!", "{{a}}", "a.b", "a=%end", "http://h/%7b%7b", "http://h/(x)&y.rpm", "a.b")
	f.Fuzz(func(t *testing.T, os byte, version, comment, proxy, noProxy, ntp, arg, images, rpm, dnsName string) {
		word := func(s string) string {
			text, err := json.Marshal(s) // YAML takes it
			if err != nil {
				t.Skip()
			}
			return string(text)
		}
		name := []string{cluster.Flatcar, cluster.FedoraCoreOS, cluster.RHEL}[os%3]
		packages := ""
		if name == cluster.RHEL {
			packages = ", packages: [" + word(rpm) + "]"
		}
		text := fmt.Sprintf(`{name: a, dns: {controller: k8s.example.com, ingress: tectonic.example.com}, matchbox: {http: "http://m:8080"},
sshKeys: [%s], proxy: {http: %s, noProxy: [%s]}, ntp: [%s], os: {name: %s, version: %s, kernelArgs: [%s], images: %s%s}, machines: [
{name: a, macs: [52:54:00:00:00:01], dnsName: %s, role: controller, kernelArgs: [%s]},
{name: b, macs: [52:54:00:00:00:02], dnsName: b.example.com, role: worker}, {name: c, macs: [52:54:00:00:00:03], dnsName: c.example.com, role: worker}]}`,
			word(sshKey+" "+comment), word(proxy), word(noProxy), word(ntp), name, word(version), word(arg), word(images), packages, word(dnsName), word(arg))
		c, err := cluster.Parse("/srv/cluster.yaml", []byte(text))
		if err != nil {
			t.Skip(err)
		}
		r, err := Render(c, input())
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range r.Ignition {
			if _, report, err := config.Parse(text); err != nil || report.IsFatal() {
				t.Errorf("%s: %v %s\n%s", name, err, report.String(), text)
			}
		}
		for _, d := range r.Machines {
			if len(d.Config) == 0 {
				continue
			}
			if _, report, err := config.Parse(d.Config); err != nil || report.IsFatal() {
				t.Errorf("%s: %v %s\n%s", d.Name, err, report.String(), d.Config)
			}
		}
		for _, p := range r.Profiles {
			words := append([]string{p.ID, p.Boot.Kernel}, append(p.Boot.Initrd, p.Boot.Args...)...)
			for _, word := range words {
				if word == "" || strings.ContainsAny(word, " \t\r\n\"'\\`;") || strings.Contains(strings.ReplaceAll(word, "${mac:hexhyp}", ""), "$") {
					t.Errorf("profile %s: %q", p.ID, word)
				}
			}
		}
		for name, text := range r.Generic {
			tmpl, err := template.New("").Option("missingkey=error").Parse(string(text))
			if err != nil {
				t.Errorf("%s: %v\n%s", name, err, text)
				continue
			}
			var b strings.Builder
			if err := tmpl.Execute(&b, map[string]string{"dns_name": "node1.example.com"}); err != nil {
				t.Errorf("%s: %v\n%s", name, err, text)
			}
			if n := strings.Count("\n"+b.String(), "\n%"); n != 9 { // four sections, their ends, and %include
				t.Errorf("%s: %d lines begin with %%\n%s", name, n, b.String())
			}
			for _, line := range strings.Split(b.String(), "\n") {
				if word, _, _ := strings.Cut(line, " "); word == "clearpart" || word == "bootloader" || word == "autopart" {
					t.Errorf("%s: %s", name, line)
				}
			}
		}
	})
}

// A thousand machines, as "apply" reads and renders them.
func BenchmarkThousandMachines(b *testing.B) {
	head, _, _ := strings.Cut(system(large, cluster.Flatcar, "4230.2.0"), "machines:\n  - ")
	var text strings.Builder
	text.WriteString(strings.Replace(head, "subnet: 172.18.0.0/24", "subnet: 172.20.0.0/16", 1))
	text.WriteString("machines:\n")
	for i := range 1000 {
		role := cluster.Worker
		if i < 3 {
			role = cluster.Controller
		}
		fmt.Fprintf(&text, "  - {name: node%d, macs: [52:54:00:00:%02x:%02x], dnsName: node%d.example.com, address: 172.20.%d.%d, role: %s}\n", i, i>>8, i&255, i, 1+i>>8, i&255, role)
	}
	file := strings.Replace(text.String(), "podCIDRs: [10.2.0.0/16", "podCIDRs: [10.64.0.0/10", 1)
	b.ReportAllocs()
	for b.Loop() {
		c, err := cluster.Parse("/srv/cluster.yaml", []byte(file))
		if err != nil {
			b.Fatal(err)
		}
		if r, err := Render(c, input()); err != nil || len(r.Machines) != 1000 {
			b.Fatal(err)
		}
	}
}
