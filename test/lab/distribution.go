package lab

import (
	"bytes"
	"context"
	"fmt"

	"github.com/google/rpmpack"
)

// distributionProvides are what the RPM database of a RHEL host would say of the packages that a worker has from
// Debian instead. Versions are Debian's.
var distributionProvides = []string{
	"/bin/sh", "/usr/bin/sh", "systemd = 252", "podman = 4.3.1", "firewalld = 1.3.0", "containerd = 1.6.20", "iptables = 1.8.9",
	"iproute = 6.1.0", "conntrack-tools = 1.4.7", "ca-certificates = 2023",
}

// DistributionRPM builds the package with nothing but Provides that stands for the distribution's own, so that ours
// is installed with its dependencies checked.
func DistributionRPM(extra ...string) ([]byte, error) {
	p, err := rpmpack.NewRPM(rpmpack.RPMMetaData{
		Name: "lab-distribution", Version: "1", Release: "1", Arch: "noarch", OS: "linux",
		Summary: "Stands for the packages of the distribution", Description: "It only has Provides.", Licence: "Apache-2.0",
	})
	if err != nil {
		return nil, fmt.Errorf("cannot build the lab's distribution package: %w", err)
	}
	for _, text := range append(append([]string{}, distributionProvides...), extra...) {
		relation, err := rpmpack.NewRelation(text)
		if err != nil {
			return nil, fmt.Errorf("cannot provide %s: %w", text, err)
		}
		p.Provides = append(p.Provides, relation)
	}
	var buf bytes.Buffer
	if err := p.Write(&buf); err != nil {
		return nil, fmt.Errorf("cannot build the lab's distribution package: %w", err)
	}
	return buf.Bytes(), nil
}

// InstallDistribution installs DistributionRPM on the host. extra are further Provides, "rkt = 1.30.0" for instance.
func (h *Host) InstallDistribution(ctx context.Context, extra ...string) error {
	data, err := DistributionRPM(extra...)
	if err != nil {
		return err
	}
	const path = "/var/tmp/lab-distribution.rpm"
	if err := h.WriteFile(path, data, 0o644); err != nil {
		return err
	}
	_, err = h.Must(ctx, "rpm", "--install", path)
	return err
}

// InstallRPM copies the package from the machine to the host and installs it with "rpm --install", dependencies
// checked against InstallDistribution's package, which is installed first where it is missing.
func (h *Host) InstallRPM(ctx context.Context, path string) error {
	r, err := h.Exec(ctx, "rpm", "--query", "lab-distribution")
	if err != nil {
		return err
	}
	if r.Code != 0 {
		if err := h.InstallDistribution(ctx); err != nil {
			return err
		}
	}
	const target = "/var/tmp/tectonic-worker.rpm"
	if err := h.CopyIn(path, target); err != nil {
		return err
	}
	_, err = h.Must(ctx, "rpm", "--install", target)
	return err
}
