package server

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
)

// nobody throws an answer away.
type nobody struct{ header http.Header }

func (n nobody) Header() http.Header         { return n.header }
func (n nobody) Write(p []byte) (int, error) { return len(p), nil }
func (n nobody) WriteHeader(int)             {}

// BenchmarkEndpoint is what a request costs without the network, access log included.
func BenchmarkEndpoint(b *testing.B) {
	for _, groups := range []int{10, 10_000} {
		files := map[string]string{
			"profiles/p.json": `{"id":"p","boot":{"kernel":"/k","initrd":["/i"],"args":["a","b"]},"ignition_id":"i.ign"}`,
			"ignition/i.ign":  `{"ignition":{"version":"3.3.0"}}`,
		}
		for i := range groups {
			files[fmt.Sprintf("groups/g%d.json", i)] = fmt.Sprintf(`{"id":"g%d","profile":"p","selector":{"mac":"52:54:00:00:%02x:%02x"},"metadata":{"a":"b","c":{"d":1}}}`, i, i>>8, i&0xff)
		}
		s := start(b, Options{DataPath: writeData(b, files), Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
		h := s.HTTP()
		for _, path := range []string{"/ipxe", "/ignition", "/metadata"} {
			b.Run(fmt.Sprintf("%d%s", groups, path), func(b *testing.B) {
				r := httptest.NewRequest(http.MethodGet, path+"?uuid=4c4c4544-0051-3510-8058-000000000001&mac=52-54-00-00-00-07&domain=example.com&hostname=node7&serial=7&arch=x86_64", nil)
				w := nobody{http.Header{}}
				b.ReportAllocs()
				for b.Loop() {
					h.ServeHTTP(w, r)
				}
			})
		}
	}
}
