package lab

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLabKubeletConfig(t *testing.T) {
	for version, want := range map[string]bool{"v1.8.9": false, "v1.29.6": false, "v1.30.14": false, "v1.31.0": true, "v1.36.3": true} {
		if got := strings.Contains(LabKubeletConfig(version), "failCgroupV1: false"); got != want {
			t.Errorf("%s: failCgroupV1 there: %t, want %t", version, got, want)
		}
	}
}

func TestAssets(t *testing.T) {
	a := Assets{Kubeconfig: []byte("secret"), DNSServiceIP: "10.3.0.10", Prefix: "lab_2017"}
	var vars map[string]any
	if err := json.Unmarshal([]byte(a.Files()["terraform.tfvars"]), &vars); err != nil || vars["tectonic_kube_dns_service_ip"] != "10.3.0.10" {
		t.Errorf("terraform.tfvars: %v, %v", vars, err)
	}
	want := []string{"lab_2017/generated/auth/README", "lab_2017/generated/auth/kubeconfig", "lab_2017/terraform.tfvars"}

	data, err := a.Zip()
	if err != nil {
		t.Fatal(err)
	}
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range z.File {
		names = append(names, f.Name)
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("zip (-want +got):\n%s", diff)
	}

	if data, err = a.TarGz(); err != nil {
		t.Fatal(err)
	}
	gz, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	names = nil
	for r := tar.NewReader(gz); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("tar.gz (-want +got):\n%s", diff)
	}
	if hcl := (Assets{HCL: true, ServiceCIDR: "10.3.0.0/16"}).Files()["terraform.tfvars"]; !strings.Contains(hcl, "tectonic_service_cidr = \"10.3.0.0/16\"\n") {
		t.Errorf("HCL: %s", hcl)
	}
}

func TestAuthority(t *testing.T) {
	ca, err := NewAuthority("kube-ca")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue(Subject{Name: "kubelet", Organizations: []string{"system:masters"}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(pair.Cert)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.Cert)
	options := x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	var invalid x509.CertificateInvalidError
	if _, err := cert.Verify(options); !errors.As(err, &invalid) || invalid.Reason != x509.Expired {
		t.Errorf("an expired certificate: %v", err)
	}
	options.CurrentTime = time.Now().Add(-90 * time.Minute)
	if _, err := cert.Verify(options); err != nil {
		t.Errorf("when it was valid: %v", err)
	}
}

// A part is built once, also when two want it at the same time, and a part that failed is not there.
func TestMake(t *testing.T) {
	c := &Cache{Dir: t.TempDir()}
	path := filepath.Join(c.Dir, "part")
	broken := errors.New("broken")
	if err := c.make(t.Context(), "a part", path, func(context.Context, string) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if exists(path) {
		t.Fatal("a part that could not be built is there")
	}
	built := make(chan int, 10)
	done := make(chan error)
	for range 2 {
		go func() {
			done <- c.make(t.Context(), "a part", path, func(_ context.Context, dir string) error {
				built <- 1
				return os.WriteFile(filepath.Join(dir, "file"), nil, 0o644)
			})
		}()
	}
	if err := errors.Join(<-done, <-done); err != nil {
		t.Fatal(err)
	}
	if len(built) != 1 || !exists(filepath.Join(path, "file")) {
		t.Errorf("built %d times", len(built))
	}
}

// A lock that somebody holds is waited for until the deadline.
func TestLockFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lockFile(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := lockFile(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a lock that is held: %v", err)
	}
	unlock()
	again, err := lockFile(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	again()
}
