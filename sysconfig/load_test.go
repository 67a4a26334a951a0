package sysconfig

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// host makes a root with the two files; an empty text is no file.
func host(t *testing.T, settings, kubeletEnv string) string {
	t.Helper()
	root := t.TempDir()
	for path, text := range map[string]string{Path: settings, KubeletEnvPath: kubeletEnv} {
		if text == "" {
			continue
		}
		file := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

var compareSettings = []cmp.Option{cmpopts.IgnoreUnexported(Settings{}), cmpopts.EquateComparable(netip.Addr{})}

func defaults() Settings {
	return Settings{
		ClusterDomain: "cluster.local", Runtime: RuntimeAuto, SELinuxMode: SELinuxAuto, Firewall: FirewallManage,
		FirewallPorts: []Port{{"10250", "tcp"}, {"4789", "udp"}},
		Drift:         DriftRepair, DriftFiles: DriftRepair, DriftPorts: DriftRepair, DriftSELinux: DriftRepair, DriftUnits: DriftRepair,
		Image: Image{RktStage1Args: []string{"--stage1-from-dir=stage1-fly.aci"}},
	}
}

func TestLoadDefaults(t *testing.T) {
	for name, root := range map[string]string{
		"no files":      host(t, "", ""),
		"shipped files": host(t, string(Shipped), string(ShippedKubeletEnv)),
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Load(Source{Root: root, Environ: []string{"PATH=/bin", "UNRELATED=1"}})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(defaults(), s, compareSettings...); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// The files as administrators of the original package have them.
func TestLoadFilesOfTheOriginalPackage(t *testing.T) {
	s, err := Load(Source{Root: host(t, "KUBERNETES_DNS_SERVICE_IP=10.3.0.10\nCLUSTER_DOMAIN=cluster.local\n",
		"KUBELET_IMAGE_URL=quay.io/coreos/hyperkube\nKUBELET_IMAGE_TAG=v1.8.9_coreos.0\n"+
			"RKT_RUN_ARGS=\"--volume data,kind=host,source=/srv \\\n  --mount volume=data,target=/srv\"\n"+
			"RKT_GLOBAL_ARGS=--insecure-options=image\nKUBELET_IMAGE_ARGS=--exec=/kubelet\n")})
	if err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.DNSServiceIP = netip.MustParseAddr("10.3.0.10")
	want.Image = Image{URL: "quay.io/coreos/hyperkube", Tag: "v1.8.9_coreos.0",
		ImageArgs:     []string{"--exec=/kubelet"},
		RktRunArgs:    []string{"--volume", "data,kind=host,source=/srv", "--mount", "volume=data,target=/srv"},
		RktGlobalArgs: []string{"--insecure-options=image"},
		RktStage1Args: []string{"--stage1-from-dir=stage1-fly.aci"}}
	if diff := cmp.Diff(want, s, compareSettings...); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLoadEverything(t *testing.T) {
	s, err := Load(Source{Root: host(t, `
KUBERNETES_DNS_SERVICE_IP=fd00:3::a
CLUSTER_DOMAIN=k8s.example.com
KUBELET_RUNTIME=podman
SELINUX_MODE=leave
FIREWALL=leave
FIREWALL_ZONE=trusted
FIREWALL_PORTS="10250/tcp,4789/udp 30000-32767/tcp 10250/tcp"
FIREWALL_RESTORE=yes
DRIFT=report
DRIFT_PORTS=repair
DRIFT_UNITS=report
NODE_NAME=worker1.example.com
NODE_IP=192.0.2.7,2001:db8::7
NODE_LABELS="example.com/rack=r12, node-role.kubernetes.io/worker= disk=ssd"
NODE_TAINTS=example.com/dedicated=gpu:NoSchedule,maintenance:NoExecute
CONTAINER_RUNTIME_ENDPOINT=/run/crio/crio.sock
KUBELET_EXTRA_ARGS="--v=2 --system-reserved='cpu=100m, memory=1Gi' --a=\"b c\""
HTTP_PROXY=http://user:pass@proxy.example.com:3128
HTTPS_PROXY=proxy.example.com:3128
NO_PROXY=.cluster.local,10.0.0.0/8
`, "KUBELET_IMAGE=quay.io/poseidon/kubelet:v1.34.4\nRKT_OPTS=--dns=host\nRKT_STAGE1_ARG=--stage1-path=/opt/fly.aci\nKUBELET_RUNTIME=rkt\n")})
	if err != nil {
		t.Fatal(err)
	}
	want := Settings{
		DNSServiceIP: netip.MustParseAddr("fd00:3::a"), ClusterDomain: "k8s.example.com", Runtime: RuntimeRkt,
		SELinuxMode: SELinuxLeave, Firewall: FirewallLeave, FirewallZone: "trusted",
		FirewallPorts:   []Port{{"10250", "tcp"}, {"4789", "udp"}, {"30000-32767", "tcp"}},
		FirewallRestore: true, Drift: DriftReport, DriftFiles: DriftReport, DriftPorts: DriftRepair, DriftSELinux: DriftReport, DriftUnits: DriftReport,
		NodeName: "worker1.example.com", NodeIPs: []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")},
		NodeLabels:               map[string]string{"example.com/rack": "r12", "node-role.kubernetes.io/worker": "", "disk": "ssd"},
		NodeTaints:               []Taint{{"example.com/dedicated", "gpu", "NoSchedule"}, {"maintenance", "", "NoExecute"}},
		ContainerRuntimeEndpoint: "unix:///run/crio/crio.sock",
		KubeletExtraArgs:         []string{"--v=2", "--system-reserved=cpu=100m, memory=1Gi", "--a=b c"},
		HTTPProxy:                "http://user:pass@proxy.example.com:3128", HTTPSProxy: "proxy.example.com:3128", NoProxy: ".cluster.local,10.0.0.0/8",
		Image: Image{Image: "quay.io/poseidon/kubelet:v1.34.4", RktOpts: []string{"--dns=host"}, RktStage1Args: []string{"--stage1-path=/opt/fly.aci"}},
	}
	if diff := cmp.Diff(want, s, compareSettings...); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := []string{s.FirewallPorts[2].String(), s.NodeTaints[0].String(), s.NodeTaints[1].String()}; !cmp.Equal(got,
		[]string{"30000-32767/tcp", "example.com/dedicated=gpu:NoSchedule", "maintenance=:NoExecute"}) {
		t.Errorf("as text: %v", got)
	}
}

func TestPrecedence(t *testing.T) {
	root := host(t, "NODE_NAME=file\nCLUSTER_DOMAIN=first.example\nCLUSTER_DOMAIN=file.example\nFIREWALL_ZONE=\nKUBELET_RUNTIME=rkt\n", "")
	file := filepath.Join(root, Path)
	for _, c := range []struct {
		name, key string
		flags     map[string]string
		environ   []string
		get       func(Settings) string
		want      string
		origin    string
	}{
		{"file over default", "CLUSTER_DOMAIN", nil, nil, func(s Settings) string { return s.ClusterDomain }, "file.example", file + ":3"},
		{"environment over file", "NODE_NAME", nil, []string{"NODE_NAME=env"}, func(s Settings) string { return s.NodeName }, "env", "environment"},
		{"flag over environment", "NODE_NAME", map[string]string{"NODE_NAME": "flag"}, []string{"NODE_NAME=env"}, func(s Settings) string { return s.NodeName }, "flag", "flag"},
		{"empty flag is the default", "KUBELET_RUNTIME", map[string]string{"KUBELET_RUNTIME": ""}, []string{"KUBELET_RUNTIME=podman"}, func(s Settings) string { return s.Runtime }, "auto", "default"},
		{"empty environment is unset", "NODE_NAME", nil, []string{"NODE_NAME="}, func(s Settings) string { return s.NodeName }, "file", file + ":1"},
		{"empty in the file is unset", "FIREWALL_ZONE", nil, nil, func(s Settings) string { return s.FirewallZone }, "", "default"},
		{"systemd passes the file on", "NODE_NAME", nil, []string{"NODE_NAME=file"}, func(s Settings) string { return s.NodeName }, "file", file + ":1"},
		{"no such key", "NO_SUCH_KEY", nil, nil, func(Settings) string { return "" }, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := Load(Source{Root: root, Flags: c.flags, Environ: c.environ})
			if err != nil {
				t.Fatal(err)
			}
			if got := c.get(s); got != c.want {
				t.Errorf("%s is %q, want %q", c.key, got, c.want)
			}
			if got := s.Origin(c.key); got != c.origin {
				t.Errorf("its origin is %q, want %q", got, c.origin)
			}
		})
	}
}

// Everything wrong is reported at once, with its place, value and remedy.
func TestProblemsAllAtOnce(t *testing.T) {
	root := host(t, "KUBERNETES_DNS_SERVICE_IP=a.b\n\nCLUSTER_DOMAN=x\nCLUSTER_DOMAIN=Cluster.Local.\nexport NODE_NAME=x\nFIREWALL_PORTS=\"1/tcp 99999/tcp 5\"\n",
		"KUBELET_IMAGE_URL=quay.io/coreos/hyperkube\n")
	_, err := Load(Source{Root: root, Flags: map[string]string{"FIREWALL_ZONE": "no zone"}, Environ: []string{"NODE_IP=127.0.0.1"}})
	var problems Problems
	if !errors.As(err, &problems) {
		t.Fatalf("the error is %T, want Problems", err)
	}
	got := strings.ReplaceAll(err.Error(), root, "")
	want := strings.Join([]string{
		`/etc/sysconfig/tectonic-worker:1: KUBERNETES_DNS_SERVICE_IP=a.b: this is not an IP address; set it to the address of the cluster's DNS Service, tectonic_kube_dns_service_ip in terraform.tfvars, for instance 10.3.0.10`,
		`/etc/sysconfig/tectonic-worker:3: CLUSTER_DOMAN=x: there is no such setting; did you mean CLUSTER_DOMAIN?`,
		`/etc/sysconfig/tectonic-worker:4: CLUSTER_DOMAIN=Cluster.Local.: the name ends in a dot; write cluster.local`,
		`/etc/sysconfig/tectonic-worker:5: export NODE_NAME=x: this is not a name for a variable, so systemd ignores the line; remove "export": the file is read by systemd, not by a shell`,
		`/etc/sysconfig/tectonic-worker:6: FIREWALL_PORTS=1/tcp 99999/tcp 5: "99999/tcp" has a port that is not a number from 1 to 65535; write ports as 10250/tcp or 30000-32767/tcp, separated by spaces`,
		`/etc/sysconfig/tectonic-worker:6: FIREWALL_PORTS=1/tcp 99999/tcp 5: "5" has no protocol; write ports as 10250/tcp or 30000-32767/tcp, separated by spaces`,
		`flag --zone: FIREWALL_ZONE=no zone: this cannot be the name of a firewalld zone; name one that "firewall-cmd --get-zones" lists, or leave it empty`,
		`environment: NODE_IP=127.0.0.1: "127.0.0.1": nothing in a cluster can have this address; set it to the host's address, or to its IPv4 and its IPv6 address separated by a comma`,
		`/etc/kubernetes/kubelet.env:1: KUBELET_IMAGE_URL=quay.io/coreos/hyperkube: the image has no tag; set KUBELET_IMAGE_TAG, for instance to v1.34.4`,
	}, "\n")
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRefusedAndTaken(t *testing.T) {
	for key, c := range map[string]struct{ refused, taken []string }{
		"KUBERNETES_DNS_SERVICE_IP": {[]string{"a.b", "10.3.0", "10.3.0.10/24", "10.3.0.10,10.3.0.11", "0.0.0.0", "127.0.0.1", "::", "fe80::1%eth0", "::ffff:10.3.0.10", "224.0.0.1", "255.255.255.255", "010.3.0.10"},
			[]string{"10.3.0.10", "fd00::a"}},
		"CLUSTER_DOMAIN": {[]string{"cluster.local.", "Cluster.local", "a..b", ".a", "-a.b", "a_b", "a b", strings.Repeat("a", 64), strings.Repeat("a.", 127) + "a", "日本"},
			[]string{"cluster.local", "k8s", "a-1.b2", strings.Repeat("a", 63)}},
		"KUBELET_RUNTIME": {[]string{"docker", "RKT"}, []string{"auto", "rkt", "podman"}},
		"SELINUX_MODE":    {[]string{"disabled", "Enforcing"}, []string{"auto", "permissive", "enforcing", "leave"}},
		"FIREWALL":        {[]string{"yes", "off"}, []string{"manage", "leave"}},
		"FIREWALL_ZONE":   {[]string{"a b", "-x", "zonenamethatislong"}, []string{"public", "k8s-cluster_1", "FedoraServer"}},
		"FIREWALL_PORTS": {[]string{"0/tcp", "65536/tcp", "10250", "10250/TCP", "10250/icmp", "5-5/tcp", "9-5/tcp", "+5/tcp", "05/tcp", "1-2-3/tcp", "/tcp", "ssh/tcp"},
			[]string{"1/tcp", "65535/sctp", "30000-32767/udp", "1/dccp,2/tcp"}},
		"FIREWALL_RESTORE": {[]string{"true", "1", "Yes", "manage"}, []string{"yes", "no"}},
		"DRIFT":            {[]string{"no", "Repair", "ignore"}, []string{"repair", "report"}},
		"DRIFT_FILES":      {[]string{"no"}, []string{"repair", "report"}},
		"DRIFT_PORTS":      {[]string{"leave"}, []string{"repair", "report"}},
		"DRIFT_SELINUX":    {[]string{"permissive"}, []string{"repair", "report"}},
		"DRIFT_UNITS":      {[]string{"restart"}, []string{"repair", "report"}},
		"NODE_NAME":        {[]string{"Worker1", "a_b", "worker.", strings.Repeat("a", 30) + "." + strings.Repeat("b", 33)}, []string{"worker1", "10.0.0.1", "w.example.com"}},
		"NODE_IP":          {[]string{"10.0.0.1,10.0.0.2", "10.0.0.1,::2,10.0.0.3", "x", "::1", "10.0.0.1,nonsense"}, []string{"10.0.0.1", "fd00::1", "10.0.0.1,fd00::1", "fd00::1 10.0.0.1"}},
		"NODE_LABELS": {[]string{"a", "=b", "a=b c", "a/b/c=d", "A_/x=y", "a=-b", "a=" + strings.Repeat("b", 64), "a=1,a=2", "-a=b"},
			[]string{"a=b", "a=", "a.b/C_d=E.f", "a=1,a=1", "A=B"}},
		"NODE_TAINTS": {[]string{"a=b", "a", "a:noschedule", ":NoSchedule", "a=b:NoSchedule,a=c:NoSchedule", "a=b c:NoExecute"},
			[]string{"a:NoSchedule", "a=b:PreferNoSchedule", "a=b:NoSchedule,a=b:NoExecute"}},
		"CONTAINER_RUNTIME_ENDPOINT": {[]string{"containerd", "tcp://1.2.3.4:5", "unix://run/x", "npipe:////./pipe/x", "unix:///run/../x", "/"},
			[]string{"unix:///run/containerd/containerd.sock", "/run/crio/crio.sock"}},
		"KUBELET_EXTRA_ARGS": {[]string{`--a="b`, "--a=b # c", "--a='b"}, []string{"--a=b", `--a="b c"`, "--v=2 --x='y z'"}},
		"HTTP_PROXY":         {[]string{"ftp://x", "http://", "a b", "://"}, []string{"http://p:3128", "https://u:p@h:1", "socks5://h:1", "h:3128"}},
		"NO_PROXY":           {[]string{"a, # b"}, []string{"*", ".x,10.0.0.0/8", "a, b"}},
		"KUBELET_IMAGE":      {[]string{"-x", "--insecure", "a b", "'a'"}, []string{"quay.io/a/b:v1", "docker://quay.io/a/b:v1", "/root/k.aci", "localhost:5000/a@sha256:0"}},
		"KUBELET_IMAGE_URL":  {[]string{"quay.io/a/b", "localhost:5000/a", "-x"}, []string{"quay.io/a/b:v1", "quay.io/a/b@sha256:0", "/root/k.aci"}},
		"KUBELET_IMAGE_TAG":  {[]string{"-x", "a:b", "a/b", "a b"}, []string{"v1.8.9_coreos.0"}},
		"RKT_STAGE1_ARG":     {[]string{`"`}, []string{"--stage1-path=/x"}},
	} {
		check := func(v string, refused bool) {
			t.Helper()
			s, err := Load(Source{Root: host(t, "", ""), Environ: []string{key + "=" + v}})
			if refused != (err != nil) {
				t.Errorf("%s=%s: error is %v", key, v, err)
			}
			var problems Problems
			if errors.As(err, &problems) && (problems[0].Key != key || problems[0].Why == "" || problems[0].Remedy == "" || problems[0].File != "environment") {
				t.Errorf("%s=%s: the problem lacks something: %+v", key, v, problems[0])
			}
			if !refused && s.Origin(key) != "environment" {
				t.Errorf("%s=%s: its origin is %q", key, v, s.Origin(key))
			}
		}
		for _, v := range c.refused {
			check(v, true)
		}
		for _, v := range c.taken {
			check(v, false)
		}
	}
}

func TestDNSServiceIPIsNotTheNodes(t *testing.T) {
	root := host(t, "NODE_IP=10.3.0.10\n\nKUBERNETES_DNS_SERVICE_IP=10.3.0.10\n", "")
	_, err := Load(Source{Root: root})
	want := filepath.Join(root, Path) + ":3: KUBERNETES_DNS_SERVICE_IP=10.3.0.10: this is also NODE_IP"
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s…", err, want)
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	root := host(t, "HTTP_PROXY=ftp://u:hunter2@h\nHTTPS_PROXY=\"u:hunter2@h h\"\nMY_PASSWORD=hunter2\nXYZ=http://u:hunter2@h/\nNODE_NAME=https://hunter2@h\nhttps://u:hunter2@h\n", "")
	_, err := Load(Source{Root: root, Environ: []string{"NO_PROXY=http://u:hunter2@h #"}})
	if err == nil || strings.Count(err.Error(), "\n") < 5 {
		t.Fatalf("got %v, want a problem for each line", err)
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a password is shown:\n%v", err)
	}
}

func TestUnreadableFiles(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, file string) error{
		"a directory": func(_ *testing.T, file string) error { return os.Mkdir(file, 0o755) },
		"a FIFO":      func(_ *testing.T, file string) error { return syscall.Mkfifo(file, 0o644) },
		"too large":   func(_ *testing.T, file string) error { return os.WriteFile(file, make([]byte, 10<<20), 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			root := host(t, "", "A=b\n")
			file := filepath.Join(root, Path)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := spoil(t, file); err != nil {
				t.Fatal(err)
			}
			_, err := Load(Source{Root: root})
			if err == nil || !strings.Contains(err.Error(), file+": cannot read the settings: ") {
				t.Errorf("got %v", err)
			}
			if !strings.Contains(err.Error(), "kubelet.env:1: A=b: there is no such setting") {
				t.Errorf("the other file's problem is missing: %v", err)
			}
		})
	}
}

func TestReference(t *testing.T) {
	for want, i := range map[string]Image{
		"":                             {},
		"a:1":                          {Image: "a:1", URL: "b", Tag: "2"},
		"b:2":                          {URL: "b", Tag: "2"},
		"b@sha256:0":                   {URL: "b@sha256:0"},
		"quay.io/coreos/hyperkube:2_0": {Tag: "2_0"},
	} {
		if got := i.Reference(); got != want {
			t.Errorf("%+v: %q, want %q", i, got, want)
		}
	}
}
