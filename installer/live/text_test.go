package live

import (
	"encoding/json"
	"strings"
	"testing"

	ignition "github.com/coreos/ignition/v2/config"
	"github.com/google/go-cmp/cmp"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

func TestParseArguments(t *testing.T) {
	good := " tectonic.server=https://matchbox.example.com:8443 tectonic.token=abc tectonic.mac=52-54-00-A1-9C-AE "
	want := Arguments{"https://matchbox.example.com:8443", "abc", testMAC}
	for name, c := range map[string]struct{ line, err string }{
		"plain":               {line: "quiet" + good + "console=ttyS0\n"},
		"the last counts":     {line: "tectonic.token=old tectonic.server=http://x" + good},
		"quoted elsewhere":    {line: `dyndbg="file a.c +p" x="a tectonic.token=no"` + good},
		"quoted value":        {line: strings.ReplaceAll(good, "tectonic.token=abc", `tectonic.token="abc"`)},
		"a slash at the end":  {line: strings.ReplaceAll(good, ":8443", ":8443/")},
		"no token":            {line: "tectonic.server=https://x:1 tectonic.mac=" + testMAC, err: "no tectonic.token"},
		"empty":               {line: "", err: "was not armed"},
		"plain HTTP":          {line: strings.ReplaceAll(good, "https:", "http:"), err: "must be https"},
		"a path":              {line: strings.ReplaceAll(good, ":8443", ":8443/x"), err: "must be https"},
		"a user":              {line: strings.ReplaceAll(good, "https://", "https://u:p@"), err: "must be https"},
		"a MAC that is none":  {line: strings.ReplaceAll(good, "-AE", ""), err: "not a MAC address"},
		"a token with quotes": {line: "tectonic.server=https://x:1 tectonic.token=\" tectonic.mac=" + testMAC, err: "no tectonic.mac"},
	} {
		got, err := ParseArguments(c.line)
		if c.err == "" && (err != nil || got != want) || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "abc") {
			t.Errorf("%s: the token is in the error: %v", name, err)
		}
	}
}

func FuzzParseArguments(f *testing.F) {
	f.Add("tectonic.server=https://h:1 tectonic.token=\"a b\" tectonic.mac=52:54:00:a1:9c:ae")
	f.Fuzz(func(t *testing.T, line string) {
		a, err := ParseArguments(line)
		if err == nil && (!strings.HasPrefix(a.Server, "https://") || a.Token == "" || strings.ContainsAny(a.MAC, " \n")) {
			t.Errorf("%q gave %+v", line, a)
		}
	})
}

// The installers' command lines, word by word.
func TestInstallerCommand(t *testing.T) {
	for name, c := range map[string]struct {
		image machine.Image
		want  string // words joined by |, or the error
	}{
		"flatcar": {machine.Image{OS: "flatcar", Channel: "stable", Version: "3510.2.0", Arch: "x86_64", BaseURL: "http://m:8080/assets/flatcar/3510.2.0/"},
			"flatcar-install|-d|/dev/sda|-V|3510.2.0|-C|stable|-b|http://m:8080/assets/flatcar|-i|/run/x"},
		"flatcar, no channel": {machine.Image{OS: "flatcar", Version: "1", BaseURL: "http://m/1"}, "flatcar-install|-d|/dev/sda|-V|1|-b|http://m|-i|/run/x"},
		"flatcar, no version in the URL": {machine.Image{OS: "flatcar", Version: "2", BaseURL: "http://m/1"},
			"the image's URL http://m/1 does not end with the version 2, as flatcar-install wants it"},
		"fedora-coreos": {machine.Image{OS: "fedora-coreos", Channel: "stable", Version: "39.1", Arch: "aarch64", BaseURL: "http://m/f/39.1", KernelArgs: []string{"console=ttyS0", "a=b c"}},
			"coreos-installer|install|--image-url|http://m/f/39.1/fedora-coreos-39.1-metal.aarch64.raw.xz|--ignition-file|/run/x|--append-karg|console=ttyS0|--append-karg|a=b c|/dev/sda"},
		"rhel":  {machine.Image{OS: "rhel"}, "cannot install rhel from its live system: it is installed by its Kickstart"},
		"other": {machine.Image{OS: "beos"}, `cannot install "beos": this program knows flatcar, fedora-coreos and rhel`},
	} {
		argv, err := installerCommand(c.image, "/dev/sda", "/run/x")
		got := strings.Join(argv, "|")
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %s\nwant %s", name, got, c.want)
		}
	}
}

// What is written is Ignition to Ignition's own parser, whatever 3.x it was, and holds each path once.
func TestInstalledConfig(t *testing.T) {
	files := []machine.File{{Path: "/etc/a", Mode: 0o100644, Content: []byte{0, 255, '\n'}}, {Path: "/etc/hostname", Mode: 0o644, Content: []byte("late")}}
	for _, config := range []string{
		"", "null", `{"ignition":{"version":"3.0.0"}}`, `{"ignition":{"version":"3.3.0"},"kernelArguments":{"shouldExist":["quiet"]}}`,
		`{"ignition":{"version":"3.4.0"},"storage":{"files":[{"path":"/etc/hostname","mode":420,"contents":{"source":"data:,early"}},{"path":"/etc/b"}]}}`,
	} {
		text, err := installedConfig(machine.Claimed{Ready: "r", Config: json.RawMessage(config), Files: files})
		if err != nil {
			t.Errorf("%s: %v", config, err)
			continue
		}
		parsed, report, err := ignition.Parse(text)
		if err != nil || report.IsFatal() || len(report.Entries) > 0 {
			t.Errorf("%s: %v\n%s", config, err, report.String())
			continue
		}
		got := map[string]string{}
		for _, f := range parsed.Storage.Files {
			mode := 0
			if f.Mode != nil {
				mode = *f.Mode
			}
			source := ""
			if f.Contents.Source != nil {
				source = *f.Contents.Source
			}
			got[f.Path] = strings.Join([]string{encodeMode(mode), source}, " ")
		}
		want := map[string]string{"/etc/a": "644 data:;base64,AP8K", "/etc/hostname": "644 data:;base64,bGF0ZQ==", PathReady: "600 data:;base64,cgo="}
		if strings.Contains(config, "/etc/b") {
			want["/etc/b"] = "0 "
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", config, diff)
		}
	}
	for _, bad := range []string{`{"ignition":{"version":"2.2.0"}}`, `{}`, `[]`, `{"secret":"hunter2"`, `{"ignition":{"version":4}}`} {
		if _, err := installedConfig(machine.Claimed{Config: json.RawMessage(bad)}); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	for _, path := range []string{"", "/", "etc/x", "/etc/../x", "/etc//x", "/a/", "/a\x00b"} {
		if _, err := installedConfig(machine.Claimed{Files: []machine.File{{Path: path}}}); err == nil {
			t.Errorf("%q was taken", path)
		}
	}
}

func encodeMode(mode int) string {
	const digits = "01234567"
	if mode == 0 {
		return "0"
	}
	s := ""
	for ; mode > 0; mode >>= 3 {
		s = string(digits[mode&7]) + s
	}
	return s
}

func TestPercent(t *testing.T) {
	for line, want := range map[string]int{
		"Read disk 1.2 GiB/2.5 GiB (48%)":        48,
		" 50%":                                   50,
		"99.9 %":                                 99,
		"100% done":                              100,
		"flatcar_production_image  7%[>    ] 3M": 7,
		"250%":                                   -1,
		"1.250%":                                 1,
		"no number %":                            -1,
	} {
		p := &progress{percent: -1}
		p.line(line)
		if p.percent != want {
			t.Errorf("%q: %d, want %d", line, p.percent, want)
		}
	}
	p := &progress{total: 200}
	p.downloaded(100)
	p.downloaded(50) // another program began
	if got := p.now().Percent; got != 50 {
		t.Errorf("half of the download is %d%%", got)
	}
	p.line("10%")
	p.downloaded(200)
	if got := p.now().Percent; got != 10 {
		t.Errorf("the installer's own words do not count: %d%%", got)
	}
}
