package cluster

import (
	"strings"
	"testing"
)

func TestParseMAC(t *testing.T) {
	for in, want := range map[string]MAC{
		"52:54:00:a1:9c:ae": "52:54:00:a1:9c:ae", "52-54-00-A1-9C-AE": "52:54:00:a1:9c:ae", "5254.00A1.9cae": "52:54:00:a1:9c:ae", "525400a19cae": "52:54:00:a1:9c:ae",
		"02:00:5e:10:00:00:00:01": "02:00:5e:10:00:00:00:01", "0200.5e10.0000.0001": "02:00:5e:10:00:00:00:01",
		"00:00:00:00:fe:80:00:00:00:00:00:00:02:00:5e:10:00:00:00:01": "00:00:00:00:fe:80:00:00:00:00:00:00:02:00:5e:10:00:00:00:01",
	} {
		if got, err := ParseMAC(in); err != nil || got != want {
			t.Errorf("ParseMAC(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"", "52:54:00:a1:9c", "52:54:00:a1:9c:ag", "52:54-00:a1:9c:ae", "5254:00a1:9cae", "52540a19cae", " 52:54:00:a1:9c:ae", "52:54:00:a1:9c:ae:00", "…"} {
		if got, err := ParseMAC(in); err == nil {
			t.Errorf("ParseMAC(%q) = %q", in, got)
		}
	}
}

func TestBytes(t *testing.T) {
	for in, want := range map[string]Bytes{
		"0": 0, "1": 1, "8GB": 8e9, "8GiB": 8 << 30, "8Gi": 8 << 30, "8G": 8e9, "30 GB": 30e9, "512M": 512e6, "4KB": 4000, "4kB": 4000, "4KiB": 4096, "2TB": 2e12, "1Ti": 1 << 40, "7B": 7,
	} {
		if got, err := ParseBytes(in); err != nil || got != want {
			t.Errorf("ParseBytes(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "B", "GB", "-1", "-8GB", "1.5GB", "8 gigs", "8gb", "9999999999999TB", "0x10", "1e9"} {
		if got, err := ParseBytes(in); err == nil {
			t.Errorf("ParseBytes(%q) = %d", in, got)
		}
	}
	for in, want := range map[Bytes]string{0: "0B", 7: "7B", 8e9: "8GB", 30e9: "30GB", 8 << 30: "8GiB", 100e9: "100GB", 1 << 40: "1TiB", 1000: "1kB", 1024: "1KiB", 123456789: "123456789B"} {
		got := in.String()
		if got != want {
			t.Errorf("Bytes(%d).String() = %q, want %q", in, got, want)
		}
		if back, err := ParseBytes(got); err != nil || back != in {
			t.Errorf("ParseBytes(%q) = %d, %v; want %d", got, back, err, in)
		}
	}
}

func FuzzParseMAC(f *testing.F) {
	for _, s := range []string{"52:54:00:a1:9c:ae", "5254.00A1.9cae", "525400a19cae", "52-54-00-A1-9C-AE-00-01", "", ":", "0.0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		mac, err := ParseMAC(s)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r\x1b\x00") {
				t.Errorf("the error for %q has a control character", s)
			}
			return
		}
		// The form is one that reads back as itself, and says what was written.
		again, err := ParseMAC(string(mac))
		if err != nil || again != mac {
			t.Errorf("%q became %q, which becomes %q, %v", s, mac, again, err)
		}
		plain := strings.NewReplacer(":", "", "-", "", ".", "")
		if plain.Replace(strings.ToLower(s)) != plain.Replace(string(mac)) {
			t.Errorf("%q became %q", s, mac)
		}
	})
}

func FuzzParseBytes(f *testing.F) {
	for _, s := range []string{"8GB", "8GiB", "1", " 3 k", "+5Ti"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b, err := ParseBytes(s)
		if err != nil {
			return
		}
		if back, err := ParseBytes(b.String()); b < 0 || err != nil || back != b {
			t.Errorf("%q is %d, written %q, read %d, %v", s, b, b, back, err)
		}
	})
}
