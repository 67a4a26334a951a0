package systemd

import (
	"io"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
)

// Journal is where a service writes its log: w, which is standard error, and, when that broke because journald was killed
// and lost the stream, journald's own socket, which every new journald opens again. The process must ignore SIGPIPE, or a
// broken standard error ends it.
func Journal(w io.Writer) io.Writer { return &journalWriter{w: w} }

type journalWriter struct {
	w      io.Writer
	broken bool
}

// Write never fails: a log that nobody can take must not stop the work.
func (j *journalWriter) Write(p []byte) (int, error) {
	if !j.broken {
		if _, err := j.w.Write(p); err == nil {
			return len(p), nil
		}
		j.broken = true
	}
	_ = journal.Send(strings.TrimRight(string(p), "\n"), journal.PriInfo, map[string]string{"SYSLOG_IDENTIFIER": "tectonic-worker"})
	return len(p), nil
}
