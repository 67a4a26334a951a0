package kubelet

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

func version(t testing.TB, s string) Version {
	t.Helper()
	v, err := ParseVersion(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// typical is a worker as join makes one of a kubelet of that time: docker up
// to 1.23, a shared certificate up to 1.15 (Tectonic), a bootstrap token since.
func typical(t testing.TB, release string) Input {
	in := Input{
		Version:       version(t, release),
		DNS:           []netip.Addr{netip.MustParseAddr("10.3.0.10")},
		Domain:        "cluster.local",
		CgroupVersion: 1,
	}
	in.Bootstrap = in.Version.Minor > 15
	if in.Version.Minor >= 24 {
		in.Endpoint = "unix:///run/containerd/containerd.sock"
		in.CgroupVersion = 2
	}
	return in
}

var goldens = []string{"1.8.9", "1.9.11", "1.10.13", "1.14.10", "1.15.12", "1.16.15", "1.18.20", "1.23.17", "1.24.17",
	"1.26.15", "1.27.16", "1.29.6", "1.30.14", "1.34.4", "1.35.4", "1.36.3"}

// What a worker gets is written down word for word, one file a version.
func TestGolden(t *testing.T) {
	for _, release := range goldens {
		t.Run(release, func(t *testing.T) {
			golden(t, "v"+release, typical(t, release))
		})
	}
	t.Run("everything set, flags only", func(t *testing.T) { golden(t, "everything-v1.9.11", everything(t, "1.9.11")) })
	t.Run("everything set, CRI before 1.24", func(t *testing.T) { golden(t, "everything-v1.22.17", everything(t, "1.22.17")) })
	t.Run("everything set", func(t *testing.T) { golden(t, "everything-v1.36.3", everything(t, "1.36.3")) })
}

func everything(t testing.TB, release string) Input {
	in := typical(t, release)
	in.DNS = append(in.DNS, netip.MustParseAddr("fd00:3::a"))
	in.Hostname = "worker-1.example.com"
	in.NodeIPs = []netip.Addr{netip.MustParseAddr("192.0.2.7")}
	if in.Version.Minor >= 21 {
		in.NodeIPs = append(in.NodeIPs, netip.MustParseAddr("2001:db8::7"))
	}
	in.Labels = map[string]string{"rack": "r7", "topology.kubernetes.io/zone": "east", RoleLabel: ""}
	in.Taints = []string{"dedicated=gpu:NoSchedule", "slow:PreferNoSchedule"}
	in.Endpoint = "/run/crio/crio.sock"
	in.CgroupVersion = 1
	in.CgroupDriver = "cgroupfs"
	in.ResolvConf = "/run/systemd/resolve/resolv.conf"
	in.Bootstrap = true
	in.DropIns = []DropIn{
		{DropInDir + "/10-pods.yaml", []byte("maxPods: 200\nfeatureGates:\n  A: true\nclusterDNS: [10.3.0.11]\n")},
		{DropInDir + "/20-more.yaml", []byte("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nfeatureGates:\n  B: no\n" +
			"evictionHard:\n  memory.available: 500Mi\nenforceNodeAllocatable: []\nauthentication:\n  webhook:\n    cacheTTL: 1m\nimageMinimumGCAge: 1000000s\nmaxOpenFiles: 10000000\n")},
	}
	in.ExtraArgs = []string{"--v=2", "--max-pods=50"}
	return in
}

func golden(t *testing.T, name string, in Input) {
	t.Helper()
	out, err := Render(in)
	if err != nil {
		t.Fatal(err)
	}
	text := "# flags\n" + strings.Join(out.Flags, "\n") + "\n# notes\n"
	for _, n := range out.Notes {
		text += n + "\n"
	}
	text += "# directories\n" + strings.Join(out.Dirs, "\n") + "\n"
	if out.Config != nil {
		text += "# " + ConfigPath + "\n" + string(out.Config)
	}
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (write it with: go test ./agent/kubelet -update)", err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("(-%s +got)\n%s", file, diff)
	}
}

// inputs are the ways a worker of one release can be set up that lead to
// different flags and fields.
func inputs(t testing.TB, minor int) (all []Input) {
	t.Helper()
	release := Version{Major: 1, Minor: minor}.String()
	full := everything(t, release)
	all = append(all, typical(t, release), full)
	shared := full
	shared.Bootstrap, shared.NodeCertificate = false, true
	all = append(all, shared)
	if minor < 24 {
		docker := full
		docker.Endpoint = ""
		all = append(all, docker)
	}
	return all
}
