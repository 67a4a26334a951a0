package live

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

// The whole way of an installation: what is said in which order, what the installer is called with, and that nothing
// secret is in an argument.
func TestInstall(t *testing.T) {
	h, p := newHost(t), newProvisionerDouble(t)
	disk := h.disk("vda", 40*gib, map[string]string{"serial": "GOOD1"})
	h.disk("vdb", 50*gib, map[string]string{"serial": "DATA"})
	p.order.Disk.Serial = "good1"
	p.claims.Config = json.RawMessage(`{"ignition":{"version":"3.3.0"},"passwd":{"users":[{"name":"core"}]}}`)
	p.claims.Files = []machine.File{{Path: "/etc/kubernetes/kubeconfig", Mode: 0o600, Content: []byte("top-secret")}}
	h.program("flatcar-install", `umask 077
echo "$@" >`+h.path("/argv")+`
env >`+h.path("/env")+`
while [ $# -gt 1 ]; do [ "$1" = -i ] && cp "`+h.root+`$2" `+h.path("/ignition")+`; shift; done
stat -c %a `+h.path("/run/tectonic-machine/installed.ign")+` >`+h.path("/mode")+`
printf 'Downloading\r 50%%\r100%%\n'; echo written >>`+disk+`; echo 'Success!' >&2`)
	if err := p.live(h).Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := p.said(); got != "hello checks claim installed" {
		t.Errorf("said %s", got)
	}
	if got := content(t, h.path("/argv")); got != "-d /dev/vda -V 3510.2.0 -C stable -b "+p.images.URL+"/assets/flatcar -i /run/tectonic-machine/installed.ign\n" {
		t.Errorf("called with %s", got)
	}
	if got := content(t, h.path("/mode")); got != "600\n" {
		t.Errorf("the Ignition had mode %s", got)
	}
	for _, secret := range []string{testToken, p.claims.Session, p.claims.Ready, "top-secret"} {
		if strings.Contains(content(t, h.path("/env"))+content(t, h.path("/argv")), secret) {
			t.Errorf("a secret reached the installer's arguments or environment")
		}
	}
	if _, err := os.Stat(h.path("/run/tectonic-machine/installed.ign")); !os.IsNotExist(err) {
		t.Errorf("the Ignition was left behind: %v", err)
	}
	if diff := cmp.Diff([]string{"reboot"}, p.ends); diff != "" {
		t.Error(diff)
	}
	if p.claim.Disk.Name != "vda" || p.claim.Disk.Serial != "GOOD1" || p.hello.MAC != testMAC {
		t.Errorf("claimed %+v as %s", p.claim.Disk, p.hello.MAC)
	}
	var config struct {
		Storage struct {
			Files []struct {
				Path     string
				Mode     int
				Contents struct{ Source string }
			}
		}
	}
	if err := json.Unmarshal([]byte(content(t, h.path("/ignition"))), &config); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range config.Storage.Files {
		if f.Mode != 0o600 {
			t.Errorf("%s: mode %o", f.Path, f.Mode)
		}
		got[f.Path] = decoded(t, f.Contents.Source)
	}
	if diff := cmp.Diff(map[string]string{"/etc/kubernetes/kubeconfig": "top-secret", PathReady: p.claims.Ready + "\n"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func decoded(t *testing.T, source string) string {
	t.Helper()
	data, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(source, "data:;base64,"))
	if err != nil {
		t.Errorf("%.30s: %v", source, err)
	}
	return string(data)
}
