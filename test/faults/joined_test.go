package faults

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

// TestJoined breaks what a worker stands on while it is one, with a real kubelet.
func TestJoined(t *testing.T) {
	host, plane := worker(t, lab.WorkerOptions{})
	h := &labHost{host.Host, t}
	host.PutAssets(assetsDir, plane.Assets())
	host.Run("tectonic-worker", "join", "--assets", assetsDir, "--timeout", "150s")
	pid := func(t *testing.T) string {
		t.Helper()
		return (&labHost{host.Host, t}).sh("systemctl show -p MainPID --value kubelet")
	}
	healthy := `for i in $(seq 600); do tectonic-worker status >/dev/null 2>&1 && exit 0; sleep 0.2; done; tectonic-worker status; exit 1`
	h.sh(healthy)

	t.Run("CIS", func(t *testing.T) {
		h := &labHost{host.Host, t}
		k := &Kubelet{Stat: map[string]string{}}
		k.Args = strings.Split(h.sh(`for p in /proc/[0-9]*; do [ "$(cat $p/comm)" = kubelet ] && tr '\0' '\n' <$p/cmdline && exit; done; exit 1`), "\n")
		data := must[[]byte](t)(plane.Get(t.Context(), "/api/v1/nodes/"+h.Name+"/proxy/configz"))
		var doc struct{ KubeletConfig map[string]any }
		if err := json.Unmarshal(data, &doc); err != nil || len(doc.KubeletConfig) < 20 {
			t.Fatalf("cannot read the kubelet's configuration: %v: %s", err, data)
		}
		k.Config = doc.KubeletConfig
		for _, path := range Paths {
			k.Stat[path] = strings.TrimSpace(h.try("stat", "-c", "%a %U %G", path).Stdout)
		}
		for _, item := range Items {
			switch meets := item.Meets(k); {
			case !meets && item.Exception == "":
				t.Errorf("%s (%s) is not met: %v %v %v", item.ID, item.Wants, k.Args, k.Stat, k.Config)
			case meets && item.Exception != "":
				t.Errorf("%s (%s) is met: there is no need for the exception", item.ID, item.Wants)
			}
		}
	})

	t.Run("kubelet hangs", func(t *testing.T) {
		h := &labHost{host.Host, t}
		before := pid(t)
		h.sh("kill -STOP $(pgrep -x kubelet)")
		s, r, err := Status(t.Context(), host.Host)
		h.sh("kill -CONT $(pgrep -x kubelet)")
		if err != nil || r.Code != 1 || s.Health != "degraded" || !strings.Contains(strings.Join(s.Problems, " "), "not healthy") {
			t.Errorf("status of a hanging kubelet: %v %s", err, r)
		}
		if pid(t) != before {
			t.Error("a hanging kubelet was restarted")
		}
		h.sh(healthy)
	})

	t.Run("runtime killed", func(t *testing.T) {
		h := &labHost{host.Host, t}
		h.sh("systemctl kill --signal=KILL --kill-who=all kubelet; podman ps -a --format '{{.Names}}'")
		h.sh(healthy)
		if got := h.sh("podman ps --format '{{.Names}}'"); got != "kubelet" {
			t.Errorf("containers after the restart: %s", got)
		}
	})

	t.Run("status without D-Bus", func(t *testing.T) {
		h := &labHost{host.Host, t}
		h.sh("mv /run/dbus/system_bus_socket /run/dbus/away")
		r := h.try("tectonic-worker", "status")
		h.sh("mv /run/dbus/away /run/dbus/system_bus_socket")
		if r.Code > 1 || r.Took > 40*time.Second || !strings.Contains(r.Stdout, h.Name) {
			t.Errorf("%s", r)
		}
	})

	t.Run("resolv.conf", func(t *testing.T) {
		h := &labHost{host.Host, t}
		h.sh(`cp -a /etc/resolv.conf /root/resolv.conf; cp -a /etc/hosts /root/hosts; sed -i "s#https://[0-9.]*:#https://api.nowhere.example:#" /etc/kubernetes/kubeconfig`)
		for _, file := range []string{"rm /etc/resolv.conf; : >/etc/resolv.conf", "ln -sf /run/nothing /etc/resolv.conf"} {
			h.sh(file)
			r := h.try("tectonic-worker", "wait-for-dns", "--timeout", "2s")
			if r.Code != 0 || r.Took > 15*time.Second || !strings.Contains(r.Stderr, "gave up waiting") {
				t.Errorf("with %s: %s", file, r)
			}
		}
		// It appears late.
		p := must[*lab.Process](t)(h.Start(t.Context(), lab.Command{Args: []string{"tectonic-worker", "wait-for-dns", "--timeout", "30s"}}))
		h.sh("sleep 1; echo 10.77.0.2 api.nowhere.example >>/etc/hosts")
		if r := must[lab.Result](t)(p.Wait()); r.Code != 0 || strings.Contains(r.Stderr, "gave up") {
			t.Errorf("%s", r)
		}
		h.sh(`rm /etc/resolv.conf; cp -a /root/resolv.conf /etc/resolv.conf; cp -a /root/hosts /etc/hosts`)
		h.sh("tectonic-worker join --assets " + assetsDir + " --timeout 150s")
		h.sh(healthy)
	})

	t.Run("package upgraded", func(t *testing.T) {
		h := &labHost{host.Host, t}
		rpm := must[string](t)(nextVersion())
		if err := h.CopyIn(rpm, "/root/next.rpm"); err != nil {
			t.Fatal(err)
		}
		before := pid(t)
		program := h.sh("sha256sum /usr/bin/tectonic-worker")
		// Killed on the way, at moments that are spread over the transaction, then once more to its end.
		for _, after := range []string{"0.05", "0.2", "0.4", "0.7", "1"} {
			h.try("timeout", "--signal=KILL", after, "rpm", "-U", "/root/next.rpm")
			h.sh("tectonic-worker version >/dev/null")
			if left := h.sh("rpm -q --qf '%{VERSION} ' tectonic-worker"); left == "" {
				t.Error("rpm lost the package")
			}
		}
		h.sh("rpm -U --replacepkgs --oldpackage /root/next.rpm; systemctl daemon-reload")
		if h.sh("sha256sum /usr/bin/tectonic-worker") == program || !strings.Contains(h.sh("tectonic-worker version"), "0.2.0") {
			t.Error("the program is not the new one")
		}
		if pid(t) != before {
			t.Error("the kubelet was restarted by the upgrade")
		}
		h.sh("! rpm -V tectonic-worker | grep -v ' [cg] /'")
		h.sh("systemctl restart kubelet")
		h.sh(healthy)
	})
}

// TestSecurityDocument keeps the list of exceptions in docs/security.md in step with the checks.
func TestSecurityDocument(t *testing.T) {
	doc := must[[]byte](t)(os.ReadFile(filepath.Join(repository, "docs/security.md")))
	for _, item := range Items {
		if !bytes.Contains(doc, []byte("\n"+item.Row()+"\n")) {
			t.Errorf("docs/security.md lacks the line\n%s", item.Row())
		}
	}
	if n := bytes.Count(doc, []byte("\n| 4.")); n != len(Items) {
		t.Errorf("docs/security.md has %d items, and %d are checked", n, len(Items))
	}
}
