package container

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

var (
	tectonic = Spec{
		Image: "quay.io/coreos/hyperkube:v1.8.9_coreos.0", Hyperkube: true,
		KubeletArgs: []string{"--require-kubeconfig=true", "--kubeconfig=/etc/kubernetes/kubeconfig"},
		Volumes:     Volumes(Facts{Minor: 8}),
		UUIDFile:    "/run/tectonic-worker/kubelet.uuid",
	}
	current = Spec{
		Image:       "docker://quay.io/poseidon/kubelet:v1.34.4",
		KubeletArgs: []string{"--config=/etc/kubernetes/kubelet.yaml"},
		Volumes:     Volumes(Facts{Minor: 34, Endpoint: "unix:///run/containerd/containerd.sock"}),
		UUIDFile:    "/run/tectonic-worker/kubelet.uuid",
		Env:         []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"},
	}
)

// theirs is an administrator's kubelet.env from the time of the original RPM,
// with everything set: the unit's own RKT_RUN_ARGS had to be repeated there.
func theirs() Spec {
	s := tectonic
	s.ImageArgs = []string{"--exec=/kubelet"}
	s.Rkt = RktOptions{
		GlobalArgs: []string{"--dir=/srv/rkt", "--insecure-options=image"},
		RunArgs: strings.Fields("--uuid-file-save=/var/run/kubelet-pod.uuid --volume=resolv,kind=host,source=/etc/resolv.conf " +
			"--mount volume=resolv,target=/etc/resolv.conf --volume var-log,kind=host,source=/srv/log --mount volume=var-log,target=/var/log/"),
		Opts:       []string{"--trust-keys-from-https", "--net=host"},
		Stage1Args: []string{"--stage1-path=/srv/stage1-fly.aci"},
	}
	return s
}

// The command lines are written down word for word.
func TestGolden(t *testing.T) {
	podman := current
	podman.Image = "quay.io/poseidon/kubelet:v1.34.4"
	old := tectonic
	old.PodmanMajor, old.SELinuxLabel = 1, "type:container_runtime_t"
	for name, argv := range map[string][]string{
		"rkt-tectonic":      Rkt(tectonic),
		"rkt-current":       Rkt(current),
		"rkt-theirs":        Rkt(theirs()),
		"podman-tectonic":   Podman(old),
		"podman-current":    Podman(podman),
		"rkt-theirs-fetch":  RktFetch(theirs()),
		"rkt-theirs-exists": RktImageExists(theirs()),
		"rkt-stop":          RktStop(tectonic.UUIDFile),
		"rkt-theirs-stop":   RktStop(tectonic.UUIDFile, theirs().Rkt.GlobalArgs...),
		"rkt-rm":            RktRemove(tectonic.UUIDFile),
		"podman-pull":       PodmanPull(podman),
		"podman-exists":     PodmanImageExists(podman),
		"podman-stop":       PodmanStop(),
		"podman-rm":         PodmanRemove(),
	} {
		t.Run(name, func(t *testing.T) {
			got := strings.Join(argv, "\n") + "\n"
			file := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatalf("%v (write it with: go test ./agent/container -update)", err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("(-%s +got)\n%s", file, diff)
			}
		})
	}
}

// What rkt would refuse or misread never comes out, whatever the
// administrator's words are.
func TestRktIsConsistent(t *testing.T) {
	clash := current
	clash.Rkt.RunArgs = []string{"--volume", "worker-run,kind=host,source=/srv", "--mount=volume=worker-run,target=/srv"}
	stage1 := current
	stage1.Rkt.Opts = []string{"--stage1-from-dir=stage1-coreos.aci"}
	entry := theirs()
	entry.ImageArgs = []string{"--user=0", "--exec", "/hyperkube"}
	for name, s := range map[string]Spec{"tectonic": tectonic, "current": current, "theirs": theirs(), "clash": clash, "stage1": stage1, "entry": entry} {
		argv := Rkt(s)
		names, targets := taken(argv)
		for _, list := range [][]string{names, targets} {
			seen := map[string]bool{}
			for _, x := range list {
				if seen[x] {
					t.Errorf("%s: %s twice", name, x)
				}
				seen[x] = true
			}
		}
		if len(names) != len(targets) {
			t.Errorf("%s: %d volumes, %d mounts", name, len(names), len(targets))
		}
		n := 0
		for _, a := range argv {
			if strings.HasPrefix(a, "--stage1-") {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%s: %d stage1 options, which exclude each other", name, n)
		}
		if uuid, _ := option(argv, "--uuid-file-save"); uuid != s.UUIDFile {
			t.Errorf("%s: the pod's UUID goes to %s, and it will be looked for in %s", name, uuid, s.UUIDFile)
		}
	}
	if got := strings.Join(Rkt(entry), " "); !strings.Contains(got, " --user=0 --exec /hyperkube -- kubelet --require-kubeconfig") {
		t.Error(got)
	}
	if got := strings.Join(Rkt(theirs()), " "); !strings.Contains(got, " --exec=/kubelet -- --require-kubeconfig") {
		t.Error(got)
	}
}

func TestVolumes(t *testing.T) {
	for name, f := range map[string]Facts{
		"docker":     {Minor: 8},
		"containerd": {Minor: 34, Endpoint: "unix:///run/containerd/containerd.sock"},
		"var-run":    {Minor: 34, Endpoint: "unix:///var/run/crio/crio.sock", ResolvConf: "/run/systemd/resolve/resolv.conf"},
		"elsewhere":  {Minor: 34, Endpoint: "unix:///srv/c/containerd.sock", ResolvConf: "/srv/resolv.conf"},
		"bare":       {Minor: 34, Endpoint: "/run/crio/crio.sock"},
	} {
		all := Volumes(f)
		seen := map[string]bool{}
		for _, v := range all {
			if seen[v.Name] || seen[v.Target] {
				t.Errorf("%s: %s or its target %s twice", name, v.Name, v.Target)
			}
			seen[v.Name], seen[v.Target] = true, true
			if v.Create && (v.Optional || v.ReadOnly) {
				t.Errorf("%s: %s is created, and yet optional or for reading", name, v.Name)
			}
			if strings.ContainsAny(v.Source+v.Target, ",: ") {
				t.Errorf("%s: %s cannot be written on either command line", name, v.Name)
			}
		}
		if (f.Endpoint == "") != seen["var-lib-docker"] || (f.Endpoint != "") != seen["var-lib-containerd"] {
			t.Errorf("%s: the runtime's directory is wrong in %v", name, seen)
		}
		if (name == "elsewhere") != seen["cri-socket"] || (name == "elsewhere") != seen["pod-resolv-conf"] {
			t.Errorf("%s: socket or resolv.conf wrong in %v", name, seen)
		}
	}
}

func TestNotes(t *testing.T) {
	if got := Notes("rkt", tectonic); got != nil {
		t.Errorf("%q", got)
	}
	if got := Notes("rkt", current); len(got) != 1 || !strings.Contains(got[0], "--insecure-options=image") {
		t.Errorf("%q", got)
	}
	trusted := current
	trusted.Rkt.GlobalArgs = []string{"--insecure-options=image"}
	if got := Notes("rkt", trusted); got != nil {
		t.Errorf("%q", got)
	}
	s := theirs()
	s.ImageArgs = append(s.ImageArgs, "--user=0")
	got := strings.Join(Notes("podman", s), "\n")
	for _, key := range []string{"RKT_GLOBAL_ARGS", "RKT_RUN_ARGS", "RKT_OPTS", "RKT_STAGE1_ARG", "KUBELET_IMAGE_ARGS is for rkt; podman runs without --user=0"} {
		if !strings.Contains(got, key) {
			t.Errorf("no word about %s in %s", key, got)
		}
	}
	if !strings.Contains(strings.Join(Podman(theirs()), " "), " --entrypoint=/kubelet quay.io") {
		t.Errorf("--exec is lost: %q", Podman(theirs()))
	}
}
