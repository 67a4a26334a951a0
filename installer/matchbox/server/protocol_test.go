package server

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	ignitionconfig "github.com/coreos/ignition/v2/config"
	"github.com/google/go-cmp/cmp"
)

// reply is what a request is answered with.
type reply struct {
	status      int
	contentType string
	body        string
	header      string // "Name: value" of one header more
}

// How bodies are compared with matchbox's.
const (
	exactly  = iota
	inLines  // matchbox's lines come in random order
	asConfig // matchbox writes the same Ignition config in another version of the specification
)

const (
	gone     = "404 page not found\n"
	bootP1   = "#!ipxe\nkernel /assets/k a=b coreos.config.url=http://x/ignition?uuid=${uuid}&mac=${mac:hexhyp} console=ttyS0 x\ninitrd /assets/i\ninitrd /assets/j\nboot\n"
	defaults = "B=true\nF=1.5\nHTML=<a&b>\nN=1e+06\nNESTED_A=x\nNESTED_DEEP_Z=1\nPET=dog\n"
	raw3     = `{ "ignition": {"version": "3.1.0"},  "storage":{"files":[{"path":"/a","contents":{"source":"data:,%3Cb%3E"}}]}}` + "\n"
	raw2     = `{ "ignition": {"version": "2.1.0"} }` + "\n"
	// What matchbox makes of a config that it does not understand: nothing, with success.
	empty11 = `{"ignition":{"config":{"replace":{"verification":{}}},"proxy":{},"security":{"tls":{}},"timeouts":{},"version":""},"kernelArguments":{},"passwd":{},"storage":{},"systemd":{}}`
	empty10 = `{"ignition":{"config":{"replace":{"verification":{}}},"proxy":{},"security":{"tls":{}},"timeouts":{}},"kernelArguments":{},"passwd":{},"storage":{},"systemd":{}}`
)

var (
	lost   = reply{404, textPlain, gone, ""}
	p1     = script(bootP1)
	chain9 = script("#!ipxe\nchain ipxe?uuid=${uuid}&mac=${mac:hexhyp}&domain=${domain}&hostname=${hostname}&serial=${serial}\n")
)

func script(body string) reply   { return reply{200, textPlain, body, ""} }
func jsonBody(body string) reply { return reply{200, textJSON, body, ""} }
func lines(body string) reply    { return reply{200, plainText, body, ""} }

// theirs are matchbox's answers where they are not ours, by version ("" for all).
type theirs map[string]reply

// protocol is the HTTP API, one request a row. Where ours is not matchbox's, the row says why.
var protocol = []struct {
	request string
	want    reply
	compare int
	why     string // the answer of matchbox differs
	theirs  theirs
}{
	{request: "/", want: script("matchbox\n")},
	{request: "/nope", want: lost},
	{request: "/healthz", want: lost},
	{request: "/pixiecore/v1/boot/52:54:00:a1:9c:ae", want: lost},
	{request: "/boot.ipxe", want: script(chainScript), why: "arch is sent since 0.11", theirs: theirs{"0.9": chain9, "0.10": chain9}},
	{request: "/boot.ipxe?x=1", want: script(chainScript), why: "arch is sent since 0.11", theirs: theirs{"0.9": chain9, "0.10": chain9}},
	{request: "/boot.ipxe.0", want: script(chainScript), why: "arch is sent since 0.11", theirs: theirs{"0.9": chain9, "0.10": chain9}},
	{request: "/boot.ipxe/", want: lost},
	{request: "//ipxe", want: reply{307, "text/html; charset=utf-8", "<a href=\"/ipxe\">Temporary Redirect</a>.\n\n", "Location: /ipxe"}},

	// Selection.
	{request: "/ipxe", want: p1},
	{request: "POST /ipxe", want: p1},
	{request: "DELETE /ipxe", want: p1},
	{request: "HEAD /ipxe", want: script("")},
	{request: "/ipxe/", want: lost},
	{request: "/metadata?mac=52-54-00-a1-9c-ae", compare: inLines, want: lines("MAC=52:54:00:a1:9c:ae\nREQUEST_QUERY_MAC=52:54:00:a1:9c:ae\nREQUEST_RAW_QUERY=mac=52-54-00-a1-9c-ae\nSSH=key\n")},
	{request: "/metadata?mac=5254.00A1.9cae", compare: inLines, want: lines("MAC=52:54:00:a1:9c:ae\nREQUEST_QUERY_MAC=52:54:00:a1:9c:ae\nREQUEST_RAW_QUERY=mac=5254.00A1.9cae\nSSH=key\n")},
	{request: "/metadata?mac=52:54:00:A1:9C:AE&mac=00:00:00:00:00:01", compare: inLines,
		want: lines("MAC=52:54:00:a1:9c:ae\nREQUEST_QUERY_MAC=52:54:00:a1:9c:ae\nREQUEST_RAW_QUERY=mac=52:54:00:A1:9C:AE&mac=00:00:00:00:00:01\nSSH=key\n")},
	// Keys are compared with their case, so this is the default group; the value is normalised all the same.
	{request: "/metadata?MAC=52-54-00-A1-9C-AE", compare: inLines, want: lines("B=true\nF=1.5\nHTML=<a&b>\nN=1e+06\nNESTED_A=x\nNESTED_DEEP_Z=1\nPET=dog\nREQUEST_QUERY_MAC=52:54:00:a1:9c:ae\nREQUEST_RAW_QUERY=MAC=52-54-00-A1-9C-AE\n")},
	{request: "/metadata?MAC=52:54:00:c3:61:77", compare: inLines, want: lines("MAC=52:54:00:c3:61:77\nREQUEST_QUERY_MAC=52:54:00:c3:61:77\nREQUEST_RAW_QUERY=MAC=52:54:00:c3:61:77\nUPPER=1\n")},
	{request: "/metadata?mac=zz&uuid=ABC", compare: inLines, want: lines(defaults + "REQUEST_QUERY_UUID=ABC\nREQUEST_RAW_QUERY=mac=zz&uuid=ABC\n")},
	{request: "/metadata?mac=", compare: inLines, want: lines(defaults + "REQUEST_RAW_QUERY=mac=\n")},
	{request: "/metadata?mac=02-00-5E-10-00-00-00-01", compare: inLines, want: lines("EUI=64\nMAC=02:00:5e:10:00:00:00:01\nREQUEST_QUERY_MAC=02:00:5e:10:00:00:00:01\nREQUEST_RAW_QUERY=mac=02-00-5E-10-00-00-00-01\n")},
	{request: "/metadata?mac=00-00-00-00-fe-80-00-00-00-00-00-00-02-00-5e-10-00-00-00-01", compare: inLines,
		want: lines("IB=1\nMAC=00:00:00:00:fe:80:00:00:00:00:00:00:02:00:5e:10:00:00:00:01\nREQUEST_QUERY_MAC=00:00:00:00:fe:80:00:00:00:00:00:00:02:00:5e:10:00:00:00:01\n" +
			"REQUEST_RAW_QUERY=mac=00-00-00-00-fe-80-00-00-00-00-00-00-02-00-5e-10-00-00-00-01\n")},
	{request: "/ipxe?mac=52:54:00:b2:2f:86&Os=installed", want: script("#!ipxe\nkernel /k x\ninitrd /i1\ninitrd /i2\nboot\n")},
	{request: "/ipxe?mac=52:54:00:b2:2f:86&os=installed", want: p1},
	// As many selectors: the later in the alphabet. More selectors: those.
	{request: "/metadata?a=1&b=1", compare: inLines, want: lines("B=1\nREQUEST_QUERY_A=1\nREQUEST_QUERY_B=1\nREQUEST_RAW_QUERY=a=1&b=1\n")},
	{request: "/metadata?a=1&b=1&c=1", compare: inLines, want: lines("A=1\nC=1\nREQUEST_QUERY_A=1\nREQUEST_QUERY_B=1\nREQUEST_QUERY_C=1\nREQUEST_RAW_QUERY=a=1&b=1&c=1\n")},
	{request: "/metadata?v=1&w=9&x=1&y=1", compare: inLines,
		want: lines("REQUEST_QUERY_V=1\nREQUEST_QUERY_W=9\nREQUEST_QUERY_X=1\nREQUEST_QUERY_Y=1\nREQUEST_RAW_QUERY=v=1&w=9&x=1&y=1\nX=1\nY=1\n")},
	{request: "/metadata?case=none", compare: inLines, want: lines(defaults + "REQUEST_QUERY_CASE=none\nREQUEST_RAW_QUERY=case=none\n")},
	{request: "/metadata?case=5", compare: inLines, want: lines(defaults + "REQUEST_QUERY_CASE=5\nREQUEST_RAW_QUERY=case=5\n")},
	{request: "/metadata?case=missing", compare: inLines, want: lines("CASE=missing\nREQUEST_QUERY_CASE=missing\nREQUEST_RAW_QUERY=case=missing\n")},
	{request: "/ipxe?case=missing", want: lost},
	{request: "/metadata?case=noprof", compare: inLines, want: lines("CASE=noprof\nREQUEST_QUERY_CASE=noprof\nREQUEST_RAW_QUERY=case=noprof\n")},
	{request: "/ipxe?case=noprof", want: lost},
	{request: "/metadata?case=noid", compare: inLines, want: lines("CASE=noid\nREQUEST_QUERY_CASE=noid\nREQUEST_RAW_QUERY=case=noid\n")},
	{request: "/metadata?case=otherid", compare: inLines, want: lines("CASE=otherid\nREQUEST_QUERY_CASE=otherid\nREQUEST_RAW_QUERY=case=otherid\n")},
	{request: "/metadata?case=null", compare: inLines, want: lines("CASE=null\nREQUEST_QUERY_CASE=null\nREQUEST_RAW_QUERY=case=null\n")},
	{request: "/metadata?case=hidden", compare: inLines, want: lines("CASE=hidden\nREQUEST_QUERY_CASE=hidden\nREQUEST_RAW_QUERY=case=hidden\n")},
	{request: "/ipxe?case=noproid", want: lost},
	{request: "/ipxe?a=1;b=1", want: p1},
	{request: "/ipxe?%zz", want: p1},
	{request: "/ipxe?%zz&case=butane", want: script("#!ipxe\nkernel k\nboot\n")},

	// Metadata.
	{request: "/metadata", compare: inLines, want: lines(defaults + "REQUEST_RAW_QUERY=\n")},
	{request: "/metadata?case=extra", compare: inLines, want: lines("CASE=extra\nREQUEST_QUERY=zz\nREQUEST_QUERY_CASE=extra\nREQUEST_RAW_QUERY=case=extra\nUP=x\nUP=y\n")},
	{request: "/metadata?Case=odd&UPPER=1", compare: inLines,
		want: lines("BIG=1.2345678901234567e+19\nCASE=odd\nE=\nREQUEST_QUERY_CASE=odd\nREQUEST_QUERY_UPPER=1\nREQUEST_RAW_QUERY=Case=odd&UPPER=1\nSP_A B=c=d\nUPPER=1\nX-Y Z=a b\nÉ=ü\n")},
	{request: "/metadata?x=1&X=2", compare: inLines, want: lines(defaults + "REQUEST_QUERY_X=1\nREQUEST_QUERY_X=2\nREQUEST_RAW_QUERY=x=1&X=2\n")},
	{request: "/metadata?a=1&h=x%0aEVIL=1", compare: inLines, want: lines("A=1\nREQUEST_QUERY_A=1\nREQUEST_QUERY_H=x%0aEVIL=1\nREQUEST_RAW_QUERY=a=1&h=x%0aEVIL=1\n"),
		why:    "a query must not add a line to a file that a unit reads its environment from",
		theirs: theirs{"": lines("A=1\nREQUEST_QUERY_A=1\nREQUEST_QUERY_H=x\nEVIL=1\nREQUEST_RAW_QUERY=a=1&h=x%0aEVIL=1\n")}},

	// Boot scripts.
	{request: "/ipxe?case=2x", want: script("#!ipxe\nkernel \nboot\n")},
	{request: "/ipxe?case=raw", want: lost},
	{request: "/ipxe?case=noboot", want: lost},
	{request: "/ipxe?case=inject", want: lost, why: "a line break in an argument is a command of its own",
		theirs: theirs{"": script("#!ipxe\nkernel k a\nshell\nboot\n")}},
	{request: "/grub?mac=52:54:00:b2:2f:86&Os=installed", want: script("default=0\nfallback=1\ntimeout=1\nmenuentry \"CoreOS (EFI)\" {\necho \"Loading kernel\"\nlinuxefi \"/k\" x\n" +
		"echo \"Loading initrd\"\ninitrdefi  \"/i1\" \"/i2\"\n}\nmenuentry \"CoreOS (BIOS)\" {\necho \"Loading kernel\"\nlinux \"/k\" x\necho \"Loading initrd\"\ninitrd  \"/i1\" \"/i2\"\n}\n")},
	{request: "/grub?case=2x", want: script("default=0\nfallback=1\ntimeout=1\nmenuentry \"CoreOS (EFI)\" {\necho \"Loading kernel\"\nlinuxefi \"\"\n" +
		"echo \"Loading initrd\"\ninitrdefi \n}\nmenuentry \"CoreOS (BIOS)\" {\necho \"Loading kernel\"\nlinux \"\"\necho \"Loading initrd\"\ninitrd \n}\n")},
	{request: "/grub?case=missing", want: lost},

	// Ignition.
	{request: "/ignition?case=raw", compare: asConfig, want: jsonBody(raw3)},
	{request: "/ignition?case=nested", compare: asConfig, want: jsonBody(`{"ignition":{"version":"3.0.0"}}`)},
	{request: "/ignition?case=2x", want: jsonBody(raw2), why: "since 0.10 it is served empty, and Container Linux gets nothing",
		theirs: theirs{"0.9": jsonBody(raw2), "0.10": jsonBody(empty10), "0.11": jsonBody(empty11)}},
	{request: "/ignition?case=broken", want: reply{500, textPlain, "broken.ign is not served: it is not an Ignition config: invalid character 'b' after object key\n", ""},
		why:    "a machine that is served an empty config, or a broken one, comes up without its users and units",
		theirs: theirs{"0.9": jsonBody(`{ "ignition" broken`), "0.10": jsonBody(empty10), "0.11": jsonBody(empty11)}},
	{request: "/ignition?case=butane", compare: asConfig, why: "0.9 knows Container Linux Config only, which is gone since 0.10",
		want:   jsonBody(`{"ignition":{"version":"3.3.0"},"passwd":{"users":[{"name":"core","sshAuthorizedKeys":["butane butane case=butane"]}]}}`),
		theirs: theirs{"0.9": jsonBody(`{"ignition":{"config":{},"security":{"tls":{}},"timeouts":{},"version":"2.2.0"},"networkd":{},"passwd":{"users":[{"name":"core","sshAuthorizedKeys":["butane butane case=butane"]}]},"storage":{},"systemd":{}}`)}},
	{request: "/ignition?case=butane&x=%22%0a", compare: asConfig, why: "as above",
		want:   jsonBody(`{"ignition":{"version":"3.3.0"},"passwd":{"users":[{"name":"core","sshAuthorizedKeys":["butane butane case=butane\u0026x=%22%0a"]}]}}`),
		theirs: theirs{"0.9": jsonBody(`{"ignition":{"config":{},"security":{"tls":{}},"timeouts":{},"version":"2.2.0"},"networkd":{},"passwd":{"users":[{"name":"core","sshAuthorizedKeys":["butane butane case=butane\u0026x=%22%0a"]}]},"storage":{},"systemd":{}}`)}},
	{request: "/ignition", compare: asConfig, why: "as above",
		want:   jsonBody(`{"ignition":{"version":"3.3.0"},"storage":{"files":[{"path":"/a","contents":{"compression":"","source":"data:;base64,PGRvZyAmIDFlKzA2Pgo="}}]}}`),
		theirs: theirs{"0.9": lost}},
	{request: "/ignition?case=tmpl", want: lost, why: "0.9 reads it as Container Linux Config",
		theirs: theirs{"0.9": jsonBody(`{"ignition":{"config":{},"security":{"tls":{}},"timeouts":{},"version":"2.2.0"},"networkd":{},"passwd":{"users":[{"name":"tmpl"}]},"storage":{},"systemd":{}}`)}},
	{request: "/ignition?case=yaml", want: lost, why: "0.9 reads it as Container Linux Config",
		theirs: theirs{"0.9": jsonBody(`{"ignition":{"config":{},"security":{"tls":{}},"timeouts":{},"version":"2.2.0"},"networkd":{},"passwd":{"users":[{"name":"core"}]},"storage":{},"systemd":{}}`)}},
	{request: "/ignition?case=empty", want: lost},
	{request: "/ignition?case=nofile", want: lost},
	{request: "/ignition?case=missing", want: lost},

	// Templates.
	{request: "/generic?mac=52-54-00-A1-9C-Af&q=%20a", want: reply{200, textPlain,
		"pet=dog n=1e+06 f=1.5 b=true deep=1 list=a nul=<no value> mac=52:54:00:a1:9c:af rq=mac=52-54-00-A1-9C-Af&q=%20a html=<a&b>\n", "Accept-Ranges: bytes"}},
	{request: "/generic", want: lost},
	{request: "/generic?case=raw", want: script(`{ "a": 1 }`)},
	{request: "/generic?case=tmpl", want: lost},
	{request: "/generic?case=broken", want: lost},
	{request: "/generic?case=empty", want: lost},
	{request: "/generic?case=nofile", want: lost},
	{request: "/generic?case=nested", want: lost, why: "a config's name must not leave its directory",
		theirs: theirs{"": script(raw2)}},
	{request: "Range: bytes=0-2 /generic?case=raw", want: reply{206, textPlain, `{ "`, "Content-Range: bytes 0-2/10"}},
	{request: "/cloud", want: script("#cloud-config\nhostname: dog\n")},
	{request: "/cloud?case=tmpl", want: script("#!/bin/sh\necho tmpl\n")},
	{request: "/cloud?case=empty", want: lost},
	{request: "/cloud?case=nofile", want: lost},

	// No keyring, no signatures.
	{request: "/ipxe.sig", want: lost},
	{request: "/metadata.asc", want: lost},

	// Assets.
	{request: "/assets", want: reply{307, "text/html; charset=utf-8", "<a href=\"/assets/\">Temporary Redirect</a>.\n\n", "Location: /assets/"}},
	{request: "/assets/", want: reply{200, "text/html; charset=utf-8", "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n" +
		"<a href=\".hidden\">.hidden</a>\n<a href=\"coreos/\">coreos/</a>\n<a href=\"hello.txt\">hello.txt</a>\n<a href=\"idx/\">idx/</a>\n<a href=\"sub/\">sub/</a>\n</pre>\n", ""}},
	{request: "/assets/hello.txt", want: reply{200, textPlain, "hello\n", "Accept-Ranges: bytes"}},
	{request: "HEAD /assets/hello.txt", want: reply{200, textPlain, "", "Content-Length: 6"}},
	{request: "POST /assets/hello.txt", want: script("hello\n")},
	{request: "Range: bytes=1-3 /assets/hello.txt", want: reply{206, textPlain, "ell", "Content-Range: bytes 1-3/6"}},
	{request: "Range: bytes=-2 /assets/hello.txt", want: reply{206, textPlain, "o\n", "Content-Range: bytes 4-5/6"}},
	{request: "Range: bytes=9-30 /assets/hello.txt", want: reply{416, textPlain, "invalid range: failed to overlap\n", "Content-Range: bytes */6"}},
	{request: "/assets/sub", want: reply{301, "", "", "Location: sub/"}},
	{request: "/assets/hello.txt/", want: reply{301, "", "", "Location: ../hello.txt"}},
	{request: "/assets/idx/", want: reply{200, "text/html; charset=utf-8", "<p>i\n", ""}},
	{request: "/assets/nope", want: lost},
	{request: "/assets/../groups/m1.json", want: reply{307, "text/html; charset=utf-8", "<a href=\"/groups/m1.json\">Temporary Redirect</a>.\n\n", "Location: /groups/m1.json"}},
	{request: "/assets/..%2fgroups/m1.json", want: lost},
	{request: "/assets/%00", want: lost},
}

func TestProtocol(t *testing.T) {
	dir := writeData(t, protocolData)
	s := start(t, Options{DataPath: dir, AssetsPath: filepath.Join(dir, "assets")})
	h := httptest.NewServer(s.HTTP())
	defer h.Close()
	for _, row := range protocol {
		got := ask(t, h.Listener.Addr().String(), row.request, row.want.header)
		if diff := cmp.Diff(comparable(t, row.want, row.compare, false), comparable(t, got, row.compare, false), cmp.AllowUnexported(reply{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", row.request, diff)
		}
	}
}

// TestProtocolOfMatchbox holds the table against matchbox itself: $MATCHBOX, programs with : between them, or the
// matchbox on the PATH.
func TestProtocolOfMatchbox(t *testing.T) {
	for _, program := range realMatchboxes(t) {
		t.Run(filepath.Base(program), func(t *testing.T) {
			at := runMatchbox(t, program, writeData(t, protocolData))
			version := matchboxVersion(t, at)
			t.Logf("this is matchbox %s", version)
			for _, row := range protocol {
				want, compare := row.want, row.compare
				if other, ok := row.theirs[version]; ok {
					want = other
				} else if other, ok := row.theirs[""]; ok {
					want = other
				}
				if version == "0.9" && compare == asConfig {
					compare = exactly
				}
				got := ask(t, at, row.request, want.header)
				if diff := cmp.Diff(comparable(t, want, compare, true), comparable(t, got, compare, true), cmp.AllowUnexported(reply{})); diff != "" {
					t.Errorf("%s (-want +got):\n%s", row.request, diff)
				}
			}
		})
	}
}

// comparable brings an answer into the form in which it is compared. Our own are compared as they are, but for Butane's.
func comparable(t *testing.T, r reply, how int, matchbox bool) reply {
	t.Helper()
	switch {
	case how == inLines && matchbox:
		// A value may hold a line break: this is about the order only.
		all := strings.SplitAfter(r.body, "\n")
		slices.Sort(all)
		r.body = strings.Join(all, "")
	case how == asConfig && (matchbox || !strings.HasPrefix(r.body, "{ ")):
		parsed, report, err := ignitionconfig.Parse([]byte(r.body))
		if err != nil {
			t.Errorf("not an Ignition config: %v %s\n%s", err, report.String(), r.body)
			return r
		}
		again, err := json.Marshal(parsed)
		if err != nil {
			t.Fatal(err)
		}
		r.body = string(again)
	}
	return r
}

// ask sends "[METHOD ][Name: value ]/path" and does not follow redirects. The path goes out as it is written.
func ask(t *testing.T, address, request, header string) reply {
	t.Helper()
	at := strings.Index(request, "/")
	if name, _, found := strings.Cut(request, ": "); found && !strings.Contains(name, "/") {
		at = strings.Index(request, " /") + 1
	}
	before, target := strings.TrimSpace(request[:at]), request[at:]
	method := http.MethodGet
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+address, nil)
	if err != nil {
		t.Fatal(err)
	}
	if name, value, isHeader := strings.Cut(before, ": "); isHeader {
		req.Header.Set(name, value)
	} else if before != "" {
		req.Method = before
	}
	req.URL.Opaque = "//" + address + target // as it is, no cleaning
	client := &http.Client{
		Timeout:       10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("%s: %v", request, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s: %v", request, err)
	}
	r := reply{status: resp.StatusCode, contentType: resp.Header.Get("Content-Type"), body: string(body)}
	if name, _, _ := strings.Cut(header, ": "); name != "" {
		r.header = name + ": " + resp.Header.Get(name)
	}
	return r
}

// realMatchboxes are the matchbox programs of this machine.
func realMatchboxes(t *testing.T) []string {
	t.Helper()
	if list := os.Getenv("MATCHBOX"); list != "" {
		return filepath.SplitList(list)
	}
	program, err := exec.LookPath("matchbox")
	if err != nil {
		t.Skip("there is no matchbox on the PATH, and $MATCHBOX names none")
	}
	return []string{program}
}

// runMatchbox serves dir with a real matchbox until the test ends, and gives its address.
func runMatchbox(t *testing.T, program, dir string, more ...string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	var log bytes.Buffer
	cmd := exec.Command(program, append([]string{"-address", address, "-data-path", dir, "-assets-path", filepath.Join(dir, "assets")}, more...)...)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		if t.Failed() {
			t.Logf("matchbox said:\n...%s", log.String()[max(0, log.Len()-2000):])
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			tick.Stop()
			return address
		}
		select {
		case <-ended:
			t.Fatalf("matchbox ended:\n%s", log.String())
		case <-ctx.Done():
			t.Fatal("matchbox does not answer")
		case <-tick.C:
		}
	}
}

// matchboxVersion tells by its answers which matchbox this is: builds may not know their own version.
func matchboxVersion(t *testing.T, address string) string {
	t.Helper()
	switch {
	case strings.Contains(ask(t, address, "/boot.ipxe", "").body, "arch="):
		return "0.11"
	case ask(t, address, "/ignition?case=2x", "").body == raw2:
		return "0.9"
	}
	return "0.10"
}
