package server

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Options say what is served and who is asked.
type Options struct {
	DataPath   string // a directory that exists
	AssetsPath string // a directory that exists; empty: no assets
	// KeyRingPath names an OpenPGP secret keyring, binary or armoured; empty: no signatures. Passphrase opens its keys.
	KeyRingPath, Passphrase string
	Gate                    Gate // nil: every request is answered, as matchbox does
	// Instance is told to operators with each answer of the gRPC API, so that they know which Gate stands before what
	// they write. Empty: there is none.
	Instance string
	Observe  func(Event) // nil: nobody is told. It is called in the request's goroutine and must not wait.
	Log      *slog.Logger
	Registry *prometheus.Registry // nil: one of its own, with Go's and the process's figures
}

// Event is a request that was answered.
type Event struct {
	Time           time.Time
	MAC            string // as the request named it, in lower-case colon form; empty if it named none
	Path           string
	Status         int
	Group, Profile string // what matched
	Asked          bool   // the gate was asked, and has put it on record
	Install        bool   // the gate let an installer go out
	Remote         netip.Addr
}

// Server serves one data directory. Its methods are safe for concurrent use.
type Server struct {
	store   *store
	options Options
	signer  *signer // nil: no signatures
	done    translations
	figures *figures

	stop    context.CancelFunc
	stopped sync.WaitGroup
}

// New reads the data directory and follows it until Close.
func New(o Options) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.AssetsPath != "" {
		if info, err := os.Stat(o.AssetsPath); err != nil || !info.IsDir() {
			return nil, fmt.Errorf("cannot serve assets: %s is not a directory; create it, name another with --assets-path, or serve none with --assets-path \"\"", o.AssetsPath)
		}
	}
	s := &Server{options: o}
	var err error
	if o.KeyRingPath != "" {
		if s.signer, err = openSigner(o.KeyRingPath, o.Passphrase); err != nil {
			return nil, err
		}
	}
	if s.store, err = openStore(o.DataPath, o.Log); err != nil {
		return nil, err
	}
	s.figures = newFigures(o.Registry, s.store)
	f := newFollower(s.store)
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	s.stopped.Go(func() { f.run(ctx) })
	return s, nil
}

// Close stops following the data directory. What is in memory is still served, so it may come before the last request.
func (s *Server) Close() {
	s.stop()
	s.stopped.Wait()
}

// Problems are the files that are not served, and why.
func (s *Server) Problems() []Problem { return s.store.listProblems() }

// HTTP is the machines' API: matchbox's paths, and /metrics.
func (s *Server) HTTP() http.Handler {
	mux := http.NewServeMux()
	for name, answer := range map[string]func(*request) answer{
		"boot.ipxe": chain, "boot.ipxe.0": chain,
		"ipxe": s.ipxe, "grub": s.grub,
		"ignition": s.ignition, "generic": s.generic, "cloud": s.cloud, "metadata": s.metadata,
	} {
		mux.Handle("/"+name, s.endpoint(name, answer))
		if s.signer != nil {
			mux.Handle("/"+name+".sig", s.endpoint(name+".sig", s.signed(answer, s.signer.binary)))
			mux.Handle("/"+name+".asc", s.endpoint(name+".asc", s.signed(answer, s.signer.armoured)))
		}
	}
	if s.options.AssetsPath != "" {
		mux.Handle("/assets/", s.assets())
	}
	mux.Handle("/metrics", s.figures.handler())
	mux.Handle("/", s.endpoint("", root))
	return mux
}

// HTTPServer has the limits that a server of machines needs. There is none for the time of an answer: an image takes as
// long as it takes.
func HTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	}
}
