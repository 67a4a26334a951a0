package netboot

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
)

func TestRenderReportsAllThatIsWrong(t *testing.T) {
	c := testCluster(cluster.DHCPFull)
	c.Network.DNS = true
	c.Network.Interface = "eth0,lo"
	c.Network.LeaseTime = "1h\ndhcp-script=/bin/sh"
	c.Network.Gateway = netip.MustParseAddr("10.98.0.1")
	c.DNS.Controller = "k8s.example.com,10.0.0.1"
	c.DNS.Ingress = "tectonic example"
	c.Matchbox.HTTP = "http://x/\nconf-file=/etc/passwd"
	c.Machines[0].MACs[0] = "52:54:00:a1:9c:ae,set:known"
	c.Machines[1].DNSName = "node2\nport=53"
	c.Machines[1].Address = netip.MustParseAddr("10.98.0.7")
	c.Machines[2].Address = netip.Addr{}
	_, err := Render(c, Options{TFTPRoot: "/srv/tftp,br0", LeaseFile: "relative"})
	if err == nil {
		t.Fatal("rendered")
	}
	for _, want := range []string{"network.interface", "network.leaseTime", "network.gateway", "dns.controller", "dns.ingress", "matchbox.http", "machines[0].macs[0]",
		"machines[1].dnsName", "machines[1].address", "machines[2].address", "TFTP root", "lease file"} {
		if !strings.Contains(err.Error(), want+":") {
			t.Errorf("nothing is said about %s:\n%v", want, err)
		}
	}
}

// Whatever stands in a cluster file, a line of dnsmasq.conf is one that we mean to write.
func FuzzRender(f *testing.F) {
	f.Add("node1.example.com", "eth0", "http://matchbox:8080", "1h", "metal", "52:54:00:a1:9c:ae", "/srv/tftp")
	f.Add("a\nb", "e,f", "http://x/\ny", "1h,2h", "#\n", "52:54:00:a1:9c:ae\n", "/a b")
	f.Add("a\\b\"c", "br0#1", "http://[::1]:8080/a?b,c", "infinite\r", "\x00", "52-54-00-A1-9C-AE", "/srv//x")
	known := []string{"#", "interface=", "except-interface=lo", "bind-dynamic", "no-hosts", "log-dhcp", "dhcp-match=set:", "dhcp-match=set:ipxe,175,19", "enable-tftp",
		"tftp-root=/", "tftp-max=900", "dhcp-lease-max=", "dhcp-boot=tag:", "dhcp-option-force=tag:!ipxe,", "dhcp-authoritative", "dhcp-leasefile=/", "dhcp-ignore-names", "dhcp-range=", "dhcp-option=option:",
		"domain=", "dhcp-host=", "domain-needed", "bogus-priv", "host-record=", "interface-name=", "no-resolv", "server="}
	f.Fuzz(func(t *testing.T, name, card, url, lease, cluster_, mac, root string) {
		c := testCluster(cluster.DHCPFull)
		c.Network.DNS = true
		c.Name, c.Network.Interface, c.Network.LeaseTime, c.Matchbox.HTTP, c.Matchbox.RPC, c.Matchbox.Machines = cluster_, card, lease, url, name+":8081", name
		c.DNS.Controller, c.Machines[0].DNSName, c.Machines[0].MACs[0] = name, name, cluster.MAC(mac)
		cfg, err := Render(c, Options{TFTPRoot: root})
		if err != nil {
			return
		}
		for line := range strings.Lines(string(cfg.Text)) {
			line = strings.TrimSuffix(line, "\n")
			ok := line == ""
			for _, k := range known {
				ok = ok || strings.HasPrefix(line, k)
			}
			if !ok || strings.ContainsAny(line, "\"\\\r\x00") {
				t.Errorf("rendered the line %q", line)
			}
			if strings.HasPrefix(line, "dhcp-host=") && strings.Count(line, ",") > 5 {
				t.Errorf("rendered the line %q", line)
			}
		}
	})
}

func TestGolden(t *testing.T) {
	for _, mode := range []string{cluster.DHCPFull, cluster.DHCPProxy, cluster.DHCPNone} {
		c := testCluster(mode)
		c.Network.DNS = mode != cluster.DHCPProxy
		c.Matchbox.HTTP = "http://matchbox.example.com:8080"
		cfg, err := Render(c, Options{})
		if err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", mode+".conf")
		if os.Getenv("UPDATE_GOLDEN") != "" {
			if err := os.WriteFile(golden, cfg.Text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(cfg.Text)); diff != "" {
			t.Errorf("%s (-want +got; UPDATE_GOLDEN=1 writes it):\n%s", golden, diff)
		}
	}
}

func TestCheckNamesTheLine(t *testing.T) {
	needTool(t, "dnsmasq", "dnsmasq")
	err := Check(t.Context(), []byte("port=0\ndhcp-rnage=x\n"))
	if err == nil || !strings.Contains(err.Error(), `line 2 of its configuration, "dhcp-rnage=x"`) {
		t.Errorf("error %v", err)
	}
}

func TestFirmware(t *testing.T) {
	for _, test := range []struct {
		name  string
		files []string
		want  Firmware
		err   string
	}{
		{"Debian", []string{"usr/lib/ipxe/undionly.kpxe", "boot/ipxe.efi", "usr/lib/ipxe/snponly.efi"},
			Firmware{BIOS: "usr/lib/ipxe/undionly.kpxe", UEFI: "boot/ipxe.efi"}, ""},
		{"EL 9", []string{"usr/share/ipxe/undionly.kpxe", "usr/share/ipxe/ipxe-snponly-x86_64.efi", "usr/share/ipxe/arm64-efi/snponly.efi"},
			Firmware{BIOS: "usr/share/ipxe/undionly.kpxe", UEFI: "usr/share/ipxe/ipxe-snponly-x86_64.efi", ARM64: "usr/share/ipxe/arm64-efi/snponly.efi"}, ""},
		{"none", nil, Firmware{}, "undionly.kpxe and ipxe.efi"},
		{"arm64 alone", []string{"usr/share/ipxe/arm64-efi/snponly.efi"}, Firmware{ARM64: "usr/share/ipxe/arm64-efi/snponly.efi"}, "install ipxe-bootimgs-x86"},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			for _, name := range test.files {
				path := filepath.Join(root, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(name), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got, err := FindFirmware(root)
			for _, p := range []*string{&test.want.BIOS, &test.want.UEFI, &test.want.ARM64} {
				if *p != "" {
					*p = filepath.Join(root, *p)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			if (err == nil) != (test.err == "") || (err != nil && !strings.Contains(err.Error(), test.err)) {
				t.Errorf("error %v, want %q", err, test.err)
			}
		})
	}
}

func TestInstallKeepsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "ipxe")
	if err := os.WriteFile(source, []byte("ipxe"), 0o600); err != nil {
		t.Fatal(err)
	}
	tftp, assets := filepath.Join(dir, "tftp"), filepath.Join(dir, "assets")
	own := filepath.Join(tftp, FileARM64)
	if err := os.MkdirAll(tftp, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(own, []byte("the operator's"), 0o644); err != nil {
		t.Fatal(err)
	}
	f := Firmware{BIOS: source, UEFI: source}
	cfg := Config{Files: map[string][]byte{FileAutoexec: []byte("#!ipxe\n")}}
	if err := f.Install(cfg, tftp, assets); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(filepath.Join(tftp, FileUEFI))
	if err != nil || before.Mode().Perm() != 0o644 {
		t.Fatalf("%v, %v", before, err)
	}
	if err := f.Install(cfg, tftp, assets); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(filepath.Join(tftp, FileUEFI))
	if err != nil || !os.SameFile(before, after) {
		t.Error("a file that was the same already was written again")
	}
	if b, _ := os.ReadFile(own); string(b) != "the operator's" {
		t.Error("the operator's firmware was replaced by nothing")
	}
	for _, name := range []string{"tftp/undionly.kpxe", "tftp/undionly.kpxe.0", "tftp/ipxe.efi", "tftp/autoexec.ipxe", "assets/ipxe/ipxe.efi", "assets/ipxe/autoexec.ipxe"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}
