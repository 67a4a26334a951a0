package server

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/rpcpb"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/serverpb"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/storagepb"
)

func TestExplain(t *testing.T) {
	s := start(t, Options{DataPath: writeData(t, map[string]string{
		"groups/default.json":   `{"id":"default","profile":"p"}`,
		"groups/m.json":         `{"id":"m","profile":"p","selector":{"mac":"52:54:00:00:00:01"}}`,
		"groups/typo.json":      `{"id":"typo","profile":"p","selector":{"mac":"52:54:00:00:00:11"}}`,
		"groups/stranger.json":  `{"id":"stranger","profile":"p","selector":{"mac":"02:aa:bb:cc:dd:ee"}}`,
		"groups/installed.json": `{"id":"installed","profile":"gone","selector":{"mac":"52:54:00:00:00:01","os":"installed"}}`,
		"groups/upper.json":     `{"id":"upper","profile":"p","selector":{"OS":"installed"}}`,
		"groups/tie.json":       `{"id":"tie","profile":"p","selector":{"arch":"x86_64"}}`,
		"groups/twin.json":      `{"id":"twin","profile":"p","selector":{"mac":"52-54-00-00-00-01"}}`,
		"groups/bad.json":       `{"id":"bad","profile":"p","selector":{"mac":"zz"}}`,
		"profiles/p.json":       `{"id":"p","boot":{"kernel":"/k"},"ignition_id":"broken.ign","generic_id":"nothere"}`,
		"ignition/broken.ign":   `{`,
	})})
	got := s.Explain(map[string]string{"mac": "52-54-00-00-00-01", "arch": "x86_64"}).String()
	want := `labels: arch=x86_64 mac=52:54:00:00:00:01
group m, profile p
  /generic: nothere (does not exist)
  /ignition: broken.ign (is refused: it is not an Ignition config: unexpected end of JSON input)
  /ipxe, /grub: kernel /k
groups that match:
  m (mac=52:54:00:00:00:01): chosen: every selector equals a label
  twin (mac=52:54:00:00:00:01): fits with the same selectors as m, which is first by name; matchbox may choose either
  tie (arch=x86_64): fits with as many selectors as m, whose "mac=52:54:00:00:00:01" comes later in the alphabet than "arch=x86_64"
  default (none): fits, but m has more selectors (1, not 0)
groups that nearly match:
  typo: wants mac=52:54:00:00:00:11, 1 digits off from 52:54:00:00:00:01
  installed: wants os=installed, which the machine does not say
files that are not served:
  groups/bad.json: has the selector mac: "zz" is not a MAC address
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	e := s.Explain(map[string]string{"mac": "zz", "os": "installed"})
	if e.Group != "default" || !strings.Contains(e.String(), "ignored: mac=zz: not a MAC address") ||
		!strings.Contains(e.String(), "upper: wants OS=installed, the machine says os=installed: keys are compared with their case") {
		t.Errorf("a bad MAC and a key in the wrong case:\n%s", e)
	}
	if e := s.Explain(map[string]string{"mac": "52:54:00:00:00:01", "os": "installed"}); !e.ProfileMissing || !strings.Contains(e.String(), "its profile gone does not exist") {
		t.Errorf("a profile that is missing:\n%s", e)
	}
	empty := start(t, Options{DataPath: writeData(t, nil)})
	if e := empty.Explain(nil); e.Group != "" || !strings.Contains(e.String(), "no group matches") {
		t.Errorf("nothing at all:\n%s", e)
	}
}

func TestLogAndMetrics(t *testing.T) {
	var log strings.Builder
	dir := writeData(t, protocolData)
	s := start(t, Options{DataPath: dir, AssetsPath: filepath.Join(dir, "assets"), Log: slog.New(slog.NewTextHandler(&log, nil))})
	h := httptest.NewServer(s.HTTP())
	at := h.Listener.Addr().String()
	for _, request := range []string{"/ipxe?mac=52-54-00-a1-9c-ae&x=%0aforged", "/ignition?case=broken", "/ignition?case=tmpl", "/assets/hello.txt"} {
		ask(t, at, request, "")
	}
	metrics := ask(t, at, "/metrics", "").body
	h.Close()
	for _, want := range []string{
		"path=/ipxe status=200", "mac=52:54:00:a1:9c:ae group=m1 profile=p1",
		`problem="broken.ign is not served`, `problem="cannot translate raw.tmpl: error parsing variant; must be specified`, "path=/assets/hello.txt status=200 bytes=6",
		"file=groups/bad-mac.json problem=",
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, log.String())
		}
	}
	if strings.Contains(log.String(), "forged") || strings.Contains(log.String(), "\nforged") {
		t.Errorf("the query is in the log:\n%s", log.String())
	}
	for _, want := range []string{
		`matchbox_http_requests_total{code="200",endpoint="ipxe"} 1`, `matchbox_http_requests_total{code="500",endpoint="ignition"} 1`,
		`matchbox_http_requests_total{code="404",endpoint="ignition"} 1`, `matchbox_http_requests_total{code="200",endpoint="assets"} 1`,
		`matchbox_objects{kind="profiles"} 12`, `matchbox_problems 9`, "go_goroutines",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	dir := writeData(t, map[string]string{"file": ""})
	for _, c := range []struct {
		name    string
		options Options
		want    string
	}{
		{"no data directory", Options{DataPath: filepath.Join(dir, "nothere")}, "--data-path"},
		{"a file", Options{DataPath: filepath.Join(dir, "file")}, "not a directory"},
		{"no assets", Options{DataPath: dir, AssetsPath: filepath.Join(dir, "nothere")}, `--assets-path ""`},
	} {
		if _, err := New(c.options); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// TestMatchboxServesOurFiles writes through our API and has matchbox serve the directory: the answers are the same.
func TestMatchboxServesOurFiles(t *testing.T) {
	for _, program := range realMatchboxes(t) {
		dir := writeData(t, nil)
		s := start(t, Options{DataPath: dir, AssetsPath: filepath.Join(dir, "assets")})
		c := operator(t, s)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if _, err := rpcpb.NewGenericClient(c).GenericPut(ctx, &serverpb.GenericPutRequest{Name: "g", Config: []byte("{{.a}} <{{.request.query.uuid}}>\n")}); err != nil {
			t.Fatal(err)
		}
		if _, err := rpcpb.NewProfilesClient(c).ProfilePut(ctx, &serverpb.ProfilePutRequest{Profile: &storagepb.Profile{
			Id: "p", Name: "<P&>", GenericId: "g", Boot: &storagepb.NetBoot{Kernel: "/k", Initrd: []string{"/i", "/j"}, Args: []string{"a=<b>&c", "x"}}}}); err != nil {
			t.Fatal(err)
		}
		if _, err := rpcpb.NewGroupsClient(c).GroupPut(ctx, &serverpb.GroupPutRequest{Group: &storagepb.Group{
			Id: "g", Profile: "p", Selector: map[string]string{"mac": "52-54-00-A1-9C-AE"}, Metadata: []byte(`{"a":"<b>&","n":{"x":1}}`)}}); err != nil {
			t.Fatal(err)
		}
		h := httptest.NewServer(s.HTTP())
		theirs := runMatchbox(t, program, dir)
		for _, path := range []string{"/ipxe", "/grub", "/generic", "/metadata"} {
			request := path + "?mac=52:54:00:a1:9c:ae&uuid=u"
			want, got := ask(t, theirs, request, ""), ask(t, h.Listener.Addr().String(), request, "")
			if diff := cmp.Diff(comparable(t, want, inLines, true), comparable(t, got, inLines, true), cmp.AllowUnexported(reply{})); diff != "" || got.status != 200 {
				t.Errorf("%s (-matchbox +ours):\n%s", path, diff)
			}
		}
		h.Close()
	}
}
