package agent

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"path"

	"github.com/tectonic-worker/tectonic-worker/agent/host"
	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
)

// Signer gets a certificate for a node by the CSR API; node.Client is one.
type Signer interface {
	RequestCertificate(ctx context.Context, node string, keyPEM []byte, report func(node.CSR)) (certPEM []byte, err error)
}

// install writes certificate and key into one file, then makes the link that
// the kubelet reads point to it, then sees to the kubelet's kubeconfig. A power
// cut between any two of these leaves the old certificate or the new in force;
// the key goes from the state directory last.
func (r *renewer) install(s *StepResult, key, cert []byte) error {
	root := r.sys.Root
	if _, err := root.MkdirAll(kubelet.PKIDir, 0o700); err != nil {
		return err
	}
	var data bytes.Buffer
	for block, rest := pem.Decode(cert); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		block.Headers = nil
		if err := pem.Encode(&data, block); err != nil {
			return fmt.Errorf("cannot encode the certificate: %w", err)
		}
	}
	data.Write(key)
	// As k8s.io/client-go/util/certificate names them, in local time.
	name := "kubelet-client-" + r.sys.Now().Format("2006-01-02-15-04-05") + ".pem"
	r.out.File = kubelet.PKIDir + "/" + name
	if err := root.WriteFile(r.out.File, data.Bytes(), host.File{Mode: 0o600}); err != nil {
		return err
	}
	// Relative, unlike the kubelet's: it leads to the same file wherever the
	// directory is mounted.
	if err := root.Symlink(name, currentCertificate); err != nil {
		return err
	}
	r.out.Changed = true
	leaf, err := r.sys.ownCertificate()
	if err != nil {
		return err
	}
	r.out.Serial, r.out.NotAfter = fmt.Sprintf("%X", leaf.SerialNumber), &leaf.NotAfter
	s.Status, s.Evidence = StatusChanged, fmt.Sprintf("%s, until %s", r.out.File, leaf.NotAfter.UTC().Format("2006-01-02 15:04 MST"))
	if r.host.Bootstrap {
		repaired, err := r.repairKubeconfig()
		if err != nil {
			return err
		}
		if repaired {
			s.Evidence += "; " + kubelet.NodeKubeconfigPath + " written anew"
		}
	}
	return root.Remove(renewKeyPath)
}

// repairKubeconfig sees to it that the kubeconfig that the kubelet made for
// itself leads to the cluster with the certificate that was just written.
func (r *renewer) repairKubeconfig() (changed bool, err error) {
	root := r.sys.Root
	now, err := root.ReadFile(kubelet.NodeKubeconfigPath)
	if err == nil {
		k, perr := node.ParseFiles(now, path.Dir(kubelet.NodeKubeconfigPath), root.ReadFile)
		if perr == nil && k.Server == r.host.Server && bytes.Equal(k.CA, r.host.CA) && k.Validate(r.facts.Now) == nil &&
			bytes.Contains(now, []byte(currentCertificate)) {
			return false, nil
		}
	}
	data, err := r.host.OwnKubeconfig(currentCertificate)
	if err != nil {
		return false, err
	}
	return true, root.WriteFile(kubelet.NodeKubeconfigPath, data, host.File{Mode: 0o600})
}
