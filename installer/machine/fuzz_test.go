package machine

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
)

var colonForm = regexp.MustCompile(`^([0-9a-f]{2}:){5}[0-9a-f]{2}$`)

func FuzzParseMAC(f *testing.F) {
	for _, s := range []string{macA, "52-54-00-A1-9C-AE", "5254.00a1.9cae", "525400A19CAE", "52:54-00:a1:9c:ae", "", "52:54:00:a1:9c", "52:54:00:a1:9c:ae:00", "::::::::::::::::"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		mac, err := ParseMAC(s)
		if err != nil {
			return
		}
		if !colonForm.MatchString(mac) {
			t.Fatalf("%q gives %q", s, mac)
		}
		digits := strings.ToLower(strings.Map(func(r rune) rune {
			if strings.ContainsRune(":-.", r) {
				return -1
			}
			return r
		}, s))
		if digits != strings.ReplaceAll(mac, ":", "") {
			t.Fatalf("%q gives %q", s, mac)
		}
		if again, err := ParseMAC(mac); err != nil || again != mac {
			t.Fatalf("%q gives %q, %v", mac, again, err)
		}
	})
}

func FuzzOneLine(f *testing.F) {
	f.Add("plain")
	f.Add("\x1b[2J\n\u202e\xff")
	f.Add(strings.Repeat("é", 600))
	f.Fuzz(func(t *testing.T, s string) {
		got := oneLine(s, maxMessage)
		if len(got) > maxMessage || strings.ContainsFunc(got, func(r rune) bool {
			return r < ' ' || r == 0x7f || r == '\u202e' || r == '\ufffd' && !strings.Contains(s, "\ufffd")
		}) {
			t.Fatalf("%q gives %q", s, got)
		}
	})
}

// Whatever is in a journal's last lines, reading it ends, and what is good is good again.
func FuzzReadFrames(f *testing.F) {
	one, err := encodeFrame([]record{{Key: "n1", Entry: &entry{State: Armed}, Event: &Event{Seq: 7, Kind: "arm"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(one)
	f.Add(append(bytes.Clone(one), one[:len(one)/2]...))
	f.Add([]byte("00000000 []\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		n := 0
		good, err := readFrames(bytes.NewReader(text), func(record) error { n++; return nil })
		if good < 0 || good > int64(len(text)) {
			t.Fatalf("%d of %d bytes are good", good, len(text))
		}
		if err != nil {
			return
		}
		m := 0
		again, err := readFrames(bytes.NewReader(text[:good]), func(record) error { m++; return nil })
		if err != nil || again != good || m != n {
			t.Fatalf("%d bytes and %d records, then %d and %d, %v", good, n, again, m, err)
		}
	})
}
