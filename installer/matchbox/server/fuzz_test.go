package server

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tectonic-worker/tectonic-worker/installer/matchbox"
)

// FuzzQuery sends any query to every endpoint. What comes back may hold what was asked, but never a line that the query
// made; and the labels are those of net/url.
func FuzzQuery(f *testing.F) {
	for _, q := range []string{
		"mac=52-54-00-a1-9c-ae&hostname=node%0ashell", "mac=zz", "mac=&MAC=52:54:00:a1:9c:ae", "hostname=%0d%0ashell&x=%e2%80%a8", "a=1;b=2", "%zz=1&case=tmpl",
		"h=%ff%fe", "=&&=&a=b=c", "case=butane&h=%22%0a- x", "%0a=%0a", "a=1&a=2", "mac=52:54:00:a1:9c:ae%0a",
	} {
		f.Add(q)
	}
	files := map[string]string{
		"groups/default.json": `{"id":"default","profile":"p","metadata":{"a":"b"}}`,
		"profiles/p.json":     `{"id":"p","boot":{"kernel":"/k","args":["a"]},"generic_id":"g","ignition_id":"i.yaml"}`,
		"generic/g":           "all={{range $k, $v := .request.query}}{{$k}}={{$v}} {{end}}raw={{.request.raw_query}}\n",
		"ignition/i.yaml":     "variant: fcos\nversion: 1.4.0\nstorage:\n  files:\n  - path: /a\n    contents:\n      inline: |\n        {{.request.raw_query}}\n",
	}
	dir := writeData(f, files)
	s := start(f, Options{DataPath: dir, AssetsPath: filepath.Join(dir, "assets")})
	h := s.HTTP()
	f.Fuzz(func(t *testing.T, query string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.URL.RawQuery = query
		want := map[string]string{}
		parsed, _ := url.ParseQuery(query)
		for key, values := range parsed {
			want[key] = values[0]
		}
		found := labels(r)
		for key, value := range found {
			if strings.ContainsFunc(key+value, endsLine) || !utf8.ValidString(key+value) {
				t.Errorf("the label %q=%q is more than a line", key, value)
			}
			if given, has := want[key]; has && plain(given) && !isMAC(key) && given != value {
				t.Errorf("the label %q is %q, the query says %q", key, value, given)
			}
		}
		for key := range want {
			if _, has := found[oneLine(key)]; !has && !isMAC(key) {
				t.Errorf("the label %q is lost", key)
			}
		}
		bodies := map[string]string{}
		for _, path := range []string{"/ipxe", "/grub", "/metadata", "/generic", "/boot.ipxe", "/ignition", "/cloud"} {
			r := httptest.NewRequest(http.MethodGet, path, nil)
			r.URL.RawQuery = query
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			if rec.Code >= 500 {
				t.Errorf("%s answers %d: %s", path, rec.Code, rec.Body)
			}
			bodies[path] = rec.Body.String()
		}
		if want := "#!ipxe\nkernel /k a\nboot\n"; bodies["/ipxe"] != want {
			t.Errorf("/ipxe is %q, want %q", bodies["/ipxe"], want)
		}
		if bodies["/boot.ipxe"] != chainScript {
			t.Errorf("/boot.ipxe is %q", bodies["/boot.ipxe"])
		}
		if n := strings.Count(bodies["/generic"], "\n"); n != 1 {
			t.Errorf("the template became %d lines: %q", n, bodies["/generic"])
		}
		// A line of metadata for each label, one for the query as a whole, one for the group's own.
		got := strings.FieldsFunc(bodies["/metadata"], func(r rune) bool { return r == '\n' || r == '\r' || endsLine(r) })
		if len(got) != len(found)+2 || !slices.ContainsFunc(got, func(l string) bool { return l == "A=b" }) {
			t.Errorf("%d lines of metadata for %d labels: %q", len(got), len(found), bodies["/metadata"])
		}
	})
}

// FuzzGroup reads any text as a group's file: no crash, and what is accepted survives being written and read.
func FuzzGroup(f *testing.F) {
	for name, text := range protocolData {
		if strings.HasPrefix(name, "groups/") {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		g, err := readGroup("id", []byte(text))
		if err != nil {
			return
		}
		x := newIndex()
		x.putGroup("id", g)
		if chosen, _ := x.choose(g.wire().Selector); chosen != g {
			t.Errorf("a group does not match its own selector %v", g.wire().Selector)
		}
		g.metadataBody(nil, "")
		again, err := newGroup(g.wire())
		if err != nil || again.order() != g.order() || again.profile != g.profile {
			t.Errorf("read again: %v, %q %q", err, again.order(), g.order())
		}
		x.putGroup("id", nil)
		if len(x.sets)+len(x.wanted)+len(x.shapes)+len(x.groups) != 0 {
			t.Error("a deleted group is still in the index")
		}
	})
}

// FuzzMAC: what is accepted is a MAC in one spelling, the same when it is read again.
func FuzzMAC(f *testing.F) {
	for _, s := range []string{"52:54:00:a1:9c:ae", "52-54-00-A1-9C-AE", "5254.00a1.9cae", "zz", "", "00-00-00-00-fe-80-00-00-00-00-00-00-02-00-5e-10-00-00-00-01", "52:54:00:a1:9c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		mac, err := parseMAC(s)
		if err != nil {
			return
		}
		again, err := parseMAC(mac)
		if err != nil || again != mac || mac != strings.ToLower(mac) || strings.Trim(mac, "0123456789abcdef:") != "" {
			t.Errorf("%q became %q and then %q: %v", s, mac, again, err)
		}
	})
}

// FuzzBoot makes scripts of any profile that is accepted: they have the lines that they must have, and no more.
func FuzzBoot(f *testing.F) {
	f.Add("/k", "/i", "a=${mac:hexhyp}", "token=x")
	f.Add("/k\nshell", "/i\r", "a\x00b", "x y")
	f.Fuzz(func(t *testing.T, kernel, initrd, arg, more string) {
		p, err := newProfile(matchbox.Profile{ID: "p", Boot: matchbox.NetBoot{Kernel: kernel, Initrd: []string{initrd}, Args: []string{arg}}}, true)
		if err != nil {
			return
		}
		script := string(p.ipxe)
		if checkArgs([]string{more}) == nil {
			script = string(ipxeScript(p.Boot, []string{more}))
		}
		if n := strings.Count(script, "\n"); n != 4 || strings.Contains(script, "\r") {
			t.Errorf("a script of %d lines: %q", n, script)
		}
	})
}

// FuzzIgnition checks any text as an Ignition config: no crash, and a refusal that is one bounded line.
func FuzzIgnition(f *testing.F) {
	for _, s := range []string{raw3, raw2, `{`, `{"ignition":{"version":"3.9.0"}}`, `{"ignitionVersion":1}`, `{"ignition":{"version":"3.0.0"},"storage":{"files":[{"path":"a"}]}}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if err := checkIgnition([]byte(s)); err != nil && (len(err.Error()) > 600 || strings.ContainsFunc(err.Error(), endsLine)) {
			t.Errorf("refused in %d bytes: %q", len(err.Error()), err)
		}
	})
}
