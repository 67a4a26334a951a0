package netboot

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
)

func testCluster(mode string) *cluster.Cluster {
	addr := netip.MustParseAddr
	return &cluster.Cluster{
		Name:     "metal",
		DNS:      cluster.DNS{Controller: "k8s.example.com", Ingress: "tectonic.example.com"},
		Matchbox: cluster.Matchbox{HTTP: "http://" + serverAddress + ":8080", RPC: "matchbox.example.com:8081", Machines: "matchbox.example.com:8443"},
		Network: cluster.Network{DHCP: mode, Interface: "br0", Subnet: netip.MustParsePrefix(subnet), LeaseTime: "1h",
			Range: cluster.Range{Start: addr("10.99.0.100"), End: addr("10.99.0.200")}, Gateway: addr("10.99.0.254")},
		Machines: []cluster.Machine{
			{Name: "node1", MACs: []cluster.MAC{"52:54:00:a1:9c:ae", "52:54:00:a1:9c:af"}, DNSName: "node1.example.com", Address: addr("10.99.0.21"), Role: cluster.Controller},
			{Name: "node2", MACs: []cluster.MAC{"52:54:00:b2:2f:86"}, DNSName: "node2.example.com", Address: addr("10.99.0.22"), Role: cluster.Worker},
			{Name: "node3", MACs: []cluster.MAC{"52:54:00:c3:61:77"}, DNSName: "node3.example.com", Address: addr("10.99.0.23"), Role: cluster.Worker},
		},
	}
}

// prepare renders, checks with the real dnsmasq and installs the host's firmware into a TFTP root of the test.
func prepare(t *testing.T, c *cluster.Cluster) (Config, string) {
	t.Helper()
	needTool(t, "dnsmasq", "dnsmasq")
	dir := t.TempDir()
	o := Options{TFTPRoot: filepath.Join(dir, "tftp"), LeaseFile: filepath.Join(dir, "state", "leases")}
	cfg, err := Render(c, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := Check(t.Context(), cfg.Text); err != nil {
		t.Fatalf("%v\n%s", err, cfg.Text)
	}
	f, err := FindFirmware("/")
	if err != nil {
		missing(t, "%v", err)
	}
	if err := f.Install(cfg, o.TFTPRoot, filepath.Join(dir, "assets")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // dnsmasq serves as nobody
		t.Fatal(err)
	}
	return cfg, dir
}

func TestFullDHCPGivesEachFirmwareItsBootFile(t *testing.T) {
	t.Parallel()
	n := newTestnet(t)
	c := testCluster(cluster.DHCPFull)
	const bootURL = "http://" + serverAddress + ":8080/boot.ipxe"
	tests := []struct {
		name  string
		mac   string
		arch  uint16
		class string
		ipxe  bool
		file  string
		back  string // option 60 of the answer
	}{
		{"BIOS", "52:54:00:a1:9c:ae", 0, "PXEClient", false, "undionly.kpxe", ""},
		{"UEFI x86", "52:54:00:00:00:06", 6, "PXEClient", false, "ipxe.efi", ""},
		{"UEFI x86-64", "52:54:00:b2:2f:86", 7, "PXEClient", false, "ipxe.efi", ""},
		{"UEFI EBC", "52:54:00:00:00:09", 9, "PXEClient", false, "ipxe.efi", ""},
		{"UEFI arm64", "52:54:00:00:00:0b", 11, "PXEClient", false, "ipxe-arm64.efi", ""},
		{"UEFI arm32 gets nothing", "52:54:00:00:00:0a", 10, "PXEClient", false, "", ""},
		{"HTTP Boot x86", "52:54:00:00:00:0f", 15, "HTTPClient", false, "http://" + serverAddress + ":8080/assets/ipxe/ipxe.efi", "HTTPClient"},
		{"HTTP Boot x86-64", "52:54:00:00:00:10", 16, "HTTPClient", false, "http://" + serverAddress + ":8080/assets/ipxe/ipxe.efi", "HTTPClient"},
		{"HTTP Boot arm64", "52:54:00:00:00:13", 19, "HTTPClient", false, "http://" + serverAddress + ":8080/assets/ipxe/ipxe-arm64.efi", "HTTPClient"},
		{"iPXE on BIOS", "52:54:00:00:01:00", 0, "PXEClient", true, bootURL, ""},
		{"iPXE on UEFI", "52:54:00:00:01:07", 7, "PXEClient", true, bootURL, ""},
		{"iPXE on arm64", "52:54:00:00:01:0b", 11, "PXEClient", true, bootURL, ""},
		{"iPXE from HTTP Boot", "52:54:00:00:01:10", 16, "HTTPClient", true, bootURL, ""},
		{"iPXE without HTTP", "52:54:00:00:03:00", 0, "PXEClient", true, "undionly.kpxe", ""},
		{"an installed system", "52:54:00:00:02:00", 0, "", false, "", ""},
	}
	for i, test := range tests {
		if i > 5 { // reserved: dnsmasq pings other addresses, for three seconds, before it gives them away
			c.Machines = append(c.Machines, cluster.Machine{Name: fmt.Sprint("m", i), MACs: []cluster.MAC{cluster.MAC(test.mac)}, Address: netip.AddrFrom4([4]byte{10, 99, 0, byte(30 + i)})})
		}
	}
	cfg, _ := prepare(t, c)
	d := n.run(n.server, cfg)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := n.firmware(test.mac, test.arch, test.class, test.ipxe)
			defer c.close()
			c.http = !strings.Contains(test.name, "without HTTP")
			m, err := c.boot()
			if err != nil {
				t.Fatal(err)
			}
			if m.bootFile != test.file || m.vendorClass != test.back {
				t.Errorf("told to boot %q with class %q, want %q and %q", m.bootFile, m.vendorClass, test.file, test.back)
			}
			if want := netip.MustParseAddr(serverAddress); test.file != "" && m.siaddr != want {
				t.Errorf("next server %s, want %s", m.siaddr, want)
			}
			d.wait(test.name+" has an address", func(e Event) bool { return e.Kind == KindAck && e.MAC == test.mac && e.Source == SourceDHCP })
		})
	}
}

// otherDHCP is the site's own server, which knows nothing of booting: a dnsmasq in a namespace of its own.
func (n *testnet) otherDHCP() *dnsmasq {
	n.t.Helper()
	site := newNetns(n.t)
	n.join(site, "site")
	n.ip(site, "addr add 10.99.0.2/24 dev eth0\n")
	return n.run(site, Config{Text: []byte("port=0\ninterface=eth0\nexcept-interface=lo\nbind-dynamic\ndhcp-authoritative\n" +
		"dhcp-range=10.99.0.100,10.99.0.200,255.255.255.0,1h\ndhcp-leasefile=" + filepath.Join(n.t.TempDir(), "leases") + "\n")})
}
