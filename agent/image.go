package agent

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/container"
	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/sysconfig"
)

// spec is the kubelet as the runtime is told to run it. The directories that
// the kubelet needs are made by prepareFiles.
func (g *gatherer) spec() container.Spec {
	f := g.f
	i := f.Settings.Image
	s := container.Spec{
		Image: f.Image, Hyperkube: kubelet.Hyperkube(f.Image), KubeletArgs: f.Kubelet.Flags,
		ImageArgs: i.ImageArgs, UUIDFile: uuidPath,
		Rkt: container.RktOptions{GlobalArgs: i.RktGlobalArgs, RunArgs: i.RktRunArgs, Opts: i.RktOpts, Stage1Args: i.RktStage1Args},
	}
	// The default is the container package's own too; only an administrator's
	// word is worth passing on.
	if f.Settings.Origin("RKT_STAGE1_ARG") == "default" {
		s.Rkt.Stage1Args = nil
	}
	if major, _, ok := strings.Cut(f.Runtime.Version, "."); ok {
		s.PodmanMajor, _ = strconv.Atoi(major) // 0 means not known
	}
	for _, v := range volumes(f) {
		if !v.Optional || g.sys.Root.Exists(v.Source) {
			s.Volumes = append(s.Volumes, v)
		}
	}
	for _, e := range proxyEnv(f.Settings) {
		name, _, _ := strings.Cut(e, "=")
		s.Env = append(s.Env, name)
	}
	return s
}

func volumes(f *Facts) []container.Volume {
	return container.Volumes(container.Facts{Minor: f.Version.Minor, Endpoint: f.Endpoint})
}

// fetchImage brings the kubelet's image to the host before its unit starts, so
// that a slow or failed pull shows as what it is.
func (j *joiner) fetchImage(ctx context.Context, s *StepResult) error {
	g := gatherer{sys: j.sys, f: j.facts}
	spec := g.spec()
	exists, pull := container.PodmanImageExists(spec), container.PodmanPull(spec)
	if j.facts.Runtime.Name == sysconfig.RuntimeRkt {
		exists, pull = container.RktImageExists(spec), container.RktFetch(spec)
	}
	env := proxyEnv(j.facts.Settings)
	look, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if _, err := j.sys.Root.Run(look, env, exists...); err == nil {
		s.Status, s.Evidence = StatusUnchanged, spec.Image+" is on this host"
		return nil
	}
	j.report.Progress(strings.Join(pull, " "))
	res, err := j.sys.Root.Run(ctx, env, pull...)
	if err == nil {
		s.Status, s.Evidence = StatusChanged, "fetched "+spec.Image
		return nil
	}
	e := &StageError{Stage: StageImage, What: fmt.Sprintf("cannot fetch the kubelet's image %s: %s", spec.Image, last(res)), Err: err,
		Remedy: fmt.Sprintf("try it by hand (%q); name another image with --image, or a proxy with HTTPS_PROXY in %s", strings.Join(pull, " "), sysconfig.Path)}
	if errors.Is(err, context.DeadlineExceeded) {
		e.What = fmt.Sprintf("the kubelet's image %s was not fetched in time", spec.Image)
		e.Remedy = "give it more time with --timeout, or fetch it first (" + strings.Join(pull, " ") + ")"
	}
	return e
}
