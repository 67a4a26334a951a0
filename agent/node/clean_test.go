package node

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestRetryAfter(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "7": 7 * time.Second, "-3": 0, "x": 0, strconv.Itoa(1 << 40): 24 * time.Hour,
		now.Add(time.Minute).UTC().Format(http.TimeFormat): time.Minute, now.Add(-time.Minute).UTC().Format(http.TimeFormat): 0,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("%q: got %v, want %v", value, got, want)
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                        "plain",
		" a \t\n b ":                   "a b",
		"\x1b[31mred\x1b[0m":           "[31mred [0m",
		"a\u202eb\u2066c":              "a b c",
		"bad \xff\xfe utf-8":           "bad utf-8",
		"ü€漢":                          "ü€漢",
		"\x00\x07":                     "",
		"a\r\nSet-Cookie: x":           "a Set-Cookie: x",
		strings.Repeat("x", maxText+1): strings.Repeat("x", maxText) + "…",
	} {
		if got := clean(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("a\x1b[31m\u202e\xff\n")
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(s)
		if strings.ContainsFunc(got, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u202e' || r == '\u2028' }) || len([]rune(got)) > maxText+2 {
			t.Fatalf("%q becomes %q", s, got)
		}
	})
}
