package lab

import (
	"context"
	"fmt"
	"time"
)

// Smoke runs a kubelet of that version by hand, with podman and a configuration written here, until its Node is
// Ready: what the lab can do without the product.
func (l *Lab) Smoke(ctx context.Context, version string) error {
	cp, err := l.ControlPlane(ctx)
	if err != nil {
		return err
	}
	h, err := l.Worker(ctx, WorkerOptions{KubeletVersion: version})
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
	start := time.Now()
	kubelet, err := h.Start(ctx, Command{Args: []string{
		"/bin/sh", "-c", `mkdir -p /var/lib/kubelet && exec "$@"`, "kubelet",
		"podman", "run", "--rm", "--replace", "--name", "kubelet", "--privileged", "--network=host", "--pid=host",
		"-v", "/etc/kubernetes:/etc/kubernetes", "-v", "/var/lib/kubelet:/var/lib/kubelet:rshared", "-v", "/run:/run", "-v", "/var/log:/var/log",
		"-v", "/var/lib/containerd:/var/lib/containerd", "-v", "/etc/machine-id:/etc/machine-id:ro", "-v", "/etc/resolv.conf:/etc/resolv.conf:ro",
		"-v", "/lib/modules:/lib/modules:ro", "-v", "/sys/fs/cgroup:/sys/fs/cgroup", "-v", "/dev:/dev",
		KubeletImage(version), "--config=/etc/kubernetes/kubelet.yaml", "--kubeconfig=/etc/kubernetes/kubeconfig",
	}})
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
	l.Cache.logf("kubelet %s by hand: Node Ready %.1fs after podman run", version, time.Since(start).Seconds())
	_, err = cp.Kubectl(ctx, "delete", "node", h.Name)
	return err
}
