package container

import (
	"fmt"
	"strings"
)

// Name is the container's name under podman.
const Name = "kubelet"

// Spec is one kubelet to run.
type Spec struct {
	Image        string   // reference; rkt also takes docker://…
	Hyperkube    bool     // the image holds hyperkube, whose first argument says what it is
	KubeletArgs  []string // without the kubelet's own name
	Volumes      []Volume // those whose Source exists by now
	Env          []string // NAMES of variables to hand on; values stay in the environment, proxy URLs hold passwords
	ImageArgs    []string // KUBELET_IMAGE_ARGS: options of the image, in rkt's words
	UUIDFile     string   // where rkt leaves the pod's UUID, for RktStop and RktRemove
	SELinuxLabel string   // podman: "type:NAME", "disable"; empty: what --privileged gives, spc_t
	Rkt          RktOptions
	PodmanMajor  int // podman's major version; 0: not known, taken for a current one
}

// RktOptions are the administrator's own words, from /etc/kubernetes/kubelet.env.
type RktOptions struct {
	GlobalArgs []string // RKT_GLOBAL_ARGS
	RunArgs    []string // RKT_RUN_ARGS
	Opts       []string // RKT_OPTS, its older name
	Stage1Args []string // RKT_STAGE1_ARG
}

// entry says how the image becomes a kubelet: the executable, empty for the
// image's own, and what stands before the kubelet's arguments. An --exec among
// the image's options wins.
func (s Spec) entry() (exec string, first []string) {
	if s.Hyperkube {
		exec = "/hyperkube"
	}
	if asked, ok := option(s.ImageArgs, "--exec"); ok {
		exec = asked
	}
	if exec[strings.LastIndex(exec, "/")+1:] == "hyperkube" {
		first = []string{"kubelet"}
	}
	return exec, first
}

// Notes says which of the administrator's options the runtime, "rkt" or
// "podman", cannot follow.
func Notes(runtime string, s Spec) (all []string) {
	if runtime == "rkt" {
		if strings.HasPrefix(s.Image, "docker://") && !strings.Contains(strings.Join(append(s.trust(), s.Rkt.GlobalArgs...), " "), "--insecure-options") {
			all = append(all, fmt.Sprintf("the image %s carries no signature that rkt could check, and rkt refuses it unless RKT_GLOBAL_ARGS has --insecure-options=image", s.Image))
		}
		return all
	}
	for _, o := range []struct {
		key  string
		args []string
	}{
		{"RKT_GLOBAL_ARGS", s.Rkt.GlobalArgs}, {"RKT_RUN_ARGS", s.Rkt.RunArgs}, {"RKT_OPTS", s.Rkt.Opts},
		{"RKT_STAGE1_ARG", s.Rkt.Stage1Args}, {"KUBELET_IMAGE_ARGS", without(s.ImageArgs, "--exec")},
	} {
		if len(o.args) > 0 {
			all = append(all, fmt.Sprintf("%s is for rkt; podman runs without %s", o.key, strings.Join(o.args, " ")))
		}
	}
	return all
}

// option finds --name=value or --name value; the last one counts.
func option(args []string, name string) (value string, ok bool) {
	for i, a := range args {
		if v, found := strings.CutPrefix(a, name+"="); found {
			value, ok = v, true
		} else if a == name && i+1 < len(args) {
			value, ok = args[i+1], true
		}
	}
	return value, ok
}

func without(args []string, name string) (rest []string) {
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == name:
			i++ // and its value
		case !strings.HasPrefix(args[i], name+"="):
			rest = append(rest, args[i])
		}
	}
	return rest
}
