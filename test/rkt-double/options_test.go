package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What rkt refuses before it looks at anything on the host.
func TestRefusedCommandLines(t *testing.T) {
	tests := []struct{ args, want string }{
		{"", "no command"},
		{"run", "must provide at least one image"},
		{"run -- kubelet", "must provide at least one image"},
		{"start kubelet", `unknown command "start"`},
		{"run --privileged IMAGE", "unknown flag: --privileged"},
		{"run -d IMAGE", "unknown shorthand flag"},
		{"run --exec=/kubelet IMAGE", "unknown flag: --exec"},
		{"run --dns", "flag needs an argument: --dns"},
		{"run --inherit-env=maybe IMAGE", "strconv.ParseBool"},
		{"run --pull-policy=always IMAGE", "is not one of never, new, update"},
		{"run --hosts-entry=localhost IMAGE", "neither"},
		{"run --set-env=PROXY IMAGE", "name=value"},
		{"run --stage1-from-dir=stage1-fly.aci --stage1-path=/x/stage1-fly.aci IMAGE", "only one of --stage1-from-dir and --stage1-path"},
		{"run --volume=etc,kind=host,source=etc --mount volume=etc,target=/etc IMAGE", "must be absolute"},
		{"run --volume=Etc,kind=host,source=/etc IMAGE", "ACName"},
		{"run --volume=etc_kubernetes,kind=host,source=/etc IMAGE", "ACName"},
		{"run --volume=etc,kind=hostPath,source=/etc IMAGE", "unrecognized volume type"},
		{"run --volume=etc,kind=host IMAGE", "cannot be empty"},
		{"run --volume=etc,kind=host,source=/etc,readonly=true IMAGE", `unknown volume parameter "readonly"`},
		{"run --volume=etc,kind=host,source=/etc,readOnly=yes IMAGE", "strconv.ParseBool"},
		{"run --volume=etc,kind=host,source=/etc,source=/usr IMAGE", "multiple values"},
		{"run --mount volume=etc,path=/etc IMAGE", `unknown mount parameter "path"`},
		{"run --mount volume=etc,target=etc IMAGE", "absolute path"},
		{"run --insecure-options=images IMAGE", "is not one of"},
		{"run --stage1-from-dir=stage1-fly.aci IMAGE --net=host -- kubelet", "unknown flag: --net"},
		{"run --stage1-from-dir=stage1-fly.aci IMAGE IMAGE2", "one app only"},
		{"run --stage1-from-dir=stage1-fly.aci IMAGE -- a --- b", "one app only"},
		{"run --net=host IMAGE", "fly stage1 only"},
		{"run --net=host --stage1-from-dir=stage1-coreos.aci IMAGE", "fly stage1 only"},
		{"run --net=host --stage1-from-dir=/nowhere/stage1-fly.aci IMAGE", "not a path"},
		{"run --net=host --stage1-path=/nowhere/stage1-fly.aci IMAGE", "cannot get the stage1 image"},
		{"rm", "must provide at least one pod UUID"},
		{"rm --uuid-file=/nowhere/kubelet.uuid", "unable to resolve UUID from file"},
		{"stop --uuid-file=/nowhere/kubelet.uuid", "unable to resolve UUID from file"},
		{"stop --timeout=10 x", "unknown flag: --timeout"},
		{"fetch", "at least one image"},
		{"trust key.asc", "--root required"},
		{"image inspect x", `unknown command "inspect"`},
		{"version now", "unexpected argument"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			var stderr strings.Builder
			if code := run(strings.Fields(tt.args), io.Discard, &stderr); code != failure {
				t.Errorf("exit code %d, want %d", code, failure)
			}
			if !strings.Contains(stderr.String(), tt.want) {
				t.Errorf("got %q, want it to have %q", stderr.String(), tt.want)
			}
		})
	}
}

// "--net host" is not "--net=host": the next word is the image.
func TestOptionalValue(t *testing.T) {
	v := values{}
	rest, err := runOptions.parse([]string{"--net", "host", "--dns"}, v, nil)
	if err != nil {
		t.Fatal(err)
	}
	if v.last("net") != "default" || strings.Join(rest, " ") != "host --dns" {
		t.Errorf("--net=%s, rest %q", v.last("net"), rest)
	}
}

func TestParseRun(t *testing.T) {
	stage1 := filepath.Join(t.TempDir(), "stage1-fly.aci")
	if err := os.WriteFile(stage1, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c := &cli{global: values{}, stderr: io.Discard}
	a, err := c.parseRun([]string{
		"--insecure-options", "image", "--uuid-file-save=/run/x", "--net=host", "--dns", "host", "--inherit-env",
		"--volume", "etc,kind=host,source=/etc,readOnly=true", "--mount", "volume=etc,target=/etc", "--stage1-path=" + stage1,
		"quay.io/coreos/hyperkube:v1.8.9_coreos.0", "--exec=/kubelet", "--", "--v=2", "--", "--x",
	})
	if err != nil {
		t.Fatal(err)
	}
	if a.reference != "quay.io/coreos/hyperkube:v1.8.9_coreos.0" || a.options.last("exec") != "/kubelet" ||
		strings.Join(a.args, " ") != "--v=2 -- --x" || !c.insecure("image") || !a.pod.bool("inherit-env") {
		t.Errorf("got %+v", a)
	}
}

func TestBinds(t *testing.T) {
	etc := "etc,kind=host,source=/etc"
	if _, err := binds([]string{etc, etc}, nil); err == nil || !strings.Contains(err.Error(), "duplicate volume name") {
		t.Errorf("a volume's name twice: %v", err)
	}
	if _, err := binds([]string{etc}, []string{"volume=run,target=/run"}); err == nil || !strings.Contains(err.Error(), `no volume for mountpoint "run"`) {
		t.Errorf("a mount without a volume: %v", err)
	}
	if _, err := binds([]string{etc}, []string{"volume=etc,target=/etc", "volume=etc,target=/etc/"}); err == nil {
		t.Error("two mounts at one place were accepted")
	}
	// rkt reads a volume as a URL's query.
	got, err := binds([]string{"a,kind=host,source=/with%20space"}, []string{"volume=a,target=/b"})
	if err != nil || got[0].source != "/with space" || got[0].target != "/b" {
		t.Errorf("got %+v, %v", got, err)
	}
}

// A key counts only for its prefix, only under its fingerprint, and only with content.
func TestTrust(t *testing.T) {
	const fingerprint = "bff313cdaa560b16a8987b8f72abf5f6799d33bc"
	img := &image{Name: "quay.io/poseidon/kubelet:v1.36.3", SignedBy: fingerprint}
	tests := []struct {
		name, path, content, reference, insecure string
		ok                                       bool
	}{
		{name: "no key", path: "", ok: false},
		{name: "for the domain", path: "prefix.d/quay.io/" + fingerprint, content: "key", ok: true},
		{name: "for the image", path: "prefix.d/quay.io/poseidon/kubelet/" + fingerprint, content: "key", ok: true},
		{name: "for all", path: "root.d/" + fingerprint, content: "key", ok: true},
		{name: "for another domain", path: "prefix.d/example.com/" + fingerprint, content: "key", ok: false},
		{name: "another key", path: "prefix.d/quay.io/0000000000000000000000000000000000000000", content: "key", ok: false},
		{name: "empty", path: "prefix.d/quay.io/" + fingerprint, ok: false},
		{name: "insecure", insecure: "image", ok: true},
		{name: "docker", path: "root.d/" + fingerprint, content: "key", reference: "docker://quay.io/poseidon/kubelet:v1.36.3", ok: false},
		{name: "insecure for something else", insecure: "ondisk", ok: false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			config := t.TempDir()
			if tt.path != "" {
				path := filepath.Join(config, "trustedkeys", tt.path)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(tt.content), 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			c := &cli{global: values{"local-config": {config}}, stderr: io.Discard}
			if tt.insecure != "" {
				c.global["insecure-options"] = []string{tt.insecure}
			}
			reference := tt.reference
			if reference == "" {
				reference = img.Name
			}
			if err := c.verify(reference, img); (err == nil) != tt.ok {
				t.Errorf("verify: %v, want trusted: %t", err, tt.ok)
			}
		})
	}
}
