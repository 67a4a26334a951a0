package server

import (
	"net/http"
	"time"
)

// assets serves files with ranges, and HTML lists of directories, whose links other programs read. Links that leave the
// directory are followed: an operator put them there.
func (s *Server) assets() http.Handler {
	files := http.StripPrefix("/assets/", http.FileServer(http.Dir(s.options.AssetsPath)))
	seen := s.figures.endpoint("assets")
	return http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		began := time.Now()
		rec := recorder{ResponseWriter: w}
		files.ServeHTTP(&rec, hr)
		s.record(&request{Request: hr, server: s}, seen, began, &rec, nil)
	})
}
