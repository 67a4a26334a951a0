package netboot

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLogLines(t *testing.T) {
	now := time.Date(2026, 11, 20, 16, 0, 0, 0, time.UTC)
	const mac = "52:54:00:a1:9c:ae"
	dhcp := func(kind, message string) Event {
		return Event{Time: now, MAC: mac, Source: SourceDHCP, Kind: kind, Message: message}
	}
	tftp := func(kind, message string) Event {
		return Event{Time: now, MAC: mac, Source: SourceTFTP, Kind: kind, Message: message}
	}
	for _, test := range []struct {
		name  string
		lines string
		want  []Event
	}{
		{"a boot", `dnsmasq-tftp[1]: TFTP root is /srv/tftp  
dnsmasq-dhcp[1]: 10 available DHCP range: 10.99.0.100 -- 10.99.0.200
dnsmasq-dhcp[1]: 10 vendor class: PXEClient:Arch:00007:UNDI:003016
dnsmasq-dhcp[1]: 10 DHCPDISCOVER(br0) 52:54:00:a1:9c:ae 
dnsmasq-dhcp[1]: 10 tags: known, uefi, br0
dnsmasq-dhcp[1]: 10 DHCPOFFER(br0) 10.99.0.21 52:54:00:a1:9c:ae 
dnsmasq-dhcp[1]: 10 sent size:  1 option: 53 message-type  2
dnsmasq-dhcp[1]: 10 DHCPREQUEST(br0) 10.99.0.21 52:54:00:a1:9c:ae 
dnsmasq-dhcp[1]: 10 DHCPACK(br0) 10.99.0.21 52:54:00:a1:9c:ae node1
dnsmasq-tftp[1]: error 8 User aborted the transfer received from 10.99.0.21
dnsmasq-tftp[1]: sent /srv/tftp/ipxe.efi to 10.99.0.21
dnsmasq-tftp[1]: file /srv/tftp/grub/x not found for 10.99.0.21
dnsmasq-tftp[1]: failed sending /srv/tftp/ipxe.efi to 10.99.0.21
dnsmasq-tftp[1]: error 3 disk full received from 10.99.0.21`,
			[]Event{dhcp(KindDiscover, "asks for an address (UEFI x86-64 PXE)"), dhcp(KindOffer, "was offered 10.99.0.21 (UEFI x86-64 PXE)"),
				dhcp(KindRequest, "takes 10.99.0.21 (UEFI x86-64 PXE)"), dhcp(KindAck, "has 10.99.0.21 (UEFI x86-64 PXE)"), tftp(KindFile, "loaded ipxe.efi"),
				tftp(KindMissing, "asked for grub/x, which is not in the TFTP root"), tftp(KindFailed, "did not get ipxe.efi whole"), tftp(KindFailed, "broke off a transfer: disk full")}},
		{"without log-dhcp, with a date", "Nov  2 16:40:00 dnsmasq-dhcp[1]: DHCPDISCOVER(br0) 10.99.0.21 52:54:00:a1:9c:ae", []Event{dhcp(KindDiscover, "asks for an address")}},
		{"iPXE", "dnsmasq-dhcp: 3 vendor class: PXEClient:Arch:00000:UNDI:002001\ndnsmasq-dhcp: 3 user class: iPXE\ndnsmasq-dhcp: 3 DHCPDISCOVER(br0) 52:54:00:a1:9c:ae ",
			[]Event{dhcp(KindDiscover, "asks for an address (iPXE)")}},
		{"an architecture that nothing is for", "dnsmasq-dhcp: 3 vendor class: PXEClient:Arch:00010:UNDI:002001\ndnsmasq-dhcp: 3 DHCPDISCOVER(br0) 52:54:00:a1:9c:ae ",
			[]Event{dhcp(KindDiscover, "asks for an address (PXEClient of architecture 10, for which there is no boot file)")}},
		{"HTTP Boot", "dnsmasq-dhcp: 3 vendor class: HTTPClient:Arch:00016:UNDI:003001\ndnsmasq-dhcp: 3 DHCPDISCOVER(br0) 52:54:00:a1:9c:ae ",
			[]Event{dhcp(KindDiscover, "asks for an address (UEFI x86-64 HTTP Boot)")}},
		{"proxy", "dnsmasq-dhcp[1]: 4 PXE(br0) 52:54:00:a1:9c:ae proxy\ndnsmasq-dhcp[1]: 4 PXE(br0) 10.99.0.124 52:54:00:a1:9c:ae undionly.kpxe",
			[]Event{dhcp(KindProxy, "was told what to boot, beside the other server's address"), dhcp(KindProxy, "was told to boot undionly.kpxe")}},
		{"refused", "dnsmasq-dhcp[1]: 4 DHCPNAK(br0) 10.99.0.7 52:54:00:a1:9c:ae wrong network", []Event{dhcp(KindNak, "was refused 10.99.0.7: wrong network")}},
		{"no address", "dnsmasq-dhcp[1]: 4 DHCPDISCOVER(br0) 52:54:00:a1:9c:ae no address available", []Event{dhcp(KindWarning, "DHCPDISCOVER got no answer: no address available")}},
		{"ignored", "dnsmasq-dhcp[1]: 4 DHCPDISCOVER(br0) 52:54:00:a1:9c:ae ignored", []Event{dhcp(KindIgnored, "dhcpdiscover ignored")}},
		{"a reservation in use", "dnsmasq-dhcp[1]: not using configured address 10.99.0.21 because it is leased to 52:54:00:a1:9c:ae",
			[]Event{dhcp(KindWarning, "not using configured address 10.99.0.21 because it is leased to 52:54:00:a1:9c:ae")}},
		{"InfiniBand", "dnsmasq-dhcp[1]: 4 DHCPDISCOVER(ib0) 20-80:00:02:08:fe:80:00:00:00:00:00:00:00:02:c9:03:00:0e:6f:35 ",
			[]Event{{Time: now, MAC: "80:00:02:08:fe:80:00:00:00:00:00:00:00:02:c9:03:00:0e:6f:35", Source: SourceDHCP, Kind: KindDiscover, Message: "asks for an address"}}},
		{"a host name that would draw on the terminal", "dnsmasq-tftp[1]: file /srv/\x1b[2Jx\xff not found for 10.99.0.9",
			[]Event{{Time: now, Source: SourceTFTP, Kind: KindMissing, Message: `asked for /srv/\x1b[2Jx\ufffd, which is not in the TFTP root`}}},
		{"a client's name that reads like dnsmasq", "dnsmasq-dhcp[1]: 4 client provides name: DHCPACK(br0) 10.99.0.21 52:54:00:a1:9c:ae", nil},
		{"a client's name that reads like a warning", "dnsmasq-dhcp[1]: 4 client provides name: cannot ", nil},
		{"detail", "dnsmasq-dhcp[1]: 4 requested options: 1:netmask, 3:router\nsomething else\n\ndnsmasq[1]: using nameserver 10.0.0.1#53", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newLogReader(func() time.Time { return now }, nil)
			var got []Event
			for _, line := range strings.Split(test.lines, "\n") {
				if e, ok := r.read(line); ok {
					got = append(got, e)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func FuzzLog(f *testing.F) {
	f.Add("dnsmasq-dhcp[1]: 10 DHCPACK(br0) 10.99.0.21 52:54:00:a1:9c:ae node1")
	f.Add("dnsmasq-tftp[1]: sent /srv/tftp/ipxe.efi to 10.99.0.21")
	f.Add("dnsmasq-dhcp: 3 vendor class: PXEClient:Arch:00010:UNDI:002001")
	f.Fuzz(func(t *testing.T, line string) {
		r := newLogReader(time.Now, func(netip.Addr) string { return "not a MAC" })
		e, ok := r.read(line)
		if !ok {
			return
		}
		if e.Kind == "" || e.Source == "" || e.Time.IsZero() || len(e.Message) > maxMessage {
			t.Errorf("%q gave %+v", line, e)
		}
		for _, c := range e.Message {
			if c < ' ' || c == 0x7f {
				t.Errorf("%q gave a message with %q", line, c)
			}
		}
	})
}

func TestQueue(t *testing.T) {
	q := newQueue(2)
	for _, m := range []string{"a", "b", "c", "d"} {
		q.put(Event{Message: m})
	}
	q.close()
	var got []string
	for e, ok := q.take(); ok; e, ok = q.take() {
		got = append(got, e.Message)
	}
	if want := []string{"a", "b", "2 events of the network were dropped: they came faster than they could be recorded"}; !cmp.Equal(want, got) {
		t.Errorf("%q", got)
	}
}
