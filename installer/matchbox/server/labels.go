package server

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// labels are what a request says of its machine: every query parameter, its first value only. The key "mac" in any case
// is held in lower-case colon form, and left out when it is no MAC address. Keys keep their case.
//
// A value may end in a script or a config, so what could end a line there (control characters, line separators, bytes
// that are no UTF-8) is percent-encoded. matchbox passes it on as it came.
func labels(r *http.Request) map[string]string {
	found := map[string]string{}
	// As url.ParseQuery, without a list for each key: pairs that are not well-formed are dropped.
	for rest := r.URL.RawQuery; rest != ""; {
		var term string
		term, rest, _ = strings.Cut(rest, "&")
		if term == "" || strings.Contains(term, ";") {
			continue
		}
		key, value, _ := strings.Cut(term, "=")
		key, keyErr := url.QueryUnescape(key)
		value, valueErr := url.QueryUnescape(value)
		if keyErr != nil || valueErr != nil {
			continue
		}
		if _, more := found[key]; !more {
			found[key] = value
		}
	}
	return clean(found)
}

// clean makes labels of what was given, in place.
func clean(given map[string]string) map[string]string {
	for key, value := range given {
		cleaned := oneLine(value)
		if isMAC(key) {
			mac, err := parseMAC(value)
			if err != nil {
				delete(given, key)
				continue
			}
			cleaned = mac
		}
		if name := oneLine(key); name != key {
			delete(given, key)
			given[name] = cleaned
		} else if cleaned != value {
			given[key] = cleaned
		}
	}
	return given
}

// isMAC says whether the values of this label or selector are compared as MAC addresses.
func isMAC(key string) bool { return len(key) == 3 && strings.EqualFold(key, "mac") }

// parseMAC gives the lower-case colon form of an EUI-48, EUI-64 or 20-octet IP over InfiniBand address in any notation
// that net.ParseMAC reads.
func parseMAC(s string) (string, error) {
	mac, err := net.ParseMAC(s)
	if err != nil {
		return "", fmt.Errorf("%q is not a MAC address", s)
	}
	return mac.String(), nil
}

// oneLine percent-encodes what could end a line in a script, YAML or an environment file.
func oneLine(s string) string {
	if plain(s) || !strings.ContainsFunc(s, endsLine) && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		if endsLine(r) || r == utf8.RuneError && size == 1 {
			for _, c := range []byte(s[i : i+size]) {
				fmt.Fprintf(&b, "%%%02x", c)
			}
		} else {
			b.WriteString(s[i : i+size])
		}
		i += size
	}
	return b.String()
}

// plain says whether s is printable ASCII, as almost all is.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func endsLine(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' }

// machineAddress is the MAC that a request names, empty when it names none.
func machineAddress(labels map[string]string) string {
	if mac, ok := labels["mac"]; ok {
		return mac
	}
	for key, value := range labels {
		if isMAC(key) {
			return value
		}
	}
	return ""
}

// rawQuery is the query as it was sent, for templates. net/http refuses a request whose query has control characters; a
// handler that is called by other means must not open that door.
func rawQuery(u *url.URL) string { return oneLine(u.RawQuery) }
