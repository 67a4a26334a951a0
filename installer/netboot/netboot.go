// Package netboot owns the network that machines boot from: the dnsmasq configuration that follows from a cluster file
// (DHCP or proxy DHCP, TFTP, DNS), the iPXE firmware that it hands out, running dnsmasq, and reading its log. It must
// not decide what a machine installs, keep a machine's state, or talk to matchbox: all that it knows of matchbox is the
// URL of /boot.ipxe.
package netboot

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
)

// Places that the package and its unit use.
const (
	DefaultTFTPRoot  = "/var/lib/tectonic-installer/tftpboot"
	DefaultLeaseFile = "/var/lib/tectonic-installer/dnsmasq.leases"
)

// Options is what the cluster file does not say.
type Options struct {
	TFTPRoot  string // DefaultTFTPRoot when empty
	LeaseFile string // DefaultLeaseFile when empty
}

// Config is what dnsmasq needs.
type Config struct {
	// Text is the whole dnsmasq.conf.
	Text []byte
	// Files go below the TFTP root (and, for HTTP Boot, into ipxe/ of the assets), by their base name.
	Files map[string][]byte
	// Notes tell the operator what the site's own services must do, one sentence each.
	Notes []string
}

// arch is a client system architecture (DHCP option 93, RFC 4578 and IANA's "Processor Architecture Types") that we
// have a boot file for. Firmware for 32-bit ARM (10, 18) and others get none: no OS that we install runs there.
type arch struct {
	number int
	name   string
	csa    string // as pxe-service of dnsmasq(8) calls it
	file   string
	http   bool // UEFI HTTP Boot: the boot file is a URL
}

// RFC 4578 gave 7 to EFI byte code and 9 to x86-64; firmware for x86-64 sends 7 (RFC 4578 errata 4625), and some 64-bit
// firmware says 6, so all of them get the x86-64 program.
var archs = []arch{
	{0, "BIOS", "x86PC", FileBIOS, false},
	{6, "UEFI x86", "IA32_EFI", FileUEFI, false},
	{7, "UEFI x86-64", "BC_EFI", FileUEFI, false},
	{9, "UEFI x86-64 (EBC)", "x86-64_EFI", FileUEFI, false},
	{11, "UEFI arm64", "ARM64_EFI", FileARM64, false},
	{15, "UEFI x86 HTTP", "15", FileUEFI, true},
	{16, "UEFI x86-64 HTTP", "16", FileUEFI, true},
	{19, "UEFI arm64 HTTP", "19", FileARM64, true},
}

// What may stand in a line of dnsmasq.conf. dnsmasq has commas, quotes, comments and backslashes with a meaning of
// their own (dnsmasq(8), "CONFIG FILE"); nothing that holds one of them is ever written.
var (
	safeName      = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)
	safeInterface = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.@-]{0,14}$`) // IFNAMSIZ is 16
	safePath      = regexp.MustCompile(`^/[A-Za-z0-9_.+@=/-]*$`)
	safeURL       = regexp.MustCompile(`^https?://[A-Za-z0-9.:\[\]-]+[A-Za-z0-9._~/%+-]*$`)
	safeLease     = regexp.MustCompile(`^([0-9]{1,9}[mhdw]?|infinite)$`)
)

// BootURL is where iPXE goes: /boot.ipxe of the cluster's matchbox.
func BootURL(c *cluster.Cluster) (string, error) { return below(c, "boot.ipxe") }

// below joins a path to matchbox.http. A matchbox may live under a path of its own.
func below(c *cluster.Cluster, path string) (string, error) {
	base := strings.TrimRight(c.Matchbox.HTTP, "/")
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || !safeURL.MatchString(base) {
		return "", fmt.Errorf("matchbox.http: %q is no URL that firmware can boot from; write it like http://matchbox.example.com:8080", c.Matchbox.HTTP)
	}
	return base + "/" + path, nil
}

// dnsName checks and folds a name. A trailing dot is taken off: dnsmasq takes none.
func dnsName(field, name string) (string, error) {
	folded := strings.ToLower(strings.TrimSuffix(name, "."))
	if len(folded) > 253 || !safeName.MatchString(folded) {
		return "", fmt.Errorf("%s: %q is not a DNS name; it may have letters, digits and hyphens in labels of up to 63, separated by dots", field, name)
	}
	return folded, nil
}

// hostOf gives the host of matchbox.http or of a host:port, empty for an IP address, which needs no record.
func hostOf(endpoint string) string {
	host := endpoint
	if u, err := url.Parse(endpoint); err == nil && u.Host != "" {
		host = u.Hostname()
	} else if h, _, err := net.SplitHostPort(endpoint); err == nil {
		host = h
	}
	if net.ParseIP(host) != nil {
		return ""
	}
	return host
}

func safePathOr(field, path, fallback string) (string, error) {
	if path == "" {
		path = fallback
	}
	if !safePath.MatchString(path) || filepath.Clean(path) != path {
		return "", fmt.Errorf("%s: %q cannot stand in dnsmasq's configuration; give an absolute path of letters, digits and . _ - + @ = /", field, path)
	}
	return path, nil
}
