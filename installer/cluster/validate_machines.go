package cluster

import (
	"fmt"
	"net"
	"slices"
	"strings"
)

// leastMachines that Tectonic runs on.
const leastMachines = 3

// mostMACs of one machine that its definition takes.
const mostMACs = 32

func (v *validator) machines() {
	c := v.c
	if len(c.Machines) < leastMachines {
		v.wrong("machines", "there are %d, and a cluster takes at least %d; add more", len(c.Machines), leastMachines)
	}
	controllers, workers := 0, 0
	taken := taken{}
	for i, m := range c.Machines {
		switch m.Role {
		case Controller:
			controllers++
		case Worker:
			workers++
		}
		v.machine(at("machines", i), m, taken)
	}
	if len(c.Machines) < leastMachines {
		return
	}
	switch {
	case controllers+workers < len(c.Machines): // a role is wrong, and that is said
		return
	case controllers == 0:
		v.wrong("machines", "none is a controller; give 1, 3 or 5 of them role: controller")
	case controllers%2 == 0:
		v.wrong("machines", "%d are controllers, and of an even number etcd survives no more losses than of one less; make it %d or %d", controllers, controllers-1, controllers+1)
	case controllers > 9:
		v.warn("machines", "%d are controllers, and each slows every write of etcd down; 3 or 5 survive one or two losses", controllers)
	}
	if workers == 0 {
		v.wrong("machines", "none is a worker, and dns.ingress must resolve to workers; give one role: worker")
	}
}

// taken says which field first had a value that no two machines may share.
type taken map[string]string

func (v *validator) once(t taken, field, kind, value, shown string) {
	key := kind + "\x00" + value
	if first, ok := t[key]; ok {
		v.wrong(field, "%s is %s too (line %d); give each machine its own", printable(shown), first, v.c.Line(first))
		return
	}
	t[key] = field
}

func (v *validator) machine(field string, m Machine, t taken) {
	c := v.c
	if v.given(field+".name", m.Name, "the machine a name, a DNS label such as node1") {
		v.text(field+".name", dnsLabel(m.Name))
		v.once(t, field+".name", "name", m.Name, m.Name)
	}
	if len(m.MACs) == 0 {
		v.wrong(field+".macs", "there is none, and a machine is known by the cards it boots from; give them, such as [52:54:00:a1:9c:ae]")
	}
	if len(m.MACs) > mostMACs {
		v.wrong(field+".macs", "there are %d, more cards than a machine has; give those that may boot, at most %d", len(m.MACs), mostMACs)
		return
	}
	for i, mac := range m.MACs {
		if mac == "" {
			v.wrong(at(field+".macs", i), "it is empty; remove it")
			continue
		}
		if why := noCard(mac); why != "" {
			v.wrong(at(field+".macs", i), "%s", why)
			continue
		}
		v.once(t, at(field+".macs", i), "mac", string(mac), string(mac))
	}
	if v.given(field+".dnsName", m.DNSName, "the machine's stable DNS name, such as node1.example.com") {
		v.text(field+".dnsName", dnsName(m.DNSName))
		v.once(t, field+".dnsName", "dns", m.DNSName, m.DNSName)
		if m.DNSName == c.DNS.Controller || m.DNSName == c.DNS.Ingress {
			v.warn(field+".dnsName", "it is the cluster's own name too, which then cannot move to another machine; give the machine a name of its own")
		}
	}
	if v.given(field+".role", m.Role, "controller or worker") {
		switch m.Role {
		case "master", "control-plane", "etcd":
			v.wrong(field+".role", "%s is controller here; write that", m.Role)
		case "node", "agent":
			v.wrong(field+".role", "%s is worker here; write that", m.Role)
		default:
			v.word(field+".role", m.Role, Controller, Worker)
		}
	}
	v.address(field, m, t)
	v.power(field+".power", m, t)
	v.word(field+".firmware", m.Firmware, FirmwareUEFI, FirmwareBIOS)
	v.word(field+".exit", m.Exit, ExitAuto, ExitIPXE, ExitHTTP404, ExitSanboot)
	for key, value := range m.Labels {
		v.text(labelField(field+".labels", key), labelText(key, value))
	}
	v.arch(field+".arch", m.Arch)
	if c.OS.Name == Flatcar && m.Arch != c.OS.Arch && slices.Contains(arches, m.Arch) && slices.Contains(arches, c.OS.Arch) {
		v.wrong(field+".arch", "%s is not os.arch, %s, and Flatcar's images of one version have the same names for both; make a cluster file for each architecture", m.Arch, c.OS.Arch)
	}
	if m.Arch == "aarch64" && m.Firmware == FirmwareBIOS {
		v.wrong(field+".firmware", "there is no BIOS on aarch64; write %s", FirmwareUEFI)
	}
	if m.Disk != nil {
		v.disk(field+".disk", *m.Disk)
	}
	v.files(field+".files", m.Files)
	v.kernelArgs(field+".kernelArgs", m.KernelArgs)
}

// noCard says why no network card has this address (IEEE 802: the group bit, the broadcast and null addresses).
func noCard(mac MAC) string {
	hw, err := net.ParseMAC(string(mac))
	if err != nil || len(hw) == 20 { // IPoIB's first octets are flags and a queue pair
		return ""
	}
	switch {
	case strings.Trim(string(mac), "0:") == "":
		return fmt.Sprintf("%s is no card's address; give the one on the card, \"ip link\" or the firmware's setup shows it", mac)
	case hw[0]&1 == 1:
		return fmt.Sprintf("%s is a multicast address, no card's; give the one on the card, \"ip link\" or the firmware's setup shows it", mac)
	}
	return ""
}

func (v *validator) address(field string, m Machine, t taken) {
	n := v.c.Network
	field += ".address"
	if !m.Address.IsValid() {
		if n.DNS {
			v.wrong(field, "it is missing, and with network.dns the machine's name is answered with it; give it")
		}
		return
	}
	v.once(t, field, "address", m.Address.String(), m.Address.String())
	for _, r := range v.ranges {
		if r.field != "network.subnet" && r.Contains(m.Address) {
			v.wrong(field, "%s is within %s, %s, which no machine's own address may be; choose another", m.Address, r.field, r)
			return
		}
	}
	if !v.subnet.IsValid() || !v.host(field, m.Address) {
		return
	}
	switch {
	case n.inRange(m.Address):
		v.wrong(field, "%s is within network.range, whose addresses are for machines without one of their own; choose one outside", m.Address)
	case m.Address == n.Gateway:
		v.wrong(field, "%s is the gateway; choose another", m.Address)
	case m.Address == v.provisioner():
		v.wrong(field, "%s is the provisioner; choose another", m.Address)
	}
}

func (v *validator) power(field string, m Machine, t taken) {
	p := m.Power
	if !v.word(field+".driver", p.Driver, PowerIPMI, PowerManual) {
		return
	}
	if p.Driver == PowerManual {
		if p.Address != "" || p.Credentials != (Credentials{}) {
			v.warn(field, "address and credentials have no effect with driver: manual")
		}
		return
	}
	if v.given(field+".address", p.Address, "the BMC's name or address") {
		name, port := p.Address, "623" // IPMI over LAN (RMCP)
		if host(name) != "" {
			why := hostPort(p.Address, port)
			v.text(field+".address", why)
			if why != "" {
				return
			}
			name, port, _ = net.SplitHostPort(p.Address)
		}
		v.once(t, field+".address", "bmc", strings.ToLower(net.JoinHostPort(name, port)), p.Address)
		if m.Address.IsValid() && name == m.Address.String() || m.DNSName != "" && hostSpelling(name) == m.DNSName {
			v.wrong(field+".address", "%s is the machine itself, and it is switched through its BMC; give the BMC's address", printable(name))
		}
	}
	switch file, env := p.Credentials.File, p.Credentials.Env; {
	case file == "" && env == "":
		v.wrong(field+".credentials", "there are none; name a file of mode 0600 that holds username and password: credentials: {file: bmc.yaml}, or the prefix of two environment variables: credentials: {env: BMC}")
	case file != "" && env != "":
		v.wrong(field+".credentials", "file and env are both given; remove one of them")
	case env != "" && !envForm.MatchString(env):
		v.wrong(field+".credentials.env", "this is not the beginning of an environment variable's name; write BMC, for BMC_USERNAME and BMC_PASSWORD")
	default:
		v.filePath(field+".credentials.file", file)
	}
}
