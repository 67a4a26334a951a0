package lab

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"fmt"
	"path"
	"time"
)

// Assets is what the Tectonic Installer leaves for a cluster.
type Assets struct {
	Kubeconfig   []byte // generated/auth/kubeconfig
	DNSServiceIP string // tectonic_kube_dns_service_ip; left out when empty
	ServiceCIDR  string // tectonic_service_cidr; left out when empty
	HCL          bool   // terraform.tfvars in HCL instead of JSON
	Prefix       string // directory inside an archive, "my-cluster_2017-10-01" for instance
}

// Files are the assets by their path below the asset directory.
func (a Assets) Files() map[string]string {
	keys := [][2]string{{"tectonic_cluster_name", "lab"}, {"tectonic_base_domain", "lab.example"}}
	if a.DNSServiceIP != "" {
		keys = append(keys, [2]string{"tectonic_kube_dns_service_ip", a.DNSServiceIP})
	}
	if a.ServiceCIDR != "" {
		keys = append(keys, [2]string{"tectonic_service_cidr", a.ServiceCIDR})
	}
	tfvars := "// The installer's variables.\n"
	for _, kv := range keys {
		tfvars += fmt.Sprintf("%s = %q\n", kv[0], kv[1])
	}
	if !a.HCL {
		tfvars = "{\n"
		for _, kv := range keys {
			tfvars += fmt.Sprintf("  %q: %q,\n", kv[0], kv[1])
		}
		tfvars += "  \"tectonic_worker_count\": 1\n}\n"
	}
	return map[string]string{
		"terraform.tfvars":          tfvars,
		"generated/auth/kubeconfig": string(a.Kubeconfig),
		"generated/auth/README":     "Credentials of the cluster.\n",
	}
}

// Zip packs the assets as the installer's download is packed.
func (a Assets) Zip() ([]byte, error) {
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	files := a.Files()
	for _, name := range sortedKeys(files) {
		f, err := w.Create(path.Join(a.Prefix, name))
		if err == nil {
			_, err = f.Write([]byte(files[name]))
		}
		if err != nil {
			return nil, fmt.Errorf("cannot pack assets: %w", err)
		}
	}
	err := w.Close()
	return buf.Bytes(), err
}

// TarGz packs the assets as tar(1) would.
func (a Assets) TarGz() ([]byte, error) {
	var buf bytes.Buffer
	gz := gzip.NewWriter(&buf)
	w := tar.NewWriter(gz)
	files := a.Files()
	for _, name := range sortedKeys(files) {
		header := &tar.Header{Name: path.Join(a.Prefix, name), Mode: 0o600, Size: int64(len(files[name])), ModTime: time.Now()}
		err := w.WriteHeader(header)
		if err == nil {
			_, err = w.Write([]byte(files[name]))
		}
		if err != nil {
			return nil, fmt.Errorf("cannot pack assets: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	err := gz.Close()
	return buf.Bytes(), err
}

// PutAssets writes the assets to a directory of a running host.
func (h *Host) PutAssets(dir string, a Assets) error {
	files := a.Files()
	for _, name := range sortedKeys(files) {
		if err := h.WriteFile(path.Join(dir, name), []byte(files[name]), 0o600); err != nil {
			return err
		}
	}
	return nil
}
