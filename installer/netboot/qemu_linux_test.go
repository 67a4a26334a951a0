package netboot

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
)

// provisioner is the HTTP side of a boot: /boot.ipxe, assets/ and what machines report from their iPXE scripts.
type provisioner struct {
	requests chan string // paths with query, in order
}

func (n *testnet) provisioner(assets string, script func(boot int) string) *provisioner {
	n.t.Helper()
	p := &provisioner{requests: make(chan string, 1000)}
	boots := 0
	mux := http.NewServeMux()
	mux.HandleFunc("/boot.ipxe", func(w http.ResponseWriter, r *http.Request) {
		boots++
		io.WriteString(w, script(boots))
	})
	mux.Handle("/assets/", http.StripPrefix("/assets/", http.FileServer(http.Dir(assets))))
	mux.HandleFunc("/reached", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "#!ipxe\nshell\n") })
	server := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case p.requests <- r.URL.String():
		default:
		}
		mux.ServeHTTP(w, r)
	})}
	l := n.listenTCP(n.server, serverAddress+":8080")
	go server.Serve(l)
	n.t.Cleanup(func() { server.Close() })
	return p
}

// reached waits for the request that a script ends with.
func (p *provisioner) reached(t *testing.T, want string, within time.Duration) []string {
	t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	var seen []string
	for {
		select {
		case r := <-p.requests:
			seen = append(seen, r)
			if r == want {
				return seen
			}
		case <-deadline.C:
			t.Fatalf("the machine did not ask for %s; it asked for %q", want, seen)
		}
	}
}

// qemu starts a machine without disk whose card is on the bridge; it ends with the test.
func (n *testnet) qemu(arg ...string) {
	n.t.Helper()
	program := needTool(n.t, "qemu-system-x86_64", "qemu-system-x86")
	n.ip(n.server, "tuntap add tap0 mode tap\nlink set tap0 master br0 up\n")
	serial := filepath.Join(n.t.TempDir(), "serial")
	ctx, cancel := context.WithCancel(context.Background())
	args := append([]string{"-accel", "tcg", "-m", "512", "-display", "none", "-nodefaults", "-no-user-config", "-serial", "file:" + serial,
		"-netdev", "tap,id=n,ifname=tap0,script=no,downscript=no"}, arg...)
	done := n.goIn(n.server, func() error {
		cmd := exec.CommandContext(ctx, program, args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, err := cmd.CombinedOutput()
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("qemu: %w\n%s", err, out)
	})
	n.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Error(err)
		}
		if text, err := os.ReadFile(serial); err == nil && n.t.Failed() {
			n.t.Logf("console: %q", text)
		}
	})
}

func reachedScript() string {
	return "#!ipxe\nchain /reached?mac=${mac:hexhyp}&platform=${platform}\n"
}

// The card's own iPXE goes to matchbox; the undionly.kpxe that a card without iPXE would get from us goes there too.
func TestBIOSMachineReachesMatchbox(t *testing.T) {
	t.Parallel()
	n := newTestnet(t)
	cfg, dir := prepare(t, testCluster(cluster.DHCPFull))
	p := n.provisioner(filepath.Join(dir, "assets"), func(boot int) string {
		if boot == 1 {
			return "#!ipxe\nchain tftp://" + serverAddress + "/undionly.kpxe\n"
		}
		return reachedScript()
	})
	d := n.run(n.server, cfg)
	n.qemu("-boot", "n", "-device", "virtio-net-pci,netdev=n,mac=52:54:00:a1:9c:ae")
	p.reached(t, "/reached?mac=52-54-00-a1-9c-ae&platform=pcbios", 3*time.Minute)
	d.wait("undionly.kpxe was loaded by node1", func(e Event) bool {
		return e.Source == SourceTFTP && e.Kind == KindFile && e.MAC == "52:54:00:a1:9c:ae" && e.Message == "loaded undionly.kpxe"
	})
}

func ovmf(t *testing.T, dir string) []string {
	t.Helper()
	for _, name := range []string{"_4M", ""} {
		code, vars := "/usr/share/OVMF/OVMF_CODE"+name+".fd", "/usr/share/OVMF/OVMF_VARS"+name+".fd"
		content, err := os.ReadFile(vars)
		if _, codeErr := os.Stat(code); err != nil || codeErr != nil {
			continue
		}
		own := filepath.Join(dir, "vars.fd")
		if err := os.WriteFile(own, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return []string{"-machine", "q35", "-drive", "if=pflash,format=raw,readonly=on,file=" + code, "-drive", "if=pflash,format=raw,file=" + own}
	}
	missing(t, "no OVMF firmware is installed (Debian: ovmf)")
	return nil
}

// OVMF's own PXE, no iPXE in the card: DHCP, TFTP, our ipxe.efi, DHCP again, matchbox.
func TestUEFIMachineReachesMatchbox(t *testing.T) {
	for _, mode := range []string{cluster.DHCPFull, cluster.DHCPProxy} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			n := newTestnet(t)
			cfg, dir := prepare(t, testCluster(mode))
			p := n.provisioner(filepath.Join(dir, "assets"), func(int) string { return reachedScript() })
			d := n.run(n.server, cfg)
			if mode == cluster.DHCPProxy {
				n.otherDHCP()
			}
			n.qemu(append(ovmf(t, t.TempDir()), "-device", "virtio-net-pci,netdev=n,romfile=,mac=52:54:00:b2:2f:86")...)
			p.reached(t, "/reached?mac=52-54-00-b2-2f-86&platform=efi", 4*time.Minute)
			d.wait("ipxe.efi was loaded by node2", func(e Event) bool {
				return e.Source == SourceTFTP && e.Kind == KindFile && e.MAC == "52:54:00:b2:2f:86" && e.Message == "loaded ipxe.efi"
			})
		})
	}
}

// UEFI HTTP Boot: no TFTP at all. OVMF tries it after PXE, which is switched off here.
func TestHTTPBootMachineReachesMatchbox(t *testing.T) {
	for _, mode := range []string{cluster.DHCPFull, cluster.DHCPProxy} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			n := newTestnet(t)
			cfg, dir := prepare(t, testCluster(mode))
			p := n.provisioner(filepath.Join(dir, "assets"), func(int) string { return reachedScript() })
			n.run(n.server, cfg)
			if mode == cluster.DHCPProxy {
				n.otherDHCP()
			}
			n.qemu(append(ovmf(t, t.TempDir()), "-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n", "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n",
				"-device", "virtio-net-pci,netdev=n,romfile=,mac=52:54:00:c3:61:77")...)
			seen := p.reached(t, "/reached?mac=52-54-00-c3-61-77&platform=efi", 5*time.Minute)
			if !slices.Contains(seen, "/assets/ipxe/ipxe.efi") {
				t.Errorf("ipxe.efi was not loaded over HTTP: %q", seen)
			}
		})
	}
}
