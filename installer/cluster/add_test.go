package cluster

import (
	"net/netip"
	"strings"
	"testing"
)

var node4 = Machine{
	Name: "node4", MACs: []MAC{"52:54:00:d7:99:c7", "52:54:00:12:34:56"}, DNSName: "node4.example.com", Address: netip.MustParseAddr("172.18.0.24"), Role: Worker,
	Power:  Power{Driver: PowerIPMI, Address: "node4-bmc.example.com", Credentials: Credentials{Env: "BMC"}},
	Labels: map[string]string{"rack": "a2", "b": "true"}, Disk: &Disk{WWN: "0x5000c500a1b2c3d4", MinSize: 100e9},
}

const addHead = `name: tectonic
dns: {controller: k8s.example.com, ingress: tectonic.example.com}
sshKeys: ["` + sshKey + `"]
matchbox: {http: "http://matchbox.example.com:8080"}
os: {name: flatcar, version: 4230.2.0}
`

const addTail = `  - {name: node1, macs: [52:54:00:00:00:01], dnsName: node1.example.com, role: controller}
  - {name: node2, macs: [52:54:00:00:00:02], dnsName: node2.example.com, role: worker}
  # The last one.
  - name: node3      # as delivered
    macs: [52:54:00:00:00:03]
    dnsName: node3.example.com
    role: worker
`

func TestAddMachine(t *testing.T) {
	small := Machine{Name: "node4", MACs: []MAC{"52:54:00:d7:99:c7"}, DNSName: "node4.example.com", Role: Worker}
	for _, row := range []struct {
		name, text string
		m          Machine
		want       string // ADDED stands for the entry
		entry      string
	}{
		{
			"at the end", addHead + "machines:\n" + addTail, node4, addHead + "machines:\n" + addTail + "ADDED",
			`  - name: node4
    macs: ['52:54:00:d7:99:c7', '52:54:00:12:34:56']
    dnsName: node4.example.com
    address: 172.18.0.24
    role: worker
    power:
      driver: ipmi
      address: node4-bmc.example.com
      credentials: {env: BMC}
    labels: {b: "true", rack: a2}
    disk: {wwn: "0x5000c500a1b2c3d4", minSize: 100GB}
`,
		},
		{"before another key and its comment", addHead + "machines:\n" + addTail + "\n# Time.\nntp: [a.example.com]\n", small, addHead + "machines:\n" + addTail + "ADDED\n# Time.\nntp: [a.example.com]\n", ""},
		{"directly before another key", addHead + "machines:\n" + addTail + "ntp: [a.example.com]\n", small, addHead + "machines:\n" + addTail + "ADDED\nntp: [a.example.com]\n", ""},
		{"no line break at the end", addHead + "machines:\n" + strings.TrimSuffix(addTail, "\n"), small, addHead + "machines:\n" + addTail + "ADDED", ""},
		{"comments at the end", addHead + "machines:\n" + addTail + "  # node4 comes in May\n\n# end\n", small, addHead + "machines:\n" + addTail + "  # node4 comes in May\nADDED\n# end\n", ""},
		{"an end of document", addHead + "machines:\n" + addTail + "...\n", small, addHead + "machines:\n" + addTail + "ADDED\n...\n", ""},
		{"Windows' line ends", strings.ReplaceAll(addHead+"machines:\n"+addTail, "\n", "\r\n"), small, strings.ReplaceAll(addHead+"machines:\n"+addTail+"ADDED", "\n", "\r\n"), ""},
		{"entries apart", addHead + "machines:\n" + strings.ReplaceAll(addTail, "  - {name: node2", "\n  - {name: node2"), small, addHead + "machines:\n" + strings.ReplaceAll(addTail, "  - {name: node2", "\n  - {name: node2") + "ADDED", ""},
		{
			"entries not indented", addHead + "machines:\n" + strings.ReplaceAll("\n"+addTail, "\n  ", "\n")[1:] + "ntp: [a.example.com]\n", small,
			addHead + "machines:\n" + strings.ReplaceAll("\n"+addTail, "\n  ", "\n")[1:] + "ADDED\nntp: [a.example.com]\n",
			"- name: node4\n  macs: ['52:54:00:d7:99:c7']\n  dnsName: node4.example.com\n  role: worker\n",
		},
		{"an empty list", addHead + "machines: []   # none yet\nntp: [a.example.com]\n", small, addHead + "machines:  # none yet\nADDED\nntp: [a.example.com]\n", ""},
		{"nothing", addHead + "machines:\nntp: [a.example.com]\n", small, addHead + "machines:\nADDED\nntp: [a.example.com]\n", ""},
		{"no key", addHead, small, addHead + "machines:\nADDED", ""},
	} {
		entry := row.entry
		if entry == "" {
			entry = "  - name: node4\n    macs: ['52:54:00:d7:99:c7']\n    dnsName: node4.example.com\n    role: worker\n"
		}
		if strings.Contains(row.text, "\r\n") {
			entry = strings.ReplaceAll(entry, "\n", "\r\n")
		}
		want := strings.Replace(row.want, "ADDED", entry, 1)
		got, err := AddMachine([]byte(row.text), row.m)
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		if string(got) != want {
			t.Errorf("%s: got\n%s\nwant\n%s", row.name, got, want)
		}
		if strings.Contains(row.text, "node3") {
			c := parsed(t, string(got))
			if m, ok := c.Machine("node4"); !ok || m.MACs[0] != "52:54:00:d7:99:c7" {
				t.Errorf("%s: what was added reads as %v", row.name, m)
			}
		}
	}
}

func TestAddMachineRefuses(t *testing.T) {
	good := addHead + "machines:\n" + addTail
	for _, row := range []struct {
		name, text string
		change     func(*Machine)
		want       string
	}{
		{"a name that is there", good, func(m *Machine) { m.Name = "node1" }, "node1 is machines[0].name too"},
		{"a MAC that is there", good, func(m *Machine) { m.MACs = []MAC{"52:54:00:00:00:03"} }, "is machines[2].macs[0] too"},
		{"no role", good, func(m *Machine) { m.Role = "" }, "machines[3].role: it is missing"},
		{"a name with a line break", good, func(m *Machine) { m.Name = "a\nname: b" }, "is not a DNS label"},
		{"a DNS name that closes a list", good, func(m *Machine) { m.DNSName = "]}\n" }, "is not a DNS name"},
		{"a list on one line", addHead + "machines: [{name: node1}]\n", nil, "is not a list whose entries begin with"},
		{"braces", "{name: a}", nil, "the file is written in braces"},
		{"no YAML", "machines: [", nil, "this is not YAML"},
	} {
		m := Machine{Name: "node4", MACs: []MAC{"52:54:00:d7:99:c7"}, DNSName: "node4.example.com", Role: Worker}
		if row.change != nil {
			row.change(&m)
		}
		got, err := AddMachine([]byte(row.text), m)
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: want %q, got %v\n%s", row.name, row.want, err, got)
		}
	}
}

// A machine can be added to any file that is right, and then it is there, and all else is as it was.
func FuzzAddMachine(f *testing.F) {
	for _, text := range []string{valid, string(Example()), addHead + "machines:\n" + addTail, addHead + "machines: []\n", addHead, "machines:\n- name: a # x\n\n# y\nname: b\n"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m := Machine{Name: "node4", MACs: []MAC{"52:54:00:d7:99:c7"}, DNSName: "node4.example.com", Address: netip.MustParseAddr("172.18.0.24"), Role: Worker}
		out, err := AddMachine([]byte(text), m)
		if err != nil {
			return
		}
		before, _ := parse("a", []byte(text))
		after, _ := parse("a", out)
		if len(after.Machines) != len(before.Machines)+1 || after.Machines[len(before.Machines)].Name != "node4" {
			t.Errorf("added to\n%s\ngot\n%s", text, out)
		}
		after.Machines = after.Machines[:len(before.Machines)]
		if !sameMachines(before.Machines, after.Machines) || before.Name != after.Name || before.DNS != after.DNS || before.Matchbox != after.Matchbox {
			t.Errorf("something else changed in\n%s\ngot\n%s", text, out)
		}
	})
}
