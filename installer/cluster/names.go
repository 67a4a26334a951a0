package cluster

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var (
	label       = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
	labelName   = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)
	versionForm = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._+-]*$`)
	envForm     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	leaseForm   = regexp.MustCompile(`^([0-9]{1,9})([smhdw]?)$`)
	linkForm    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]*$`)
	modeForm    = regexp.MustCompile(`^0?[0-7]{3}$`)
	argForm     = regexp.MustCompile(`^[!-~]+$`) // one word of printable ASCII
)

// dnsLabel says what keeps s from being a DNS label (RFC 1123, lower case); empty when nothing does.
func dnsLabel(s string) string {
	switch {
	case len(s) > 63:
		return "it is longer than the 63 characters of a DNS label; shorten it"
	case s != strings.ToLower(s) && label.MatchString(strings.ToLower(s)):
		return fmt.Sprintf("it has upper case letters; write %s", strings.ToLower(s))
	case !label.MatchString(s):
		return fmt.Sprintf("%s is not a DNS label; use lower case letters, digits and hyphens, with no hyphen at an end", printable(s))
	}
	return ""
}

// dnsName is dnsLabel for a whole name (RFC 1035: 253 characters).
func dnsName(s string) string {
	if _, err := netip.ParseAddr(s); err == nil {
		return fmt.Sprintf("%s is an address; give the DNS name that resolves to it", printable(s))
	}
	if len(s) > 253 {
		return "it is longer than the 253 characters of a DNS name; shorten it"
	}
	parts := strings.Split(s, ".")
	for _, part := range parts {
		if dnsLabel(part) != "" {
			return fmt.Sprintf("%s is not a DNS name; write it like node1.example.com", printable(s))
		}
	}
	if last := parts[len(parts)-1]; strings.Trim(last, "0123456789") == "" {
		return fmt.Sprintf("%s ends in a number, as no DNS name does; write it like node1.example.com", printable(s))
	}
	return ""
}

// host is a DNS name or an IP address.
func host(s string) string {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		if addr.IsUnspecified() || addr.IsMulticast() {
			return fmt.Sprintf("%s is no host's address; give the one that others reach it at", s)
		}
		return ""
	}
	return dnsName(strings.ToLower(strings.TrimSuffix(s, ".")))
}

// hostPort checks host:port.
func hostPort(s, port string) string {
	if strings.Contains(s, "@") {
		return fmt.Sprintf("it has something before an @, where no credentials may stand; write only host:port, as in matchbox.example.com:%s", port)
	}
	if strings.Contains(s, "://") {
		return fmt.Sprintf("%s is a URL; write only host:port, as in matchbox.example.com:%s", printable(s), port)
	}
	h, p, err := net.SplitHostPort(s)
	if err != nil {
		if host(s) == "" {
			return fmt.Sprintf("%s has no port; write %s", printable(s), net.JoinHostPort(s, port))
		}
		return fmt.Sprintf("%s is not host:port; write it like matchbox.example.com:%s", printable(s), port)
	}
	if n, err := strconv.Atoi(p); err != nil || n < 1 || n > 65535 {
		return fmt.Sprintf("%s is not a port; write a number from 1 to 65535, %s by convention", printable(p), port)
	}
	return host(h)
}

// httpURL checks a URL of one of the schemes, without credentials or query.
func httpURL(s string, schemes ...string) string {
	_, authority, ok := strings.Cut(s, "://")
	if !ok {
		authority = s
	}
	authority, _, _ = strings.Cut(authority, "/")
	u, err := url.Parse(s)
	switch {
	case strings.Contains(authority, "@"):
		return "it holds credentials, and everyone who reads this file or boots from this network would have them; leave them out, and change the password"
	case err != nil:
		var cause *url.Error
		if errors.As(err, &cause) {
			err = cause.Err // without the URL, which may hold a password
		}
		return fmt.Sprintf("it is not a URL (%s); write it like %s://matchbox.example.com:8080", printable(err.Error()), schemes[0])
	case !strings.Contains(s, "://") && hostPort(s, "8080") == "":
		return fmt.Sprintf("%s does not begin with %s://; write %s://%s", printable(s), schemes[0], schemes[0], s)
	case u.Hostname() == "" || u.Opaque != "":
		return fmt.Sprintf("%s has no host; write it like %s://matchbox.example.com:8080", printable(s), schemes[0])
	case !slices.Contains(schemes, u.Scheme):
		return fmt.Sprintf("%s does not begin with %s://; write it like %s://%s", printable(s), schemes[0], schemes[0], u.Host)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return fmt.Sprintf("%s goes on after its path; leave the part from ? or # out", printable(s))
	case u.Path != "" && path.Clean(u.Path) != strings.TrimSuffix(u.Path, "/") && u.Path != "/":
		return fmt.Sprintf("the path of %s is not in its shortest form; write %s", printable(s), path.Clean(u.Path))
	case strings.ContainsAny(s, " \t\r\n\"'<>\\^`{|}$;"):
		return fmt.Sprintf("%s has a character that no URL has; write it as %%XX", printable(s))
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.Atoi(p); err != nil || n < 1 || n > 65535 {
			return fmt.Sprintf("%s is not a port; write a number from 1 to 65535", printable(p))
		}
	}
	return host(u.Hostname())
}

// withoutUser is a URL without its credentials.
func withoutUser(s string) string {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		scheme, rest = "", s
	} else {
		scheme += "://"
	}
	authority, path, slash := strings.Cut(rest, "/")
	authority = authority[strings.LastIndex(authority, "@")+1:]
	if slash {
		path = "/" + path
	}
	return scheme + authority + path
}

// labelText checks the key and the value of a Kubernetes label.
func labelText(key, value string) string {
	name := key
	if prefix, rest, found := strings.Cut(key, "/"); found {
		if dnsName(prefix) != "" {
			return fmt.Sprintf("the part before the slash, %s, is not a DNS name", printable(prefix))
		}
		name = rest
	}
	const form = "must be at most 63 letters, digits, -, _ and ., with a letter or digit at each end"
	if len(name) > 63 || !labelName.MatchString(name) {
		return fmt.Sprintf("a label's name %s, and %s is not; change it", form, printable(name))
	}
	if value != "" && (len(value) > 63 || !labelName.MatchString(value)) {
		return fmt.Sprintf("a label's value %s, and %s is not; change it", form, printable(value))
	}
	return ""
}
