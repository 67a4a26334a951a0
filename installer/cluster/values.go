package cluster

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// MAC is an EUI-48, EUI-64 or 20-octet IPoIB address in lower-case colon form.
type MAC string

// ParseMAC takes colons, hyphens, dots or nothing between the digits, in any case.
func ParseMAC(s string) (MAC, error) {
	plain := s
	if !strings.ContainsAny(s, ":-.") && len(s)%2 == 0 {
		var pairs []string
		for i := 0; i < len(s); i += 2 {
			pairs = append(pairs, s[i:i+2])
		}
		plain = strings.Join(pairs, ":")
	}
	hw, err := net.ParseMAC(plain)
	if err != nil {
		return "", fmt.Errorf("%q is not a MAC address; write it like 52:54:00:a1:9c:ae", s)
	}
	return MAC(hw.String()), nil
}

// Bytes is a size.
type Bytes int64

var suffixes = []struct {
	suffix string
	factor int64
}{
	{"Ti", 1 << 40}, {"Gi", 1 << 30}, {"Mi", 1 << 20}, {"Ki", 1 << 10},
	{"T", 1e12}, {"G", 1e9}, {"M", 1e6}, {"k", 1e3}, {"K", 1e3}, {"", 1},
}

// ParseBytes takes "8Gi", "8GiB", "30GB", "30G" or plain bytes.
func ParseBytes(s string) (Bytes, error) {
	text := strings.TrimSuffix(strings.TrimSpace(s), "B")
	for _, x := range suffixes {
		digits, ok := strings.CutSuffix(text, x.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || n < 0 || n > (1<<62)/x.factor {
			break
		}
		return Bytes(n * x.factor), nil
	}
	return 0, fmt.Errorf("%q is not a size; write it like 30GB or 8GiB", s)
}

// String is the shortest exact form.
func (b Bytes) String() string {
	best := ""
	for _, x := range suffixes {
		if x.suffix == "K" || int64(b)%x.factor != 0 {
			continue
		}
		if s := strconv.FormatInt(int64(b)/x.factor, 10) + x.suffix + "B"; best == "" || len(s) < len(best) {
			best = s
		}
	}
	return best
}
