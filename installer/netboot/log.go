package netboot

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Event is something that dnsmasq saw, of one machine where MAC is set, of the network or of dnsmasq itself where not.
type Event struct {
	Time    time.Time
	MAC     string // lower-case colon form
	Source  string // SourceDHCP or SourceTFTP
	Kind    string // one of the Kind constants
	Message string // one line, printable, at most maxMessage bytes
}

// Sources of events, as in the machines' timelines.
const (
	SourceDHCP = "dhcp"
	SourceTFTP = "tftp"
)

// Kinds of events.
const (
	KindStarted  = "started"  // dnsmasq serves; no MAC
	KindDiscover = "discover" // the first packet of a machine that boots from the network
	KindOffer    = "offer"
	KindRequest  = "request"
	KindAck      = "ack"
	KindNak      = "nak"
	KindRelease  = "release"
	KindDecline  = "decline"
	KindInform   = "inform"
	KindProxy    = "proxy"   // proxy DHCP answered beside another server
	KindIgnored  = "ignored" // a packet that dnsmasq has no answer for
	KindFile     = "file"    // a file was sent whole
	KindMissing  = "missing" // a file was asked for that is not there
	KindFailed   = "failed"  // a transfer broke off
	KindWarning  = "warning" // what an operator should look at; MAC where dnsmasq names one
)

const maxMessage = 500

var (
	// "Nov 20 16:40:00 dnsmasq-dhcp[123]: text", the date only where dnsmasq does not write to syslog.
	prefix = regexp.MustCompile(`^(?:[A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8} )?dnsmasq(-dhcp|-tftp|-script)?(?:\[[0-9]+\])?: (.*)$`)
	xid    = regexp.MustCompile(`^([0-9]{1,10}) (.*)$`)
	packet = regexp.MustCompile(`^(DHCP[A-Z]+|PXE|BOOTP)\(([^)]*)\) (?:([0-9.]+) )?((?:[0-9a-f]{2}-)?(?:[0-9a-f]{2}:){5,19}[0-9a-f]{2})(?: (.*))?$`)
	anyMAC = regexp.MustCompile(`\b(?:[0-9a-f]{2}:){5}(?:[0-9a-f]{2}:){0,14}[0-9a-f]{2}\b`)
	sent   = regexp.MustCompile(`^sent (.*) to ([0-9.]+)$`)
	failed = regexp.MustCompile(`^failed sending (.*) to ([0-9.]+)$`)
	absent = regexp.MustCompile(`^file (.*) not found(?: for ([0-9.]+))?$`)
	aborts = regexp.MustCompile(`^error ([0-9]+) (.*) received from ([0-9.]+)$`)
	pxeID  = regexp.MustCompile(`^vendor class: (PXEClient|HTTPClient):Arch:([0-9]{5})`)
)

var packetKinds = map[string]string{
	"DHCPDISCOVER": KindDiscover, "DHCPOFFER": KindOffer, "DHCPREQUEST": KindRequest, "DHCPACK": KindAck, "DHCPNAK": KindNak,
	"DHCPRELEASE": KindRelease, "DHCPDECLINE": KindDecline, "DHCPINFORM": KindInform, "PXE": KindProxy, "BOOTP": KindOffer,
}

// maxClients bounds what is remembered of transactions and addresses: a network can be flooded with made-up MACs.
const maxClients = 100_000

// logReader turns dnsmasq's log lines (with log-dhcp) into events. TFTP lines carry only an address; the machine is
// known by the DHCP that came before, or by the kernel's neighbour table where another server gave the address.
type logReader struct {
	now       func() time.Time
	neighbour func(netip.Addr) string // may be nil

	root   string            // of TFTP; file names are shown below it
	macs   map[string]string // address to MAC
	client map[string]string // transaction to what asks
}

func newLogReader(now func() time.Time, neighbour func(netip.Addr) string) *logReader {
	return &logReader{now: now, neighbour: neighbour, macs: map[string]string{}, client: map[string]string{}}
}

// read gives the event of a line, false when the line is only detail.
func (l *logReader) read(line string) (Event, bool) {
	m := prefix.FindStringSubmatch(line)
	if m == nil {
		return Event{}, false
	}
	var e Event
	var ok bool
	switch m[1] {
	case "-tftp":
		e, ok = l.tftp(m[2])
	case "-dhcp":
		e, ok = l.dhcp(m[2])
	default:
		e, ok = general(m[2])
	}
	if !ok {
		return Event{}, false
	}
	e.Time = l.now()
	e.Message = printable(e.Message)
	return e, true
}

// detail tells the lines that log-dhcp adds: what they say is in the events, and there are a dozen for each packet.
func detail(line string) bool {
	m := prefix.FindStringSubmatch(line)
	if m == nil || m[1] != "-dhcp" {
		return false
	}
	x := xid.FindStringSubmatch(m[2])
	return x != nil && !packet.MatchString(x[2])
}

func (l *logReader) dhcp(text string) (Event, bool) {
	id := ""
	if m := xid.FindStringSubmatch(text); m != nil {
		id, text = m[1], m[2]
	}
	if m := pxeID.FindStringSubmatch(text); m != nil {
		l.remember(l.client, id, clientName(m[1], m[2]))
		return Event{}, false
	}
	// The user class comes after the vendor class and says more: iPXE sends the firmware's vendor class too.
	if text == "user class: iPXE" {
		l.remember(l.client, id, "iPXE")
		return Event{}, false
	}
	m := packet.FindStringSubmatch(text)
	if m == nil {
		return warning(text)
	}
	word, address, rest := m[1], m[3], m[5]
	mac := m[4]
	if _, bare, found := strings.Cut(mac, "-"); found {
		mac = bare
	}
	kind, ok := packetKinds[word]
	if !ok {
		return Event{}, false
	}
	e := Event{Source: SourceDHCP, Kind: kind, MAC: mac}
	// After the MAC come a host name, or why there is no answer.
	switch rest {
	case "no address available", "address in use", "no address range available", "wrong network", "wrong address", "not using configured address",
		"lease not found", "no leases left", "unknown lease", "address reserved", "static lease available", "wrong server-ID", "no unique-id":
		e.Kind = KindWarning
		if kind == KindNak {
			e.Kind = KindNak
		}
	case "ignored", "proxy-ignored", "disabled":
		e.Kind = KindIgnored
	}
	who := l.client[id]
	switch e.Kind {
	case KindDiscover:
		e.Message = "asks for an address"
	case KindRequest:
		e.Message = "takes " + address
	case KindOffer:
		e.Message = "was offered " + address
	case KindAck:
		e.Message = "has " + address
	case KindNak:
		e.Message = strings.TrimSpace("was refused " + address)
	case KindProxy:
		e.Message = "was told what to boot, beside the other server's address"
		if rest != "" && rest != "proxy" {
			e.Message = "was told to boot " + rest
		}
	case KindIgnored:
		e.Message = strings.ToLower(word) + " ignored"
	case KindWarning:
		e.Message = fmt.Sprintf("%s got no answer: %s", word, rest)
	default:
		e.Message = strings.TrimSpace(strings.ToLower(word) + " " + address)
	}
	if rest != "" && (e.Kind == KindNak) {
		e.Message += ": " + rest
	}
	if who != "" {
		e.Message += " (" + who + ")"
	}
	if address != "" && (e.Kind == KindAck || e.Kind == KindOffer || e.Kind == KindRequest || e.Kind == KindProxy || e.Kind == KindInform) {
		l.remember(l.macs, address, mac)
	}
	return e, true
}

// remember keeps a map within bounds; what is forgotten costs a detail in a message, no more.
func (l *logReader) remember(m map[string]string, key, value string) {
	if key == "" {
		return
	}
	if len(m) >= maxClients {
		clear(m)
	}
	m[key] = value
}

func clientName(class, number string) string {
	n, _ := strconv.Atoi(number)
	for _, a := range archs {
		if a.number == n {
			if class == "HTTPClient" {
				return strings.TrimSuffix(a.name, " HTTP") + " HTTP Boot"
			}
			return a.name + " PXE"
		}
	}
	return fmt.Sprintf("%s of architecture %d, for which there is no boot file", class, n)
}

func (l *logReader) tftp(text string) (Event, bool) {
	if m := sent.FindStringSubmatch(text); m != nil {
		return Event{Source: SourceTFTP, Kind: KindFile, MAC: l.mac(m[2]), Message: "loaded " + l.below(m[1])}, true
	}
	if m := failed.FindStringSubmatch(text); m != nil {
		return Event{Source: SourceTFTP, Kind: KindFailed, MAC: l.mac(m[2]), Message: "did not get " + l.below(m[1]) + " whole"}, true
	}
	if m := absent.FindStringSubmatch(text); m != nil {
		return Event{Source: SourceTFTP, Kind: KindMissing, MAC: l.mac(m[2]), Message: "asked for " + l.below(m[1]) + ", which is not in the TFTP root"}, true
	}
	if m := aborts.FindStringSubmatch(text); m != nil {
		// PXE firmware asks for a file's size and aborts, each time, before it loads the file (RFC 2349, error 8 or 0).
		if m[1] == "0" || m[1] == "8" {
			return Event{}, false
		}
		return Event{Source: SourceTFTP, Kind: KindFailed, MAC: l.mac(m[3]), Message: "broke off a transfer: " + m[2]}, true
	}
	if root, found := strings.CutPrefix(text, "TFTP root is "); found {
		l.root, _, _ = strings.Cut(root, " ")
		return Event{}, false
	}
	return Event{Source: SourceTFTP, Kind: KindWarning, Message: text}, true
}

// below gives a file's name as the machine knows it.
func (l *logReader) below(path string) string {
	if l.root == "" {
		return path
	}
	return strings.TrimPrefix(path, l.root+"/")
}

func (l *logReader) mac(address string) string {
	if mac := l.macs[address]; mac != "" || l.neighbour == nil {
		return mac
	}
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return ""
	}
	hw, err := net.ParseMAC(l.neighbour(ip))
	if err != nil {
		return ""
	}
	return hw.String()
}

// warnings begin the lines of dnsmasq's DHCP that an operator should see though they are about no packet: what follows
// them is a machine that does not boot. Lines that quote a client begin with what is quoted, so none looks like these.
var warnings = []string{
	"no address range available", "no address available", "not using configured address", "DHCP packet received on",
	"abandoning lease", "not giving name", "failed to ", "cannot ", "Ignoring domain",
}

func warning(text string) (Event, bool) {
	for _, w := range warnings {
		if strings.HasPrefix(text, w) {
			return Event{Source: SourceDHCP, Kind: KindWarning, MAC: anyMAC.FindString(text), Message: text}, true
		}
	}
	return Event{}, false
}

func general(text string) (Event, bool) {
	if strings.HasPrefix(text, "started, ") {
		return Event{Source: SourceDHCP, Kind: KindStarted, Message: "dnsmasq " + text}, true
	}
	if text == "exiting on receipt of SIGTERM" {
		return Event{}, false
	}
	return warning(text)
}

// printable bounds a message and shows control characters as what they are: host names and file names in it come from
// the network.
func printable(s string) string {
	var b strings.Builder
	for _, r := range s {
		text := string(r)
		if r == '\uFFFD' || !strconv.IsPrint(r) {
			text = strings.Trim(strconv.QuoteRuneToASCII(r), "'")
		}
		if b.Len()+len(text) > maxMessage {
			break
		}
		b.WriteString(text)
	}
	return b.String()
}
