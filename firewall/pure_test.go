package firewall

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestGaps(t *testing.T) {
	for _, row := range []struct {
		want string
		open string
		gaps string
	}{
		{"10", "", "10"},
		{"10", "10", ""},
		{"10", "1-20", ""},
		{"10-20", "10-15 16-20", ""},
		{"10-20", "1-9 21-30", "10-20"},
		{"10-20", "12 14-16", "10-11 13 17-20"},
		{"10-20", "5-12 11-13 20-30", "14-19"},
		{"1-65535", "1 65535", "2-65534"},
		{"10-20", "10-20 12-14", ""},
		{"10-20", "http 15", "10-14 16-20"},
	} {
		entries := func(s string) (ports []Port) {
			for _, p := range strings.Fields(s) {
				ports = append(ports, Port{p, "tcp"})
			}
			return ports
		}
		s, err := Port{row.want, "tcp"}.check()
		if err != nil {
			t.Fatal(err)
		}
		var got []Port
		for _, g := range gaps(s, spansOf(append(entries(row.open), Port{"1-65535", "udp"}), "tcp")) {
			got = append(got, g.port("tcp"))
		}
		if diff := cmp.Diff(entries(row.gaps), got); diff != "" {
			t.Errorf("gaps of %s in %q (-want +got):\n%s", row.want, row.open, diff)
		}
	}
}

// FuzzGaps compares with counting every port: nothing that is open is opened again, everything else is.
func FuzzGaps(f *testing.F) {
	f.Add("10-20", "12 14-16 18-99")
	f.Add("1-65535", "1 65535")
	f.Add("7", "")
	f.Fuzz(func(t *testing.T, port, open string) {
		s, err := Port{port, "tcp"}.check()
		if err != nil {
			return
		}
		var entries []Port
		for _, e := range strings.Fields(open) {
			entries = append(entries, Port{e, "tcp"})
		}
		spans := spansOf(entries, "tcp")
		count := make([]int, 65536)
		for _, o := range spans {
			for p := o.lo; p <= o.hi; p++ {
				count[p] = 1
			}
		}
		for _, g := range gaps(s, spans) {
			if g.lo > g.hi {
				t.Fatalf("gap %v", g)
			}
			for p := g.lo; p <= g.hi; p++ {
				count[p] += 2
			}
		}
		for p := 1; p <= 65535; p++ {
			switch inside := s.lo <= p && p <= s.hi; {
			case inside && count[p] != 1 && count[p] != 2, !inside && count[p] > 1:
				t.Fatalf("port %d of %s with %q open: %d", p, port, open, count[p])
			}
		}
	})
}

// FuzzParseException: any text gives a code that is shaped like one, loses nothing, and makes a bounded one-line sentence.
func FuzzParseException(f *testing.F) {
	for _, text := range []string{
		"ALREADY_ENABLED: '10250:tcp' already in 'public'", "PANIC_MODE", "", ":", "KeyError: 'x'", "INVALID_ZONE:\n", "A_B:C_D: e",
		"COMMAND_FAILED: '/usr/sbin/iptables-restore -w -n' failed: \xff\xfe", strings.Repeat("é", 400),
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		code, detail := parseException(text)
		if code != CodeUnknown && !codeShape.MatchString(string(code)) {
			t.Errorf("code %q of %q", code, text)
		}
		if code != CodeUnknown && !strings.HasPrefix(text, string(code)) || !strings.Contains(text, detail) {
			t.Errorf("%q became %q and %q", text, code, detail)
		}
		why, remedy := explain(code, detail)
		if why == "" {
			t.Errorf("no sentence for %q", text)
		}
		e := &Error{Code: code, Op: "open", Zone: "public", Port: kubelet, Message: why, Remedy: remedy}
		if s := e.Error(); strings.Contains(s, "\n") || len(s) > 800 || utf8.ValidString(text) && !utf8.ValidString(s) {
			t.Errorf("the sentence for %q is %q", text, s)
		}
	})
}

// Every code of firewalld's errors.py has two words at least, which is how a code is told from "KeyError: …".
func TestCodeShape(t *testing.T) {
	for _, code := range []Code{
		CodeAlreadyEnabled, CodeNotEnabled, CodeCommandFailed, CodePanic, CodeAccessDenied, CodeInvalidPort, CodeInvalidZone,
		CodeFailed, CodeNotRunning, CodeNotAuthorized, CodeUnknown, "RT_TO_PERM_FAILED", "ZONE_ALREADY_SET",
	} {
		if got, _ := parseException(string(code) + ": x"); got != code {
			t.Errorf("%s is read as %s", code, got)
		}
	}
	for _, text := range []string{"ERROR: x", "org.freedesktop.DBus.Error.Failed: x", "'x': y", "a_b: c", "_A: x", "A_: x"} {
		if got, _ := parseException(text); got != CodeUnknown {
			t.Errorf("%q is read as %s", text, got)
		}
	}
}
