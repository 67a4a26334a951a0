package api

import (
	"encoding/json"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"crypto/tls"
	"crypto/x509"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

func netipFrom(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
}

// Whatever is sent, the handler answers with a status of its own, JSON, no token and no control character, and no
// machine that was not armed gets an installer.
func FuzzHandler(f *testing.F) {
	store, err := machine.Open(f.TempDir(), machine.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = store.Close() })
	h := Handler(store, Options{})
	alice := &x509.Certificate{}
	seed := func(method, path, token, body string) { f.Add(method, path, token, []byte(body), true) }
	text, err := json.Marshal(definition("n1", mac))
	if err != nil {
		f.Fatal(err)
	}
	seed("PUT", pathMachines+"/n1", "", string(text))
	for _, p := range []string{machine.PathHello, machine.PathChecks, machine.PathClaim, machine.PathProgress, machine.PathInstalled, machine.PathFailed, machine.PathReady} {
		seed("POST", p, "$", `{"mac":"`+mac+`","checks":[{"name":"disk","ok":true}],"stage":"write","percent":3,"reason":"x"}`)
	}
	for _, p := range []string{"/n1", "/n1/timeline", "", "/..%2f..%2fetc", "/%00", "/525400a19cae"} {
		seed("GET", pathMachines+p, "", "")
	}
	seed("DELETE", pathMachines+"/n1?force=1", "", "")
	for _, p := range []string{"arm", "wipe", "disarm", "accept"} {
		seed("POST", pathMachines+"/n1/"+p, "", `{"force":true}`)
	}
	seed("POST", pathEvents, "", `[{"mac":"020000000001","source":"tftp","kind":"file","message":"\u001b[2J"}]`)
	seed("GET", pathEvents+"?from=0", "", "")
	calls := 0
	f.Fuzz(func(t *testing.T, method, path, token string, body []byte, operator bool) {
		u, err := url.ParseRequestURI(path)
		if err != nil || strings.Contains(u.Query().Get("follow"), "1") || strings.Contains(u.Query().Get("follow"), "true") {
			t.Skip()
		}
		// A token of the moment, so that the calls behind it are reached.
		if _, err := store.Put(t.Context(), definition("n0", "52:54:00:00:00:00"), ""); err == nil {
			_, _ = store.Arm(t.Context(), "n0", machine.ArmRequest{Action: machine.ActionInstall, Force: true})
		}
		d, err := store.Boot(t.Context(), "52:54:00:00:00:00")
		if err != nil {
			t.Fatal(err)
		}
		if token == "$" {
			token = d.Token
		}
		req := httptest.NewRequest("GET", "/", strings.NewReader(string(body)))
		req.Method, req.URL = method, u
		calls++
		req.RemoteAddr = netip.AddrPortFrom(netipFrom(calls), 1).String() // guesses of one address are not listened to for long
		req.Header.Set("Authorization", "Bearer "+token)
		if operator {
			req.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{alice}}, PeerCertificates: []*x509.Certificate{alice}}
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		switch w.Code {
		case 200, 301, 307, 400, 401, 404, 405, 409, 410, 413, 429:
		default:
			t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
		answer := w.Body.String()
		if d.Token != "" && strings.Contains(answer, d.Token) {
			t.Fatalf("%s %s: the answer holds the token", method, path)
		}
		if strings.ContainsAny(answer, "\x00\x1b\x07\r") {
			t.Fatalf("%s %s: %q", method, path, answer)
		}
		if w.Code >= 400 && w.Header().Get("Content-Type") == "application/json" {
			var e errorBody
			if json.Unmarshal(w.Body.Bytes(), &e) != nil || e.Error == "" {
				t.Fatalf("%s %s: %d without a sentence: %q", method, path, w.Code, answer)
			}
		}
		if b, err := store.Boot(t.Context(), "02:ff:ff:ff:ff:ff"); err != nil || b.Install {
			t.Fatalf("a machine that nobody armed: %+v, %v", b, err)
		}
		all, _ := store.List()
		for _, s := range all {
			if len(s.Reason) > 600 || strings.ContainsFunc(s.Reason+s.Stage+s.Name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Fatalf("%+v", s)
			}
		}
	})
}
