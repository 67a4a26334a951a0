package netboot

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
)

func TestReservations(t *testing.T) {
	t.Parallel()
	n := newTestnet(t)
	c := testCluster(cluster.DHCPFull)
	c.Network.Range = cluster.Range{} // known machines only
	cfg, _ := prepare(t, c)
	if len(cfg.Notes) == 0 || !strings.Contains(cfg.Notes[0], "cannot be discovered") {
		t.Errorf("notes %q", cfg.Notes)
	}
	d := n.run(n.server, cfg)
	for _, test := range []struct{ mac, address, host string }{
		{"52:54:00:a1:9c:ae", "10.99.0.21", "node1"},
		{"52:54:00:a1:9c:af", "10.99.0.21", "node1"}, // its other card
		{"52:54:00:c3:61:77", "10.99.0.23", "node3"},
	} {
		f := n.firmware(test.mac, 0, "PXEClient", false)
		m, err := f.boot()
		if err != nil {
			t.Fatal(err)
		}
		if m.yiaddr.String() != test.address || string(m.options[optHostname]) != test.host || string(m.options[optDomain]) != "example.com" {
			t.Errorf("%s has %s as %q in %q, want %s, %s", test.mac, m.yiaddr, m.options[optHostname], m.options[optDomain], test.address, test.host)
		}
		if !bytes.Equal(m.options[optRouter], []byte{10, 99, 0, 254}) {
			t.Errorf("router %v", m.options[optRouter])
		}
		if test.host == "node3" {
			f.send(f.packet(7, m.yiaddr, map[byte][]byte{optServer: m.options[optServer]}), "255.255.255.255:67") // release
			d.wait("the address was released", func(e Event) bool { return e.Kind == KindRelease && e.MAC == test.mac })
		}
		f.close()
	}
	stranger := n.firmware("52:54:00:ff:ff:ff", 0, "PXEClient", false)
	defer stranger.close()
	stranger.send(stranger.packet(discover, netip.Addr{}, nil), "255.255.255.255:67")
	e := d.wait("the stranger got no address", func(e Event) bool { return e.MAC == "52:54:00:ff:ff:ff" && e.Kind == KindWarning })
	if e.Message != "DHCPDISCOVER got no answer: no address available (BIOS PXE)" {
		t.Errorf("message %q", e.Message)
	}
}

func TestFullRangeIsAWarning(t *testing.T) {
	t.Parallel()
	n := newTestnet(t)
	c := testCluster(cluster.DHCPFull)
	c.Network.Range = cluster.Range{Start: netip.MustParseAddr("10.99.0.100"), End: netip.MustParseAddr("10.99.0.100")}
	cfg, _ := prepare(t, c)
	d := n.run(n.server, cfg)
	first, second := n.firmware("52:54:00:00:00:01", 7, "PXEClient", false), (*bootClient)(nil)
	if _, err := first.boot(); err != nil {
		t.Fatal(err)
	}
	first.close()
	second = n.firmware("52:54:00:00:00:02", 7, "PXEClient", false)
	defer second.close()
	second.send(second.packet(discover, netip.Addr{}, nil), "255.255.255.255:67")
	d.wait("the range is full", func(e Event) bool {
		return e.Kind == KindWarning && e.MAC == "52:54:00:00:00:02" && strings.Contains(e.Message, "no address available")
	})
}

// A machine with BIOS beside another DHCP server: the address from there, the boot file from port 4011 (PXE 2.1, 2.2.3).
func TestProxyDHCP(t *testing.T) {
	t.Parallel()
	n := newTestnet(t)
	cfg, _ := prepare(t, testCluster(cluster.DHCPProxy))
	d := n.run(n.server, cfg)
	n.otherDHCP()
	us, site := netip.MustParseAddr(serverAddress), netip.MustParseAddr("10.99.0.2")
	for _, test := range []struct {
		name  string
		mac   string
		arch  uint16
		class string
		ipxe  bool
		offer string // boot file in the first answer
		file  string // boot file that port 4011 gives; empty when the firmware does not ask there
	}{
		{"BIOS", "52:54:00:00:02:00", 0, "PXEClient", false, "", "undionly.kpxe"},
		{"UEFI", "52:54:00:00:02:07", 7, "PXEClient", false, "", "ipxe.efi"},
		{"UEFI arm64", "52:54:00:00:02:0b", 11, "PXEClient", false, "", "ipxe-arm64.efi"},
		{"HTTP Boot", "52:54:00:00:02:10", 16, "HTTPClient", false, "http://" + serverAddress + ":8080/assets/ipxe/ipxe.efi", ""},
		{"iPXE", "52:54:00:00:03:00", 0, "PXEClient", true, "http://" + serverAddress + ":8080/boot.ipxe", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := n.firmware(test.mac, test.arch, test.class, test.ipxe)
			c.send(c.packet(discover, netip.Addr{}, nil), "255.255.255.255:67")
			var address netip.Addr
			var ours message
			for !address.IsValid() || ours.options == nil {
				m, err := c.receive(10*time.Second, func(m message) bool { return m.messageType == offer })
				if err != nil {
					t.Fatalf("address %s, ours %+v: %v", address, ours, err)
				}
				switch m.from.Addr() {
				case site:
					address = m.yiaddr
				case us:
					ours = m
					if !m.yiaddr.IsUnspecified() {
						t.Errorf("we gave the address %s beside another server", m.yiaddr)
					}
				}
			}
			if ours.vendorClass != test.class || ours.bootFile != test.offer {
				t.Errorf("offered %q with class %q, want %q with %q", ours.bootFile, ours.vendorClass, test.offer, test.class)
			}
			d.wait("it was told by proxy", func(e Event) bool { return e.Kind == KindProxy && e.MAC == test.mac })
			c.close()
			if test.file == "" {
				return
			}
			// With its address it asks the boot server itself.
			n.ip(n.client, "addr add "+address.String()+"/24 dev eth0\n")
			defer n.ip(n.client, "addr del "+address.String()+"/24 dev eth0\n")
			c = n.firmware(test.mac, test.arch, test.class, test.ipxe)
			defer c.close()
			var item map[byte][]byte
			if test.arch == 0 {
				// A BIOS takes the menu's only item: PXE_BOOT_ITEM with its type and layer 0 (PXE 2.1, table 2-1).
				menu := subOption(ours.options[optVendor], 9)
				if len(menu) < 2 || ours.discoveryCtrl&3 != 3 {
					t.Fatalf("menu %x, discovery control %d", menu, ours.discoveryCtrl)
				}
				item = map[byte][]byte{optVendor: {71, 4, menu[0], menu[1], 0, 0, 255}}
			}
			c.send(c.packet(request, address, item), serverAddress+":4011")
			m, err := c.receive(10*time.Second, func(m message) bool { return m.messageType == ack && m.from.Addr() == us })
			if err != nil {
				t.Fatal(err)
			}
			if m.bootFile != test.file {
				t.Errorf("port 4011 says %q, want %q", m.bootFile, test.file)
			}
		})
	}
}

func TestTFTP(t *testing.T) {
	t.Parallel()
	n := newTestnet(t)
	cfg, dir := prepare(t, testCluster(cluster.DHCPFull))
	d := n.run(n.server, cfg)
	n.ip(n.client, "addr add 10.99.0.50/24 dev eth0\n")
	for _, name := range []string{"undionly.kpxe", "undionly.kpxe.0", "ipxe.efi", "autoexec.ipxe"} {
		got, err := n.tftp(name)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want, err := os.ReadFile(filepath.Join(dir, "tftp", name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s came as %d bytes of %d (%v)", name, len(got), len(want), err)
		}
		// The address is nobody's lease: the kernel's neighbour table tells whose it is.
		d.wait(name+" was sent", func(e Event) bool {
			return e.Kind == KindFile && e.Source == SourceTFTP && e.MAC == n.mac && e.Message == "loaded "+name
		})
	}
	if _, err := n.tftp("ipxe-arm64.efi"); err == nil {
		t.Error("a file that is not there was sent")
	}
	d.wait("the file is missing", func(e Event) bool {
		return e.Kind == KindMissing && strings.Contains(e.Message, "ipxe-arm64.efi") && e.MAC == n.mac
	})
	for _, name := range []string{"../state/leases", "/etc/passwd", "x/../../state/leases"} {
		if content, err := n.tftp(name); err == nil {
			t.Errorf("%s was sent: %q", name, content)
		}
	}
}

// A rack that is powered on at once: more machines than dnsmasq's own limits of 1000 leases and 50 transfers allow.
func TestManyMachines(t *testing.T) {
	t.Parallel()
	const machines, transfers = 1200, 200
	n := newTestnet(t)
	n.ip(n.server, "addr del "+serverAddress+"/24 dev br0\naddr add "+serverAddress+"/20 dev br0\n")
	c := testCluster(cluster.DHCPFull)
	c.Network.Subnet, c.Network.Range, c.Machines = netip.MustParsePrefix("10.99.0.0/20"), cluster.Range{}, nil
	for i := range machines {
		c.Machines = append(c.Machines, cluster.Machine{Name: fmt.Sprint("m", i), MACs: []cluster.MAC{cluster.MAC(fmt.Sprintf("52:54:01:00:%02x:%02x", i/256, i%256))},
			Address: netip.AddrFrom4([4]byte{10, 99, byte(1 + i/250), byte(1 + i%250)})})
	}
	cfg, dir := prepare(t, c)
	d := n.run(n.server, cfg)
	f := n.firmware("52:54:01:00:00:00", 7, "PXEClient", false)
	start := time.Now()
	for i, m := range c.Machines {
		f.mac, f.xid = net.HardwareAddr{0x52, 0x54, 1, 0, byte(i / 256), byte(i % 256)}, uint32(i+1)
		got, err := f.boot()
		if err != nil || got.yiaddr != m.Address {
			t.Fatalf("machine %d has %s, not %s: %v", i, got.yiaddr, m.Address, err)
		}
	}
	t.Logf("%d machines had their addresses in %v", machines, time.Since(start))
	f.close()
	d.wait("the last one has its address", func(e Event) bool { return e.Kind == KindAck && e.MAC == f.mac.String() })

	n.ip(n.client, "addr add 10.99.0.50/20 dev eth0\n")
	want, err := os.ReadFile(filepath.Join(dir, "tftp", FileBIOS))
	if err != nil {
		t.Fatal(err)
	}
	// All of them ask before any goes on, so that all transfers are open at the same time.
	var asked sync.WaitGroup
	asked.Add(transfers)
	errs := make(chan error)
	for range transfers {
		conn := n.udp(n.client, "eth0", "0.0.0.0:0")
		go func() {
			got, err := tftp(conn, FileBIOS, func() { asked.Done(); asked.Wait() })
			if err == nil && !bytes.Equal(got, want) {
				err = fmt.Errorf("%d bytes came of %d", len(got), len(want))
			}
			errs <- err
		}()
	}
	for range transfers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// lookup asks our dnsmasq.
func (n *testnet) lookup(name string, kind dnsmessage.Type) (rcode dnsmessage.RCode, answers []string) {
	n.t.Helper()
	q := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}}}
	packed, err := q.Pack()
	if err != nil {
		n.t.Fatal(err)
	}
	conn := n.udp(n.client, "eth0", "0.0.0.0:0")
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.WriteTo(packed, &net.UDPAddr{IP: net.ParseIP(serverAddress), Port: 53}); err != nil {
		n.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	size, _, err := conn.ReadFrom(buf)
	if err != nil {
		n.t.Fatalf("no answer about %s: %v", name, err)
	}
	var m dnsmessage.Message
	if err := m.Unpack(buf[:size]); err != nil {
		n.t.Fatal(err)
	}
	for _, a := range m.Answers {
		switch r := a.Body.(type) {
		case *dnsmessage.AResource:
			answers = append(answers, netip.AddrFrom4(r.A).String())
		case *dnsmessage.AAAAResource:
			answers = append(answers, netip.AddrFrom16(r.AAAA).String())
		case *dnsmessage.PTRResource:
			answers = append(answers, r.PTR.String())
		}
	}
	slices.Sort(answers)
	return m.RCode, answers
}

func TestDNS(t *testing.T) {
	t.Parallel()
	n := newTestnet(t)
	c := testCluster(cluster.DHCPFull)
	c.Network.DNS = true
	c.Matchbox.HTTP = "http://Matchbox.example.com:8080"
	c.Network.Upstream = []netip.Addr{netip.MustParseAddr("10.99.0.3")}
	cfg, _ := prepare(t, c)
	n.run(n.server, cfg)

	// The site's DNS server, another namespace.
	site := newNetns(t)
	n.join(site, "site")
	n.ip(site, "addr add 10.99.0.3/24 dev eth0\n")
	n.run(site, Config{Text: []byte("interface=eth0\nexcept-interface=lo\nbind-dynamic\nno-resolv\nno-hosts\nhost-record=quay.example.net,192.0.2.7\n")})

	f := n.firmware("52:54:00:a1:9c:ae", 0, "PXEClient", false)
	m, err := f.boot()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m.options[optDNS], []byte{10, 99, 0, 1}) {
		t.Errorf("machines are told the DNS server %v", m.options[optDNS])
	}
	f.close()
	// A machine that calls itself by the provisioner's name.
	liar := n.firmware("52:54:00:66:66:66", 7, "", false)
	liar.send(liar.packet(discover, netip.Addr{}, map[byte][]byte{optHostname: []byte("bad")}), "255.255.255.255:67")
	o, err := liar.receive(10*time.Second, func(m message) bool { return m.messageType == offer })
	if err != nil {
		t.Fatal(err)
	}
	liar.send(liar.packet(request, netip.Addr{}, map[byte][]byte{optAddress: o.yiaddr.AsSlice(), optServer: o.options[optServer], optHostname: []byte("bad")}), "255.255.255.255:67")
	if _, err := liar.receive(10*time.Second, func(m message) bool { return m.messageType == ack }); err != nil {
		t.Fatal(err)
	}
	liar.close()
	n.ip(n.client, "addr add 10.99.0.50/24 dev eth0\n")

	for _, test := range []struct {
		name string
		kind dnsmessage.Type
		want []string
	}{
		{"node1.example.com.", dnsmessage.TypeA, []string{"10.99.0.21"}},
		{"NODE3.Example.com.", dnsmessage.TypeA, []string{"10.99.0.23"}},
		{"k8s.example.com.", dnsmessage.TypeA, []string{"10.99.0.21"}},
		{"tectonic.example.com.", dnsmessage.TypeA, []string{"10.99.0.22", "10.99.0.23"}},
		{"x.tectonic.example.com.", dnsmessage.TypeA, nil},
		{"matchbox.example.com.", dnsmessage.TypeA, []string{serverAddress}},
		{"21.0.99.10.in-addr.arpa.", dnsmessage.TypePTR, []string{"node1.example.com."}},
		{"22.0.99.10.in-addr.arpa.", dnsmessage.TypePTR, []string{"node2.example.com."}},
		{"quay.example.net.", dnsmessage.TypeA, []string{"192.0.2.7"}}, // upstream's
		{"bad.example.com.", dnsmessage.TypeA, nil},
		{"bad.", dnsmessage.TypeA, nil},
	} {
		if _, got := n.lookup(test.name, test.kind); !slices.Equal(got, test.want) {
			t.Errorf("%s %v is %q, want %q", test.name, test.kind, got, test.want)
		}
	}
}

func TestRunSaysWhyItCannot(t *testing.T) {
	t.Parallel()
	n := newTestnet(t)
	cfg, _ := prepare(t, testCluster(cluster.DHCPFull))
	n.in(n.server, func() error { // a DHCP server that shares its port with nobody
		l, err := net.ListenPacket("udp4", "0.0.0.0:67")
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	})
	for _, test := range []struct{ name, text, want string }{
		{"the port is taken", string(cfg.Text), "another DHCP, TFTP or DNS server has the port"},
		{"no configuration", "no-such-option\n", "does not take its configuration"},
		{"a lease file that cannot be", "interface=br0\nport=0\ndhcp-range=10.99.0.10,10.99.0.20\ndhcp-leasefile=/proc/none\n", "cannot use a file"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		err := <-n.goIn(n.server, func() error { return Run(ctx, Config{Text: []byte(test.text)}, nil, nil) })
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", test.name, err, test.want)
		}
		cancel()
	}
}

// Whoever kills us kills dnsmasq: a forgotten one would go on answering machines with what was true once.
func TestDnsmasqEndsWithUs(t *testing.T) {
	t.Parallel()
	n := newTestnet(t)
	cfg, _ := prepare(t, testCluster(cluster.DHCPFull))
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "NETBOOT_TEST_RUN="+string(cfg.Text))
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	n.in(n.server, child.Start)
	t.Cleanup(func() { child.Process.Kill(); child.Wait() })
	started, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || started != KindStarted+"\n" {
		t.Fatalf("the child said %q, %v", started, err)
	}
	serving := func() (yes bool) {
		n.in(n.server, func() error {
			yes = listens("67")
			return nil
		})
		return yes
	}
	if !serving() {
		t.Fatal("dnsmasq does not serve")
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for serving() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("dnsmasq serves on after the one who ran it was killed")
		}
	}
}

// dnsmasq shares its port with others of its kind, even on one interface; who runs two must be told.
func TestSecondServerIsAWarning(t *testing.T) {
	t.Parallel()
	n := newTestnet(t)
	cfg, _ := prepare(t, testCluster(cluster.DHCPFull))
	first := n.run(n.server, cfg)
	second := n.run(n.server, cfg)
	warned := func(d *dnsmasq) bool {
		return slices.ContainsFunc(d.seen, func(e Event) bool {
			return e.Kind == KindWarning && strings.Contains(e.Message, "already listens on UDP port 67")
		})
	}
	if warned(first) || !warned(second) {
		t.Errorf("the first was warned: %v, the second: %v", warned(first), warned(second))
	}
}

// A receiver that hangs must not keep machines from their addresses.
func TestSlowReceiverDoesNotStopDHCP(t *testing.T) {
	t.Parallel()
	n := newTestnet(t)
	cfg, _ := prepare(t, testCluster(cluster.DHCPFull))
	ctx, cancel := context.WithCancel(t.Context())
	hang, started := make(chan struct{}), make(chan struct{}, 1)
	done := n.goIn(n.server, func() error {
		return Run(ctx, cfg, func(e Event) {
			if e.Kind == KindStarted {
				started <- struct{}{}
			}
			<-hang
		}, nil)
	})
	defer func() {
		close(hang)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	<-started
	for i := range 300 { // some 600 kB of log, ten times what a pipe holds
		f := n.firmware("52:54:00:a1:9c:ae", 0, "PXEClient", false)
		f.xid = uint32(i)
		_, err := f.boot()
		f.close()
		if err != nil {
			t.Fatalf("boot %d: %v", i, err)
		}
	}
}
