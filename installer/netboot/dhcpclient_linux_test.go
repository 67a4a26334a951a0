package netboot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"
)

// DHCP options (RFC 2132, 4578, 3004).
const (
	optMask, optRouter, optDNS, optHostname, optDomain = 1, 3, 6, 12, 15
	optVendor, optAddress, optLease, optType           = 43, 50, 51, 53
	optServer, optParameters, optClass                 = 54, 55, 60
	optBootServer, optBootFile, optUserClass           = 66, 67, 77
	optArch, optUNDI, optUUID, optIPXE                 = 93, 94, 97, 175

	discover, offer, request, ack, nak = 1, 2, 3, 5, 6
)

// bootClient is a machine's firmware as far as DHCP goes.
type bootClient struct {
	t     *testing.T
	conn  net.PacketConn
	mac   net.HardwareAddr
	arch  uint16
	class string // PXEClient or HTTPClient
	ipxe  bool
	http  bool // its iPXE can do HTTP
	xid   uint32
}

func (n *testnet) firmware(mac string, arch uint16, class string, ipxe bool) *bootClient {
	n.t.Helper()
	hw, err := net.ParseMAC(mac)
	if err != nil {
		n.t.Fatal(err)
	}
	return &bootClient{t: n.t, conn: n.udp(n.client, "eth0", "0.0.0.0:68"), mac: hw, arch: arch, class: class, ipxe: ipxe, http: true,
		xid: binary.BigEndian.Uint32(hw[2:6]) + uint32(arch)}
}

func (c *bootClient) close() { c.conn.Close() }

// message is a DHCP packet, received.
type message struct {
	from          netip.AddrPort
	yiaddr        netip.Addr
	siaddr        netip.Addr
	file          string
	options       map[byte][]byte
	messageType   byte
	bootFile      string // option 67, or the file field
	vendorClass   string
	discoveryCtrl byte // PXE_DISCOVERY_CONTROL, option 43 tag 6
}

func (c *bootClient) packet(kind byte, ciaddr netip.Addr, options map[byte][]byte) []byte {
	p := make([]byte, 240)
	p[0], p[1], p[2] = 1, 1, 6
	binary.BigEndian.PutUint32(p[4:], c.xid)
	if ciaddr.IsValid() {
		copy(p[12:16], ciaddr.AsSlice())
	} else {
		p[10] = 0x80 // answer by broadcast: we have no address
	}
	copy(p[28:], c.mac)
	copy(p[236:], []byte{99, 130, 83, 99})
	add := func(code byte, value ...byte) { p = append(append(p, code, byte(len(value))), value...) }
	add(optType, kind)
	add(optParameters, optMask, optRouter, optDNS, optHostname, optDomain, optVendor, optServer, optClass, optBootServer, optBootFile, optUUID)
	if c.class != "" {
		add(optClass, fmt.Appendf(nil, "%s:Arch:%05d:UNDI:003016", c.class, c.arch)...)
		add(optArch, byte(c.arch>>8), byte(c.arch))
		add(optUNDI, 1, 3, 16)
		add(optUUID, append([]byte{0}, bytes.Repeat([]byte{0x42}, 16)...)...)
	}
	if c.ipxe {
		add(optUserClass, []byte("iPXE")...)
		features := []byte{0xb1, 5, 1, 0x1a, 0xf4, 0x10, 0x00, 0x21, 1, 1} // of a virtio card; PXE
		if c.http {
			features = append(features, 0x13, 1, 1)
		}
		add(optIPXE, features...)
	}
	for code, value := range options {
		add(code, value...)
	}
	return append(p, 255)
}

func (c *bootClient) send(p []byte, to string) {
	c.t.Helper()
	addr, err := net.ResolveUDPAddr("udp4", to)
	if err == nil {
		_, err = c.conn.WriteTo(p, addr)
	}
	if err != nil {
		c.t.Fatalf("cannot send DHCP: %v", err)
	}
}

var errNoAnswer = errors.New("no answer")

// receive waits for an answer to this client that is right.
func (c *bootClient) receive(wait time.Duration, right func(message) bool) (message, error) {
	c.t.Helper()
	c.conn.SetReadDeadline(time.Now().Add(wait))
	buf := make([]byte, 4096)
	for {
		n, from, err := c.conn.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return message{}, errNoAnswer
		}
		if err != nil {
			c.t.Fatalf("cannot receive DHCP: %v", err)
		}
		m, err := parseDHCP(buf[:n])
		if err != nil {
			c.t.Fatal(err)
		}
		m.from = from.(*net.UDPAddr).AddrPort()
		if binary.BigEndian.Uint32(buf[4:]) == c.xid && right(m) {
			return m, nil
		}
	}
}

func parseDHCP(p []byte) (message, error) {
	if len(p) < 240 || p[0] != 2 || !bytes.Equal(p[236:240], []byte{99, 130, 83, 99}) {
		return message{}, fmt.Errorf("not a DHCP answer: %x", p)
	}
	m := message{options: map[byte][]byte{}}
	m.yiaddr, _ = netip.AddrFromSlice(p[16:20])
	m.siaddr, _ = netip.AddrFromSlice(p[20:24])
	m.file = string(bytes.TrimRight(p[108:236], "\x00"))
	for o := p[240:]; len(o) > 0 && o[0] != 255; {
		if o[0] == 0 {
			o = o[1:]
			continue
		}
		if len(o) < 2 || len(o) < 2+int(o[1]) {
			return m, errors.New("a DHCP option is longer than its packet")
		}
		m.options[o[0]] = bytes.Clone(o[2 : 2+o[1]])
		o = o[2+o[1]:]
	}
	if t := m.options[optType]; len(t) == 1 {
		m.messageType = t[0]
	}
	m.vendorClass = string(m.options[optClass])
	m.bootFile = m.file
	if f := m.options[optBootFile]; len(f) > 0 {
		m.bootFile = string(bytes.TrimRight(f, "\x00"))
	}
	if v := subOption(m.options[optVendor], 6); len(v) == 1 {
		m.discoveryCtrl = v[0]
	}
	return m, nil
}

// subOption finds a tag in option 43.
func subOption(v []byte, tag byte) []byte {
	for len(v) >= 2 && v[0] != 255 && len(v) >= 2+int(v[1]) {
		if v[0] == tag {
			return v[2 : 2+v[1]]
		}
		v = v[2+v[1]:]
	}
	return nil
}

// boot does the whole exchange: discover, offer, request, ack.
func (c *bootClient) boot() (message, error) {
	c.t.Helper()
	c.send(c.packet(discover, netip.Addr{}, nil), "255.255.255.255:67")
	o, err := c.receive(10*time.Second, func(m message) bool { return m.messageType == offer })
	if err != nil {
		return message{}, err
	}
	c.send(c.packet(request, netip.Addr{}, map[byte][]byte{optAddress: o.yiaddr.AsSlice(), optServer: o.options[optServer]}), "255.255.255.255:67")
	m, err := c.receive(10*time.Second, func(m message) bool { return m.messageType == ack || m.messageType == nak })
	if err == nil && m.messageType == nak {
		return m, fmt.Errorf("refused: %s", m.options[56])
	}
	return m, err
}

// tftp loads a file as the client's only transfer.
func (n *testnet) tftp(name string) ([]byte, error) {
	n.t.Helper()
	conn := n.udp(n.client, "eth0", "0.0.0.0:0")
	defer conn.Close()
	return tftp(conn, name, func() {})
}

// tftp loads a file (RFC 1350) in blocks of 512 bytes. begun is called when the first has come.
func tftp(conn net.PacketConn, name string, begun func()) ([]byte, error) {
	begin := sync.OnceFunc(begun)
	defer begin()
	server := &net.UDPAddr{IP: net.ParseIP(serverAddress), Port: 69}
	packet := append(append([]byte{0, 1}, name...), "\x00octet\x00"...)
	var content []byte
	buf := make([]byte, 1024)
	for block := uint16(1); ; {
		if _, err := conn.WriteTo(packet, server); err != nil {
			return nil, err
		}
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		size, from, err := conn.ReadFrom(buf)
		if err != nil {
			return nil, err
		}
		if buf[1] == 5 {
			return nil, fmt.Errorf("tftp: %s", bytes.TrimRight(buf[4:size], "\x00"))
		}
		got := binary.BigEndian.Uint16(buf[2:])
		if buf[1] != 3 || got != block && got != block-1 {
			return nil, fmt.Errorf("tftp: unexpected packet %x", buf[:4])
		}
		begin()
		server = from.(*net.UDPAddr)
		packet = []byte{0, 4, byte(got >> 8), byte(got)}
		if got != block {
			continue // sent again, because our answer took long
		}
		content = append(content, buf[4:size]...)
		block++
		if size < 516 {
			_, err := conn.WriteTo(packet, server)
			return content, err
		}
	}
}
