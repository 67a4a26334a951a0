package container

import (
	"fmt"
	"slices"
	"strings"
)

// defaultStage1 is a chroot with bind mounts: the kubelet keeps the host's
// processes, network and cgroups, and rkt execs into it.
const defaultStage1 = "--stage1-from-dir=stage1-fly.aci"

// Rkt is the command line that becomes the kubelet. The administrator's words
// stand where the original wrapper put them:
//
//	rkt $RKT_GLOBAL_ARGS run $RKT_RUN_ARGS $RKT_OPTS … $RKT_STAGE1_ARG IMAGE $KUBELET_IMAGE_ARGS -- ARGS
//
// A mount of the administrator's at the place of one of ours replaces it: the
// original's own defaults for RKT_RUN_ARGS had some, and rkt refuses two
// volumes of one name. The options after theirs are those that the worker
// depends on; of an option given twice rkt takes the last.
func Rkt(s Spec) []string {
	theirs := slices.Concat(s.Rkt.RunArgs, s.Rkt.Opts)
	argv := slices.Concat([]string{"rkt"}, s.Rkt.GlobalArgs, []string{"run"}, theirs)
	argv = append(argv, "--uuid-file-save="+s.UUIDFile)
	if _, ok := option(theirs, "--net"); !ok {
		argv = append(argv, "--net=host")
	}
	if len(s.Env) > 0 {
		argv = append(argv, "--inherit-env") // by value it would show in the process list
	}
	names, targets := taken(theirs)
	var mounts []string
	for _, v := range s.Volumes {
		if slices.Contains(targets, v.Target) {
			continue
		}
		name := "worker-" + v.Name
		for slices.Contains(names, name) {
			name += "-x"
		}
		volume := fmt.Sprintf("--volume=%s,kind=host,source=%s,readOnly=%t", name, v.Source, v.ReadOnly)
		if v.Recursive {
			volume += ",recursive=true"
		}
		argv = append(argv, volume)
		mounts = append(mounts, "--mount=volume="+name+",target="+v.Target)
	}
	argv = append(argv, mounts...)
	if _, ok := option(theirs, "--hosts-entry"); !ok {
		argv = append(argv, "--hosts-entry=host")
	}
	if len(s.Rkt.Stage1Args) > 0 {
		argv = append(argv, s.Rkt.Stage1Args...)
	} else if !slices.ContainsFunc(theirs, func(a string) bool { return strings.HasPrefix(a, "--stage1-") }) {
		argv = append(argv, defaultStage1)
	}
	argv = append(argv, s.Image)
	argv = append(argv, s.ImageArgs...)
	exec, first := s.entry()
	if _, ok := option(s.ImageArgs, "--exec"); !ok && exec != "" {
		argv = append(argv, "--exec="+exec)
	}
	argv = append(argv, "--")
	return slices.Concat(argv, first, s.KubeletArgs)
}

// taken reads the volumes' names and the mounts' targets out of rkt options,
// in either spelling: --volume=NAME,… or --volume NAME,….
func taken(args []string) (names, targets []string) {
	for i, a := range args {
		flag, value, ok := strings.Cut(a, "=")
		if !ok || flag != "--volume" && flag != "--mount" {
			if (a != "--volume" && a != "--mount") || i+1 == len(args) {
				continue
			}
			flag, value = a, args[i+1]
		}
		fields := strings.Split(value, ",")
		if flag == "--volume" {
			names = append(names, fields[0])
			continue
		}
		for _, f := range fields {
			if t, ok := strings.CutPrefix(f, "target="); ok {
				targets = append(targets, strings.TrimRight(t, "/"))
			}
		}
	}
	return names, targets
}

// trust picks the options about signatures out of the run options: fetching
// must obey them too.
func (s Spec) trust() (args []string) {
	theirs := slices.Concat(s.Rkt.RunArgs, s.Rkt.Opts)
	for i, a := range theirs {
		switch {
		case strings.HasPrefix(a, "--trust-keys-from-https"), strings.HasPrefix(a, "--insecure-options="):
			args = append(args, a)
		case a == "--insecure-options" && i+1 < len(theirs):
			args = append(args, a, theirs[i+1])
		}
	}
	return args
}

// RktFetch brings the image to the host unless it is there, so that this shows
// as a step of its own. It prints progress on standard error.
func RktFetch(s Spec) []string {
	return slices.Concat([]string{"rkt"}, s.Rkt.GlobalArgs, []string{"fetch"}, s.trust(), []string{"--pull-policy=new", s.Image})
}

// RktImageExists exits 0 where the image is on the host.
func RktImageExists(s Spec) []string {
	return slices.Concat([]string{"rkt"}, s.Rkt.GlobalArgs, []string{"image", "cat-manifest", s.Image})
}

// RktStop stops the pod that Rkt started; global is RKT_GLOBAL_ARGS. It fails
// where the file is missing, which is no harm.
func RktStop(uuidFile string, global ...string) []string {
	return slices.Concat([]string{"rkt"}, global, []string{"stop", "--uuid-file=" + uuidFile})
}

// RktRemove removes the pod and its mounts; global is RKT_GLOBAL_ARGS. It
// fails where the file is missing, which is no harm.
func RktRemove(uuidFile string, global ...string) []string {
	return slices.Concat([]string{"rkt"}, global, []string{"rm", "--uuid-file=" + uuidFile})
}
