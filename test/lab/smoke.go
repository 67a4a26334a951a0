package lab

import (
	"context"
	"fmt"
	"time"
)

// Smoke runs a kubelet of that version by hand, under "podman" or "rkt" and with a configuration written here, until its
// Node is Ready: what the lab can do without the product.
func (l *Lab) Smoke(ctx context.Context, runtime, version string) error {
	cp, err := l.ControlPlane(ctx)
	if err != nil {
		return err
	}
	h, err := l.Worker(ctx, WorkerOptions{KubeletVersion: version, Rkt: runtime == "rkt", NoPodman: runtime == "rkt"})
	if err != nil {
		return err
	}
	defer h.Close()
	kubeconfig, err := cp.SharedKubeconfig()
	if err != nil {
		return err
	}
	config := LabKubeletConfig(version) + `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, x509: {clientCAFile: /etc/kubernetes/ca.crt}}
authorization: {mode: Webhook}
clusterDNS: ["` + DNSServiceIP + `"]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
`
	for path, data := range map[string][]byte{
		"/etc/kubernetes/kubeconfig": kubeconfig, "/etc/kubernetes/ca.crt": cp.CA.Cert, "/etc/kubernetes/kubelet.yaml": []byte(config),
	} {
		if err := h.WriteFile(path, data, 0o600); err != nil {
			return err
		}
	}
	if _, err := h.Must(ctx, "mkdir", "-p", "/var/lib/kubelet"); err != nil {
		return err
	}
	start := time.Now()
	kubelet, err := h.Start(ctx, Command{Args: kubeletByHand(runtime, version)})
	if err != nil {
		return err
	}
	defer kubelet.Wait()
	defer kubelet.Kill()
	if err := cp.WaitNodeReady(ctx, h.Name, 60*time.Second); err != nil {
		kubelet.Kill()
		r, _ := kubelet.Wait()
		return fmt.Errorf("kubelet %s by hand: %w\n%s", version, err, r.Output())
	}
	l.Cache.logf("kubelet %s by hand: Node Ready %.1fs after %s run", version, time.Since(start).Seconds(), runtime)
	_, err = cp.Kubectl(ctx, "delete", "node", h.Name)
	return err
}

// kubeletByHand is the command line that an administrator could type.
func kubeletByHand(runtime, version string) []string {
	var argv []string
	volume := func(name, path, podman, rkt string) {
		if runtime == "podman" {
			argv = append(argv, "--volume="+path+":"+path+podman)
			return
		}
		argv = append(argv, "--volume="+name+",kind=host,source="+path+rkt, "--mount=volume="+name+",target="+path)
	}
	if runtime == "podman" {
		argv = []string{"podman", "run", "--rm", "--replace", "--name=kubelet", "--privileged", "--network=host", "--pid=host", "--volume=/dev:/dev", "--volume=/sys/fs/cgroup:/sys/fs/cgroup"}
	} else {
		// The lab has no key of Quay's to trust.
		argv = []string{"rkt", "--insecure-options=image", "run", "--net=host", "--hosts-entry=host", "--stage1-from-dir=stage1-fly.aci"}
	}
	volume("kubernetes", "/etc/kubernetes", "", "")
	volume("kubelet", "/var/lib/kubelet", ":rshared", ",recursive=true")
	volume("run", "/run", "", "")
	volume("log", "/var/log", "", "")
	volume("containerd", "/var/lib/containerd", "", "")
	volume("machine-id", "/etc/machine-id", ":ro", ",readOnly=true")
	volume("resolv-conf", "/etc/resolv.conf", ":ro", ",readOnly=true")
	volume("modules", "/lib/modules", ":ro", ",readOnly=true")
	argv = append(argv, KubeletImage(version))
	if runtime == "rkt" {
		argv = append(argv, "--")
	}
	return append(argv, "--config=/etc/kubernetes/kubelet.yaml", "--kubeconfig=/etc/kubernetes/kubeconfig")
}
