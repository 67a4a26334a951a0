package packaging

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/sysconfig"
)

func itoa(n int) string { return strconv.Itoa(n) }

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestVersion(t *testing.T) {
	for in, want := range map[string]string{
		"v1.2.3": "1.2.3", "1.2.3": "1.2.3", "v1.2.3-rc.1": "1.2.3~rc.1", "v1.2.3-4-gabcdef0": "1.2.3+4.gabcdef0",
		"v1.2.3-rc.1-4-gabcdef0-dirty": "1.2.3~rc.1+4.gabcdef0+dirty", "v1.2.3-dirty": "1.2.3+dirty", "0.0.0-dev-x": "0.0.0~dev.x",
		"": "", "latest": "", "8908cc1": "", "1.2/3": "", "1 2": "", "v": "",
	} {
		got, err := rpmVersion(in)
		if got != want && !(want == "" && err != nil) {
			t.Errorf("%q: %q %v, want %q", in, got, err, want)
		}
	}
}

// rpm puts the versions in the order they were made.
func TestVersionsInOrder(t *testing.T) {
	need(t, "rpm")
	order := []string{"v1.2.3-rc.1", "v1.2.3-rc.2", "v1.2.3", "v1.2.3-4-gabcdef0", "v1.2.3-10-g0000000", "v1.2.4-rc.1", "v1.10.0"}
	for i := 1; i < len(order); i++ {
		a, errA := rpmVersion(order[i-1])
		b, errB := rpmVersion(order[i])
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if got := run(t, "rpm", "--eval", `%{lua:print(rpm.vercmp("`+a+`","`+b+`"))}`); strings.TrimSpace(got) != "-1" {
			t.Errorf("rpm does not put %s before %s: %s", a, b, got)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*Options){
		"no binary":        func(o *Options) { o.Binary += "x" },
		"no licence":       func(o *Options) { _ = os.Remove(filepath.Join(o.Source, "LICENSE")) },
		"empty completion": func(o *Options) { _ = os.WriteFile(filepath.Join(o.Completions, "tectonic-worker.zsh"), nil, 0o644) },
		"dist":             func(o *Options) { o.Dist = "el6" },
		"arch":             func(o *Options) { o.Arch = "amd64" },
		"version":          func(o *Options) { o.Version = "latest" },
		"time":             func(o *Options) { o.Time = time.Time{} },
		"package":          func(o *Options) { o.Package = "tectonic" },
		"no such program":  func(o *Options) { *o = installerRepository(t); o.Programs += "x" },
	} {
		o := repository(t)
		spoil(&o)
		if _, err := Build(o); err == nil || !strings.HasPrefix(err.Error(), "cannot ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, f := range map[string]File{
		"twice": {Path: "/etc/kubernetes"}, "relative": {Path: "etc/x"}, "unclean": {Path: "/etc/../x"}, "root": {Path: "/"},
		"setuid": {Path: "/x", Mode: 0o4755}, "ghost with content": {Path: "/x", Kind: Ghost, Body: []byte("x")},
	} {
		p, err := Build(repository(t))
		if err != nil {
			t.Fatal(err)
		}
		p.Files = append(p.Files, f)
		if err := p.check(); err == nil {
			t.Errorf("%s: not refused", name)
		}
	}
}

// Scriptlets never fail: rpm would leave half a transaction behind.
func TestScriptletsAlwaysExitZero(t *testing.T) {
	need(t, "dash", "bash", "shellcheck")
	all, err := fs.Glob(scriptlets, "scriptlets/*.sh")
	more, errMore := fs.Glob(scriptlets, "scriptlets/installer/*.sh")
	if err != nil || errMore != nil || len(all) != 3 || len(more) != 4 {
		t.Fatal(all, more, err, errMore)
	}
	all = append(all, more...)
	failing, silent := t.TempDir(), t.TempDir()
	write(t, filepath.Join(failing, "systemctl"), "#!/bin/sh\necho noise; echo noise >&2; exit 5\n")
	if err := os.Chmod(filepath.Join(failing, "systemctl"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		run(t, "shellcheck", "--shell=sh", name)
		for _, shell := range []string{"/bin/dash", "/bin/bash"} {
			for _, path := range []string{silent, failing} {
				for _, arg := range []string{"0", "1", "2", ""} {
					for _, option := range []string{"-", "-e", "-u"} {
						args := []string{"-i", "PATH=" + path, "LANG=C", shell}
						if option != "-" {
							args = append(args, option)
						}
						if out := run(t, "env", append(args, name, arg)...); out != "" {
							t.Errorf("%s %s %q says: %s", shell, name, arg, out)
						}
					}
				}
			}
		}
	}
}

// What the scriptlets ask of systemd, told by a systemctl that keeps a list.
func TestScriptletsCallSystemctl(t *testing.T) {
	for _, c := range []struct{ script, arg, want string }{
		{"post", "1", ""}, {"post", "2", ""}, {"postun", "1", ""}, {"postun", "0", ""}, {"preun", "1", ""},
		{"preun", "0", "--no-reload disable tectonic-worker.service\n--no-reload disable kubelet.path\n--no-reload disable kubelet.service\n"},
		{"installer/post", "1", ""}, {"installer/postun", "1", ""}, {"installer/postun", "0", ""}, {"installer/preun", "1", ""},
		{"installer/preun", "0", "--no-reload disable tectonic-installer.service\n--no-reload disable tectonic-installer-netboot.service\n"},
	} {
		h := newHost(t)
		write(t, h.path("/bin/systemctl"), "#!/bin/sh\necho \"$@\" >>/calls\n")
		script, err := scriptlets.ReadFile("scriptlets/" + c.script + ".sh")
		if err != nil {
			t.Fatal(err)
		}
		for _, running := range []bool{false, true} {
			want := c.want
			if running {
				if err := os.MkdirAll(h.path("/run/systemd/system"), 0o755); err != nil {
					t.Fatal(err)
				}
				switch {
				case c.script == "postun" && c.arg == "1":
					want = "daemon-reload\ntry-restart tectonic-worker.service\n"
				case c.script == "installer/postun" && c.arg == "1":
					want = "daemon-reload\ntry-restart tectonic-installer.service tectonic-installer-netboot.service\n"
				case !strings.HasSuffix(c.script, "preun"):
					want = "daemon-reload\n"
				case c.script == "installer/preun" && c.arg == "0":
					want += "stop tectonic-installer-netboot.service tectonic-installer.service\n"
				case c.arg == "0":
					want += "stop tectonic-worker.service kubelet.path kubelet-kubeconfig.service kubelet.service wait-for-dns.service\n"
				}
			}
			write(t, h.path("/calls"), "")
			run(t, "chroot", h.root, "/bin/sh", "-c", string(script), "sh", c.arg)
			if got := content(t, h.path("/calls")); got != want {
				t.Errorf("%s %s, systemd running: %v: asked %q, want %q", c.script, c.arg, running, got, want)
			}
		}
	}
}

func TestManualPages(t *testing.T) {
	need(t, "man", "groff")
	for name, page := range map[string][]byte{"tectonic-worker.8": commandPage, "tectonic-worker.sysconfig.5": SettingsPage(), "tectonic-installer.8": installerPage} {
		file := filepath.Join(t.TempDir(), name)
		write(t, file, string(page))
		if out := run(t, "groff", "-man", "-ww", "-z", "-Tutf8", "-K", "utf8", file); out != "" {
			t.Errorf("groff warns of %s:\n%s", name, out)
		}
		text := run(t, "sh", "-c", "MANWIDTH=200 man --local-file "+file+" | col -bx")
		for _, k := range sysconfig.Keys() {
			if strings.HasPrefix(name, "tectonic-worker.sysconfig") && !strings.Contains(text, k.Name+"=") {
				t.Errorf("%s does not show %s", name, k.Name)
			}
		}
		if strings.Contains(text, `\-`) || strings.Contains(text, `\e`) {
			t.Errorf("%s shows an escape:\n%s", name, text)
		}
	}
}
