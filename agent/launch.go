package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/container"
	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
	"github.com/tectonic-worker/tectonic-worker/sysconfig"
	"github.com/tectonic-worker/tectonic-worker/units"
)

// uuidPath is where rkt notes which pod the kubelet runs in.
const uuidPath = RunDir + "/kubelet.uuid"

// Launch is a kubelet that is ready to be started: what the launcher becomes.
type Launch struct {
	Path string
	Argv []string
	Env  []string
	Line string // one line of evidence for the journal and STATUS=
}

// Prepare does all that must stand before the kubelet starts, from the files on
// the host alone: with them right, "systemctl start kubelet" is enough and join
// is not needed. An error that is a *ConfigError or sysconfig.Problems will not
// go away by trying again.
func Prepare(ctx context.Context, sys *System, environ []string) (*Launch, error) {
	h := &handles{sys: sys}
	defer h.close()
	f := &Facts{Now: sys.Now()}
	g := &gatherer{sys: sys, h: h, f: f}
	in := Inputs{Environ: environ}
	if err := g.settings(in); err != nil {
		return nil, err
	}
	if err := g.launchCredential(in); err != nil {
		return nil, err
	}
	if err := g.dns(ctx); err != nil {
		return nil, err
	}
	if f.Settings.Image.Reference() == "" {
		// Only the API server knows which image fits; what it says is written
		// down, so that the kubelet starts without it the next time.
		if err := g.server(ctx); err != nil {
			return nil, err
		}
	}
	if err := g.image(); err != nil {
		return nil, err
	}
	if err := g.runtime(ctx); err != nil {
		return nil, badConfig(err)
	}
	if err := g.endpoint(); err != nil {
		return nil, err // it may be starting still
	}
	g.cgroup()
	if err := g.render(); err != nil {
		return nil, err
	}
	if err := g.files(); err != nil {
		return nil, err
	}
	if err := h.prepareFiles(ctx, f); err != nil {
		return nil, err
	}
	spec := g.spec()
	for _, n := range container.Notes(f.Runtime.Name, spec) {
		sys.Log.Warn(n)
	}
	argv, remove := container.Podman(spec), container.PodmanRemove()
	if f.Runtime.Name == sysconfig.RuntimeRkt {
		argv, remove = container.Rkt(spec), container.RktRemove(uuidPath, spec.Rkt.GlobalArgs...)
	}
	h.removeStale(ctx, remove)
	return &Launch{
		Path: sys.Root.Path(f.Runtime.Path), Argv: argv, Env: append(os.Environ(), proxyEnv(f.Settings)...),
		Line: fmt.Sprintf("runtime=%s image=%s kubelet=%s node=%s credential=%q", f.Runtime.Name, f.Image, f.Version, f.NodeName, f.Kubeconfig.Kind),
	}, nil
}

// prepareFiles writes what the kubelet reads, and the image that was settled
// on, so that the next start needs no API server to settle it.
func (h *handles) prepareFiles(ctx context.Context, f *Facts) error {
	l, err := OpenLedger(h.sys.Root)
	if err != nil {
		return err
	}
	resources := h.kubeletResources(f)
	if f.ImageFile != nil {
		resources = append(resources, &file{root: h.sys.Root, path: sysconfig.KubeletEnvPath, content: f.ImageFile, mode: 0o644})
	}
	for _, r := range resources {
		if _, err := ensure(ctx, l, &undoList{}, r); err != nil {
			return err
		}
	}
	if _, err := h.sys.Root.MkdirAll(RunDir, 0o700); err != nil {
		return err
	}
	return h.sys.noteLaunched(f.KubeconfigData)
}

// removeStale deletes the pod or container that a killed kubelet left. There
// mostly is none, which the runtimes call an error.
func (h *handles) removeStale(ctx context.Context, argv []string) {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	if argv[0] == sysconfig.RuntimeRkt && !h.sys.Root.Exists(uuidPath) {
		return
	}
	if _, err := h.sys.Root.Run(ctx, nil, argv...); err != nil {
		h.sys.Log.Debug("nothing stale removed", "error", err)
	}
}

// Cleanup stops and removes the kubelet's pod or container, after its unit
// ended. What is gone already is fine.
func Cleanup(ctx context.Context, sys *System) error {
	var cmds [][]string
	if _, err := sys.Root.Look(sysconfig.RuntimeRkt); err == nil && sys.Root.Exists(uuidPath) {
		// Settings that are wrong by now must not keep a pod alive.
		settings, _ := sysconfig.Load(sysconfig.Source{Root: string(sys.Root)})
		global := settings.Image.RktGlobalArgs
		cmds = append(cmds, container.RktStop(uuidPath, global...), container.RktRemove(uuidPath, global...))
	}
	if _, err := sys.Root.Look(sysconfig.RuntimePodman); err == nil {
		cmds = append(cmds, container.PodmanRemove())
	}
	for _, argv := range cmds {
		if res, err := sys.Root.Run(ctx, nil, argv...); err != nil {
			sys.Log.Debug("cleaning up after the kubelet", "command", argv[0]+" "+argv[1], "said", last(res), "error", err)
		}
	}
	return sys.Root.Remove(uuidPath)
}

// admitWait bounds how long Admit gives a file that is still being copied.
const admitWait = 30 * time.Second

// Admit waits until the kubeconfig on the host is whole and valid, and starts
// the kubelet. What does not become valid is said and is not a failure: the
// next write is looked at again.
func Admit(ctx context.Context, sys *System) error {
	ctx, cancel := context.WithTimeout(ctx, admitWait)
	defer cancel()
	// The file may be written by a copy that takes its time; two equal looks
	// in a row are what tells that it is over.
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	var before string
	for {
		data, err := sys.Root.ReadFile(kubelet.KubeconfigPath)
		if err == nil {
			err = valid(data, sys.Now())
		}
		if err == nil && digest(data) == before {
			break
		}
		before = digest(data)
		select {
		case <-ctx.Done():
			if errors.Is(err, fs.ErrNotExist) {
				err = errors.New("it is gone again")
			}
			sys.Log.Warn("the kubelet is not started: "+kubelet.KubeconfigPath+" is not valid", "why", err)
			return nil
		case <-tick.C:
		}
	}
	us, err := sys.Units(ctx)
	if err != nil {
		return err
	}
	defer us.Close()
	sys.Log.Info("the kubeconfig is valid: starting the kubelet")
	return us.StartNoWait(ctx, units.Kubelet)
}

func valid(kubeconfig []byte, now time.Time) error {
	k, err := node.Parse(kubeconfig)
	if err != nil {
		return err
	}
	return k.Validate(now)
}
