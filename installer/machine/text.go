package machine

import (
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxMessage bounds an event's message and a reason, in bytes.
const maxMessage = 500

// oneLine makes text from a machine or a log fit to be printed on a terminal: control and format characters (which
// reverse or hide text) are escaped, tokens are taken out, and what is longer than max bytes is cut.
func oneLine(s string, max int) string {
	s = tokenShape.ReplaceAllString(s, "[token]")
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		part := s[i : i+n]
		switch {
		case r == utf8.RuneError && n <= 1:
			part = fmt.Sprintf(`\x%02x`, s[i])
		case unicode.Is(unicode.C, r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r):
			part = fmt.Sprintf("%q", r)
			part = part[1 : len(part)-1]
		}
		if b.Len()+len(part) > max-len("…") {
			b.WriteString("…")
			break
		}
		b.WriteString(part)
		i += n
	}
	return b.String()
}

// ParseMAC gives a MAC address (EUI-48) in lower-case colon form. It reads colons, hyphens, Cisco's dots and bare
// digits, as iPXE and people write them.
func ParseMAC(s string) (string, error) {
	bad := func() (string, error) {
		return "", refuse(ErrInvalid, "%q is no MAC address: write it as 52:54:00:a1:9c:ae", oneLine(s, 64))
	}
	var digits string
	switch {
	case len(s) == 17 && (strings.Count(s, ":") == 5 || strings.Count(s, "-") == 5):
		for i := 2; i < len(s); i += 3 {
			if s[i] != s[2] {
				return bad()
			}
		}
		digits = strings.ReplaceAll(s, s[2:3], "")
	case len(s) == 14 && s[4] == '.' && s[9] == '.':
		digits = strings.ReplaceAll(s, ".", "")
	case len(s) == 12:
		digits = s
	}
	raw, err := hex.DecodeString(digits)
	if err != nil || len(raw) != 6 {
		return bad()
	}
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", raw[0], raw[1], raw[2], raw[3], raw[4], raw[5]), nil
}

// nameShape is a DNS label or several (RFC 1123): also a safe file name, and never a MAC address with colons.
var nameShape = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)

func checkName(name string) error {
	if len(name) > 200 || !nameShape.MatchString(name) {
		return refuse(ErrInvalid, "%q is no machine's name: use lower-case letters, digits, hyphens and dots (RFC 1123)", oneLine(name, 64))
	}
	return nil
}
