package installer

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	grpccredentials "google.golang.org/grpc/credentials"

	"github.com/tectonic-worker/tectonic-worker/installer/credentials"
	"github.com/tectonic-worker/tectonic-worker/installer/machine"
	"github.com/tectonic-worker/tectonic-worker/installer/machine/api"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/server"
)

// drainTime is how long requests may go on after the end was asked for; a unit's stop takes 90 s at most.
const drainTime = 30 * time.Second

// ServeOptions say what is served.
type ServeOptions struct {
	server.Config
	Log *slog.Logger
	// Started is told when all sockets answer; may be nil.
	Started func()
}

// Serve answers matchbox's APIs, and the machines' own where it has an address, until ctx ends. Then requests that are
// under way get their answers.
func Serve(ctx context.Context, o ServeOptions) error {
	sockets, err := server.Activated()
	if err != nil {
		return err
	}
	p := provisioner{ServeOptions: o}
	defer p.close()
	if err := p.open(ctx, sockets); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return badSettings{err} // no credentials yet, or no such directory
		}
		return err
	}
	for _, name := range o.Ignored {
		o.Log.Warn("this variable means nothing here", "variable", name)
	}
	return p.run(ctx)
}

// provisioner is what Serve has open.
type provisioner struct {
	ServeOptions
	store     *machine.Store
	matchbox  *server.Server
	listeners []net.Listener
	servers   []*http.Server
	rpc       *grpc.Server
	serve     []func() error
	external  *external // nil: no external matchbox
	instance  string    // of this process
}

func (p *provisioner) open(ctx context.Context, sockets server.Sockets) error {
	if info, err := os.Stat(p.DataPath); err != nil || !info.IsDir() {
		return fmt.Errorf("cannot serve: the data path %s is not a directory; create it, or name another with --data-path", p.DataPath)
	}
	gated := p.MachineAddress != "" || sockets.Machine != nil
	options := server.Options{DataPath: p.DataPath, AssetsPath: p.AssetsPath, KeyRingPath: p.KeyRingPath, Passphrase: p.Passphrase, Log: p.Log}
	if gated {
		if err := p.openStore(&options); err != nil {
			return err
		}
	}
	var err error
	if p.matchbox, err = server.New(options); err != nil {
		return err
	}
	for _, problem := range p.matchbox.Problems() {
		p.Log.Warn("not served", "file", problem.File, "why", problem.Message)
	}
	if err := p.openHTTP(ctx, sockets.HTTP); err != nil {
		return err
	}
	if err := p.openRPC(ctx, sockets.RPC); err != nil {
		return err
	}
	if gated {
		return p.openMachines(ctx, sockets.Machine)
	}
	return nil
}

// openStore puts the machines' states before matchbox's groups.
func (p *provisioner) openStore(options *server.Options) error {
	var err error
	states := machine.Options{ArmFor: p.ArmFor, TokenFor: p.TokenFor, Log: p.Log}
	if p.MatchboxEndpoint != "" {
		if p.external, err = newExternal(p.Config, p.Log); err != nil {
			return err
		}
		states.OnChange = p.external.changed
	}
	if p.store, err = machine.Open(filepath.Join(p.DataPath, "machines"), states); err != nil {
		return err
	}
	if p.external != nil {
		p.external.start(p.store)
	}
	if p.MachineURL == "" {
		if p.MachineURL, err = p.defaultMachineURL(); err != nil {
			return err
		}
		p.Log.Info("machines are told to report here; --machine-url changes it", "url", p.MachineURL)
	}
	p.instance = rand.Text()
	options.Gate, options.Instance = gate{p.store, p.MachineURL}, p.instance
	options.Observe = observer(p.store, p.Log)
	return nil
}

// defaultMachineURL takes the first name of the server's certificate, which is one that a machine can verify.
func (p *provisioner) defaultMachineURL() (string, error) {
	const give = "give --machine-url https://HOST:PORT"
	_, port, err := net.SplitHostPort(p.MachineAddress)
	if err != nil {
		return "", fmt.Errorf("machines have to be told where to report: %s", give)
	}
	all, err := credentials.InspectServer(p.CAFile, p.CertFile, p.KeyFile, time.Now())
	if err != nil {
		return "", fmt.Errorf("machines have to be told where to report: %s, or a server certificate: %w", give, err)
	}
	// The server's is the last one.
	names := all[len(all)-1].SANs
	if len(names) == 0 {
		return "", fmt.Errorf("machines have to be told where to report, and %s has no name: %s", p.CertFile, give)
	}
	return (&url.URL{Scheme: "https", Host: net.JoinHostPort(names[0], port)}).String(), nil
}

func (p *provisioner) openHTTP(ctx context.Context, activated net.Listener) error {
	l, err := server.Listen(ctx, activated, p.Address)
	if err != nil || l == nil {
		return err
	}
	scheme := "http"
	s := server.HTTPServer(p.matchbox.HTTP(), p.Log)
	if p.WebSSL {
		scheme = "https"
		pair, err := tls.LoadX509KeyPair(p.WebCertFile, p.WebKeyFile)
		if err != nil {
			return fmt.Errorf("cannot serve HTTPS: %w; --web-cert-file and --web-key-file name the pair", err)
		}
		s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
		l = tls.NewListener(l, s.TLSConfig)
	}
	p.add(scheme, l, s)
	return nil
}

func (p *provisioner) openRPC(ctx context.Context, activated net.Listener) error {
	l, err := server.Listen(ctx, activated, p.RPCAddress)
	if err != nil || l == nil {
		return err
	}
	p.listeners = append(p.listeners, l)
	config, err := p.serverTLS(tls.RequireAndVerifyClientCert)
	if err != nil {
		return err
	}
	p.rpc = grpc.NewServer(append(p.matchbox.ServerOptions(), grpc.Creds(grpccredentials.NewTLS(config)))...)
	p.matchbox.RegisterGRPC(p.rpc)
	p.Log.Info("serving", "api", "gRPC", "address", l.Addr().String())
	p.serve = append(p.serve, func() error { return p.rpc.Serve(l) })
	return nil
}

func (p *provisioner) openMachines(ctx context.Context, activated net.Listener) error {
	sums, err := PublishPrograms(p.ProgramsPath, p.AssetsPath)
	if err != nil {
		return err
	}
	if len(sums) == 0 {
		p.Log.Warn("no tectonic-machine here: nothing can be installed; install the package, or name the directory", "directory", p.ProgramsPath, "flag", "--programs-path")
	}
	l, err := server.Listen(ctx, activated, p.MachineAddress)
	if err != nil {
		return err
	}
	config, err := p.serverTLS(tls.VerifyClientCertIfGiven)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	explain := func(query url.Values) any {
		labels := map[string]string{}
		for key, values := range query {
			labels[key] = values[0]
		}
		e := Explained{Explanation: p.matchbox.Explain(labels)}
		if st, err := p.store.Status(e.Labels["mac"]); err == nil {
			e.Machine = &st
		}
		return e
	}
	s := server.HTTPServer(api.Handler(p.store, api.Options{Log: p.Log, Answers: map[string]func(url.Values) any{
		askPrograms: func(url.Values) any { return sums },
		askExplain:  explain,
		askInstance: func(url.Values) any { return p.instance },
	}}), p.Log)
	s.TLSConfig = config
	// It bounds handshakes, too: many machines that are switched on at once wait for theirs, and would come again and again.
	s.ReadHeaderTimeout = 30 * time.Second
	p.add("machines", tls.NewListener(l, config), s)
	return nil
}

// serverTLS loads the server's credentials, which may be renewed while it runs.
func (p *provisioner) serverTLS(auth tls.ClientAuthType) (*tls.Config, error) {
	config, err := credentials.ServerConfig(p.CAFile, p.CertFile, p.KeyFile, credentials.ServerOptions{
		ClientAuth: auth, Warn: func(err error) { p.Log.Warn("credentials", "error", err.Error()) },
	})
	if err != nil {
		return nil, fmt.Errorf("cannot serve without credentials: %w; \"tectonic-installer certs\" makes them, --ca-file, --cert-file and --key-file name them", err)
	}
	return config, nil
}

func (p *provisioner) add(name string, l net.Listener, s *http.Server) {
	p.listeners = append(p.listeners, l)
	p.servers = append(p.servers, s)
	p.Log.Info("serving", "api", name, "address", l.Addr().String())
	p.serve = append(p.serve, func() error {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
}

// run serves until ctx ends or one server fails, then lets what is under way end.
func (p *provisioner) run(ctx context.Context) error {
	ended := make(chan error, len(p.serve))
	for _, serve := range p.serve {
		go func() { ended <- serve() }()
	}
	if p.Started != nil {
		p.Started()
	}
	var err error
	select {
	case <-ctx.Done():
		p.Log.Info("ending: answering what is under way", "within", drainTime.String())
	case err = <-ended:
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	if p.rpc != nil {
		stopped := make(chan struct{})
		go func() { p.rpc.GracefulStop(); close(stopped) }()
		defer func() {
			select {
			case <-stopped:
			case <-drain.Done():
				p.rpc.Stop()
			}
		}()
	}
	for _, s := range p.servers {
		if serr := s.Shutdown(drain); serr != nil {
			p.Log.Warn("some requests were cut off", "error", serr.Error())
			_ = s.Close()
		}
	}
	return err
}

func (p *provisioner) close() {
	for _, l := range p.listeners {
		_ = l.Close()
	}
	if p.matchbox != nil {
		p.matchbox.Close()
	}
	if p.external != nil {
		p.external.close()
	}
	if p.store != nil {
		if err := p.store.Close(); err != nil {
			p.Log.Error("closing the machines' state", "error", err.Error())
		}
	}
}

// gate lets an armed machine have its installer, once.
type gate struct {
	store *machine.Store
	url   string
}

func (g gate) Boot(ctx context.Context, labels map[string]string) (server.Decision, error) {
	d, err := g.store.Boot(ctx, labels["mac"])
	out := server.Decision{Install: d.Install, Exit: d.Exit, Reason: d.Reason}
	if d.Install {
		out.Args = machine.KernelArgs(g.url, d.Token, labels["mac"])
	}
	return out, err
}

// observer puts requests into the machines' timelines.
func observer(store *machine.Store, log *slog.Logger) func(server.Event) {
	return func(e server.Event) {
		if e.MAC == "" {
			return
		}
		out := machine.Event{Time: e.Time, MAC: e.MAC, Source: machine.SourceHTTP}
		switch path := strings.TrimPrefix(e.Path, "/"); path {
		case "ipxe", "grub":
			// The gate has written down what it decided.
			if e.Asked {
				return
			}
			out.Source, out.Kind, out.Message = machine.SourceIPXE, "boot", "boots from the network: no group has anything for it to boot, so it is told to boot from disk"
		case "ignition", "generic", "cloud":
			out.Kind, out.Message = path, fmt.Sprintf("asked for its %s: %d", path, e.Status)
		default:
			return
		}
		if _, err := store.Observe(out); err != nil {
			log.Debug("not in a timeline", "mac", e.MAC, "error", err.Error())
		}
	}
}
