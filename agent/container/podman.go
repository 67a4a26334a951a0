package container

import "strings"

// podmanMounts are what rkt's fly stage1 shows by itself: devices that come
// and go, and the host's cgroups, in which the kubelet makes the pods'.
var podmanMounts = []string{"/dev:/dev:rslave", "/sys/fs/cgroup:/sys/fs/cgroup:rslave"}

// Podman is the command line that runs the kubelet in the foreground. The
// kubelet's output is podman's own.
//
// Nothing is ever relabelled (no :z): these are the host's own directories, and
// a container type on /var/log or /run would lock out everybody else.
func Podman(s Spec) []string {
	major := s.PodmanMajor
	if major == 0 {
		major = 4
	}
	argv := []string{"podman", "run", "--rm", "--name=" + Name, "--privileged",
		"--network=host", "--pid=host", "--uts=host", // the node's name is the host's
		"--pids-limit=-1", // the default would count the kubelet's threads against 2048
		"--http-proxy=false"}
	if major >= 2 {
		argv = append(argv,
			"--replace",         // what a power cut left behind
			"--cgroupns=host",   // on cgroup v2 the default hides the host's tree
			"--sdnotify=ignore", // the unit is ready before podman runs
			// All of it below kubelet.service's own cgroup: journald goes by the
			// cgroup of who writes, and "journalctl -u kubelet" must have the
			// kubelet's lines. Seen with podman 4.3 on cgroup v1, where no-conmon
			// and the default put the container into machine.slice.
			"--cgroups=split",
		)
	}
	if major >= 4 {
		argv = append(argv, "--log-driver=passthrough") // straight to the unit's journal
	} else {
		argv = append(argv, "--log-driver=none") // podman prints it; a second copy is of no use
	}
	if s.SELinuxLabel != "" {
		argv = append(argv, "--security-opt=label="+s.SELinuxLabel)
	}
	for _, name := range s.Env {
		argv = append(argv, "--env="+name)
	}
	for _, m := range podmanMounts {
		argv = append(argv, "--volume="+m)
	}
	for _, v := range s.Volumes {
		argv = append(argv, "--volume="+v.Source+":"+v.Target+":"+strings.Join(podmanOptions(v), ","))
	}
	exec, first := s.entry()
	if exec != "" {
		argv = append(argv, "--entrypoint="+exec)
	}
	argv = append(argv, s.Image)
	argv = append(argv, first...)
	return append(argv, s.KubeletArgs...)
}

// podmanOptions: podman binds recursively unless told not to, and copies of
// the containers' mounts below /run or /var/lib would keep those busy.
func podmanOptions(v Volume) []string {
	mode := "rw"
	if v.ReadOnly {
		mode = "ro"
	}
	if v.Recursive {
		return []string{mode, "rshared"}
	}
	return []string{mode, "bind"}
}

// PodmanPull brings the image to the host; progress goes to standard error.
func PodmanPull(s Spec) []string { return []string{"podman", "pull", s.Image} }

// PodmanImageExists exits 0 where the image is on the host and 1 where not.
func PodmanImageExists(s Spec) []string { return []string{"podman", "image", "exists", s.Image} }

// PodmanStop ends the kubelet, by force after half a minute.
func PodmanStop() []string { return []string{"podman", "stop", "--time=30", Name} }

// PodmanRemove removes what is left of the container, running or not. It fails
// where there is none, which is no harm.
func PodmanRemove() []string { return []string{"podman", "rm", "--force", Name} }
